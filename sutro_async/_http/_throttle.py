"""The limits that all requests of one client share, since all of them share one account."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from typing import Final

from aiolimiter import AsyncLimiter

from sutro_async._numbers import check_number, check_whole_number

__all__ = ["Throttle"]

# Requests are spaced evenly up to a hundred a second. Above that the timers of an event loop are
# too coarse, so as many as belong into this many seconds may leave together.
_BURST_SECONDS: Final = 0.01
_MAX_RATE: Final = 1e6


class Throttle:
    """Limits the requests in flight and their rate, and pauses them.

    Args:
        max_concurrency: Requests in flight.
        max_rate: Requests a second; None for no limit.

    Raises:
        ConfigurationError: A number is out of its range.
    """

    def __init__(self, max_concurrency: int, max_rate: float | None) -> None:
        self.max_concurrency: int = check_whole_number(
            "max_concurrency", max_concurrency, minimum=1
        )
        self._free_slots = self.max_concurrency
        self._waiters: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._limiter = None if max_rate is None else _limiter(max_rate)
        self._resume_at: float | None = None

    def pause(self, seconds: float) -> None:
        """Hold back every request that has not been sent yet, for so many seconds from now."""
        if seconds > self._pause_left():
            self._resume_at = asyncio.get_running_loop().time() + seconds

    async def acquire(self, *, send_by: float = math.inf) -> None:
        """Wait until a request may be sent; `release` must be called once it has ended.

        Args:
            send_by: When to send the request even during a pause, in seconds of the loop's clock:
                for a last poll, which could not be made after the pause.
        """
        while True:
            if self._resume_at is not None:
                await asyncio.sleep(self._pause_left(send_by))
            if self._free_slots:
                self._free_slots -= 1
            else:
                await self._wait_for_slot()
            try:
                if self._limiter is not None:
                    # Take the rate token last: a token held while queueing for a slot would be
                    # spent later, in a burst. Holding the slot meanwhile delays nobody, since the
                    # next waiter needs a token as well.
                    await self._limiter.acquire()
            except BaseException:
                self.release()
                raise
            if self._resume_at is None or not self._pause_left(send_by):
                return
            # The pause began while this request was queued.
            self.release()

    def release(self) -> None:
        """Hand the slot of a request over to the first waiter."""
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():  # one that was cancelled just now has not removed itself yet
                waiter.set_result(None)
                return
        self._free_slots += 1

    async def _wait_for_slot(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._waiters.pop(waiter, None)
            else:  # the slot came just before the cancellation
                self.release()
            raise

    def _pause_left(self, send_by: float = math.inf) -> float:
        if self._resume_at is None:
            return 0.0
        now = asyncio.get_running_loop().time()
        if self._resume_at <= now:
            self._resume_at = None
            return 0.0
        return max(0.0, min(self._resume_at, send_by) - now)


def _limiter(max_rate: float) -> AsyncLimiter:
    max_rate = check_number("max_rate", max_rate, above=0, maximum=_MAX_RATE)
    burst = max(1.0, max_rate * _BURST_SECONDS)
    # What may leave at once counts as well, so that no second sees more than max_rate.
    return AsyncLimiter(burst, burst / (max_rate - burst + 1))
