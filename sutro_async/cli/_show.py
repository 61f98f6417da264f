"""Output for people: statuses, summaries and records; rich lays them out to fit a terminal."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal, TypeVar

import attrs
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sutro_async import Job, JobStatus
from sutro_async.cli._entries import Board, Entry, state_counts
from sutro_async.cli._text import (
    count,
    duration,
    local_time,
    money,
    one_line,
    plural,
    printable_lines,
    status_word,
)

__all__ = [
    "GAP",
    "Format",
    "Output",
    "open_output",
    "padded",
    "show_list",
    "show_records",
    "show_statuses",
    "show_summary",
    "status_text",
]

T = TypeVar("T")

Format = Literal["table", "plain", "json", "csv"]
Columns = dict[str, list[str]]
"""The texts of a table, by the titles of its columns; the first is that of the ids."""

GAP: Final = "  "
# The columns of numbers, in the order in which they are left out if there is no room.
_NUMBERS: Final = ("Tokens", "Rows", "Cost", "Time")
_LEAST_REASON: Final = 16
# rich takes seconds to lay out thousands of rows.
_MAX_ROWS: Final = 200
_FOLDED_WIDTH: Final = 60
_PRIORITIES: Final = {0: "0 (minutes)", 1: "1 (about an hour)"}
_STYLES: Final = {
    "running": "cyan",
    "succeeded": "green",
    "failed": "bold red",
    "error": "bold red",
    "cancelled": "yellow",
}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704 - rich calls this in its handler, and would exit with status 1


@attrs.frozen(kw_only=True)
class Output:
    """Standard output, and the form that it is to have.

    Attributes:
        format: The form.
        raw: Whether a status is shown as the service sent it.
        console: Standard output as rich sees it.
    """

    format: Format
    raw: bool
    console: Console

    @property
    def is_data(self) -> bool:
        """Whether programs read it."""
        return self.format in {"json", "csv"}

    @property
    def is_live(self) -> bool:
        """Whether it is a table on a terminal that can redraw it in place."""
        console = self.console
        can_redraw = console.is_interactive and not console.options.ascii_only
        return self.format == "table" and sys.stdout.isatty() and can_redraw


def open_output(wanted: Format | None, *, raw: bool) -> Output:
    """Open standard output; without a wanted format, a table on a terminal, plain lines elsewhere.

    rich decides what a terminal is, and whether it has colours: `NO_COLOR`, `FORCE_COLOR`, `TERM`.
    """
    console = _Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    default: Format = "table" if console.is_terminal else "plain"
    return Output(format=wanted or default, raw=raw, console=console)


def status_text(word: str, state: str) -> Text:
    """Write a word in the colour of a state: a status, `error`, or `not seen`."""
    return Text(word, style=_STYLES.get(state, ""))


def padded(text: str, cells: int, *, is_number: bool = False) -> str:
    """Fill a text up to a number of terminal cells; on its left if it is a number."""
    padding = " " * (cells - cell_len(text))
    return padding + text if is_number else text + padding


# ---- statuses, and the summary of a wait


def show_statuses(output: Output, entries: Iterable[Entry]) -> None:
    """Print the statuses of those jobs of which there is one, and why some failed."""
    entries = [entry for entry in entries if entry.report is not None]
    reasons = [entry.reason for entry in entries]
    _print_table(output, entries, {"Reason": reasons}, has_header=False)


def show_summary(output: Output, board: Board) -> None:
    """Print a table of all jobs of a wait, why some failed, and what they add up to."""
    entries = board.entries
    _print_table(output, entries, _numbers(entries), has_header=True)
    failed = [entry for entry in entries if entry.state == JobStatus.FAILED and entry.reason]
    lines = [f"{entry.job_id} failed: {entry.reason}" for entry in failed]
    text = "\n".join(["", *lines, *([""] if lines else []), *_totals(board)])
    if _is_laid_out(output, entries):
        output.console.print(text)
    else:
        print(text)


def show_list(output: Output, entries: list[Entry]) -> None:
    """Print a table of jobs whose records are known."""
    _print_table(output, entries, _numbers(entries), has_header=True)


def _numbers(entries: Iterable[Entry]) -> Columns:
    records = [entry.record for entry in entries]
    return {
        "Rows": [_mapped(job.num_rows if job else None, count) for job in records],
        "Tokens": [_mapped(job.total_tokens if job else None, count) for job in records],
        "Cost": [_mapped(job.job_cost if job else None, money) for job in records],
        "Time": [_mapped(_seconds(job) if job else None, duration) for job in records],
    }


def _totals(board: Board) -> list[str]:
    entries = board.entries
    jobs = plural(len(entries), "job")
    lines = [f"{jobs} in {duration(board.elapsed)}: {state_counts(entries)}"]
    records = [entry.record for entry in entries if entry.record is not None]
    tokens = [record.total_tokens for record in records if record.total_tokens is not None]
    costs = [record.job_cost for record in records if record.job_cost is not None]
    facts = [plural(sum(tokens), "token")] if tokens else []
    if costs:
        facts.append(money(math.fsum(costs)))
    unread = sum(entry.is_finished and entry.record is None for entry in entries)
    if facts and unread:
        facts.append(f"without {plural(unread, 'job')} whose record could not be read")
    return [*lines, ", ".join(facts)] if facts else lines


# ---- tables


def _is_laid_out(output: Output, entries: list[Entry]) -> bool:
    return output.format == "table" and len(entries) <= _MAX_ROWS


def _print_table(
    output: Output, entries: list[Entry], others: Columns, *, has_header: bool
) -> None:
    """Print ids, statuses and those other columns that have any text."""
    if not entries:
        return
    columns = {
        "Job": [entry.job_id for entry in entries],
        "Status": [entry.word(raw=output.raw) for entry in entries],
    }
    columns |= {title: texts for title, texts in others.items() if any(texts)}
    if _is_laid_out(output, entries):
        states = [entry.state for entry in entries]
        output.console.print(_rich_table(columns, states, output.console.width))
        return
    for line in _plain_lines(columns, has_header=has_header):
        print(line)


def _plain_lines(columns: Columns, *, has_header: bool) -> Iterator[str]:
    filled = []
    for title, texts in columns.items():
        cells = [title, *texts] if has_header else texts
        width = max(map(cell_len, cells))
        filled.append([padded(cell, width, is_number=title in _NUMBERS) for cell in cells])
    for row in zip(*filled, strict=True):
        yield GAP.join(row).rstrip()


def _rich_table(columns: Columns, states: list[str], width: int) -> Table:
    """Make a table that folds ids and reasons, but cuts nothing."""
    widths = {title: max(map(cell_len, (title, *texts))) for title, texts in columns.items()}
    longest_id = widths.pop("Job")
    if "Reason" in widths:  # is folded before the ids, since users copy those
        widths["Reason"] = min(widths["Reason"], _LEAST_REASON)
    for title in _NUMBERS:
        if width - _sum(widths) < min(longest_id, width // 2):
            widths.pop(title, None)
    id_width = max(1, min(longest_id, width - _sum(widths)))
    table = Table(box=None, padding=(0, len(GAP), 0, 0), pad_edge=False, header_style="bold")
    table.add_column("Job", overflow="fold", width=id_width)
    for title in widths:
        justify: Literal["left", "right"] = "right" if title in _NUMBERS else "left"
        table.add_column(title, justify=justify, overflow="fold", no_wrap=title != "Reason")
    for number, (job_id, state) in enumerate(zip(columns["Job"], states, strict=True)):
        _, *cells = (columns[title][number] for title in widths)
        table.add_row(job_id, status_text(columns["Status"][number], state), *cells)
    return table


def _sum(widths: Mapping[str, int]) -> int:
    return sum(len(GAP) + width for width in widths.values())


# ---- records


def show_records(output: Output, entries: Iterable[Entry], *, full: bool) -> None:
    """Print those records that could be read, each as labels and values.

    Args:
        output: Where to print.
        entries: The jobs.
        full: Print texts and objects whole, rather than folded to a line.
    """
    records = [entry.record for entry in entries if entry.record is not None]
    for number, record in enumerate(records):
        if number:
            print()
        facts = _facts(record, full=full, raw=output.raw)
        label_width = max(len(label) for label, _ in facts)
        grid = Table.grid(padding=(0, len(GAP), 0, 0))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(overflow="fold")
        for label, value in facts:
            if output.format == "plain":
                indented = value.replace("\n", "\n" + " " * (label_width + len(GAP)))
                print(f"{label:<{label_width}}{GAP}{indented}")
            else:
                grid.add_row(label, status_text(value, record.status if label == "Status" else ""))
        if output.format == "table":
            output.console.print(grid)


def _facts(job: Job, *, full: bool, raw: bool) -> list[tuple[str, str]]:
    """Return labels and values, without what is not known."""
    facts = {
        "Job": job.job_id,
        "Status": status_word(job, raw=raw),
        "Failure": _text(_mapped(job.failure_reason, str), full=True),
        "Name": _text(job.name, full=full),
        "Description": _text(job.description, full=full),
        "Model": _text(job.model, full=full),
        "Priority": _mapped(job.job_priority, lambda level: _PRIORITIES.get(level, str(level))),
        "Created": _mapped(job.datetime_created, local_time),
        "Started": _mapped(job.datetime_started, local_time),
        "Completed": _mapped(job.datetime_completed, local_time),
        "Time": _mapped(_seconds(job), duration),
        "Rows": _mapped(job.num_rows, count),
        "Input tokens": _mapped(job.input_tokens, count),
        "Output tokens": _mapped(job.output_tokens, count),
        "Cost": _mapped(job.job_cost, money),
        "Estimate": _mapped(job.cost_estimate, money),
        "Data set": _text(job.dataset_id, full=full),
        "Sampling": _object(job.sampling_params, full=full),
        "System prompt": _text(job.system_prompt, full=full),
        "JSON schema": _object(job.json_schema, full=full),
        "Others": _object(job.extra or None, full=full),
    }
    return [(label, value) for label, value in facts.items() if value]


def _seconds(job: Job) -> float | None:
    return None if job.duration is None else job.duration.total_seconds()


def _mapped(value: T | None, write: Callable[[T], str]) -> str:
    return "" if value is None else write(value)


def _text(text: str | None, *, full: bool) -> str:
    if text is None or not text.strip():
        return ""
    return "\n".join(printable_lines(text)) if full else one_line(text, limit=_FOLDED_WIDTH)


def _object(value: Mapping[str, Any] | None, *, full: bool) -> str:
    if value is None:
        return ""
    return _text(json.dumps(value, indent=2 if full else None, ensure_ascii=False), full=full)
