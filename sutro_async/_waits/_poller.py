"""One job that is waited for: its pace, its newest report, and how it is polled."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from datetime import UTC, datetime
from typing import Final

from sutro_async._http import (
    STATUS,
    Endpoint,
    HeldBack,
    Options,
    Priority,
    SessionManager,
    as_value,
    datetime_of,
)
from sutro_async._waits._pace import FailureKind, Pace, PaceSettings, Verdict
from sutro_async._waits._reason import add_reason
from sutro_async._wire import OnMismatch, parse_report
from sutro_async.errors import (
    APIError,
    JobNotFoundError,
    JobWaitTimeoutError,
    PermissionDeniedError,
    RateLimitError,
    detached,
    indicates_outage,
    retry_after_of,
)
from sutro_async.events import PollFailed, StatusChanged, WaitEnded, WaitOutcome
from sutro_async.models import JobOutcome, JobStatus, JobStatusReport

__all__ = ["JobPoller", "pace_settings"]

_OUTCOMES: Final[dict[JobStatus, WaitOutcome]] = {
    JobStatus.SUCCEEDED: "succeeded",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "cancelled",
}

# Bytes; a longer body is parsed each time, and not kept in memory.
_LONGEST_KEPT_BODY: Final = 500

_log: Final = logging.getLogger("sutro_async")


def pace_settings(
    options: Options, timeout: float | None, now: float, *, batch_size: int = 0
) -> PaceSettings:
    """Make the settings that all waits of a call have in common.

    Args:
        options: Those of the client.
        timeout: Seconds; without a timeout, and with 0, there is no deadline.
        now: When the waits begin.
        batch_size: How many share the deadline.
    """
    return PaceSettings(
        policy=options.poll,
        max_retry_after=options.retry.max_retry_after,
        uniform=random.uniform,
        timeout=timeout,
        deadline=now + timeout if timeout else None,
        batch_size=batch_size,
    )


class JobPoller:
    """Polls one job, at the pace of its wait.

    Attributes:
        job_id: The job.
        pace: When to poll it.
        report: The newest report, if there was one.
        failure: The error of the latest poll, if it failed.
        entry: The number of its entry in a schedule; None while it has none, as during a poll.
        is_discarded: Whether it is not to be polled any more.
    """

    __slots__ = (
        "_began_at",
        "_body",
        "_completed_at",
        "_is_ended",
        "_manager",
        "_options",
        "_polls",
        "_settings",
        "entry",
        "failure",
        "is_discarded",
        "job_id",
        "pace",
        "report",
    )

    def __init__(
        self,
        manager: SessionManager,
        job_id: str,
        options: Options,
        settings: PaceSettings,
        now: float,
    ) -> None:
        self.job_id = job_id
        self.pace = Pace(settings, now)
        self.report: JobStatusReport | None = None
        self.failure: APIError | None = None
        self.entry: int | None = None
        self.is_discarded = False
        self._manager = manager
        self._options = options
        self._settings = settings
        self._began_at = now
        self._body: bytes | None = None
        self._completed_at: datetime | None = None
        self._is_ended = False
        self._polls = 0
        manager.waiting += 1

    @property
    def is_over(self) -> bool:
        """Whether the newest report is terminal."""
        return self.report is not None and self.report.is_terminal

    @property
    def polls_once(self) -> bool:
        """Whether there is exactly one poll."""
        return self._settings.polls_once

    def seconds_to_next_poll(self) -> float:
        """Seconds until the next poll is due; infinity after the last one."""
        return max(0.0, self.pace.next_poll_at - _now())

    def postpone(self, now: float) -> bool:
        """Postpone the poll that is due if the service is unavailable, or was until just now.

        Returns:
            Whether it was postponed.
        """
        throttle = self._manager.throttle
        if not throttle.service_is_unavailable:
            return self.pace.is_held_back and self.pace.resume(
                now,
                available_since=throttle.available_since,
                outage_seconds=throttle.outage_seconds,
            )
        if self.polls_once or now >= self.pace.send_by or not throttle.holds_back(now):
            return False
        self.pace.hold_back(now)
        return True

    async def poll(self, *, due_at: float = math.inf) -> JobStatusReport | None:
        """Poll once.

        Args:
            due_at: When the poll was due, if it had to wait for a worker: that is queueing, too.

        Returns:
            The report, if it differs from the one before or is terminal. Else, and where the poll
            was held back in an outage, None: `pace` says when to poll again.

        Raises:
            APIError: The wait is over.
            JobWaitTimeoutError: The poll failed, and there is no time for another.
            ClientStateError: The client is closed, or belongs to another event loop.
        """
        self._polls += 1
        sent_at = _now()
        began_at = min(due_at, sent_at)

        def note_sent(now: float) -> None:
            nonlocal sent_at
            sent_at = now

        try:
            report = await self._manager.request(
                Endpoint(STATUS.name, STATUS.path, self._parse),
                self.job_id,
                self._options,
                attempt=self._polls,
                priority=Priority.CALL if self.polls_once else Priority.POLL,
                send_by=self.pace.send_by,
                due_at=began_at,
                on_sent=note_sent,
            )
        except HeldBack:
            self._polls -= 1
            self.pace.hold_back(_now())
            return None
        except APIError as error:
            failure = error
        else:
            return self._note_report(report, began_at)
        self._note_failure(failure, queued=sent_at - began_at)
        return None

    async def add_reason(self, report: JobStatusReport) -> JobStatusReport:
        """Add the reason from the record to a report that says that the job failed, but not why.

        Within what is left of the timeout; with a timeout of 0 there is no further request.
        """
        settings = self._settings
        if settings.polls_once:
            left = 0.0
        else:
            left = math.inf if settings.deadline is None else settings.deadline - _now()
        report, job = await add_reason(self._manager, report, self._options, seconds=left)
        if job is not None:
            self._completed_at = job.datetime_completed
        self.report = report
        return report

    def end(self, outcome: WaitOutcome = "abandoned") -> None:
        """Take note that the wait has ended; only the first time counts.

        Args:
            outcome: How it ended if the job has not finished.
        """
        if self._is_ended:
            return
        self._is_ended = True
        self._manager.waiting -= 1
        if self._manager.observer is None:
            return
        if self.report is not None:
            outcome = _OUTCOMES.get(self.report.status, outcome)
        late = None
        if self._completed_at is not None:
            late = (datetime.now(UTC) - self._completed_at).total_seconds()
        event = WaitEnded(
            job_id=self.job_id,
            outcome=outcome,
            polls=self._polls,
            elapsed=_now() - self._began_at,
            late=late,
        )
        self._manager.observer.notify(event)

    def end_by(self, error: Exception) -> None:
        """Take note that an error has ended the wait."""
        if isinstance(error, JobWaitTimeoutError):
            self.end("timeout")
        else:
            self.end("abandoned" if self._manager.lifecycle.is_closed else "error")

    def outcome_at_timeout(self, now: float) -> JobOutcome[JobStatusReport]:
        """Make the outcome of a wait whose timeout expired at that time."""
        if self.report is not None and self.report.is_terminal:
            # Only its reason or `on_change` was still awaited.
            return JobOutcome(job_id=self.job_id, value=self.report)
        return JobOutcome(job_id=self.job_id, error=self.timeout_error(now))

    def timeout_error(self, now: float | None = None) -> JobWaitTimeoutError:
        """Make the error of the wait, whose timeout has expired, now or at that time."""
        elapsed = (_now() if now is None else now) - self._began_at
        return self.timeout_error_after(elapsed, timeout=self._settings.timeout or 0.0)

    def timeout_error_after(self, elapsed: float, *, timeout: float) -> JobWaitTimeoutError:
        """Make the error of a wait that shares these polls, and has a timeout of its own."""
        error = JobWaitTimeoutError(
            job_id=self.job_id,
            last_report=self.report,
            elapsed=elapsed,
            timeout=timeout,
            failure=self.failure,
        )
        error.__cause__ = self.failure
        return error

    def _parse(self, job_id: str, body: bytes, on_mismatch: OnMismatch) -> JobStatusReport:
        """Read a response; most are the same as the one before, byte for byte."""
        if self.report is not None and body == self._body:
            return self.report
        self._body = None
        report = parse_report(job_id, body, on_mismatch)
        if len(body) <= _LONGEST_KEPT_BODY:
            self._body = body
        return report

    def _note_report(self, report: JobStatusReport, began_at: float) -> JobStatusReport | None:
        previous, self.failure = self.report, None
        is_changed = report is not previous and report != previous
        if is_changed:  # else the old one stays, so that memory is not churned
            self.report = report
        if previous is None or report.raw_status != previous.raw_status:
            self._manager.log_status(report)
            self._notify_changed(previous, report)
        now = _now()
        self.pace.note_report(now, poll_seconds=now - began_at, is_changed=is_changed)
        return report if is_changed or report.is_terminal else None

    def _note_failure(self, error: APIError, *, queued: float) -> None:
        is_first = not self.pace.has_failed
        kind = self._kind_of(error)
        now = _now()
        verdict = self.pace.note_failure(
            now, kind, queued=queued, retry_after=retry_after_of(error)
        )
        if verdict is not Verdict.POLL_AGAIN:
            self._notify_failed(error, now, math.inf)
        if verdict is Verdict.GIVE_UP:
            error.last_report = self.report
            raise error
        self.failure = detached(error)  # it may be kept for as long as the wait lasts
        if verdict is Verdict.TIME_OUT:
            raise self.timeout_error()
        is_outage_of_all = self._manager.throttle.service_is_unavailable
        if is_outage_of_all and kind is FailureKind.OUTAGE and self.pace.next_poll_at < math.inf:
            self.pace.hold_back(now)
        seconds = self.seconds_to_next_poll()
        then = f"polling again in {seconds:.2f} s" if seconds < math.inf else "no time for another"
        # An outage of the service is logged once, and not for each of ten thousand waits.
        level = logging.WARNING if is_first and not is_outage_of_all else logging.DEBUG
        _log.log(level, "%s; %s", error, then)
        self._notify_failed(error, now, seconds)

    def _notify_changed(self, previous: JobStatusReport | None, report: JobStatusReport) -> None:
        if self._manager.observer is None:
            return
        event = StatusChanged(
            job_id=self.job_id,
            previous=None if previous is None else previous.status,
            report=self._manager.redacted_report(report),
        )
        self._manager.observer.notify(event)

    def _notify_failed(self, error: APIError, now: float, next_poll_in: float) -> None:
        if self._manager.observer is None:
            return
        failing_since = datetime_of(self.pace.failing_since, now, datetime.now(UTC))
        assert failing_since is not None  # noqa: S101 - a poll has just failed
        event = PollFailed(
            job_id=self.job_id,
            error=as_value(error),
            failing_since=failing_since,
            next_poll_in=next_poll_in if next_poll_in < math.inf else None,
        )
        self._manager.observer.notify(event)

    def _kind_of(self, error: APIError) -> FailureKind:
        if isinstance(error, JobNotFoundError | PermissionDeniedError):
            return FailureKind.REFUSED
        if isinstance(error, RateLimitError) and self._has_good_responses():
            return FailureKind.RATE_LIMITED
        if indicates_outage(error):
            return FailureKind.OUTAGE
        return FailureKind.FINAL

    def _has_good_responses(self) -> bool:
        """Whether the client gets good responses, so that the service is available."""
        # After a long time of being held back, the responses may be from before the outage.
        if self._manager.throttle.service_is_unavailable:
            return False
        return self._manager.has_response_since(self.pace.poll_ended_at)


def _now() -> float:
    return asyncio.get_running_loop().time()
