"""Polls that many readers share: each job is polled once, however many watch it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

from sutro_async._http import Options, SessionManager
from sutro_async._waits._bulk import Sweeper
from sutro_async._waits._finished import FinishedJobs
from sutro_async._waits._outcomes import Outcomes
from sutro_async._waits._poller import JobPoller, pace_settings
from sutro_async._waits._schedule import Schedule
from sutro_async.errors import copied
from sutro_async.events import WaitOutcome
from sutro_async.models import JobOutcome, JobStatusReport

__all__ = ["SharedPolls", "Watch"]


class SharedPolls:
    """The polls of a monitor, all on one schedule.

    Args:
        manager: Sends the requests.
        options: How to send them.
        finished: Remembers the jobs that have finished.

    Attributes:
        finished: Remembers the jobs that have finished.
        pollers: What polls each job now.
        is_closed: Whether nothing is polled any more.

    Raises:
        ClientStateError: The client is closed, or belongs to another event loop.
    """

    def __init__(
        self,
        manager: SessionManager,
        options: Options,
        finished: FinishedJobs[JobStatusReport],
    ) -> None:
        self.finished = finished
        self.pollers: dict[str, JobPoller] = {}
        self.is_closed = False
        self._manager = manager
        self._options = options
        self._watches: dict[JobPoller, set[Watch]] = {}
        self._schedule = Schedule(manager.throttle.max_concurrency, self)
        self._sweeper = Sweeper(manager, options, self._schedule, self.pollers)
        manager.lifecycle.add(self)

    # ---- for watches

    def join(self, watch: Watch, job_id: str, *, once: bool) -> JobPoller:
        """Poll a job for a watch: with the others that watch it, or once for this one alone.

        Raises:
            ClientStateError: The client is closed, or belongs to another event loop.
        """
        self._manager.lifecycle.check()
        poller = None if once else self.pollers.get(job_id)
        if poller is None:
            now = _now()
            settings = pace_settings(self._options, 0 if once else None, now)
            poller = JobPoller(self._manager, job_id, self._options, settings, now)
            self._watches[poller] = set()
            if not once:
                self.pollers[job_id] = poller
            self._schedule.add(poller)
            self._sweeper.on_added()
        self._watches[poller].add(watch)
        return poller

    def leave(self, watch: Watch, poller: JobPoller, outcome: WaitOutcome) -> None:
        """Stop polling a job, unless others watch it; `outcome` says why the watch ended."""
        watches = self._watches.get(poller)
        if watches is not None:
            watches.discard(watch)
            if not watches:
                self._forget(poller)
                self._schedule.discard(poller)
                poller.end(outcome)

    async def wait_left(self, pollers: AbstractSet[JobPoller]) -> None:
        """Wait until no poll of a job without watchers runs."""
        await self._schedule.wait_discarded(pollers - self._watches.keys())

    def _forget(self, poller: JobPoller) -> set[Watch]:
        if self.pollers.get(poller.job_id) is poller:
            del self.pollers[poller.job_id]
            self._sweeper.on_removed()
        return self._watches.pop(poller, set())

    async def close(self, error: Exception) -> None:
        """End every watch with an error, and wait until no poll runs."""
        self.on_crash(error)
        await self._schedule.wait_closed()

    # ---- for the schedule

    def on_report(self, poller: JobPoller, report: JobStatusReport) -> None:
        """Pass a changed report on; a terminal one follows by `on_end`."""
        if not report.is_terminal:
            for watch in tuple(self._watches.get(poller, ())):
                watch.put(poller, report)

    def on_end(self, poller: JobPoller, end: JobStatusReport | Exception) -> None:
        """Pass the end of a job on."""
        if isinstance(end, JobStatusReport):
            self.finished.remember(end)
        for watch in tuple(self._forget(poller)):
            watch.put_end(poller, end)
        if isinstance(end, JobStatusReport):
            poller.end()
        else:
            poller.end_by(end)

    def on_crash(self, error: BaseException) -> None:
        """End every watch with an error."""
        self.is_closed = True
        self._manager.lifecycle.remove(self)
        self._schedule.cancel()
        pollers = tuple(self._watches)
        watches = {watch for each in tuple(self._watches.values()) for watch in tuple(each)}
        self._watches.clear()
        self.pollers.clear()
        for watch in watches:
            watch.fail(error)
        for poller in pollers:
            poller.end()

    # ---- for the lifecycle of the client

    @property
    def task(self) -> None:
        """None: the polls have many tasks."""

    def interrupt(self, make_error: Callable[[], Exception]) -> None:
        """End every watch with an error."""
        self.on_crash(make_error())

    async def wait_ended(self) -> None:
        """Wait until no poll runs."""
        await self._schedule.wait_closed()


class Watch:
    """One reader of the reports on one job or many, with a timeout of its own.

    Args:
        polls: Gives the polls to join, or raises ClientStateError.
        job_ids: The jobs; each once.
        timeout: Seconds from the first step on; None for no limit; 0 polls each job once.
    """

    def __init__(
        self, polls: Callable[[], SharedPolls], job_ids: Iterable[str], timeout: float | None
    ) -> None:
        self._open_polls = polls
        self._job_ids = job_ids
        self._timeout = timeout
        self._polls: SharedPolls | None = None
        self._pollers: set[JobPoller] = set()
        self._outcomes = Outcomes()
        self._began_at = 0.0
        self._deadline: float | None = None

    async def next_outcome(self) -> JobOutcome[JobStatusReport]:
        """Wait for the next outcome.

        Raises:
            StopAsyncIteration: There is none any more.
            BaseException: An error that concerns all jobs.
        """
        if self._polls is None:
            self._begin()
        # The timeout below does nothing if an outcome can be read at once.
        if self._deadline is not None and _now() >= self._deadline:
            self._expire()
        try:
            async with asyncio.timeout_at(self._deadline):
                outcome = await self._outcomes.get()
        except TimeoutError:
            self._expire()
            outcome = await self._outcomes.get()
        if outcome is not None:
            return outcome
        self._outcomes.raise_error()
        raise StopAsyncIteration

    async def next_report(self) -> JobStatusReport:
        """Wait for the next report, of a watch for one job.

        Raises:
            StopAsyncIteration: The terminal report was returned before.
            BaseException: What ended the watch.
        """
        outcome = await self.next_outcome()
        return outcome.result()

    async def aclose(self) -> None:
        """Leave the polls, and wait until those for this watch alone have ended.

        Raises:
            BaseException: A poll has raised one that must not be lost.
        """
        pollers = set(self._pollers)
        self.leave()
        if self._polls is not None:
            await self._polls.wait_left(pollers)
        self._outcomes.raise_crash()

    def leave(self, outcome: WaitOutcome = "abandoned") -> None:
        """Leave the polls; `outcome` says why."""
        if self._polls is not None:
            for poller in tuple(self._pollers):
                self._polls.leave(self, poller, outcome)
        self._pollers.clear()
        self._outcomes.end()

    def put(self, poller: JobPoller, report: JobStatusReport) -> None:
        """Add a report that is not terminal."""
        self._outcomes.put_report(poller.job_id, report)

    def put_end(self, poller: JobPoller, end: JobStatusReport | Exception) -> None:
        """Add the end of a job: its terminal report or an error."""
        self._pollers.discard(poller)
        if isinstance(end, JobStatusReport):
            self._outcomes.put_report(poller.job_id, end)
        elif not self._outcomes.put_error(poller.job_id, copied(end)):
            self.fail(end)
            return
        if not self._pollers:
            self._outcomes.end()

    def fail(self, error: BaseException) -> None:
        """End the watch with an error."""
        self._outcomes.end(copied(error))
        self.leave()

    def _begin(self) -> None:
        polls = self._polls = self._open_polls()
        self._began_at = _now()
        if self._timeout:
            self._deadline = self._began_at + self._timeout
        for job_id in self._job_ids:
            finished = polls.finished.recall(job_id)
            if finished is not None:
                self._outcomes.put_report(job_id, finished)
                continue
            poller = polls.join(self, job_id, once=self._timeout == 0)
            self._pollers.add(poller)
            if poller.report is not None and not poller.is_over:
                self.put(poller, poller.report)
        if not self._pollers:
            self._outcomes.end()

    def _expire(self) -> None:
        """Give every unfinished job its outcome."""
        elapsed = _now() - self._began_at
        for poller in self._pollers:
            if poller.is_over and poller.report is not None:
                # Its reason was still awaited.
                self._outcomes.put_report(poller.job_id, poller.report)
            else:
                error = poller.timeout_error_after(elapsed, timeout=self._timeout or 0.0)
                self._outcomes.put_error(poller.job_id, error)
        self.leave("timeout")


def _now() -> float:
    return asyncio.get_running_loop().time()
