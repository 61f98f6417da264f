"""When the service answered last, and since when it does not answer.

Plain state: times are handed in, in seconds of one monotonic clock.
"""

from __future__ import annotations

import math

from sutro_async._http._observer import as_value
from sutro_async.errors import APIError, APIStatusError

__all__ = ["Health"]


class Health:
    """Whether the service answers, as the requests of a client show.

    Attributes:
        last_answer_at: When the last good answer came; minus infinity before the first.
        last_failure: The last failure that indicates the service, if there was one.
        last_failure_at: When that was; minus infinity before the first.
        unanswered_since: Since when requests are in flight or have failed without an answer in
            between; None if there are none.
    """

    def __init__(self) -> None:
        self.last_answer_at = -math.inf
        self.last_failure: APIError | None = None
        self.last_failure_at = -math.inf
        self.unanswered_since: float | None = None

    def note_sent(self, now: float) -> None:
        """Note that a request was sent."""
        if self.unanswered_since is None:
            self.unanswered_since = now

    def note_success(self, now: float, *, others: int) -> None:
        """Note a good answer; `others` requests are still in flight."""
        self.last_answer_at = now
        self.unanswered_since = now if others else None

    def note_error(self, now: float, error: APIError, *, others: int) -> None:
        """Note a failed request; `others` requests are still in flight."""
        if isinstance(error, APIStatusError) and not error.retryable:
            self.unanswered_since = now if others else None  # it did answer
            return
        self.last_failure = as_value(error)
        self.last_failure_at = now

    def note_cancelled(self, *, others: int) -> None:
        """Note a request that was cancelled; `others` requests are still in flight."""
        is_failing = self.last_failure_at >= (self.unanswered_since or 0.0)
        if not others and not is_failing:
            self.unanswered_since = None
