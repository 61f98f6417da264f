"""The queue of all requests of one client, since all of them share one account.

The pacer decides when the next request may be sent and how many may be in flight; this is the only
part that waits for it.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
from collections import OrderedDict
from typing import Final

from sutro_async._http._observer import Observer
from sutro_async._http._pacer import Pacer, Permit
from sutro_async.errors import APIError
from sutro_async.events import ThrottlePaused, ThrottleResumed

__all__ = ["HeldBack", "Priority", "Throttle"]

# After so many calls in a row a poll is sent, so that calls do not hold up polls forever.
_CALLS_IN_A_ROW: Final = 4

_log: Final = logging.getLogger("sutro_async")


class Priority(enum.Enum):
    """Which requests are sent first."""

    CALL = enum.auto()
    """A caller waits for the response of this request."""

    POLL = enum.auto()
    """One of many: sent after queued calls, and held back while the service is unavailable."""


class HeldBack(Exception):  # noqa: N818 - a signal, not an error
    """The service is unavailable, so the request was not sent."""


_Waiter = asyncio.Future["Permit | None"]
"""Gets a permit, or None if the poll is held back."""

_Waiters = OrderedDict[_Waiter, None]


class Throttle:
    """Limits the requests in flight and their rate, pauses them, and holds polls back.

    Args:
        pacer: Decides when the next request may be sent.

    Attributes:
        in_flight: How many requests are in flight.
        observer: Is notified of pauses and outages, if there is one.
        paused_since: When the last pause began that a `Retry-After` has brought; seconds of the
            loop's clock.
    """

    def __init__(self, pacer: Pacer) -> None:
        self.in_flight = 0
        self.observer: Observer | None = None
        self.paused_since = -math.inf
        self._pacer = pacer
        self._overdue: _Waiters = OrderedDict()
        self._calls: _Waiters = OrderedDict()
        self._polls: _Waiters = OrderedDict()
        self._calls_in_a_row = 0
        self._timer: asyncio.TimerHandle | None = None
        self._resume_timer: asyncio.TimerHandle | None = None

    @property
    def max_concurrency(self) -> int:
        """Requests in flight at most."""
        return self._pacer.max_concurrency

    @property
    def queued(self) -> int:
        """How many requests wait to be sent."""
        return len(self._overdue) + len(self._calls) + len(self._polls)

    @property
    def paused_until(self) -> float:
        """The end of the last pause, in seconds of the loop's clock; minus infinity if none."""
        return self._pacer.paused_until

    @property
    def service_is_unavailable(self) -> bool:
        """Whether the outage gate is closed."""
        return self._pacer.gate.is_closed

    @property
    def unavailable_since(self) -> float | None:
        """When the outage began, in seconds of the loop's clock; None if there is none."""
        return self._pacer.gate.closed_at

    @property
    def available_since(self) -> float:
        """When the last outage ended, in seconds of the loop's clock; minus infinity if never."""
        return self._pacer.gate.opened_at

    @property
    def outage_seconds(self) -> float:
        """How long the last outage lasted."""
        return self._pacer.gate.outage_seconds

    def holds_back(self, now: float) -> bool:
        """Whether a poll would be held back now."""
        gate = self._pacer.gate
        return gate.is_closed and not gate.may_probe(now)

    def acquire_at_once(self, now: float) -> Permit | None:
        """Take what `acquire` would, without its cost, if nothing holds a request up."""
        pacer = self._pacer
        if (
            self.in_flight >= pacer.max_concurrency
            or pacer.in_window >= pacer.window
            or now < pacer.next_slot_at
            or now < pacer.paused_until
            or pacer.gate.closed_at is not None
            or self._has_waiters()
        ):
            return None
        return self._take_slot(now)

    async def acquire(self, priority: Priority, *, send_by: float = math.inf) -> Permit:
        """Wait until a request may be sent; `release` must be called once it has ended.

        Args:
            priority: Which requests are sent first.
            send_by: When to send a poll even during a pause or an outage, in seconds of the loop's
                clock: for a last poll, which could not be made later.

        Raises:
            HeldBack: It is a poll, and the service is unavailable.
        """
        gate, now = self._pacer.gate, _now()
        if permit := self.acquire_at_once(now):
            return permit
        if not gate.is_closed or priority is Priority.CALL or now >= send_by:
            return await self._wait(priority, send_by)
        if not gate.may_probe(now):
            raise HeldBack
        gate.begin_probe()
        try:
            permit = await self._wait(priority, send_by)
        except BaseException:
            gate.end_probe(_now())
            raise
        return permit._replace(is_probe=True)

    def release(self, permit: Permit) -> None:
        """End a request; its outcome is noted before."""
        self.in_flight -= 1
        self._pacer.note_ended(permit)
        if permit.is_probe:
            self._pacer.gate.end_probe(_now())
        if self._has_waiters():
            self._dispatch()

    def note_success(self, now: float, permit: Permit) -> None:
        """Note a good response."""
        closed_at = self._pacer.gate.closed_at
        self._pacer.note_success(now, permit)
        self._log_reopening(now, closed_at)

    def note_error(self, now: float, error: APIError, permit: Permit, *, max_pause: float) -> None:
        """Note a request that failed; `max_pause` bounds the pause, in seconds."""
        pacer = self._pacer
        closed_at, was_paused = pacer.gate.closed_at, now < pacer.paused_until
        pacer.note_error(now, error, permit, max_pause=max_pause)
        self._log_reopening(now, closed_at)
        if now < pacer.paused_until and not was_paused:
            self._note_pause(now)
        if closed_at is None and pacer.gate.is_closed:
            _log.warning("the service is unavailable, polls are held back: %s", error)
            for waiter in self._polls:
                if not waiter.done():
                    waiter.set_result(None)
            self._polls.clear()
            self._dispatch()
            if self.observer is not None:
                self.observer.notify(ThrottlePaused(reason="outage", seconds=None))

    def close(self) -> None:
        """Say that pauses are over, as no request will be sent any more."""
        self._end_pause()
        closed_at = self._pacer.gate.closed_at
        if closed_at is not None and self.observer is not None:
            seconds = _now() - closed_at
            self.observer.notify(ThrottleResumed(reason="outage", seconds=seconds))
        self.observer = None

    def _log_reopening(self, now: float, closed_at: float | None) -> None:
        if closed_at is not None and not self._pacer.gate.is_closed:
            seconds = now - closed_at
            _log.info("the service is available again after %.1f s", seconds)
            if self.observer is not None:
                self.observer.notify(ThrottleResumed(reason="outage", seconds=seconds))

    # ---- the pause that a `Retry-After` has brought

    def _note_pause(self, now: float) -> None:
        self._end_pause()  # the last one, of which the timer has not been called yet
        self.paused_since = now
        if self.observer is not None:
            self._set_resume_timer()  # before the observer, which may close the client
            until = self._pacer.paused_until
            self.observer.notify(ThrottlePaused(reason="retry_after", seconds=until - now))

    def _set_resume_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._resume_timer = loop.call_at(self._pacer.paused_until, self._on_resume_timer)

    def _on_resume_timer(self) -> None:
        if _now() < self._pacer.paused_until:  # the pause has become longer meanwhile
            self._set_resume_timer()
        else:
            self._end_pause()

    def _end_pause(self) -> None:
        if self._resume_timer is not None and self.observer is not None:
            self._resume_timer.cancel()
            self._resume_timer = None
            seconds = _now() - self.paused_since
            self.observer.notify(ThrottleResumed(reason="retry_after", seconds=seconds))

    # ---- the queue

    def _has_waiters(self) -> bool:
        return bool(self._polls or self._calls or self._overdue)

    async def _wait(self, priority: Priority, send_by: float) -> Permit:
        loop = asyncio.get_running_loop()
        waiter: _Waiter = loop.create_future()
        promotion: asyncio.TimerHandle | None = None
        if send_by <= loop.time():
            self._overdue[waiter] = None
        elif priority is Priority.CALL:
            self._calls[waiter] = None
        else:
            self._polls[waiter] = None
            if send_by < math.inf:
                promotion = loop.call_at(send_by, self._promote, waiter)
        self._dispatch()
        try:
            permit = await waiter
        except BaseException:  # a coroutine may also be closed
            if waiter.cancelled() or not waiter.done():
                self._forget(waiter)
            elif unused := waiter.result():  # the slot came just before the end
                self.release(unused)
            raise
        finally:
            if promotion is not None:
                promotion.cancel()
        if permit is None:
            raise HeldBack
        return permit

    def _promote(self, waiter: _Waiter) -> None:
        if waiter in self._polls:
            del self._polls[waiter]
            self._overdue[waiter] = None
            self._dispatch()

    def _forget(self, waiter: _Waiter) -> None:
        for waiters in (self._overdue, self._calls, self._polls):
            waiters.pop(waiter, None)
        if not self._has_waiters():
            self._stop_timer()

    def _dispatch(self) -> None:
        """Send what may be sent now, and set the timer for the rest."""
        self._stop_timer()
        now = _now()
        while self._has_waiters() and self.in_flight < self._pacer.max_concurrency:
            # An overdue poll is sent even during a pause.
            when = self._pacer.next_slot_at
            if not self._overdue:
                when = max(when, self._pacer.paused_until)
            if now < when:
                self._call_at(when)
                return
            waiters = self._overdue or self._next_waiters(now)
            if not waiters:
                self._call_at(self._pacer.stalled_at)
                return
            waiter, _ = waiters.popitem(last=False)
            if not waiter.done():  # one that was cancelled just now has not removed itself yet
                self._calls_in_a_row = self._calls_in_a_row + 1 if waiters is self._calls else 0
                waiter.set_result(self._take_slot(now, is_overdue=waiters is self._overdue))

    def _next_waiters(self, now: float) -> _Waiters | None:
        """Choose between calls and polls; None while the window allows neither."""
        pacer = self._pacer
        may_poll = pacer.in_window < pacer.window or now >= pacer.stalled_at
        # One more than polls, so that a poll without a response does not hold up a call.
        may_call = may_poll or pacer.in_window == pacer.window
        if self._polls and self._calls_in_a_row >= _CALLS_IN_A_ROW:
            # By the same rule: otherwise overlapping calls would leave no slot for a poll.
            return self._polls if may_call else None
        if self._calls and may_call:
            return self._calls
        return self._polls if self._polls and may_poll else None

    def _take_slot(self, now: float, *, is_overdue: bool = False) -> Permit:
        self.in_flight += 1
        return self._pacer.note_sent(now, is_overdue=is_overdue)

    def _call_at(self, when: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._dispatch()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _now() -> float:
    return asyncio.get_running_loop().time()
