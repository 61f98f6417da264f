"""Batches: many jobs with one call, an outcome for each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from typing import Any, Final

import attrs

from sutro_async._http import Endpoint, Options, ResponseT, SessionManager, fetch_in_batch
from sutro_async._waits._bulk import Sweeper
from sutro_async._waits._callbacks import OnChange, notify
from sutro_async._waits._outcomes import BatchErrors, Outcomes
from sutro_async._waits._pace import PaceSettings
from sutro_async._waits._poller import JobPoller, pace_settings
from sutro_async._waits._schedule import Schedule
from sutro_async._wire import check_job_id
from sutro_async.errors import ClientStateError, SutroError, detached
from sutro_async.models import JobOutcome, JobStatusReport

__all__ = ["WaitBatch", "fetch_all", "unique_ids"]


_ONLY_IN_STREAMS: Final = (
    "job_ids must be a plain iterable of job ids here; as_completed and watch_jobs take an"
    " asynchronous one"
)


def unique_ids(job_ids: Iterable[str]) -> list[str]:
    """Check the ids of a batch, and drop duplicates.

    Raises:
        TypeError: It is a single string, or an id is not a string.
        ValueError: A job id is invalid.
    """
    if isinstance(job_ids, str | bytes):
        raise TypeError(f"job_ids must be an iterable of job ids: pass [{job_ids!r}]")
    if isinstance(job_ids, AsyncIterable):
        raise TypeError(_ONLY_IN_STREAMS)
    return list(dict.fromkeys(map(check_job_id, job_ids)))


# ---- one request for each job


async def fetch_all(
    manager: SessionManager,
    endpoint: Endpoint[str, ResponseT],
    job_ids: Iterable[str],
    options: Options,
) -> dict[str, JobOutcome[ResponseT]]:
    """Make one logical GET for each job.

    Returns:
        The outcomes, in the order of the ids.

    Raises:
        TypeError: `job_ids` is a single string, or an id is not a string.
        ValueError: A job id is invalid.
        SutroError: An error that concerns the whole batch; no request is sent after it.
    """
    ids = unique_ids(job_ids)
    outcomes: dict[str, JobOutcome[ResponseT]] = {}
    errors = BatchErrors()
    remaining = iter(ids)

    async def work() -> None:
        for job_id in remaining:
            try:
                value = await fetch_in_batch(manager, endpoint, job_id, options)
            except SutroError as error:
                if errors.note_error(job_id, error):
                    raise
                outcomes[job_id] = JobOutcome(job_id=job_id, error=detached(error))
            else:
                errors.note_success()
                outcomes[job_id] = JobOutcome(job_id=job_id, value=value)

    await _run_workers(min(manager.throttle.max_concurrency, len(ids)), work)
    return {job_id: outcomes[job_id] for job_id in ids}


async def _run_workers(count: int, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run workers, and raise the first error of one after the others have ended."""
    workers = [asyncio.create_task(work()) for _ in range(count)]
    error: BaseException | None = None
    try:
        pending = set(workers)
        while pending and error is None:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            error = next((each for each in map(_error_of, done) if each is not None), None)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    if error is not None:
        raise error


def _error_of(worker: asyncio.Task[None]) -> BaseException | None:
    if worker.cancelled():
        return ClientStateError("a task of the batch was cancelled")
    return worker.exception()


# ---- a wait for each job


class WaitBatch:
    """Waits for many jobs on one schedule, with one timeout.

    Args:
        manager: Sends the requests.
        job_ids: The jobs; each is waited for once, however often it is named. An asynchronous
            iterable is read in the background, and its jobs are waited for as they come.
        options: How to send requests.
        timeout: Seconds from the first step on, None for no limit; 0 polls each job once.
        on_change: Gets each changed report.
        every_change: Whether each changed report is an outcome, and not the last of a job only.

    Raises:
        TypeError: `job_ids` is a single string, or an id is not a string.
        ValueError: A job id is invalid.
    """

    def __init__(
        self,
        manager: SessionManager,
        job_ids: Iterable[str] | AsyncIterable[str],
        options: Options,
        timeout: float | None,
        on_change: OnChange | None = None,
        *,
        every_change: bool = False,
    ) -> None:
        self._source = job_ids if isinstance(job_ids, AsyncIterable) else None
        ids = [] if isinstance(job_ids, AsyncIterable) else unique_ids(job_ids)
        # In the order of the ids, as the outcomes of `collect` are.
        self._job_ids: dict[str, None] = dict.fromkeys(ids)
        self._manager = manager
        self._options = options
        self._timeout = timeout
        self._on_change = on_change
        self._every_change = every_change
        self._schedule = Schedule(manager.throttle.max_concurrency, self)
        self._unfinished: dict[str, JobPoller] = {}
        self._sweeper = Sweeper(manager, options, self._schedule, self._unfinished)
        self._outcomes = Outcomes()
        self._feeder: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._settings: PaceSettings | None = None
        self._expired: deque[JobPoller] = deque()
        self._expired_at = 0.0
        self._is_closed = False

    # ---- for the reader

    async def next_outcome(self) -> JobOutcome[JobStatusReport]:
        """Wait for the next outcome.

        Raises:
            StopAsyncIteration: There is none any more.
            BaseException: An error that concerns the whole batch; nothing is polled after it.
        """
        if self._settings is None:
            self._settings = self._begin()
        outcome = await self._outcomes.get()
        if outcome is not None:
            return outcome
        if self._expired:
            return self._expired.popleft().outcome_at_timeout(self._expired_at)
        await self.aclose()
        self._outcomes.raise_error()
        raise StopAsyncIteration

    async def collect(self) -> dict[str, JobOutcome[JobStatusReport]]:
        """Return all outcomes, in the order of the ids.

        Raises:
            TypeError: The ids are an asynchronous iterable.
        """
        if self._source is not None:
            raise TypeError(_ONLY_IN_STREAMS)
        outcomes: dict[str, JobOutcome[JobStatusReport]] = {}
        try:
            while True:
                outcome = await self.next_outcome()
                outcomes[outcome.job_id] = outcome
        except StopAsyncIteration:
            return {job_id: outcomes[job_id] for job_id in self._job_ids}
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Stop polling, and wait until what was running has ended.

        Raises:
            BaseException: A callback has raised one that must not be lost.
        """
        self.cancel()
        await self.wait_ended()
        self._outcomes.raise_crash()

    def cancel(self) -> None:
        """Stop polling."""
        if self._is_closed:
            return
        self._is_closed = True
        self._manager.lifecycle.remove(self)
        self._schedule.cancel()
        self._outcomes.end()
        if self._timer is not None:
            self._timer.cancel()
        if self._feeder is not None:
            self._feeder.cancel()
        for poller in self._unfinished.values():
            poller.end()

    # ---- for the lifecycle of the client

    @property
    def task(self) -> None:
        """None: a batch has many tasks."""

    def interrupt(self, make_error: Callable[[], Exception]) -> None:
        """End the batch with an error."""
        self.on_crash(make_error())

    async def wait_ended(self) -> None:
        """Wait until what was running has ended."""
        await self._schedule.wait_closed()
        if self._feeder is not None:
            await asyncio.wait({self._feeder})

    # ---- for the schedule

    def on_report(self, poller: JobPoller, report: JobStatusReport) -> asyncio.Future[Any] | None:
        """Handle a changed report."""
        if self._every_change and not report.is_terminal:
            self._outcomes.put_report(poller.job_id, report)
        else:
            self._outcomes.note_success()
        return None if self._on_change is None else notify(self._on_change, report)

    def on_end(self, poller: JobPoller, end: JobStatusReport | Exception) -> None:
        """Handle the completion of the wait for a job: its terminal report or an error."""
        if isinstance(end, JobStatusReport):
            self._outcomes.put_report(poller.job_id, end)
            poller.end()
        else:
            is_outcome = self._outcomes.put_error(poller.job_id, end)
            poller.end_by(end)
            if not is_outcome:
                self.on_crash(end)
                return
        self._unfinished.pop(poller.job_id, None)
        self._sweeper.on_removed()
        self._end_if_finished()

    def on_crash(self, error: BaseException) -> None:
        """End the batch with an error."""
        self._outcomes.end(error)
        self.cancel()

    # ---- from the beginning to the end

    def _begin(self) -> PaceSettings:
        self._manager.lifecycle.add(self)
        loop = asyncio.get_running_loop()
        now = loop.time()
        batch_size = len(self._job_ids)
        settings = pace_settings(self._options, self._timeout, now, batch_size=batch_size)
        if settings.deadline is not None:
            # A timer of its own, since the reader may be busy with the last outcome.
            self._timer = loop.call_at(settings.deadline, self._on_timeout)
        for job_id in self._job_ids:
            self._add(job_id, settings, now)
        if not settings.polls_once:
            self._sweeper.on_added()
        if self._source is not None:
            self._feeder = asyncio.create_task(self._feed(self._source, settings))
            self._feeder.add_done_callback(self._on_feeder_done)
        self._end_if_finished()
        return settings

    def _add(self, job_id: str, settings: PaceSettings, now: float) -> None:
        poller = JobPoller(self._manager, job_id, self._options, settings, now)
        self._unfinished[job_id] = poller
        self._schedule.add(poller)

    async def _feed(self, source: AsyncIterable[str], settings: PaceSettings) -> None:
        try:
            async for each in source:
                job_id = check_job_id(each)
                if job_id in self._job_ids:
                    continue
                self._job_ids[job_id] = None
                if len(self._job_ids) > 2 * settings.batch_size:
                    settings = attrs.evolve(settings, batch_size=len(self._job_ids))
                self._add(job_id, settings, asyncio.get_running_loop().time())
                self._sweeper.on_added()
        finally:
            if isinstance(source, AsyncGenerator):
                await source.aclose()

    def _on_feeder_done(self, feeder: asyncio.Task[None]) -> None:
        self._feeder = None
        error = (
            ClientStateError("the task that reads the job ids was cancelled")
            if feeder.cancelled()
            else feeder.exception()
        )
        if error is not None and not (self._is_closed and isinstance(error, Exception)):
            self.on_crash(error)
        self._end_if_finished()

    def _end_if_finished(self) -> None:
        if not self._unfinished and self._feeder is None:
            self.cancel()

    def _on_timeout(self) -> None:
        """End all unfinished waits at the same moment.

        Their outcomes are made when they are read: making those of 100,000 jobs takes a second.
        """
        self._expired_at = asyncio.get_running_loop().time()
        self._expired.extend(self._unfinished.values())
        self._unfinished.clear()
        self.cancel()
        for poller in tuple(self._expired):
            poller.end("timeout")
