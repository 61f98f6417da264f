"""The time-outs of requests, with one timer for all of them.

A timer for each, as aiohttp and `asyncio.timeout` set it, costs a twelfth of a request.
"""

from __future__ import annotations

import asyncio
import math

from sutro_async._scope import Scope

__all__ = ["RequestTimeout", "SharedTimer"]


class SharedTimer:
    """Goes off at the first of many deadlines.

    Attributes:
        running: What has a deadline. There is never more of it than may be in flight, so all of it
            can be looked at each time.
        goes_off_at: Seconds of the loop's clock; infinity while it is not set.
    """

    def __init__(self) -> None:
        self.running: set[RequestTimeout] = set()
        self.goes_off_at = math.inf
        self._handle: asyncio.TimerHandle | None = None

    def set(self, deadline: float) -> None:
        """Let it go off at this deadline and no other."""
        self.stop()
        self.goes_off_at = deadline
        self._handle = asyncio.get_running_loop().call_at(deadline, self._go_off)

    def stop(self) -> None:
        """Do not let it go off."""
        self.goes_off_at = math.inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _go_off(self) -> None:
        # What it was set for may be over long since; it costs little to go off in vain now and
        # then, and much to set it anew whenever something ends.
        #
        # A timer may go off a moment early. A busy event loop lets it go off late: whatever is due
        # by then must not wait for another turn, in which an answer may come after all.
        now = max(asyncio.get_running_loop().time(), self.goes_off_at)
        for timeout in self.running:
            if timeout.deadline <= now:
                timeout.interrupt()
        waiting = [timeout.deadline for timeout in self.running if not timeout.is_interrupted]
        if waiting:
            self.set(min(waiting))
        else:
            self.stop()


class RequestTimeout(Scope):
    """Raises TimeoutError in the task that is inside once it has lasted so many seconds."""

    __slots__ = ("_seconds", "_timer", "deadline")

    deadline: float

    def __init__(self, timer: SharedTimer, seconds: float) -> None:
        self._timer = timer
        self._seconds = seconds

    def _enter(self) -> None:
        self.deadline = asyncio.get_running_loop().time() + self._seconds
        self._timer.running.add(self)
        if self.deadline < self._timer.goes_off_at:
            self._timer.set(self.deadline)

    def _leave(self) -> None:
        self._timer.running.remove(self)
        if not self._timer.running:
            self._timer.stop()

    def _error(self) -> Exception:
        return TimeoutError()
