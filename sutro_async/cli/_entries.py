"""What is known of each job: its report, its record, its error; and of all jobs of a wait."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from sutro_async import (
    APIError,
    Job,
    JobFailedError,
    JobOutcome,
    JobStatus,
    JobStatusReport,
    JobWaitTimeoutError,
    SutroError,
)
from sutro_async.cli._errors import ExitStatus, error_text, status_of_error
from sutro_async.cli._text import count, one_line, plural, status_word
from sutro_async.events import ClientStats

__all__ = ["Abandoned", "Board", "Entry", "Interrupted", "exit_status", "state_counts"]

# The status that leaves more unknown comes first: 1 means that the result of each job is known.
_PRECEDENCE: Final = (ExitStatus.API_ERROR, ExitStatus.TIMED_OUT, ExitStatus.JOB_UNSUCCESSFUL)


# Seconds without a response from the service.
_OUTAGE_AFTER: Final = 10.0


class Interrupted(SutroError):  # noqa: N818 - the `type` of an error in JSON
    """The wait was interrupted before the job had finished."""


class Abandoned(SutroError):  # noqa: N818 - likewise
    """An error of another job ended the wait before the job had finished."""


@attrs.define(kw_only=True)
class Entry:
    """One job; all times are in seconds from the beginning of the wait.

    Attributes:
        job_id: The job.
        report: The newest report.
        record: The record.
        error: Why there is no report or record, or why the wait for the job has ended early.
        changed_at: When the status changed last; None if the job was not seen.
        over_at: When the wait for the job was over, for whatever reason; None before.
        is_early: Whether an interrupt or an error that concerns all jobs ended the wait.
    """

    job_id: str
    report: JobStatusReport | None = None
    record: Job | None = None
    error: SutroError | None = None
    changed_at: float | None = None
    over_at: float | None = None
    is_early: bool = False

    @property
    def newest(self) -> JobStatusReport | Job | None:
        """The newest report, or else the record."""
        return self.report or self.record

    @property
    def is_finished(self) -> bool:
        """Whether the wait for the job ended with its terminal status."""
        return self.over_at is not None and self.error is None

    @property
    def has_error(self) -> bool:
        """Whether there is an error of the job, and not only a wait that ended too early."""
        is_early = self.is_early or isinstance(self.error, JobWaitTimeoutError)
        return self.error is not None and not is_early

    @property
    def state(self) -> str:
        """The status, or else `error` or `not seen`."""
        if self.has_error:
            return "error"
        return "not seen" if self.newest is None else str(self.newest.status)

    def word(self, *, raw: bool) -> str:
        """Return the state as it is shown; the status as the service sent it if `raw` is set."""
        if self.has_error or self.newest is None:
            return self.state
        return status_word(self.newest, raw=raw)

    @property
    def reason(self) -> str:
        """Why the job failed, or the text of its error, on one line; empty if neither applies."""
        if self.error is not None:
            return one_line(error_text(self.error))
        if self.newest is None or self.newest.status is not JobStatus.FAILED:
            return ""
        of_report = "" if self.report is None else JobFailedError(self.report).reason
        of_record = "" if self.record is None else str(self.record.failure or "")
        return of_report or one_line(of_record)


class Board:
    """The jobs of a wait, in the order in which they were named.

    Args:
        job_ids: The jobs; one named twice is there once.
        clock: Returns the time in seconds.

    Attributes:
        outage: Since when and why the service does not respond; empty if it does.
    """

    outage = ""

    def __init__(
        self, job_ids: Iterable[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._by_id = {job_id: Entry(job_id=job_id) for job_id in job_ids}
        self._clock = clock
        self._began_at = clock()
        self.job_ids = list(self._by_id)
        self.entries = list(self._by_id.values())

    @property
    def elapsed(self) -> float:
        """Seconds since the wait began."""
        return self._clock() - self._began_at

    def note(self, event: JobOutcome[JobStatusReport] | Job) -> Entry:
        """Update the entry of a job with a report, an error or its record, and return it."""
        entry = self._by_id[event.job_id]
        if isinstance(event, Job):
            entry.record = event
            return entry
        report = event.value
        if report is None or report.is_terminal:
            entry.error = event.error
            entry.over_at = self.elapsed
        if report is not None:
            if entry.report is None or entry.report.raw_status != report.raw_status:
                entry.changed_at = self.elapsed
            entry.report = report
        return entry

    def note_service(self, stats: ClientStats) -> None:
        """Note whether the service responds."""
        self.outage = ""
        if stats.unresponsive_since is not None and stats.unresponsive_seconds >= _OUTAGE_AFTER:
            failure = stats.current_failure
            reason = "" if failure is None else f": {one_line(error_text(failure))}"
            since = stats.unresponsive_since.astimezone()
            self.outage = f"no response from the service since {since:%H:%M:%S}{reason}"

    def end_early(self, cause: BaseException) -> list[Entry]:
        """End the waits that are not over yet, and return their entries.

        Args:
            cause: The error that ended the whole batch; anything else counts as an interrupt.
        """
        unfinished = [entry for entry in self.entries if entry.over_at is None]
        error: SutroError = Interrupted(
            "the wait was interrupted; the job is still running on the service"
        )
        if isinstance(cause, SutroError):
            error = Abandoned("an error of another job ended the wait")
        for entry in unfinished:
            entry.error = error
            if isinstance(cause, APIError) and cause.job_id == entry.job_id:
                entry.error = cause
            entry.over_at = self.elapsed
            entry.is_early = True
        return unfinished


def state_counts(entries: Iterable[Entry]) -> str:
    """Count the jobs in each state: `4 succeeded, 1 failed, 2 errors`."""
    counted = Counter(entry.state for entry in entries)
    parts = [f"{count(counted[state])} {state}" for state in ("not seen", *JobStatus)]
    parts.append(plural(counted["error"], "error"))
    return ", ".join(part for part in parts if not part.startswith("0 "))


def exit_status(entries: Iterable[Entry]) -> ExitStatus:
    """Choose the one exit status for all jobs."""
    statuses = {_status_of_entry(entry) for entry in entries}
    return next((status for status in _PRECEDENCE if status in statuses), ExitStatus.OK)


def _status_of_entry(entry: Entry) -> ExitStatus:
    if entry.error is not None:
        return status_of_error(entry.error)
    if entry.state in {JobStatus.FAILED, JobStatus.CANCELLED}:
        return ExitStatus.JOB_UNSUCCESSFUL
    return ExitStatus.OK
