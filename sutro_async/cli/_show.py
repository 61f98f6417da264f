"""The answers of `status` and `job`: as a table or as fields, or as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from sutro_async import Job, JobOutcome, JobStatusReport
from sutro_async.cli import _json
from sutro_async.cli._format import (
    count,
    duration,
    local_time,
    money,
    one_line,
    printable_lines,
    reason,
    status_word,
)
from sutro_async.cli._table import Column, Row, Table, plain_lines
from sutro_async.cli._terminal import open_terminal

__all__ = ["describe", "show_jobs", "show_reports"]

T = TypeVar("T")

_COLUMNS: Final = (Column("Job"), Column("Status"), Column("Why"))
_FOLDED_WIDTH: Final = 60
_PRIORITIES: Final = {0: "0 (minutes)", 1: "1 (about an hour)"}


def show_reports(
    outcomes: Iterable[JobOutcome[JobStatusReport]], *, as_json: bool, raw: bool
) -> None:
    """Print where jobs stand; without JSON, only those of which it is known."""
    if as_json:
        for outcome in outcomes:
            _json.write(_json.outcome_fields(outcome))
        return
    reports = [outcome.value for outcome in outcomes if outcome.value is not None]
    if not reports:
        return
    rows = tuple(
        Row((report.job_id, status_word(report, raw=raw), reason(report)), report.status)
        for report in reports
    )
    table = Table(_COLUMNS, rows).without_empty_columns()
    console = open_terminal()
    if console is None:
        for line in plain_lines(table, has_header=False):
            print(line)
        return
    from sutro_async.cli._rich import print_table  # noqa: PLC0415 - needs the extra

    print_table(console, table)


def show_jobs(outcomes: Iterable[JobOutcome[Job]], *, as_json: bool, full: bool, raw: bool) -> None:
    """Print the records of jobs; without JSON, only those that were read."""
    if as_json:
        for outcome in outcomes:
            _json.write(_json.record_fields(outcome))
        return
    records = [outcome.value for outcome in outcomes if outcome.value is not None]
    console = open_terminal()
    for number, record in enumerate(records):
        if number:
            print()
        facts = describe(record, full=full, raw=raw)
        if console is None:
            _print_facts(facts)
            continue
        from sutro_async.cli._rich import print_facts  # noqa: PLC0415 - needs the extra

        print_facts(console, facts, record.status)


def _print_facts(facts: list[tuple[str, list[str]]]) -> None:
    width = max(len(label) for label, _ in facts)
    for label, (first, *others) in facts:
        print(f"{label:<{width}}  {first}")
        for line in others:
            print(f"{'':<{width}}  {line}".rstrip())


def describe(job: Job, *, full: bool, raw: bool) -> list[tuple[str, list[str]]]:
    """Give labels and the lines of their values, without what is not known.

    Args:
        job: The record.
        full: Give texts and objects whole, rather than folded to a line.
        raw: Give the status as the service sent it.
    """
    facts = [
        ("Job", [job.job_id]),
        ("Status", [status_word(job, raw=raw)]),
        ("Failure", _text(str(job.failure_reason) if job.failure_reason else None, full=True)),
        ("Name", _text(job.name, full=full)),
        ("Description", _text(job.description, full=full)),
        ("Model", _text(job.model, full=full)),
        ("Priority", _mapped(job.job_priority, lambda level: _PRIORITIES.get(level, str(level)))),
        ("Created", _mapped(job.datetime_created, local_time)),
        ("Started", _mapped(job.datetime_started, local_time)),
        ("Completed", _mapped(job.datetime_completed, local_time)),
        ("Duration", _mapped(job.duration, duration)),
        ("Rows", _mapped(job.num_rows, count)),
        ("Input tokens", _mapped(job.input_tokens, count)),
        ("Output tokens", _mapped(job.output_tokens, count)),
        ("Cost", _mapped(job.job_cost, money)),
        ("Estimate", _mapped(job.cost_estimate, money)),
        ("Data set", _text(job.dataset_id, full=full)),
        ("Sampling", _object(job.sampling_params, full=full)),
        ("System prompt", _text(job.system_prompt, full=full)),
        ("JSON schema", _object(job.json_schema, full=full)),
        ("Others", _object(job.extra or None, full=full)),
    ]
    return [(label, lines) for label, lines in facts if lines]


def _mapped(value: T | None, write: Callable[[T], str]) -> list[str]:
    return [] if value is None else [write(value)]


def _text(text: str | None, *, full: bool) -> list[str]:
    if text is None or not text.strip():
        return []
    return printable_lines(text) if full else [one_line(text, limit=_FOLDED_WIDTH)]


def _object(value: Mapping[str, Any] | None, *, full: bool) -> list[str]:
    if value is None:
        return []
    written = json.dumps(value, indent=2 if full else None, ensure_ascii=False)
    return _text(written, full=full)
