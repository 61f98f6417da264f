"""When the service responded last, and since when it has not.

Plain state: times are handed in, in seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from typing import Final

from sutro_async._http._observer import as_value
from sutro_async.errors import APIError, APIStatusError

__all__ = ["Health"]

_ENOUGH_JOBS: Final = 2


class Health:
    """What the responses and failures of a client say about the service.

    Attributes:
        last_response_at: When the last good response came; minus infinity before the first.
        last_failure: The last failure that indicates the service, if there was one.
        last_failure_at: When that was; minus infinity before the first.
    """

    def __init__(self) -> None:
        self.last_response_at = -math.inf
        self.last_failure: APIError | None = None
        self.last_failure_at = -math.inf
        self._unresponsive_since: float | None = None
        self._unresponsive_jobs: set[str | None] = set()
        self._hanging = 0

    def unresponsive_since(self, *, waiting: int) -> float | None:
        """Since when requests are in flight or have failed without a response in between.

        None if there are none, or if they concern one job while several are waited for: that job
        may be the only one affected.
        """
        affected = max(len(self._unresponsive_jobs), self._hanging)
        return self._unresponsive_since if affected >= min(waiting, _ENOUGH_JOBS) else None

    def note_sent(self, now: float, job_id: str | None) -> None:
        """Note a request that is sent."""
        if self._unresponsive_since is None:
            self._unresponsive_since = now
        self._note_unresponsive(job_id)

    def note_success(self, now: float, *, others: int) -> None:
        """Note a good response, while other requests are in flight."""
        self.last_response_at = now
        self._note_response(now, others)

    def note_error(self, now: float, error: APIError, *, others: int) -> None:
        """Note a request that failed, while other requests are in flight."""
        if isinstance(error, APIStatusError) and not error.retryable:
            self._note_response(now, others)
            return
        self._note_unresponsive(error.job_id)
        self.last_failure = as_value(error)
        self.last_failure_at = now

    def note_cancelled(self, *, others: int) -> None:
        """Note a request that ended early, while other requests are in flight."""
        is_failing = self.last_failure_at >= (self._unresponsive_since or 0.0)
        if not others and not is_failing:
            self._unresponsive_since = None
            self._unresponsive_jobs.clear()

    def _note_response(self, now: float, others: int) -> None:
        self._unresponsive_since = now if others else None
        self._unresponsive_jobs.clear()
        # A single one may hang because of its job.
        self._hanging = others if others >= _ENOUGH_JOBS else 0

    def _note_unresponsive(self, job_id: str | None) -> None:
        if len(self._unresponsive_jobs) < _ENOUGH_JOBS:
            self._unresponsive_jobs.add(job_id)
