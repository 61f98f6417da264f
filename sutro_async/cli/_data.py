"""Output for programs: a JSON object for each job, event or record, and rows of CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from typing import Any, Final

from sutro_async import Job, JobStatus, JobStatusReport, SutroError
from sutro_async.cli._entries import Entry
from sutro_async.cli._errors import error_text

__all__ = ["record_fields", "report_fields", "summary_fields", "write_csv", "write_json"]

_CSV_COLUMNS: Final = ("id", "status", "rows", "tokens", "cost", "duration", "failure")

_NO_REPORT: Final = dict.fromkeys(
    JobStatusReport(job_id="", status=JobStatus.UNKNOWN, raw_status="").to_dict()
)
_NO_RECORD: Final = dict.fromkeys(Job(job_id="", status=JobStatus.UNKNOWN, raw_status="").to_dict())
# The report has fields of its own in a line, and a body can be a page of HTML.
_LEFT_OUT: Final = frozenset({"body", "last_report", "report"})


def write_json(fields: dict[str, Any], *, at_once: bool = False) -> None:
    """Print an object on its own line; `at_once` flushes it."""
    print(json.dumps(fields), flush=at_once)


def report_fields(entry: Entry) -> dict[str, Any]:
    """Return the fields of the newest report, None for each where there is none, and the error."""
    fields = _NO_REPORT if entry.report is None else entry.report.to_dict()
    return fields | {"job_id": entry.job_id, "error": _error_fields(entry.error)}


def record_fields(entry: Entry) -> dict[str, Any]:
    """Return the fields of the record and the error; without a record, the error alone."""
    fields = {"job_id": entry.job_id} if entry.record is None else entry.record.to_dict()
    return fields | {"error": _error_fields(entry.error)}


def summary_fields(entry: Entry) -> dict[str, Any]:
    """Return the fields of the record and the error; without a record, what the report has."""
    fields = _NO_RECORD
    if entry.report is not None:
        report = entry.report.to_dict()
        names = ("status", "raw_status", "is_terminal")
        fields = fields | {name: report[name] for name in names}
        fields |= {"failure_reason": report["failure"]}
    return {"event": "summary"} | fields | record_fields(entry)


def _error_fields(error: SutroError | None) -> dict[str, Any] | None:
    """Return the type and the message of an error, and its other fields."""
    if error is None:
        return None
    fields = {name: value for name, value in error.to_dict().items() if name not in _LEFT_OUT}
    return fields | {"message": error_text(error)}


def write_csv(entries: Iterable[Entry], *, raw: bool) -> None:
    """Print a header and a row for each job; cost in US dollars, duration in seconds."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    writer.writerows(_row(entry, raw=raw) for entry in entries)


def _row(entry: Entry, *, raw: bool) -> list[object]:
    record = entry.record
    facts: list[object] = [None] * 4
    if record is not None:
        seconds = None if record.duration is None else record.duration.total_seconds()
        facts = [record.num_rows, record.total_tokens, record.job_cost, seconds]
    return [entry.job_id, entry.word(raw=True) if raw else entry.state, *facts, entry.reason]
