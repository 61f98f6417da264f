"""Reads that many callers share: one request at a time for a job, none once it has finished."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final, Generic, TypeVar

from sutro_async._http import JOB, STATUS, Endpoint, Options, SessionManager, fetch
from sutro_async._waits._finished import FinishedJobs
from sutro_async._waits._reason import needs_reason
from sutro_async.errors import ClientStateError, copied
from sutro_async.models import Job, JobStatusReport

__all__ = ["SharedReads"]

_CANCELLED: Final = "the task of the shared request was cancelled"

ReadT = TypeVar("ReadT", bound=Job | JobStatusReport)


class SharedReads:
    """The reads of a monitor: records and statuses.

    Args:
        manager: Sends the requests.
        options: How to send them.
        finished: Remembers the terminal reports of waits, and of reads if they have a reason.
        maximum: How many records, and how many reports without a reason, are remembered.
    """

    def __init__(
        self,
        manager: SessionManager,
        options: Options,
        finished: FinishedJobs[JobStatusReport],
        maximum: int,
    ) -> None:
        self._manager = manager
        self._options = options
        self._finished = finished
        # A wait would read the reason of these failures from the record, so it must not get them.
        self._unexplained = FinishedJobs[JobStatusReport](maximum)
        self._records = FinishedJobs[Job](maximum)
        self._reads: dict[tuple[object, str], _Read[Any]] = {}
        self._running: set[_Read[Any]] = set()
        self._crash: BaseException | None = None

    def recall(self, job_id: str) -> JobStatusReport | None:
        """Return the terminal report of a job, if it is remembered."""
        return self._finished.recall(job_id) or self._unexplained.recall(job_id)

    async def get_job_status(self, job_id: str) -> JobStatusReport:
        """Return the status of a job, by a request unless it is remembered as finished.

        Raises:
            APIError: There was no usable response, retries included.
            ClientStateError: The reads or the client were closed, or it belongs to another loop.
        """
        report = self.recall(job_id)
        if report is None:
            report = await self._share(STATUS, job_id)
            if report.is_terminal:
                (self._unexplained if needs_reason(report) else self._finished).remember(report)
        return report

    async def get_job(self, job_id: str) -> Job:
        """Return the record of a job, by a request unless it is remembered as finished.

        Raises:
            APIError: There was no usable response, retries included.
            ClientStateError: The reads or the client were closed, or it belongs to another loop.
        """
        job = self._records.recall(job_id)
        if job is None:
            job = await self._share(JOB, job_id)
            if job.is_terminal:
                self._records.remember(job)
        return job

    async def close(self, error: Exception) -> None:
        """End all reads, raise an error to their callers, and wait until no request runs.

        Raises:
            BaseException: A request has raised one that must not be lost, and no caller got it.
        """
        for read in self._running:
            read.error = error
            read.task.cancel()
        while self._running:
            await asyncio.wait([read.task for read in self._running])
            await asyncio.sleep(0)  # until their callbacks have run
        crash, self._crash = self._crash, None
        if crash is not None:
            raise crash

    async def _share(self, endpoint: Endpoint[str, ReadT], job_id: str) -> ReadT:
        """Wait for the running request, or for a new one."""
        read: _Read[ReadT] | None = self._reads.get((endpoint, job_id))
        if read is None or read.task.done():
            read = self._begin(endpoint, job_id)
        read.callers += 1
        try:
            # Unlike the task itself, this can be cancelled without affecting the other callers.
            await asyncio.wait({read.task})
        except asyncio.CancelledError:
            if read.callers == 1:
                await self._cancel(read)
            raise
        finally:
            read.callers -= 1
        return read.result()

    def _begin(self, endpoint: Endpoint[str, ReadT], job_id: str) -> _Read[ReadT]:
        task = asyncio.create_task(fetch(self._manager, endpoint, job_id, self._options))
        read = _Read((endpoint, job_id), task)
        self._reads[read.key] = read
        self._running.add(read)
        task.add_done_callback(partial(self._on_done, read))
        return read

    async def _cancel(self, read: _Read[Any]) -> None:
        """End a request whose last caller is cancelled; a later caller gets a new one."""
        self._forget(read)
        read.task.cancel()
        await asyncio.wait({read.task})
        if read.crash is not None:
            raise read.crash

    def _on_done(self, read: _Read[Any], _: asyncio.Task[Any]) -> None:
        self._forget(read)
        self._running.discard(read)
        if read.crash is not None and not read.callers:
            self._crash = read.crash

    def _forget(self, read: _Read[Any]) -> None:
        if self._reads.get(read.key) is read:
            del self._reads[read.key]


class _Read(Generic[ReadT]):
    """One request, and what its callers get if it is cancelled.

    Attributes:
        key: What is requested.
        task: Sends the request.
        callers: How many wait for it.
        error: What they get if the task is cancelled.
    """

    def __init__(self, key: tuple[object, str], task: asyncio.Task[ReadT]) -> None:
        self.key = key
        self.task = task
        self.callers = 0
        self.error: Exception = ClientStateError(_CANCELLED)

    @property
    def crash(self) -> BaseException | None:
        """What the request has raised, if it must not be lost, such as that of `pytest.fail`."""
        error = None if self.task.cancelled() else self.task.exception()
        return None if isinstance(error, Exception) else error

    def result(self) -> ReadT:
        """Return the response, or raise a copy of the error for this caller."""
        error = self.error if self.task.cancelled() else self.task.exception()
        if error is not None:
            raise copied(error)
        return self.task.result()
