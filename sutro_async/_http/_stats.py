"""What a client is doing now, as `ClientStats` has it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from sutro_async._http._manager import SessionManager
from sutro_async.events import ClientStats, PauseReason

__all__ = ["client_stats", "datetime_of"]


def client_stats(manager: SessionManager) -> ClientStats:
    """Describe what a client is doing now; in any thread, before its first use, after its end."""
    health, throttle, lifecycle = manager.health, manager.throttle, manager.lifecycle
    now, utc_now = lifecycle.now(), datetime.now(UTC)
    pause_reason: PauseReason | None = None
    paused_since = paused_until = -math.inf
    # A stream between two steps has not noticed yet that the client is closed.
    waiting = 0 if lifecycle.is_closed else manager.waiting
    unresponsive_since = health.unresponsive_since(waiting=waiting)
    if lifecycle.is_closed:
        unresponsive_since = None
    elif throttle.unavailable_since is not None:
        pause_reason, paused_since = "outage", throttle.unavailable_since
    elif now < throttle.paused_until:
        pause_reason = "retry_after"
        paused_since, paused_until = throttle.paused_since, throttle.paused_until
    unresponsive_seconds = 0.0
    if unresponsive_since is not None:
        # In an outage, the requests that failed may have been the first ones for a while.
        is_silent = pause_reason == "outage" and health.last_response_at > -math.inf
        unresponsive_seconds = now - (health.last_response_at if is_silent else unresponsive_since)
    return ClientStats(
        in_flight=throttle.in_flight,
        queued=throttle.queued,
        waiting=waiting,
        pause_reason=pause_reason,
        paused_since=datetime_of(paused_since, now, utc_now),
        paused_until=datetime_of(paused_until, now, utc_now),
        last_response_at=datetime_of(health.last_response_at, now, utc_now),
        last_failure=health.last_failure,
        last_failure_at=datetime_of(health.last_failure_at, now, utc_now),
        unresponsive_since=datetime_of(unresponsive_since, now, utc_now),
        unresponsive_seconds=unresponsive_seconds,
    )


def datetime_of(when: float | None, now: float, utc_now: datetime) -> datetime | None:
    """Turn a time of the loop's clock into one of the calendar, given the time on both."""
    if when is None or when == -math.inf:
        return None
    try:
        return utc_now + timedelta(seconds=when - now)
    except OverflowError:  # a pause of thousands of years, if `max_retry_after` allows any
        return datetime.max.replace(tzinfo=UTC)
