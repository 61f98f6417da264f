"""The objects of `--json`, one to a line."""

from __future__ import annotations

import json
from typing import Any, Final

from sutro_async import Job, JobOutcome, JobStatus, JobStatusReport, SutroError

__all__ = [
    "error_fields",
    "outcome_fields",
    "record_fields",
    "report_fields",
    "write",
]

_NO_REPORT: Final = dict.fromkeys(
    JobStatusReport(job_id="", status=JobStatus.UNKNOWN, raw_status="").to_dict()
)
# The report has fields of its own in a line, and a body can be a page of HTML.
_LEFT_OUT: Final = frozenset({"body", "last_report", "report"})


def write(fields: dict[str, Any], *, at_once: bool = False) -> None:
    """Print an object on a line of its own; `at_once` if somebody waits for it."""
    print(json.dumps(fields), flush=at_once)


def outcome_fields(outcome: JobOutcome[JobStatusReport]) -> dict[str, Any]:
    """Give what came of a job: the fields of its last report, and its error or None."""
    report = outcome.value or getattr(outcome.error, "last_report", None)
    return report_fields(outcome.job_id, report) | {"error": _error(outcome.error)}


def report_fields(job_id: str, report: JobStatusReport | None) -> dict[str, Any]:
    """Give the fields of a report; None for each where there is no report."""
    return _NO_REPORT | {"job_id": job_id} if report is None else report.to_dict()


def record_fields(outcome: JobOutcome[Job]) -> dict[str, Any]:
    """Give the record of a job, and None for its error; or the error alone."""
    fields = {"job_id": outcome.job_id} if outcome.value is None else outcome.value.to_dict()
    return fields | {"error": _error(outcome.error)}


def error_fields(error: SutroError) -> dict[str, Any]:
    """Give the type and the message of an error, and what else it knows."""
    return {name: value for name, value in error.to_dict().items() if name not in _LEFT_OUT}


def _error(error: SutroError | None) -> dict[str, Any] | None:
    return None if error is None else error_fields(error)
