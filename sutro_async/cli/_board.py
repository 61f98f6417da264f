"""What is known of the jobs of a wait, and since when."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

import attrs

from sutro_async import Job, JobOutcome, JobStatus, JobStatusReport, JobWaitTimeoutError
from sutro_async.cli._reasons import add_reason

__all__ = ["Board", "Entry", "Event"]

Event = JobStatusReport | JobOutcome[JobStatusReport] | Job
"""What has happened to a job: a changed report, the end of its wait, or its record."""


@attrs.define(kw_only=True)
class Entry:
    """One job of the wait; all times are in seconds from its beginning.

    Attributes:
        job_id: The job.
        report: The newest report.
        previous: The report before that with another status.
        changed_at: When the status changed last; None as long as the job was not seen.
        outcome: What came of the wait for the job, once it is over.
        over_at: When it was over.
        record: The record of the job, as it was read last.
    """

    job_id: str
    report: JobStatusReport | None = None
    previous: JobStatusReport | None = None
    changed_at: float | None = None
    outcome: JobOutcome[JobStatusReport] | None = None
    over_at: float | None = None
    record: Job | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the job has ended, and not only the wait for it."""
        return self.outcome is not None and self.outcome.ok

    @property
    def has_error(self) -> bool:
        """Whether an error ended the wait for it, which a timeout is not."""
        error = self.outcome.error if self.outcome else None
        return error is not None and not isinstance(error, JobWaitTimeoutError)

    @property
    def state(self) -> str:
        """The status in a word: that of the report, `error`, or `not seen`."""
        if self.has_error:
            return "error"
        return "not seen" if self.report is None else self.report.status


class Board:
    """The jobs of a wait, in the order in which they were named.

    Args:
        job_ids: The jobs; one named twice is there once.
        clock: Gives the time in seconds.
    """

    def __init__(
        self, job_ids: Iterable[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.entries = {job_id: Entry(job_id=job_id) for job_id in job_ids}
        self._clock = clock
        self._began_at = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the wait began."""
        return self._clock() - self._began_at

    @property
    def is_any_seen(self) -> bool:
        """Whether the service has said anything of any job."""
        return any(entry.report for entry in self.entries.values())

    @property
    def outcomes(self) -> list[JobOutcome[JobStatusReport]]:
        """What came of the jobs so far."""
        return [entry.outcome for entry in self.entries.values() if entry.outcome is not None]

    def count_states(self, entries: Iterable[Entry] | None = None) -> list[tuple[int, str]]:
        """Count the jobs in each state, in the order in which a job goes through them."""
        counted = Counter(
            entry.state for entry in (self.entries.values() if entries is None else entries)
        )
        return [(counted[state], state) for state in ("not seen", *JobStatus, "error")]

    def note(self, event: Event) -> Entry:
        """Update the entry of a job, and return it."""
        entry = self.entries[event.job_id]
        if isinstance(event, Job):
            entry.record = event
            if entry.report is not None:
                entry.report = add_reason(entry.report, event)
        elif isinstance(event, JobOutcome):
            entry.outcome = event
            entry.over_at = self.elapsed
            if event.value is not None:
                self._note_report(entry, event.value)
        else:
            self._note_report(entry, event)
        return entry

    def _note_report(self, entry: Entry, report: JobStatusReport) -> None:
        if entry.report is None or entry.report.raw_status != report.raw_status:
            entry.previous = entry.report
            entry.changed_at = self.elapsed
        entry.report = report
