"""Many jobs at once: a task for each, and their outcomes as they come."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable
from typing import Any, Final, Generic, TypeVar

from sutro_async._polling import STATUS, Answer, OnChange, Options, Query, Service, Wait, fetch
from sutro_async.errors import (
    AuthenticationError,
    ClientStateError,
    ConfigurationError,
    PermissionDeniedError,
    SutroError,
)
from sutro_async.models import JobOutcome, JobStatusReport

__all__ = ["Fetches", "Outcomes", "Waits", "collect"]

# So many tasks are started before the event loop gets a turn: ten thousand at once would hold up
# everything else that runs in it.
_STARTED_AT_ONCE: Final = 100

# These say nothing about one job, so they are nobody's outcome.
_EVERYBODYS_ERRORS: Final = (
    AuthenticationError,
    ClientStateError,
    ConfigurationError,
    PermissionDeniedError,
)

T = TypeVar("T")


class _Batch(ABC, Generic[T]):
    """Runs a coroutine for each job, and hands out the outcomes as they come.

    Args:
        job_ids: The jobs; each is run once, however often it is named.

    Raises:
        TypeError: The ids are a single string, or one of them is not a string.
        ValueError: A job id is invalid.
    """

    def __init__(self, job_ids: Iterable[str]) -> None:
        if isinstance(job_ids, str | bytes):
            raise TypeError(f"job ids are wanted, not a single one: put [{job_ids!r}]")
        ids = list(job_ids)
        for job_id in ids:
            STATUS.path(job_id)  # refuses an invalid job id before any request
        self.job_ids: Final = list(dict.fromkeys(ids))
        self._unsettled = set(self.job_ids)
        self._settled: deque[JobOutcome[T]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._everybodys_error: Exception | None = None
        self._is_abandoned = False

    async def outcomes(self) -> AsyncGenerator[JobOutcome[T], None]:
        """Run the coroutines, and yield the outcome of each as it ends.

        Leaving the loop over it ends those that still run.

        Raises:
            SutroError: An error that says nothing about one job; no request is sent after it.
        """
        try:
            self._begin()
            for count, job_id in enumerate(self.job_ids, start=1):
                self._start(job_id)
                if count % _STARTED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            for _ in self.job_ids:
                yield await self._next()
        finally:
            self.abandon()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @abstractmethod
    def _run(self, job_id: str) -> Coroutine[Any, Any, T]:
        """Do what is to be done about one job."""

    def _begin(self) -> None:
        """Take note that the batch begins."""

    def _end(self) -> None:
        """Take note that the batch ends."""

    def _start(self, job_id: str) -> None:
        if self._everybodys_error is None and job_id in self._unsettled:
            task = asyncio.create_task(self._follow(job_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _follow(self, job_id: str) -> None:
        try:
            outcome = JobOutcome(job_id=job_id, value=await self._run(job_id))
        except SutroError as error:
            if isinstance(error, _EVERYBODYS_ERRORS):
                self._give_up(error)
                return
            outcome = JobOutcome(job_id=job_id, error=error)
        except asyncio.CancelledError:
            if not self._is_abandoned:  # somebody else did that; do not wait for its outcome
                self._give_up(ClientStateError(f"job {job_id!r}: its task was cancelled"))
            raise
        except Exception as error:  # noqa: BLE001 - a mistake of ours, or of who called us
            self._give_up(error)
            return
        self._settle(outcome)

    def _settle(self, outcome: JobOutcome[T]) -> None:
        self._unsettled.discard(outcome.job_id)
        self._settled.append(outcome)
        self._news.set()

    def _give_up(self, error: Exception) -> None:
        self._everybodys_error = self._everybodys_error or error
        self._news.set()
        # At once, for the slot of the request that failed is already promised to another.
        self.abandon()

    def abandon(self) -> None:
        """End what still runs, at once; `outcomes` waits until it has ended."""
        self._is_abandoned = True
        self._end()
        for task in self._tasks:
            task.cancel()

    async def _next(self) -> JobOutcome[T]:
        while not self._settled:
            if self._everybodys_error is not None:
                raise self._everybodys_error
            self._news.clear()
            await self._news.wait()
        return self._settled.popleft()


class Fetches(_Batch[Answer]):
    """One logical GET about each job."""

    def __init__(
        self,
        service: Service,
        job_ids: Iterable[str],
        query: Query[Answer],
        options: Options,
    ) -> None:
        super().__init__(job_ids)
        self._service = service
        self._query = query
        self._options = options

    def _run(self, job_id: str) -> Coroutine[Any, Any, Answer]:
        return fetch(self._service, self._query, job_id, self._options)


class Waits(_Batch[JobStatusReport]):
    """A wait for each job, and one time-out for all of them."""

    def __init__(
        self,
        service: Service,
        job_ids: Iterable[str],
        options: Options,
        timeout: float | None,
        on_change: OnChange | None,
    ) -> None:
        super().__init__(job_ids)
        self._timeout = timeout
        self._on_change = on_change
        self._waits = {
            job_id: Wait(service, job_id, options, timeout, batch_size=len(self.job_ids))
            for job_id in self.job_ids
        }
        self._timer: asyncio.TimerHandle | None = None

    def _run(self, job_id: str) -> Coroutine[Any, Any, JobStatusReport]:
        return self._waits[job_id].run(self._on_change)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for wait in self._waits.values():
            wait.begin(now)
        if self._timeout:
            # A timer of its own, since whoever takes the outcomes may be busy with the last one.
            self._timer = loop.call_at(now + self._timeout, self._strike)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _strike(self) -> None:
        """End all waits at the same moment."""
        now = asyncio.get_running_loop().time()
        for job_id in self.job_ids:
            if job_id in self._unsettled:
                self._settle(self._outcome_at_deadline(self._waits[job_id], now))
        # Last, for it takes the event loop long to end thousands of tasks.
        self.abandon()

    def _outcome_at_deadline(self, wait: Wait, now: float) -> JobOutcome[JobStatusReport]:
        if wait.report is not None and wait.report.is_terminal:
            # Only on_change kept it from being settled.
            return JobOutcome(job_id=wait.job_id, value=wait.report)
        return JobOutcome(job_id=wait.job_id, error=wait.timed_out(now))


class Outcomes(AsyncIterator[JobOutcome[T]]):
    """The outcomes of a batch, which ends with the last reference to them."""

    def __init__(self, batch: _Batch[T]) -> None:
        self._batch = batch
        self._outcomes = batch.outcomes()

    def __aiter__(self) -> Outcomes[T]:
        return self

    async def __anext__(self) -> JobOutcome[T]:
        return await anext(self._outcomes)

    async def aclose(self) -> None:
        """End what still runs, and wait until it has ended; for `contextlib.aclosing`."""
        await self._outcomes.aclose()

    def __del__(self) -> None:
        # The event loop closes an abandoned generator as well, but requests may leave until then.
        self._batch.abandon()


async def collect(batch: _Batch[T]) -> dict[str, JobOutcome[T]]:
    """Run a batch to its end, and return the outcomes in the order of the ids."""
    outcomes = {outcome.job_id: outcome async for outcome in batch.outcomes()}
    return {job_id: outcomes[job_id] for job_id in batch.job_ids}
