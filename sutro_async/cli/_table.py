"""Tables of text, and how they look where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from unicodedata import east_asian_width

import attrs

__all__ = ["GAP", "STATUS_COLUMN", "Column", "Row", "Table", "padded", "plain_lines", "width"]

STATUS_COLUMN: Final = 1
GAP: Final = "  "


@attrs.frozen
class Column:
    """A column of a table.

    Attributes:
        title: What stands above it.
        is_number: Whether it is set flush right.
        drop_priority: If there is no room for all columns, the one with the highest number is
            dropped first; one with 0 stays.
    """

    title: str
    is_number: bool = False
    drop_priority: int = 0


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
        return self._with_columns(
            [
                index
                for index in range(len(self.columns))
                if any(row.cells[index] for row in self.rows)
            ]
        )

    def fitted(self, columns: int) -> Table:
        """Leave out columns until the table is no wider than that, as far as they may leave."""
        if sum(self.widths) + len(GAP) * (len(self.columns) - 1) <= columns:
            return self
        index = max(range(len(self.columns)), key=lambda index: self.columns[index].drop_priority)
        if not self.columns[index].drop_priority:
            return self
        others = [other for other in range(len(self.columns)) if other != index]
        return self._with_columns(others).fitted(columns)

    @property
    def widths(self) -> list[int]:
        """The columns of the screen that each column takes, its title included."""
        titles = (column.title for column in self.columns)
        cells = (row.cells for row in self.rows)
        return [max(map(width, texts)) for texts in zip(titles, *cells, strict=True)]

    def _with_columns(self, kept: list[int]) -> Table:
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
        yield GAP.join(shown).rstrip()


def padded(text: str, columns: int, *, is_number: bool) -> str:
    """Fill a text up to so many columns; on its left if it is a number."""
    padding = " " * (columns - width(text))
    return padding + text if is_number else text + padding


def width(text: str) -> int:
    """Count the columns that a text takes on a screen."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)
