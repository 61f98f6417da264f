"""What a wait came to, for people: a table of the jobs, why some failed, and one line for all."""

from __future__ import annotations

import math
from typing import Final

from sutro_async.cli._board import Board, Entry
from sutro_async.cli._format import (
    count,
    duration,
    job_count,
    listed,
    money,
    reason,
    status_word,
    stopwatch,
)
from sutro_async.cli._table import Column, Row, Table

__all__ = ["footer_lines", "summary_table"]

_COLUMNS: Final = (
    Column("Job"),
    Column("Status"),
    Column("Rows", is_number=True, drop_priority=3),
    Column("Tokens", is_number=True, drop_priority=4),  # the sums of tokens and cost stand below
    Column("Cost", is_number=True, drop_priority=2),
    Column("Duration", is_number=True, drop_priority=1),
)


def summary_table(board: Board, *, raw: bool) -> Table:
    """Make the table of all jobs, without the columns of which nothing is known."""
    rows = tuple(_row(entry, raw=raw) for entry in board.entries.values())
    return Table(_COLUMNS, rows).without_empty_columns()


def footer_lines(board: Board) -> list[str]:
    """Give the lines below the table: why jobs failed, then what came of all of them."""
    lines = _reasons(board)
    return ["", *lines, "", *_totals(board)] if lines else ["", *_totals(board)]


def _reasons(board: Board) -> list[str]:
    reports = [entry.report for entry in board.entries.values() if entry.report is not None]
    return [f"{report.job_id} failed: {reason(report)}" for report in reports if reason(report)]


def _totals(board: Board) -> list[str]:
    jobs = job_count(len(board.entries))
    lines = [f"{jobs} in {stopwatch(board.elapsed)}: {listed(board.count_states())}"]
    records = [entry.record for entry in board.entries.values() if entry.record is not None]
    tokens = [record.total_tokens for record in records if record.total_tokens is not None]
    costs = [record.job_cost for record in records if record.job_cost is not None]
    facts = []
    if tokens:
        facts.append(f"{count(sum(tokens))} tokens")
    if costs:
        facts.append(money(math.fsum(costs)))
    unread = sum(entry.has_ended and entry.record is None for entry in board.entries.values())
    if facts and unread:
        facts.append(f"not counting {count(unread)} of which the record was not read")
    return [*lines, ", ".join(facts)] if facts else lines


def _row(entry: Entry, *, raw: bool) -> Row:
    if entry.has_error or entry.report is None:
        word = entry.state
    else:
        word = status_word(entry.report, raw=raw)
    record = entry.record
    if record is None:
        return Row((entry.job_id, word, "", "", "", ""), entry.state)
    facts = (
        "" if record.num_rows is None else count(record.num_rows),
        "" if record.total_tokens is None else count(record.total_tokens),
        "" if record.job_cost is None else money(record.job_cost),
        "" if record.duration is None else duration(record.duration),
    )
    return Row((entry.job_id, word, *facts), entry.state)
