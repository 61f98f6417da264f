"""The pace of a wait: its polling interval, its last poll, and when it gives up.

The pace decides when the poll of one job is due. When a request may be sent, with the limits of the
whole client, is decided by `_http/_pacer.py`.

Plain arithmetic. Times are seconds of one monotonic clock, and are passed in; so is the source of
randomness. There is no clock, no asyncio and no I/O here.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Final

import attrs

from sutro_async._backoff import backoff
from sutro_async.policies import PollPolicy

__all__ = ["FailureKind", "Pace", "PaceSettings", "Verdict"]

# Seconds.
_FIRST_BACKOFF: Final = 0.5
_LAST_POLL_MARGIN: Final = 0.1
_LAST_POLL_SPREAD: Final = 0.002  # for each job of a batch, since all share one deadline
_LONGEST_HOLD: Final = 2.0  # in an outage, between two checks whether it is over
_LONGEST_COVER: Final = 300.0  # without a poll of its own, since list-jobs can lag

# The bounds of the random share of a hold.
_HOLD_SHARES: Final = (0.5, 1.5)

# The sum of many intervals misses a bound by less than that.
_ROUNDING: Final = 1e-6


class FailureKind(enum.Enum):
    """What a failed poll says about the wait."""

    OUTAGE = enum.auto()
    """The service is unavailable, or its response malformed; it may recover within `max_outage`."""

    RATE_LIMITED = enum.auto()
    """The client gets good responses, but this poll was rate-limited."""

    REFUSED = enum.auto()
    """403 or 404, which is believed once it has lasted `not_found_grace` seconds."""

    FINAL = enum.auto()
    """Polling again would bring the same."""


class Verdict(enum.Enum):
    """What a failed poll means for the wait."""

    POLL_AGAIN = enum.auto()
    GIVE_UP = enum.auto()
    """The error of the poll ends the wait."""

    TIME_OUT = enum.auto()
    """There is no time for another poll."""


@attrs.frozen(kw_only=True)
class PaceSettings:
    """What all waits of a batch have in common.

    Attributes:
        policy: The policy.
        max_retry_after: Seconds; a longer `Retry-After` is not waited for, unless the interval is
            longer still.
        uniform: Draws a random number between two bounds.
        timeout: Seconds for the wait; None for no limit; 0 polls exactly once.
        deadline: When the timeout expires; None for no limit.
        batch_size: How many waits share the deadline, so that their last polls are spread out.
    """

    policy: PollPolicy
    max_retry_after: float
    uniform: Callable[[float, float], float]
    timeout: float | None = None
    deadline: float | None = None
    batch_size: int = 0

    @property
    def polls_once(self) -> bool:
        """Whether the timeout is 0, so that there is exactly one poll."""
        return self.timeout == 0

    @property
    def shortest_lead(self) -> float:
        """Seconds before the deadline after which no poll is sent."""
        return min(_LAST_POLL_MARGIN, (self.timeout or 0.0) / 2)


class _Streak:
    """Failures without a good poll between them."""

    __slots__ = ("_began_at", "_queued")

    def __init__(self, now: float) -> None:
        self._began_at = now
        self._queued = 0.0

    def note_queued(self, seconds: float) -> None:
        """Leave out the time that a poll spent in the client's own queues."""
        self._queued += seconds

    def seconds(self, now: float) -> float:
        """Seconds since the response of the first failure, queueing not included."""
        return now - self._began_at - self._queued


class Pace:
    """The pace of one wait.

    Attributes:
        poll_ended_at: When the latest poll ended; before the first, when the wait began.
        failing_since: When the first of the latest polls failed; None after a good one.
        next_poll_at: When the next poll is due; infinity after the last one.
        is_covered: Whether list-jobs shows the job as unchanged, so that it needs no poll.
        is_held_back: Whether polls were held back in an outage since the latest one.
        send_by: When the next poll is to be sent even during a pause or an outage, since there is
            no time for another after it.
    """

    __slots__ = (
        "_failures",
        "_held_back_since",
        "_outage",
        "_poll_seconds",
        "_refusal",
        "_retry_allowed_at",
        "_settings",
        "_unchanged_polls",
        "failing_since",
        "is_covered",
        "is_held_back",
        "next_poll_at",
        "poll_ended_at",
        "send_by",
    )

    def __init__(self, settings: PaceSettings, now: float) -> None:
        self.poll_ended_at = now
        self.failing_since: float | None = None
        self.next_poll_at = now
        self.is_covered = False
        self.is_held_back = False
        self.send_by = math.inf
        if settings.timeout and settings.deadline is not None:
            self.send_by = settings.deadline - settings.shortest_lead
        self._settings = settings
        self._unchanged_polls = 0
        self._retry_allowed_at = -math.inf
        self._failures = 0
        self._held_back_since = now
        self._poll_seconds = 0.0
        self._outage: _Streak | None = None
        self._refusal: _Streak | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the latest poll failed."""
        return self._failures > 0

    def note_report(self, now: float, *, poll_seconds: float, is_changed: bool) -> None:
        """Schedule the next poll after a good one.

        Args:
            now: When the response arrived.
            poll_seconds: Seconds that the poll took, its time in the queue included.
            is_changed: Whether the report differs from the one before.
        """
        policy = self._settings.policy
        self.poll_ended_at = now
        self.is_covered = self.is_held_back = False
        self._retry_allowed_at = -math.inf
        self._failures = 0
        self.failing_since = None
        self._outage = self._refusal = None
        self._poll_seconds = poll_seconds
        self._unchanged_polls = 0 if is_changed else self._unchanged_polls + 1
        jitter = self._settings.uniform(1 - policy.jitter, 1 + policy.jitter)
        self._schedule(now, self._interval() * jitter)

    def note_failure(
        self, now: float, kind: FailureKind, *, queued: float = 0.0, retry_after: float = 0.0
    ) -> Verdict:
        """Schedule the next poll after a failed one, unless the wait is over.

        Args:
            now: When the poll failed.
            kind: What the failure says.
            queued: Seconds that the poll spent in the client's own queues.
            retry_after: Seconds after which the service allows a retry; 0 if it named none.
        """
        settings, policy = self._settings, self._settings.policy
        for streak in (self._outage, self._refusal):
            if streak is not None:
                streak.note_queued(min(queued, now - self.poll_ended_at))
        self.poll_ended_at = now
        if self.failing_since is None:
            self.failing_since = now
        self.is_covered = self.is_held_back = False
        if kind is FailureKind.FINAL:
            return Verdict.GIVE_UP
        left = self._seconds_left(now, kind)
        if left <= _ROUNDING:
            return Verdict.GIVE_UP
        self._failures += 1
        bound = backoff(min(policy.initial, _FIRST_BACKOFF), 2, self._failures - 1, policy.maximum)
        delay = settings.uniform(bound / 2, bound)
        # A longer one is not waited for: no wait is silent for longer than that.
        longest = max(settings.max_retry_after, self._interval())
        retry_after = min(retry_after, longest)
        self._retry_allowed_at = now + retry_after
        self._schedule(now, max(delay, retry_after), give_up_at=now + left)
        if settings.polls_once or self.next_poll_at == math.inf:
            # There is no further poll. "No such job" is a result, unlike all other failures.
            if kind is FailureKind.REFUSED:
                return Verdict.GIVE_UP
            if settings.polls_once:
                return Verdict.TIME_OUT
        return Verdict.POLL_AGAIN

    def hold_back(self, now: float) -> None:
        """Postpone the poll that is due: the service is unavailable, and a probe checks it.

        That is an outage of this job too, so `max_outage` counts from here on if no poll of the job
        has failed before.
        """
        self.is_covered = False
        if now >= self.send_by:  # it left the queue just when it had to be sent
            self.next_poll_at = now
            return
        # Drawn from a wide range, so that polls that were held back together are spread out.
        delay = min(self._interval(), _LONGEST_HOLD) * self._settings.uniform(*_HOLD_SHARES)
        delay = max(delay, self._retry_allowed_at - now)
        if self.is_held_back:
            # The time of the last poll is kept: drawn again each time, those of a batch would be
            # concentrated at the end of the timeout.
            self.next_poll_at = min(now + delay, self.send_by)
        else:
            self.is_held_back = True
            self._held_back_since = now
            left = max(0.0, self._seconds_left(now, FailureKind.OUTAGE))
            self._schedule(now, delay, give_up_at=now + left)
        if self._refusal is not None:
            self._refusal.note_queued(self.next_poll_at - now)

    def resume(self, now: float, *, available_since: float, outage_seconds: float) -> bool:
        """Spread polls that were held back over the interval that they had before the outage.

        Args:
            now: The time.
            available_since: When the outage ended.
            outage_seconds: How long it had lasted.

        Returns:
            Whether the poll that is due was postponed once more.
        """
        self.is_held_back = False
        interval = self._interval()
        # It counts from when this wait notices the end of the outage: counted from the end itself,
        # the times of those that notice late would be in the past, and their polls a burst.
        known_at = min(now, available_since + min(interval, _LONGEST_HOLD) * max(_HOLD_SHARES))
        resume_at = known_at + self._settings.uniform(0, interval)
        if outage_seconds < interval:
            # Most other waits had no poll due meanwhile, so each keeps its place in the order.
            resume_at = self._held_back_since + interval
        resume_at = min(max(resume_at, self._retry_allowed_at), self.send_by)
        if resume_at <= now:
            return False
        self.next_poll_at = resume_at
        if self._refusal is not None:
            self._refusal.note_queued(resume_at - now)
        return True

    def cover(self, now: float) -> None:
        """Postpone the next poll: list-jobs shows the job, and it is read again before.

        Not forever, since a list can lag behind; and not while the job's own polls fail.
        """
        self._unchanged_polls += 1
        if self.is_covered or self.has_failed or self.is_held_back or now >= self.send_by:
            return
        self.is_covered = True
        self._schedule(now, _LONGEST_COVER * self._settings.uniform(0.8, 1))

    def uncover(self, now: float) -> bool:
        """Poll the job by itself again, within the interval that it would have by now.

        Returns:
            Whether the next poll was brought forward.
        """
        if not self.is_covered:
            return False
        self.is_covered = False
        self.next_poll_at = min(
            self.next_poll_at, now + self._settings.uniform(0, self._interval())
        )
        return True

    def poll_now(self, now: float) -> bool:
        """Poll at once: list-jobs shows that the job has changed.

        Returns:
            Whether the next poll was brought forward.
        """
        if self.has_failed or self.is_held_back or not now < self.next_poll_at < math.inf:
            return False
        self.is_covered = False
        self.next_poll_at = now
        return True

    def _seconds_left(self, now: float, kind: FailureKind) -> float:
        """Seconds that a kind of failure may still last."""
        policy = self._settings.policy
        if kind is FailureKind.REFUSED:
            self._refusal = self._refusal or _Streak(now)
            return policy.not_found_grace - self._refusal.seconds(now)
        if kind is FailureKind.RATE_LIMITED:
            self._outage = None  # the service is available
            return math.inf
        self._outage = self._outage or _Streak(now)
        return policy.max_outage - self._outage.seconds(now)

    def _interval(self) -> float:
        """Seconds between two polls, before jitter: it grows while the report stays the same."""
        policy = self._settings.policy
        return backoff(policy.initial, policy.factor, self._unchanged_polls, policy.maximum)

    def _schedule(self, now: float, delay: float, give_up_at: float = math.inf) -> None:
        """Set the time of the next poll, sooner than `delay` where it would be too late by then.

        Before the wait gives up, and before its timeout expires, there is one last poll; before
        the timeout so early that it can be expected to finish.
        """
        settings = self._settings
        latest = give_up_at
        if settings.deadline is not None:
            left = settings.deadline - now
            lead = 1.5 * self._poll_seconds + _LAST_POLL_MARGIN
            spread = settings.batch_size * _LAST_POLL_SPREAD
            if now >= self.send_by and left < lead + spread + _LAST_POLL_MARGIN:
                self.next_poll_at = math.inf  # this was the last poll; the timeout comes next
                return
            lead += settings.uniform(0, spread)
            latest = min(
                latest, settings.deadline - max(min(lead, left / 2), settings.shortest_lead)
            )
        self.send_by = latest
        self.next_poll_at = min(now + delay, latest)
