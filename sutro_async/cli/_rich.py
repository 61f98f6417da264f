"""Tables and texts as rich shows them on a terminal."""

from __future__ import annotations

from typing import Final

from rich import table as rich_table
from rich.console import Console
from rich.text import Text

from sutro_async import JobStatus
from sutro_async.cli._table import STATUS_COLUMN, Table

__all__ = ["print_facts", "print_note", "print_table", "status_text"]

_STYLES: Final = {
    "not seen": "dim",
    JobStatus.STARTING: "cyan",
    JobStatus.RUNNING: "cyan",
    JobStatus.CANCELLING: "yellow",
    JobStatus.SUCCEEDED: "green",
    JobStatus.FAILED: "bold red",
    JobStatus.CANCELLED: "yellow",
    JobStatus.UNKNOWN: "magenta",
    "error": "bold red",
}


def status_text(word: str, state: str) -> Text:
    """Write a status in its colour.

    Args:
        word: What is written.
        state: What it means: a status, `error`, or `not seen`.
    """
    return Text(word, style=_STYLES.get(state, ""))


def print_table(console: Console, table: Table) -> None:
    """Print a table; where it is too wide, texts are folded, never cut."""
    shown = rich_table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for index, column in enumerate(table.columns):
        shown.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            overflow="fold",
            no_wrap=column.is_number or index == STATUS_COLUMN,
        )
    for row in table.rows:
        job_id, word, *others = row.cells
        shown.add_row(job_id, status_text(word, row.status), *others)
    console.print(shown)


def print_note(console: Console, text: str) -> None:
    """Print a text below a table, wrapped at words."""
    console.print(Text(text))


def print_facts(console: Console, facts: list[tuple[str, list[str]]], status: JobStatus) -> None:
    """Print labels and values in two columns, and the status in its colour."""
    grid = rich_table.Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, lines in facts:
        value = "\n".join(lines)
        grid.add_row(label, status_text(value, status) if label == "Status" else Text(value))
    console.print(grid)
