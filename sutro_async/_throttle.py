"""The limits that all requests of one client share, since all of them share one account."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from typing import Final

from aiolimiter import AsyncLimiter

from sutro_async.errors import ConfigurationError

__all__ = ["Throttle"]

# Requests are spaced evenly up to a hundred a second. Above that the timers of an event loop are
# too coarse, so as many as belong into this many seconds may leave together.
_BURST_SECONDS: Final = 0.01
_MAX_RATE: Final = 1e6


class Throttle:
    """At most so many requests in flight, so many a second, and none while the service rests.

    Args:
        max_concurrency: Requests in flight.
        max_rate: Requests a second; None for no limit.

    Raises:
        ConfigurationError: A number is out of its range.
    """

    def __init__(self, max_concurrency: int, max_rate: float | None) -> None:
        if isinstance(max_concurrency, bool) or not isinstance(max_concurrency, int):
            raise ConfigurationError(
                f"max_concurrency must be a whole number, got {max_concurrency!r}"
            )
        if max_concurrency < 1:
            raise ConfigurationError(f"max_concurrency must be at least 1, got {max_concurrency!r}")
        self._free_slots = max_concurrency
        self._line: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._limiter = None if max_rate is None else _limiter(max_rate)
        self._resume_at: float | None = None

    def pause(self, seconds: float) -> None:
        """Hold back every request that has not left yet, for so many seconds from now."""
        if seconds > self._pause_left():
            self._resume_at = asyncio.get_running_loop().time() + seconds

    async def acquire(self, *, pause_until: float = math.inf) -> None:
        """Wait for leave to make one request; `release` says that it is over.

        Args:
            pause_until: When the request leaves even during a pause, in seconds of the loop's
                clock: for the last chance to ask, which would be gone after the pause.
        """
        while True:
            if self._resume_at is not None:
                await asyncio.sleep(self._pause_left(pause_until))
            if self._free_slots:
                self._free_slots -= 1
            else:
                await self._stand_in_line()
            try:
                if self._limiter is not None:
                    # Last of all, so that leave once given is used at once: hoarded, it would
                    # make a burst. The slot is held meanwhile, at no cost, for the next one in
                    # line would have to wait just as long.
                    await self._limiter.acquire()
            except BaseException:
                self.release()
                raise
            if self._resume_at is None or not self._pause_left(pause_until):
                return
            # The pause began while this one stood in line.
            self.release()

    def release(self) -> None:
        """Let another request go: the slot is handed over to the first in line."""
        while self._line:
            turn, _ = self._line.popitem(last=False)
            if not turn.done():  # who was cancelled in this very turn of the loop is still in line
                turn.set_result(None)
                return
        self._free_slots += 1

    async def _stand_in_line(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._line[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._line.pop(turn, None)
            else:  # the slot came just before the cancellation
                self.release()
            raise

    def _pause_left(self, pause_until: float = math.inf) -> float:
        if self._resume_at is None:
            return 0.0
        now = asyncio.get_running_loop().time()
        if self._resume_at <= now:
            self._resume_at = None
            return 0.0
        return max(0.0, min(self._resume_at, pause_until) - now)


def _limiter(max_rate: float) -> AsyncLimiter:
    if isinstance(max_rate, bool) or not isinstance(max_rate, int | float):
        raise ConfigurationError(f"max_rate must be a number or None, got {max_rate!r}")
    if not 0 < max_rate <= _MAX_RATE:
        raise ConfigurationError(f"max_rate must be more than 0 and at most {_MAX_RATE:g}")
    burst = max(1.0, max_rate * _BURST_SECONDS)
    # What may leave at once counts as well, so that no second sees more than max_rate.
    return AsyncLimiter(burst, burst / (max_rate - burst + 1))
