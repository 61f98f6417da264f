"""The answers of `status` and `job`: as a table or as fields, or as lines of JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sutro_async import Job, JobOutcome, JobStatusReport
from sutro_async.cli import _json
from sutro_async.cli._format import reason, status_word
from sutro_async.cli._record import describe
from sutro_async.cli._table import Column, Row, Table, plain_lines
from sutro_async.cli._terminal import open_terminal

__all__ = ["show_jobs", "show_reports"]

_COLUMNS: Final = (Column("Job"), Column("Status"), Column("Why"))


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
