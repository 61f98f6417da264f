"""The timeouts of requests, with one timer of the event loop for all requests in flight.

A timer for each request takes an eighth of its CPU time, with `asyncio.timeout` as with aiohttp's
own; this takes a twentieth (`tests/benchmarks/parts.py`).
"""

from __future__ import annotations

import asyncio
import math

from sutro_async._http._scope import Scope

__all__ = ["RequestTimeout", "RequestTimer"]


class RequestTimer:
    """Interrupts each request at its deadline.

    The timer is set to the earliest deadline, or to an earlier time: a request that ends leaves it
    as it is, and it is set anew when it expires. Without a request in flight there is no timer.

    Attributes:
        in_flight: The requests that run.
    """

    def __init__(self) -> None:
        self.in_flight: set[RequestTimeout] = set()
        self._when = math.inf  # seconds of the loop's clock
        self._handle: asyncio.TimerHandle | None = None

    def timeout_at(self, deadline: float) -> RequestTimeout:
        """Make the scope of a request, which raises `TimeoutError` at that time."""
        timeout = RequestTimeout(self)
        timeout.deadline = deadline
        return timeout

    def add(self, timeout: RequestTimeout) -> None:
        """Interrupt a request at its deadline."""
        self.in_flight.add(timeout)
        if timeout.deadline < self._when:
            self._set(timeout.deadline)

    def remove(self, timeout: RequestTimeout) -> None:
        """Forget a request that has ended."""
        self.in_flight.remove(timeout)
        if not self.in_flight:
            self._set(math.inf)

    def _set(self, when: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._when = when
        if when < math.inf:
            self._handle = asyncio.get_running_loop().call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        # A timer may expire a moment early. A busy event loop calls it late, and then everything
        # that is due is interrupted now: later in the loop a response may have arrived.
        now = max(asyncio.get_running_loop().time(), self._when)
        next_deadline = math.inf
        for timeout in self.in_flight:
            if timeout.deadline <= now:
                timeout.interrupt(TimeoutError)
            else:
                next_deadline = min(next_deadline, timeout.deadline)
        self._set(next_deadline)


class RequestTimeout(Scope):
    """The scope of one request.

    Attributes:
        deadline: When it is interrupted; seconds of the loop's clock.
    """

    __slots__ = ("deadline",)

    deadline: float
