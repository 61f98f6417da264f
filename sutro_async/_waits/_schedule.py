"""The schedule of many waits: a heap of the polls that are due, and workers that make them.

A waiting job is an entry of the heap, not a task: with a task, a timer and a tenacity state for
each, it takes five times as much memory (see the page on benchmarks). A worker is a task that
lives while polls are due, so an idle schedule is one timer.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
import math
from collections.abc import Callable, Container, Coroutine
from typing import Any, Protocol

from sutro_async._waits._callbacks import log_failure
from sutro_async._waits._poller import JobPoller
from sutro_async.errors import ClientStateError
from sutro_async.models import JobStatusReport

__all__ = ["Schedule"]


class Owner(Protocol):
    """What a schedule belongs to: a batch or a monitor."""

    def on_report(self, poller: JobPoller, report: JobStatusReport) -> asyncio.Future[Any] | None:
        """Handle a changed report; the job is not polled until the future is done."""

    def on_end(self, poller: JobPoller, end: JobStatusReport | Exception) -> None:
        """Handle the completion of the wait for a job: its terminal report or an error."""

    def on_crash(self, error: BaseException) -> None:
        """Handle an error that ends the whole schedule, such as a `KeyboardInterrupt`."""


class Schedule:
    """Polls many jobs, each when it is due, in the order in which they are due.

    Args:
        workers: How many polls may run at once.
        owner: Is notified of reports and ends.

    Attributes:
        after_poll: Called with a job that is to be polled again, before its next poll is entered.
    """

    def __init__(self, workers: int, owner: Owner) -> None:
        self.after_poll: Callable[[JobPoller], None] | None = None
        self._max_workers = workers
        self._owner = owner
        self._due: list[tuple[float, int, JobPoller]] = []
        self._order = itertools.count()
        self._workers: dict[asyncio.Task[None], JobPoller] = {}
        self._beside: set[asyncio.Task[None]] = set()
        # Jobs whose `on_change` runs; not by its future, which may be the same one for several.
        self._notifying: dict[JobPoller, asyncio.Future[Any]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._is_closed = False

    def add(self, poller: JobPoller) -> None:
        """Poll a job when its pace says so; not at all if there is no time for another poll.

        For a job that is in the schedule already, this is how its poll is brought forward. A poll
        that is postponed needs nothing: when it is due, its pace is checked again.
        """
        when = poller.pace.next_poll_at
        if when < math.inf:
            poller.entry = next(self._order)  # an older entry does not count any more
            heapq.heappush(self._due, (when, poller.entry, poller))
            self._wake_at(when)

    def run_beside(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that ends with the schedule at the latest."""
        task = asyncio.create_task(coroutine)
        self._beside.add(task)
        task.add_done_callback(self._on_beside_done)
        return task

    def discard(self, poller: JobPoller) -> None:
        """Stop polling a job; a poll that is running is cancelled."""
        poller.is_discarded = True
        for task, current in self._running():
            if current is poller:
                task.cancel()
        while self._due and self._due[0][2].is_discarded:
            heapq.heappop(self._due)
        if not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def wait_discarded(self, pollers: Container[JobPoller]) -> None:
        """Wait until no poll of discarded jobs runs."""
        if running := {task for task, poller in self._running() if poller in pollers}:
            await asyncio.wait(running)

    def cancel(self) -> None:
        """Stop polling; `wait_closed` waits until what was running has ended."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._tasks():
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until nothing runs."""
        while tasks := self._tasks():
            await asyncio.wait(tasks)
            await asyncio.sleep(0)  # until their callbacks have run

    def _tasks(self) -> set[asyncio.Future[Any]]:
        return {*self._workers, *self._notifying.values(), *self._beside}

    def _running(self) -> list[tuple[asyncio.Future[Any], JobPoller]]:
        return [
            *self._workers.items(),
            *((task, poller) for poller, task in self._notifying.items()),
        ]

    # ---- what is due

    def _wake_at(self, when: float) -> None:
        """Set the timer to that time, unless it is set to an earlier one."""
        if self._is_closed or len(self._workers) >= self._max_workers:
            return  # a worker takes what is due when it is free
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        # Not read from the timer: that of uvloop, for a time that has passed, has no `when`.
        self._timer_at = when
        self._timer = asyncio.get_running_loop().call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._start_workers()

    def _start_workers(self) -> None:
        while len(self._workers) < self._max_workers and (poller := self._pop_due()):
            worker = asyncio.create_task(self._work(poller))
            self._workers.setdefault(worker, poller)
            worker.add_done_callback(self._on_worker_done)

    def _pop_due(self) -> JobPoller | None:
        """Take the poll that has been due for longest, if any is due."""
        now = asyncio.get_running_loop().time()
        while self._due and not self._is_closed:
            when, entry, poller = self._due[0]
            is_valid = entry == poller.entry and not poller.is_discarded
            if is_valid and when > now:
                self._wake_at(when)
                return None
            heapq.heappop(self._due)
            if is_valid and not self._is_postponed(poller, now):
                poller.entry = None
                return poller
        return None

    def _is_postponed(self, poller: JobPoller, now: float) -> bool:
        """Put a poll back that is not due any more, or is postponed in an outage."""
        if poller.pace.next_poll_at <= now and not poller.postpone(now):
            return False
        assert poller.entry is not None  # noqa: S101 - it is in the heap
        heapq.heappush(self._due, (poller.pace.next_poll_at, poller.entry, poller))
        return True

    # ---- polling

    async def _work(self, first: JobPoller) -> None:
        worker = asyncio.current_task()
        assert worker is not None  # noqa: S101 - a coroutine runs in a task
        poller: JobPoller | None = first
        while poller is not None:
            self._workers[worker] = poller
            await self._poll(poller)
            poller = self._pop_due()

    async def _poll(self, poller: JobPoller) -> None:
        try:
            report = await poller.poll(due_at=poller.pace.next_poll_at)
            if report is not None and report.is_terminal:
                report = await poller.add_reason(report)
        except Exception as error:  # noqa: BLE001 - the owner decides what it means
            self._owner.on_end(poller, error)
            return
        pending = None if report is None else self._owner.on_report(poller, report)
        if pending is None:
            self._continue(poller)
            return
        # No worker waits for it, so a slow `on_change` delays its own job only.
        self._notifying[poller] = pending
        pending.add_done_callback(functools.partial(self._on_notified, poller))
        if self._is_closed:
            pending.cancel()  # a task that started eagerly, and has closed the client

    def _continue(self, poller: JobPoller) -> None:
        if poller.is_discarded or self._is_closed:
            return
        if poller.report is not None and poller.report.is_terminal:
            self._owner.on_end(poller, poller.report)
        elif poller.polls_once:
            self._owner.on_end(poller, poller.timeout_error())
        else:
            if self.after_poll is not None:
                self.after_poll(poller)
            self.add(poller)

    # ---- when tasks end

    def _on_beside_done(self, task: asyncio.Task[None]) -> None:
        self._beside.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._is_closed:
            self._owner.on_crash(error)

    def _on_worker_done(self, worker: asyncio.Task[None]) -> None:
        """Notify the owner of a worker that ended early, so that the wait for its job ends."""
        poller = self._workers.pop(worker)
        if not worker.cancelled():
            error = worker.exception()
            if error is not None:
                self._owner.on_crash(error)
        elif not self._is_closed and not poller.is_discarded:
            self._owner.on_end(
                poller, ClientStateError(f"job {poller.job_id!r}: the polling task was cancelled")
            )
        if not self._is_closed:
            self._start_workers()

    def _on_notified(self, poller: JobPoller, pending: asyncio.Future[Any]) -> None:
        del self._notifying[poller]
        assert poller.report is not None  # noqa: S101 - it has just changed
        is_over = self._is_closed or poller.is_discarded
        try:
            log_failure(pending, poller.report, is_over=is_over)
        except BaseException as error:  # noqa: BLE001 - the owner raises it
            self._owner.on_crash(error)
            return
        self._continue(poller)
