"""The rate of requests that the service accepts, found from its refusals.

Plain arithmetic on times that are passed in, in seconds of one monotonic clock. The model is the
adaptive mode of the AWS SDKs: a refusal lowers the rate at once, and good responses raise it along
the curve of TCP CUBIC, which stays long near the rate of the last refusal.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["AdaptiveRate"]

_DECREASE: Final = 0.7

# Seconds of good responses until the rate is what it was at the last refusal.
_RECOVERY_SECONDS: Final = 20.0

# Each good response adds so much until the second refusal, which doubles the rate in a second.
_SLOW_START_STEP: Final = 0.7

# The refusals of a second are one event, and lower the rate once.
_EVENT_SECONDS: Final = 1.0

# A refusal without a pause costs little, and a few among many requests are not due to the rate.
_TOLERATED_SHARE: Final = 0.03
_CHEAP_PAUSE: Final = 1.0

# Requests may come in bursts, so the busiest of the last seconds counts.
_REMEMBERED_SECONDS: Final = 8

# Requests a second.
_LEAST_GUESS: Final = 20.0
_LOWEST: Final = 0.1
_NO_LIMIT_FROM: Final = 10_000.0


class AdaptiveRate:
    """How many requests a second may be sent.

    Attributes:
        limit: Requests a second; infinity until the service refuses one as one too many.
    """

    def __init__(self) -> None:
        self.limit: float = math.inf
        self._sent = _SecondsCounter()
        self._refused = _SecondsCounter()
        self._has_success = False
        self._last_success_at = -math.inf
        self._lowered_at = -math.inf
        self._limit_at_refusal = math.inf
        self._recovered_seconds = 0.0

    def note_sent(self, now: float) -> None:
        """Note a request that is sent."""
        self._sent.add(now)

    def note_success(self, now: float) -> None:
        """Note a good response."""
        self._has_success = True
        if self.limit == math.inf:
            return
        # Seconds without good responses, such as those of a pause, prove nothing.
        self._recovered_seconds += min(now - self._last_success_at, 1.0)
        self._last_success_at = now
        # A rate that is not used is not tested.
        self.limit = max(self.limit, min(self._raised_limit(), 2 * self._sent.peak(now)))
        if self.limit >= _NO_LIMIT_FROM:
            self.limit = math.inf

    def note_refusal(self, now: float, *, sent_at: float, pause: float = 0.0) -> None:
        """Note a request that was refused as one too many.

        Args:
            now: When the refusal arrived.
            sent_at: When the request was sent: one sent before the rate was lowered does not
                count against the lowered rate.
            pause: Seconds that the client pauses for it.
        """
        self._refused.add(now)
        is_limited = self.limit < math.inf
        if is_limited and (sent_at <= self._lowered_at or now < self._lowered_at + _EVENT_SECONDS):
            return
        if is_limited and not self._has_success:
            return  # everything is refused, so the rate is not the reason
        if pause < _CHEAP_PAUSE and self._are_few_refused(now):
            return
        self._has_success = False
        self._lowered_at = self._last_success_at = now
        self._recovered_seconds = 0.0
        if is_limited:
            self._limit_at_refusal = self.limit
            self.limit = max(_DECREASE * self.limit, _LOWEST)
        else:
            self.limit = _DECREASE * max(self._sent.peak(now), _LEAST_GUESS)

    def _are_few_refused(self, now: float) -> bool:
        refused = self._refused.recent(now)
        is_first = refused == 1 and self.limit == math.inf
        return is_first or refused <= _TOLERATED_SHARE * self._sent.recent(now)

    def _raised_limit(self) -> float:
        if self._limit_at_refusal == math.inf:
            return self.limit + _SLOW_START_STEP
        distance = (self._recovered_seconds - _RECOVERY_SECONDS) / _RECOVERY_SECONDS
        return self._limit_at_refusal * (1 + (1 - _DECREASE) * distance**3)


class _SecondsCounter:
    """Counts events for each of the last seconds."""

    def __init__(self) -> None:
        self._counts = [0] * _REMEMBERED_SECONDS
        self._second = 0

    def add(self, now: float) -> None:
        """Count an event."""
        self._advance(int(now))
        self._counts[self._second % _REMEMBERED_SECONDS] += 1

    def peak(self, now: float) -> int:
        """Return the largest count of a second."""
        self._advance(int(now))
        return max(self._counts)

    def recent(self, now: float) -> int:
        """Return the count of this second and the one before."""
        self._advance(int(now))
        return (
            self._counts[self._second % _REMEMBERED_SECONDS]
            + self._counts[(self._second - 1) % _REMEMBERED_SECONDS]
        )

    def _advance(self, second: int) -> None:
        if second <= self._second:
            return
        for each in range(max(self._second + 1, second - _REMEMBERED_SECONDS + 1), second + 1):
            self._counts[each % _REMEMBERED_SECONDS] = 0
        self._second = second
