"""Tables of text, and how they look where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from unicodedata import east_asian_width

import attrs

__all__ = ["STATUS_COLUMN", "Column", "Row", "Table", "padded", "plain_lines", "width"]

STATUS_COLUMN: Final = 1


@attrs.frozen
class Column:
    """A column of a table.

    Attributes:
        title: What stands above it.
        is_number: Whether it is set flush right.
    """

    title: str
    is_number: bool = False


@attrs.frozen
class Row:
    """A row of a table.

    Attributes:
        cells: Its texts, one for each column.
        status: The status that it shows, which gives it its colour.
    """

    cells: tuple[str, ...]
    status: str


@attrs.frozen
class Table:
    """Columns and rows; the second column is that of the status."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def without_empty_columns(self) -> Table:
        """Leave out the columns that have no text in any row."""
        kept = [
            index
            for index in range(len(self.columns))
            if any(row.cells[index] for row in self.rows)
        ]
        return Table(
            tuple(self.columns[index] for index in kept),
            tuple(Row(tuple(row.cells[i] for i in kept), row.status) for row in self.rows),
        )


def plain_lines(table: Table, *, has_header: bool) -> Iterator[str]:
    """Give the lines of a table; nothing in it is cut."""
    lines = [row.cells for row in table.rows]
    if has_header:
        lines.insert(0, tuple(column.title for column in table.columns))
    widths = [max(map(width, cells)) for cells in zip(*lines, strict=True)]
    for cells in lines:
        shown = (
            padded(cell, columns, is_number=column.is_number)
            for cell, columns, column in zip(cells, widths, table.columns, strict=True)
        )
        yield "  ".join(shown).rstrip()


def padded(text: str, columns: int, *, is_number: bool) -> str:
    """Fill a text up to so many columns; on its left if it is a number."""
    padding = " " * (columns - width(text))
    return padding + text if is_number else text + padding


def width(text: str) -> int:
    """Count the columns that a text takes on a screen."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)
