"""`JobMonitor`: any number of callers read a job, which is requested once for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from sutro_async._numbers import check_whole_number, timeout_seconds
from sutro_async._waits import FinishedJobs, SharedPolls, SharedReads, Stream, Watch, unique_ids
from sutro_async._wire import check_job_id
from sutro_async.client import SutroClient
from sutro_async.errors import ClientStateError
from sutro_async.events import ClientStats
from sutro_async.models import Job, JobOutcome, JobStatusReport
from sutro_async.policies import PollPolicy

__all__ = ["JobMonitor"]

_CLOSED: Final = "the monitor was closed while this was running"


class JobMonitor:
    """Watches jobs for many callers at once, as a server does for its visitors.

    However many callers wait for a job or watch it, it is polled once for all of them, until the
    last one leaves. Each has a timeout of its own, and may leave at any time without affecting the
    others. Likewise, callers that get its status or record at the same time share one request.
    Finished jobs are remembered, so that waiting for them or getting them again costs no request.

    Use it as `async with JobMonitor(client) as monitor`. It does not close the client.

    Args:
        client: The client to poll with.
        poll: The polling policy; None takes that of the client.
        keep_finished: How many reports of finished jobs are remembered, and how many records; the
            least recently used are forgotten first.

    Raises:
        ConfigurationError: `keep_finished` is not a whole number, or is negative.
    """

    def __init__(
        self, client: SutroClient, *, poll: PollPolicy | None = None, keep_finished: int = 10_000
    ) -> None:
        maximum = check_whole_number("keep_finished", keep_finished, minimum=0)
        self._client = client
        self._poll = poll
        self._finished = FinishedJobs[JobStatusReport](maximum)
        self._reads = SharedReads(
            client._manager,  # noqa: SLF001 - of the same package
            client._options,  # noqa: SLF001 - likewise
            self._finished,
            maximum,
        )
        self._is_open = False
        self._polls: SharedPolls | None = None

    def __len__(self) -> int:
        """How many jobs are polled now."""
        return 0 if self._polls is None else len(self._polls.pollers)

    def __bool__(self) -> bool:
        # Without it, a monitor that polls nothing would be false, since it has a length.
        return True

    def __repr__(self) -> str:
        polled, finished = len(self), len(self._finished)
        return f"<{type(self).__name__} of {self._client!r}: {polled} polled, {finished} finished>"

    async def __aenter__(self) -> Self:
        if self._is_open:
            raise ClientStateError("this JobMonitor is open already: enter it once")
        self._is_open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        polls, self._polls = self._polls, None
        error = ClientStateError(_CLOSED)
        try:
            if polls is not None:
                await polls.close(error)
        finally:
            await self._reads.close(error)

    async def get_job_status(self, job_id: str) -> JobStatusReport:
        """Get the status of a job; callers at the same time share one request.

        A job that is remembered as finished costs no request. A caller that is cancelled does not
        affect the others. Timeout and retries of the request are those of the client.

        Raises:
            TypeError: The job id is not a string.
            ValueError: The job id is invalid.
            JobNotFoundError: There is no such job.
            APIError: There was no usable response, retries included. It is not remembered.
            ClientStateError: The monitor or its client is closed.
        """
        job_id = check_job_id(job_id)
        self._check_open()
        return await self._reads.get_job_status(job_id)

    async def get_job(self, job_id: str) -> Job:
        """Get the record of a job; callers at the same time share one request.

        The record of a finished job is remembered, and costs no request. A caller that is cancelled
        does not affect the others. Timeout and retries of the request are those of the client.

        Raises:
            TypeError: The job id is not a string.
            ValueError: The job id is invalid.
            JobNotFoundError: There is no such job.
            APIError: There was no usable response, retries included. It is not remembered.
            ClientStateError: The monitor or its client is closed.
        """
        job_id = check_job_id(job_id)
        self._check_open()
        return await self._reads.get_job(job_id)

    async def wait(
        self, job_id: str, *, timeout: float | timedelta | None = None
    ) -> JobStatusReport:
        """Wait until a job has succeeded, failed or been cancelled, and return its last report.

        Args:
            job_id: The job.
            timeout: Seconds, or a `timedelta`; None for no limit; 0 polls exactly once, unless the
                job is remembered as finished.

        Raises:
            TypeError: The job id is not a string.
            ValueError: The job id or `timeout` is invalid.
            JobWaitTimeoutError: The job had not finished when the timeout expired.
            JobNotFoundError: There is no such job.
            APIError: A failure that is not transient, or has lasted too long.
            ClientStateError: The monitor or its client is closed.
        """
        async with self.watch(job_id, timeout=timeout) as reports:
            report = await anext(reports)
            async for report in reports:  # noqa: B007 - the last one is wanted
                pass
        return report

    def watch(
        self, job_id: str, *, timeout: float | timedelta | None = None
    ) -> Stream[JobStatusReport]:
        """Iterate over the reports on a job: the newest at once, then each change.

        The terminal report is the last. A slow reader gets the newest report, not a backlog.

        Args:
            job_id: The job.
            timeout: Seconds, or a `timedelta`, for the whole iteration, from its first step; None
                for no limit; 0 polls exactly once, unless the job is remembered as finished.

        Raises:
            TypeError: The job id is not a string.
            ValueError: The job id or `timeout` is invalid.
            JobWaitTimeoutError: The job had not finished when the timeout expired.
            JobNotFoundError: There is no such job.
            APIError: A failure that is not transient, or has lasted too long.
            ClientStateError: The monitor or its client is closed.
        """
        watch = Watch(self._open_polls, [check_job_id(job_id)], timeout_seconds(timeout))
        return Stream(watch.next_report, watch.aclose, watch.leave)

    def watch_jobs(
        self, job_ids: Iterable[str], *, timeout: float | timedelta | None = None
    ) -> Stream[JobOutcome[JobStatusReport]]:
        """Iterate over the reports on many jobs: the newest of each, then each change.

        The last item of a job is its terminal report or its error; an error of one job does not
        affect the others. A slow reader gets the newest report of each job, not a backlog.

        Args:
            job_ids: The jobs; duplicates are watched once.
            timeout: Seconds, or a `timedelta`, for the whole iteration, from its first step; jobs
                that have not finished by then get a `JobWaitTimeoutError`. None for no limit; 0
                polls each job exactly once, unless it is remembered as finished.

        Raises:
            TypeError: `job_ids` is a single string, or an id is not a string.
            ValueError: A job id or `timeout` is invalid.
            AuthenticationError: The key is wrong.
            PermissionDeniedError: Three jobs were refused with 403 and no job had a good response.
            ClientStateError: The monitor or its client is closed.
        """
        watch = Watch(self._open_polls, unique_ids(job_ids), timeout_seconds(timeout))
        return Stream(watch.next_outcome, watch.aclose, watch.leave)

    def latest(self, job_id: str) -> JobStatusReport | None:
        """Return the newest report on a job that is watched or remembered; costs no request.

        Raises:
            TypeError: The job id is not a string.
            ValueError: The job id is invalid.
        """
        job_id = check_job_id(job_id)
        report = self._reads.recall(job_id)
        if report is None and self._polls is not None and job_id in self._polls.pollers:
            report = self._polls.pollers[job_id].report
        return report

    def stats(self) -> ClientStats:
        """Return what the client is doing now; the same as its own `stats()`."""
        return self._client.stats()

    def _check_open(self) -> None:
        if not self._is_open:
            raise ClientStateError("the monitor is not open: use it inside `async with`")

    def _open_polls(self) -> SharedPolls:
        self._check_open()
        if self._polls is None or self._polls.is_closed:
            # Made late, inside the running event loop.
            self._polls = SharedPolls(
                self._client._manager,  # noqa: SLF001 - of the same package
                self._client._options_with(self._poll),  # noqa: SLF001 - likewise
                self._finished,
            )
        return self._polls
