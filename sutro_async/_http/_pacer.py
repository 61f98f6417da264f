"""When the next request of a client may be sent: concurrency, rate, pause and outage.

Pure decisions from the outcome of each request and from times that are passed in, in seconds of
one monotonic clock. `_throttle.py` counts all requests in flight, and waits. When the poll of a job
is due is decided by `_waits/_pace.py`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Final, NamedTuple

from sutro_async._http._adaptive_rate import AdaptiveRate
from sutro_async._http._outage_gate import OutageGate
from sutro_async._numbers import check_number, check_whole_number
from sutro_async.errors import APIError, APIStatusError, indicates_outage, retry_after_of

__all__ = ["Pacer", "Permit"]

# Requests are spaced evenly up to a hundred a second. Above that the timers of an event loop are
# too coarse, so the requests of this many seconds may be sent together.
_BURST_SECONDS: Final = 0.01
_MAX_RATE: Final = 1e6

# Seconds after which another request may be sent, as those in the window may never get a response.
_STALLED_AFTER: Final = 2.0


class Permit(NamedTuple):
    """The permission to send one request.

    Attributes:
        sent_at: When it was given; seconds of the loop's clock.
        restarts: How often the window had restarted by then.
        is_probe: Whether it finds out if the service is available again.
    """

    sent_at: float
    restarts: int
    is_probe: bool = False


class Pacer:
    """Says when the next request may be sent, and how many may be in flight.

    Args:
        max_concurrency: Requests in flight at most.
        max_rate: Requests a second at most; None for no limit.
        uniform: Draws a random number between two bounds.

    Attributes:
        max_concurrency: Requests in flight at most.
        window: Requests in flight now at most: after a pause or an outage it restarts at one, and
            doubles with each success, so that resuming causes no burst. Those sent before it
            restarted do not count: they may get no response until their timeout, or all of them
            at once.
        in_window: Requests in flight that count.
        paused_until: The end of the pause after a `Retry-After`; minus infinity before the first.
        next_slot_at: When the rate allows the next request.
        gate: Whether the service is available.

    Raises:
        ConfigurationError: A number is out of its range.
    """

    def __init__(
        self,
        max_concurrency: int,
        max_rate: float | None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.max_concurrency: int = check_whole_number(
            "max_concurrency", max_concurrency, minimum=1
        )
        self.window = self.max_concurrency
        self.in_window = 0
        self._restarts = 0
        self._last_sent_at = -math.inf
        self.paused_until = -math.inf
        self.next_slot_at = -math.inf
        self.gate = OutageGate(uniform)
        self._rate = AdaptiveRate()
        self._max_rate = math.inf
        if max_rate is not None:
            max_rate = check_number("max_rate", max_rate, above=0, maximum=_MAX_RATE)
            # Requests sent together count as well, so that no second has more than max_rate.
            self._max_rate = max_rate - _burst(max_rate) + 1
        self._even_slot_at = -math.inf

    @property
    def stalled_at(self) -> float:
        """When the window counts as stalled: a request may then be sent although it is full."""
        return self._last_sent_at + _STALLED_AFTER

    def note_sent(self, now: float, *, is_overdue: bool = False) -> Permit:
        """Note a request that is sent.

        Args:
            now: When it is sent.
            is_overdue: Whether it could not wait for the window.
        """
        self.in_window += 1
        if not is_overdue:
            self._last_sent_at = now
        self._rate.note_sent(now)
        rate = min(self._rate.limit, self._max_rate)
        if rate < math.inf:
            self._even_slot_at = max(self._even_slot_at, now) + 1 / rate
            self.next_slot_at = self._even_slot_at - (_burst(rate) - 1) / rate
        return Permit(now, self._restarts)

    def note_ended(self, permit: Permit) -> None:
        """Note that a request has ended."""
        if permit.restarts == self._restarts:
            self.in_window -= 1

    def note_success(self, now: float, permit: Permit) -> None:
        """Note a good response."""
        self._rate.note_success(now)
        self._note_response(now, permit)

    def note_error(self, now: float, error: APIError, permit: Permit, *, max_pause: float) -> None:
        """Note a request that failed.

        Args:
            now: When it failed.
            error: Its error.
            permit: Its permit.
            max_pause: Seconds; the longest pause that a `Retry-After` may bring.
        """
        status_code = error.status_code if isinstance(error, APIStatusError) else None
        retry_after = retry_after_of(error)
        pause = min(retry_after, max_pause)
        if status_code == 429:
            self._rate.note_refusal(now, sent_at=permit.sent_at, pause=pause)
        if status_code in {429, 503} and retry_after > 0:
            # It applies to the whole account, not to this request alone.
            self.paused_until = max(self.paused_until, now + pause)
            self._restart_window()
        if status_code == 429 and retry_after > 0:
            return  # the service is available, and has said when to continue
        if indicates_outage(error):
            self.gate.note_failure(now, error.job_id, sent_at=permit.sent_at)
        elif status_code is not None:
            self._note_response(now, permit)

    def _note_response(self, now: float, permit: Permit) -> None:
        if self.gate.closed_at is not None:
            self._restart_window()
        elif permit.restarts == self._restarts and now >= self.paused_until:
            self.window = min(2 * self.window, self.max_concurrency)
        self.gate.note_success(now)

    def _restart_window(self) -> None:
        self.window = 1
        self.in_window = 0
        self._restarts += 1


def _burst(rate: float) -> float:
    return max(1.0, rate * _BURST_SECONDS)
