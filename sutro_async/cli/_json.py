"""The objects of `--json`, one to a line."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final

import attrs

from sutro_async import FailureReason, Job, JobOutcome, JobStatusReport, SutroError

__all__ = [
    "error_fields",
    "job_fields",
    "outcome_fields",
    "record_fields",
    "report_fields",
    "write",
]

# Those of all errors; each has some of them.
_ERROR_FIELDS: Final = (
    "status_code",
    "code",
    "request_id",
    "retry_after",
    "path",
    "reason",
    "elapsed",
    "timeout",
)


def write(fields: dict[str, Any], *, at_once: bool = False) -> None:
    """Print an object on a line of its own; `at_once` if it is news that somebody waits for."""
    print(json.dumps(fields), flush=at_once)


def outcome_fields(outcome: JobOutcome[JobStatusReport]) -> dict[str, Any]:
    """Give what came of a job: the fields of its last report, and its error or None."""
    report = outcome.value or getattr(outcome.error, "last_report", None)
    return report_fields(outcome.job_id, report) | {"error": _error(outcome.error)}


def report_fields(job_id: str, report: JobStatusReport | None) -> dict[str, Any]:
    """Give the fields of a report; None for each where there is no report."""
    if report is None:
        names = [field.name for field in attrs.fields(JobStatusReport)]
        return dict.fromkeys(names) | {"job_id": job_id}
    return attrs.asdict(report, recurse=False) | {"failure": _failure_fields(report.failure)}


def job_fields(job: Job) -> dict[str, Any]:
    """Give the fields of a record, with times in ISO 8601, and what follows from them."""
    fields = attrs.asdict(job, recurse=False)
    for name, value in fields.items():
        if isinstance(value, datetime):
            fields[name] = value.isoformat()
    return fields | {
        "failure_reason": _failure_fields(job.failure_reason),
        "total_tokens": job.total_tokens,
        "duration_seconds": None if job.duration is None else job.duration.total_seconds(),
    }


def record_fields(outcome: JobOutcome[Job]) -> dict[str, Any]:
    """Give the record of a job, and None for its error; or the error alone."""
    fields = {"job_id": outcome.job_id} if outcome.value is None else job_fields(outcome.value)
    return fields | {"error": _error(outcome.error)}


def error_fields(error: SutroError) -> dict[str, Any]:
    """Give the type and the message of an error, and what else it knows."""
    fields = {name: getattr(error, name) for name in _ERROR_FIELDS if hasattr(error, name)}
    return {"type": type(error).__name__, "message": str(error)} | fields


def _error(error: SutroError | None) -> dict[str, Any] | None:
    return None if error is None else error_fields(error)


def _failure_fields(reason: FailureReason | None) -> dict[str, Any] | None:
    return None if reason is None else attrs.asdict(reason, recurse=False)
