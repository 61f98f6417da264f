"""Bulk: pages of list-jobs show which of many jobs have changed, so that the others need no poll.

The list is only a hint: it can lag behind, lack jobs, or be refused. A job that it shows with
another status is polled at once, one that it shows unchanged is not polled, and all others are
polled as usual.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import random
from collections.abc import AsyncGenerator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from typing import Final

from sutro_async._backoff import backoff
from sutro_async._http import HeldBack, Options, Priority, SessionManager, status_page
from sutro_async._waits._poller import JobPoller
from sutro_async._waits._schedule import Schedule
from sutro_async._wire import StatusPage, is_same_status
from sutro_async.errors import APIError
from sutro_async.models import JobStatusReport

__all__ = ["Sweeper"]

_PAGE_SIZE: Final = 100
_JOBS_A_PAGE: Final = 10  # waiting jobs for each page that a sweep may read
_LEAST_FOUND_A_PAGE: Final = 3  # a page every five seconds costs what these would with their polls

# Seconds.
_LONGEST_INTERVAL: Final = 5.0
_DISABLED_SECONDS: Final = 300.0

_log: Final = logging.getLogger("sutro_async")


class Hint(enum.Enum):
    """What the list says about a job."""

    UNCHANGED = enum.auto()
    CHANGED = enum.auto()
    STALE = enum.auto()
    """The list lags behind: it still shows what it showed before a poll saw another status."""


def hint(report: JobStatusReport, word: str, word_before: str | None) -> Hint:
    """Compare the status of the list with that of the newest report.

    Args:
        report: The newest report.
        word: The word of the list now.
        word_before: The word of the list in the sweep before, if the job was in it.
    """
    if is_same_status(report.raw_status, word):
        return Hint.UNCHANGED
    return Hint.STALE if word == word_before else Hint.CHANGED


class Sweeper:
    """Reads list-jobs while enough jobs of a schedule are waiting.

    Args:
        manager: Sends the requests.
        options: How to send them.
        schedule: Polls the jobs.
        pollers: The jobs that are waited for now.
    """

    def __init__(
        self,
        manager: SessionManager,
        options: Options,
        schedule: Schedule,
        pollers: Mapping[str, JobPoller],
    ) -> None:
        self._manager = manager
        self._options = options
        self._schedule = schedule
        self._pollers = pollers
        self._words: dict[str, str] = {}
        self._failed_at = -math.inf
        self._next_sweep_at = -math.inf
        self._task: asyncio.Task[None] | None = None
        if options.poll.bulk_from is not None:
            schedule.after_poll = self._on_polled

    def on_added(self) -> None:
        """Begin if there are enough jobs now."""
        if self._task is None and self._has_enough_jobs():
            self._task = self._schedule.run_beside(self._run())

    def on_removed(self) -> None:
        """End, and let the other jobs be polled one by one, if there are not enough any more."""
        if self._task is not None and not self._has_enough_jobs():
            self._task.cancel()
            self._task = None
            self._poll_one_by_one(set(self._words))

    def _on_polled(self, poller: JobPoller) -> None:
        """Leave a job that was polled to the next sweep, if the last one has shown it."""
        if poller.job_id in self._words:
            poller.pace.cover(asyncio.get_running_loop().time())

    def _has_enough_jobs(self) -> bool:
        bulk_from = self._options.poll.bulk_from
        return bulk_from is not None and len(self._pollers) >= bulk_from

    async def _run(self) -> None:
        policy = self._options.poll
        longest = min(policy.maximum, _LONGEST_INTERVAL)
        loop = asyncio.get_running_loop()
        sweeps = 0
        while True:
            # Also before the first: watchers that come and go start and end this often.
            await asyncio.sleep(self._next_sweep_at - loop.time())
            began_at = loop.time()
            try:
                if not self._is_disabled() and not await self._sweep():
                    self._failed_at = loop.time()
                    self._poll_one_by_one(set(self._words))
            finally:
                interval = backoff(policy.initial, policy.factor, sweeps, longest)
                # Shorter only, so that no interval exceeds the longest.
                jitter = random.uniform(1 - policy.jitter, 1)  # noqa: S311
                # From the beginning, as a sweep of ten thousand jobs takes a second or more.
                self._next_sweep_at = max(
                    began_at + interval * jitter, loop.time() + min(policy.initial, longest)
                )
            sweeps += 1

    def _is_disabled(self) -> bool:
        now = asyncio.get_running_loop().time()
        was_outage = self._manager.throttle.available_since > self._failed_at
        return now < self._failed_at + _DISABLED_SECONDS and not was_outage

    async def _sweep(self) -> bool:
        """Read the list until all jobs were seen; return whether it is worth reading again soon."""
        missing = set(self._pollers)
        waiting = len(missing)
        pages = read = 0
        try:
            maximum = max(1, waiting // _JOBS_A_PAGE)
            async with aclosing(self._pages(maximum)) as list_pages:
                async for page in list_pages:
                    pages += 1
                    read += len(page.statuses)
                    for job_id, word in page.statuses:
                        if job_id in missing:
                            missing.discard(job_id)
                            self._apply(job_id, word)
                    if not missing:
                        break
        except HeldBack:
            return True  # in an outage of the service
        except APIError as error:
            _log.warning("%s; jobs are polled one by one for %g s", error, _DISABLED_SECONDS)
            return False
        # Absence proves nothing.
        self._poll_one_by_one(missing | (self._words.keys() - self._pollers.keys()))
        found = waiting - len(missing)
        is_worthwhile = not missing or found >= _LEAST_FOUND_A_PAGE * pages
        if not is_worthwhile:
            _log.info(
                "list-jobs: its newest %d jobs include only %d of the %d waiting ones;"
                " jobs are polled one by one for %g s",
                *(read, found, waiting, _DISABLED_SECONDS),
            )
        return is_worthwhile

    async def _pages(self, maximum: int) -> AsyncGenerator[StatusPage, None]:
        cursors: set[str | None] = set()
        cursor: str | None = None
        while cursor not in cursors and len(cursors) < maximum:
            cursors.add(cursor)
            page = await self._manager.request(
                status_page(cursor, _PAGE_SIZE), None, self._options, priority=Priority.POLL
            )
            yield page
            if page.next_cursor is None:
                return
            cursor = page.next_cursor

    def _apply(self, job_id: str, word: str) -> None:
        poller = self._pollers.get(job_id)
        if poller is None or poller.entry is None:
            return  # it has ended, or is polled right now, and that response may be the older one
        word_before = self._words.get(job_id)
        self._words[job_id] = word
        if poller.report is None:
            return
        now = asyncio.get_running_loop().time()
        said = hint(poller.report, word, word_before)
        if said is Hint.UNCHANGED:
            poller.pace.cover(now)
        elif said is Hint.STALE:
            self._uncover(poller, now)
        elif poller.pace.poll_now(now):
            self._schedule.add(poller)

    def _poll_one_by_one(self, job_ids: AbstractSet[str]) -> None:
        now = asyncio.get_running_loop().time()
        for job_id in job_ids:
            self._words.pop(job_id, None)
            poller = self._pollers.get(job_id)
            if poller is not None:
                self._uncover(poller, now)

    def _uncover(self, poller: JobPoller, now: float) -> None:
        if poller.pace.uncover(now) and poller.entry is not None:
            self._schedule.add(poller)
