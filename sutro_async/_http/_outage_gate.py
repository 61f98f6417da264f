"""The outage gate: while the service is unavailable, it lets one poll at a time through.

Pure decisions from outcomes and times. Times are seconds of one monotonic clock. There is no
clock, no timer and no I/O here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from sutro_async._backoff import backoff

__all__ = ["OutageGate"]

# After this many failures in a row, for this many jobs, the service counts as unavailable.
_FAILURES: Final = 5
_JOBS: Final = 2

# If requests fail at random, this happens by chance. So each time that the gate closes, it needs
# twice as many failures, until this many requests in a row have succeeded.
_MOST_FAILURES: Final = 40
_STEADY_SUCCESSES: Final = 20

# Seconds from the end of one probe to the beginning of the next.
_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 5.0
_LONGEST_DELAY_OF_RELAPSE: Final = 2.0
_LEAST_JITTER: Final = 0.75


class OutageGate:
    """Closes when requests for several jobs fail in a row, and opens with the first success.

    Args:
        uniform: Draws a random number between two bounds.

    Attributes:
        closed_at: When it closed; None while it is open.
        opened_at: When it opened last; minus infinity if it never did.
        outage_seconds: For how long it had been closed then.
    """

    def __init__(self, uniform: Callable[[float, float], float]) -> None:
        self.closed_at: float | None = None
        self.opened_at = -math.inf
        self.outage_seconds = 0.0
        self._uniform = uniform
        self._failures = 0
        self._successes = 0
        self._failures_needed = _FAILURES
        self._failed_jobs: set[str | None] = set()
        self._is_probing = False
        self._probes = 0
        self._next_probe_at = math.inf

    @property
    def is_closed(self) -> bool:
        """Whether the service counts as unavailable."""
        return self.closed_at is not None

    def note_success(self, now: float) -> None:
        """Note a response: the service is available."""
        self._failures = 0
        self._successes += 1
        if self._successes >= _STEADY_SUCCESSES:
            self._failures_needed = _FAILURES
        if self.closed_at is not None:
            self.outage_seconds = now - self.closed_at
            self.closed_at = None
            self.opened_at = now

    def note_failure(self, now: float, job_id: str | None, *, sent_at: float) -> None:
        """Note a failure that indicates that the service is unavailable.

        Args:
            now: When the request failed.
            job_id: The job that was requested: one job whose responses are always broken does not
                indicate an outage. None for list-jobs, which counts as one more job.
            sent_at: When it was sent. A failure sent before the gate opened is ignored.
        """
        if self.closed_at is not None or sent_at < self.opened_at:
            return
        if not self._failures:
            self._failed_jobs.clear()
        self._failures += 1
        self._successes = 0
        if len(self._failed_jobs) < _JOBS:
            self._failed_jobs.add(job_id)
        if self._failures >= self._failures_needed and len(self._failed_jobs) >= _JOBS:
            self.closed_at = now
            self._failures_needed = min(2 * self._failures_needed, _MOST_FAILURES)
            self._probes = 0
            self._schedule_probe(now)

    def may_probe(self, now: float) -> bool:
        """Whether a poll may pass the closed gate as a probe."""
        return now >= self._next_probe_at and not self._is_probing

    def begin_probe(self) -> None:
        """Let no other probe pass until this one has ended."""
        self._is_probing = True

    def end_probe(self, now: float) -> None:
        """Note that the probe has ended; its outcome is noted before."""
        self._is_probing = False
        self._schedule_probe(now)

    def _schedule_probe(self, now: float) -> None:
        is_relapse = self._failures_needed > 2 * _FAILURES
        longest = _LONGEST_DELAY_OF_RELAPSE if is_relapse else _LONGEST_DELAY
        bound = backoff(_FIRST_DELAY, 2, self._probes, longest)
        self._next_probe_at = now + bound * self._uniform(_LEAST_JITTER, 1)
        self._probes += 1
