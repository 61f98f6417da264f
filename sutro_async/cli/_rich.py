"""Tables and texts as rich shows them on a terminal."""

from __future__ import annotations

from typing import Final

from rich import table as rich_table
from rich.console import Console
from rich.text import Text

from sutro_async import JobStatus
from sutro_async.cli._table import GAP, STATUS_COLUMN, Table

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


# So much of a text that is folded is wanted on a line, or else the ids are folded too.
_LEAST_WIDTH: Final = 10


def status_text(word: str, state: str) -> Text:
    """Write a status in its colour.

    Args:
        word: What is written.
        state: What it means: a status, `error`, or `not seen`.
    """
    return Text(word, style=_STYLES.get(state, ""))


def print_table(console: Console, table: Table) -> None:
    """Print a table; where it is too wide, columns are left out and texts folded, but none is cut.

    The id of a job stays on one line if it fits at all, so that it can be copied.
    """
    table = table.fitted(console.width)
    is_whole = [column.is_number or i == STATUS_COLUMN for i, column in enumerate(table.columns)]
    id_width, *widths = table.widths
    least = (
        width if whole else min(width, _LEAST_WIDTH)
        for width, whole in zip(widths, is_whole[1:], strict=True)
    )
    is_whole[0] = id_width + sum(len(GAP) + width for width in least) <= console.width
    shown = rich_table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column, whole in zip(table.columns, is_whole, strict=True):
        shown.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            overflow="fold",
            no_wrap=whole,
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
