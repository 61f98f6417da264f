"""`JobMonitor`: any number of watchers on a job, and one poll loop for all of them."""

from __future__ import annotations

import asyncio
import copy
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

from sutro_async._polling import STATUS, Wait, timeout_seconds
from sutro_async.client import SutroClient
from sutro_async.errors import (
    ClientStateError,
    ConfigurationError,
    JobWaitTimeoutError,
    SutroError,
)
from sutro_async.models import JobStatusReport
from sutro_async.policies import PollPolicy

__all__ = ["JobMonitor"]

_CLOSED: Final = "the monitor was closed during this wait"


class JobMonitor:
    """Watches jobs for many at once, as a server does for its visitors.

    However many wait for a job or watch it, it is polled by one loop, which begins with the first
    of them and ends with the last. Each has a time-out of its own, and may leave at any time
    without the others noticing. Jobs that have ended are remembered, so that asking again costs
    no request.

    Use it as `async with JobMonitor(client) as monitor`. It does not close the client.

    Args:
        client: The client to poll with.
        poll: The pace; None takes that of the client.
        keep_finished: How many ended jobs are remembered; those not asked for the longest are
            forgotten first.

    Raises:
        ConfigurationError: `keep_finished` is no whole number from 0.
    """

    def __init__(
        self, client: SutroClient, *, poll: PollPolicy | None = None, keep_finished: int = 10_000
    ) -> None:
        if isinstance(keep_finished, bool) or not isinstance(keep_finished, int):
            raise ConfigurationError(f"keep_finished must be a whole number, got {keep_finished!r}")
        if keep_finished < 0:
            raise ConfigurationError(f"keep_finished must be at least 0, got {keep_finished!r}")
        self._client = client
        self._poll = poll
        self._keep_finished = keep_finished
        self._is_open = False
        self._loops: dict[str, _PollLoop] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._finished: OrderedDict[str, JobStatusReport] = OrderedDict()

    def __len__(self) -> int:
        """How many jobs are polled now."""
        return len(self._loops)

    def __bool__(self) -> bool:
        # Without it, a monitor that polls nothing would be false, since it has a length.
        return True

    def __repr__(self) -> str:
        polled, finished = len(self._loops), len(self._finished)
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
        for job_id in list(self._loops):
            self._stop(job_id, ClientStateError(_CLOSED))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait(
        self, job_id: str, *, timeout: float | timedelta | None = None
    ) -> JobStatusReport:
        """Wait until a job has succeeded, failed or been cancelled, and return its last report.

        Args:
            job_id: The job.
            timeout: Seconds, or a `timedelta`; None for no limit; 0 asks exactly once, unless the
                job is known to have ended.

        Raises:
            TypeError: The job id is not a string.
            ValueError: The job id or `timeout` is invalid.
            JobWaitTimeoutError: The job had not ended when the time-out struck.
            JobNotFoundError: There is no such job.
            APIError: A failure that a wait does not survive, or one that lasted too long.
            ClientStateError: The monitor or its client is closed.
        """
        reports = self.watch(job_id, timeout=timeout)
        report = await anext(reports)
        async for report in reports:  # noqa: B007 - the last one is wanted
            pass
        return report

    def watch(
        self, job_id: str, *, timeout: float | timedelta | None = None
    ) -> AsyncGenerator[JobStatusReport, None]:
        """Iterate over the reports on a job: the newest at once, then each change, until its end.

        Who is slow to ask for the next report gets the newest by then, not those in between.

        Args:
            job_id: The job.
            timeout: Seconds, or a `timedelta`, for the whole iteration; None for no limit; 0 asks
                exactly once, unless the job is known to have ended.

        Raises:
            TypeError: The job id is not a string.
            ValueError: The job id or `timeout` is invalid.
            JobWaitTimeoutError: The job had not ended when the time-out struck.
            JobNotFoundError: There is no such job.
            APIError: A failure that a wait does not survive, or one that lasted too long.
            ClientStateError: The monitor or its client is closed.
        """
        STATUS.path(job_id)  # refuses an invalid job id before any request
        seconds = timeout_seconds(timeout)
        return self._ask_once(job_id) if seconds == 0 else self._watch(job_id, seconds)

    def latest(self, job_id: str) -> JobStatusReport | None:
        """Return the newest report on a job that is watched or remembered; costs no request."""
        report = self._recall(job_id)
        if report is None and job_id in self._loops:
            report = self._loops[job_id].report
        return report

    async def _ask_once(self, job_id: str) -> AsyncGenerator[JobStatusReport, None]:
        self._check_open()
        report = self._recall(job_id)
        if report is not None:
            yield report
            return
        reports = self._client.watch_job(job_id, timeout=0, poll=self._poll)
        asking = asyncio.create_task(self._first(reports))
        self._tasks.add(asking)
        asking.add_done_callback(self._tasks.discard)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        cancelling = task.cancelling()
        try:
            report = await asking
        except asyncio.CancelledError:
            if self._is_open or task.cancelling() > cancelling:
                raise
            raise ClientStateError(_CLOSED) from None
        yield report
        if not report.is_terminal:
            await anext(reports)  # raises JobWaitTimeoutError

    async def _first(self, reports: AsyncIterator[JobStatusReport]) -> JobStatusReport:
        report = await anext(reports)
        self._remember(report)
        return report

    async def _watch(
        self, job_id: str, timeout: float | None
    ) -> AsyncGenerator[JobStatusReport, None]:
        self._check_open()
        began_at = asyncio.get_running_loop().time()
        deadline = None if timeout is None else began_at + timeout
        report = self._recall(job_id)
        if report is not None:
            yield report
            return
        loop = self._join(job_id)
        try:
            while report is None or not report.is_terminal:
                try:
                    async with asyncio.timeout_at(deadline):
                        report = await loop.next_report(report)
                except SutroError:  # first, since an APITimeoutError is a TimeoutError as well
                    raise
                except TimeoutError:
                    report = loop.newest
                    if report is None or not report.is_terminal:
                        raise JobWaitTimeoutError(
                            job_id=job_id,
                            last_report=report,
                            elapsed=asyncio.get_running_loop().time() - began_at,
                            timeout=timeout or 0.0,
                            failure=loop.reports.failure,
                        ) from loop.reports.failure
                yield report
        finally:
            loop.watchers -= 1
            if loop.watchers == 0 and self._loops.get(job_id) is loop:
                self._stop(job_id)

    def _check_open(self) -> None:
        if not self._is_open:
            raise ClientStateError("the monitor is not open: use it inside `async with`")

    def _join(self, job_id: str) -> _PollLoop:
        loop = self._loops.get(job_id)
        if loop is None:
            loop = self._loops[job_id] = _PollLoop(self._client.watch_job(job_id, poll=self._poll))
            loop.task = asyncio.create_task(self._run(job_id, loop))
            self._tasks.add(loop.task)
            loop.task.add_done_callback(self._tasks.discard)
        loop.watchers += 1
        return loop

    async def _run(self, job_id: str, loop: _PollLoop) -> None:
        error: Exception | None = None
        try:
            async for report in loop.reports:
                loop.tell(report)
                self._remember(report)
        except asyncio.CancelledError:
            if self._loops.get(job_id) is loop:  # somebody else did that; do not let them wait
                self._stop(job_id, ClientStateError(f"job {job_id!r}: its task was cancelled"))
            raise
        except Exception as caught:  # noqa: BLE001 - it is the watchers' to handle
            error = caught
        self._loops.pop(job_id).end(error)

    def _stop(self, job_id: str, error: Exception | None = None) -> None:
        loop = self._loops.pop(job_id)
        loop.end(error)
        loop.task.cancel()

    def _remember(self, report: JobStatusReport) -> None:
        if report.is_terminal:
            self._finished[report.job_id] = report
            self._finished.move_to_end(report.job_id)
            if len(self._finished) > self._keep_finished:
                self._finished.popitem(last=False)

    def _recall(self, job_id: str) -> JobStatusReport | None:
        report = self._finished.get(job_id)
        if report is not None:
            self._finished.move_to_end(job_id)
        return report


class _PollLoop:
    """What the one loop of a job tells its watchers."""

    task: asyncio.Task[None]

    def __init__(self, reports: Wait) -> None:
        self.reports = reports
        self.report: JobStatusReport | None = None
        self.watchers = 0
        self._error: Exception | None = None
        self._news = asyncio.Event()

    @property
    def newest(self) -> JobStatusReport | None:
        """The newest report: perhaps one on a failure whose reason is still being read."""
        if self.report is not None and self.report.is_terminal:
            return self.report
        return self.reports.report

    def tell(self, report: JobStatusReport) -> None:
        """Show a report to all watchers."""
        self.report = report
        self._wake_watchers()

    def end(self, error: Exception | None) -> None:
        """Let the watchers know that there will be no more; without an error, all is told."""
        self._error = error
        self._wake_watchers()

    async def next_report(self, seen: JobStatusReport | None) -> JobStatusReport:
        """Wait for a report other than the one that the watcher has seen last."""
        while self.report is None or self.report is seen:
            if self._error is not None:
                # To each watcher its own, so that their tracebacks do not pile up on one.
                error = copy.copy(self._error)
                raise error from self._error.__cause__
            await self._news.wait()
        return self.report

    def _wake_watchers(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
