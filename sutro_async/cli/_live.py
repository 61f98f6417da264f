"""A wait on a terminal: a table that moves, and one bar for all."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sutro_async import JobStatus, SutroError
from sutro_async.cli._board import Board, Entry
from sutro_async.cli._format import ago, count, listed, one_line, reason, status_word, stopwatch
from sutro_async.cli._rich import print_note, print_table, status_text
from sutro_async.cli._summary import footer_lines, summary_table
from sutro_async.cli._table import GAP
from sutro_async.cli._views import EndedBy

__all__ = ["LiveView"]

_MAX_WIDTH: Final = 120
# Lines other than those of jobs: the header, what is left out, a blank one, the bar, the one of the
# cursor, and one below, for when the drawing is taken back: it must not have scrolled away by then.
_OTHER_LINES: Final = 6
# `job-` and a UUID.
_REAL_ID_WIDTH: Final = 40
# The columns beside that of the job; the last one takes what is left, and this at least.
_WIDTHS: Final = {"Status": 10, "Elapsed": 7, "Rows": 9, "Last change": 14}
_BY_IMPORTANCE: Final = ("Status", "Last change", "Elapsed", "Rows")


class LiveView:
    """Shows the jobs that move and counts the others; gives way to a summary at the end."""

    tick = 0.125

    def __init__(self, board: Board, console: Console, *, raw: bool) -> None:
        self._board = board
        self._console = console
        self._raw = raw
        self._drawn_at = 0.0
        self._asked_ids: set[str] = set()
        longest_id = max(map(cell_len, board.entries), default=0)
        self._id_width = max(len("Job"), longest_id)
        self._live = Live(
            console=console, auto_refresh=False, transient=True, get_renderable=self._render
        )

    def opened(self) -> AbstractContextManager[object]:
        return self._live

    def show(self, entry: Entry) -> None:
        del entry  # the table shows all that is to be shown
        self.refresh()

    def refresh(self) -> None:
        # Hundreds of changes may come together; the eye wants no more than a few tables a second.
        if self._board.elapsed - self._drawn_at >= self.tick:
            self._drawn_at = self._board.elapsed
            self._live.refresh()

    def next_without_record(self) -> Entry | None:
        if "Rows" not in self._titles(self._width):
            return None
        for entry in self._choose():
            is_wanted = entry.report is not None and entry.outcome is None
            if is_wanted and entry.job_id not in self._asked_ids:
                self._asked_ids.add(entry.job_id)
                return entry
        return None

    def summarise(self, *, ended_by: EndedBy | None) -> None:
        if isinstance(ended_by, SutroError) and not self._board.is_any_seen:
            return
        print_table(self._console, summary_table(self._board, raw=self._raw))
        for line in footer_lines(self._board):
            print_note(self._console, line)

    @property
    def _width(self) -> int:
        return min(self._console.width, _MAX_WIDTH)

    def _choose(self) -> list[Entry]:
        """Choose the jobs to show: all, or those that go on and have changed last."""
        entries = list(self._board.entries.values())
        room = max(1, self._console.height - _OTHER_LINES)
        if len(entries) <= room:
            return entries
        places = {entry.job_id: place for place, entry in enumerate(entries)}
        moving = sorted(entries, key=lambda entry: (entry.outcome is not None, -_changed_at(entry)))
        return sorted(moving[:room], key=lambda entry: places[entry.job_id])

    def _render(self) -> RenderableType:
        shown = self._choose()
        width = self._width
        parts: list[RenderableType] = [self._table(shown, width)]
        if len(shown) < len(self._board.entries):
            parts.append(self._others(shown))
        # The cursor stays on the last line, which is left empty: what is typed there, such as ^C,
        # would wrap at the end of a full one, and throw the drawing out by a line.
        return Group(*parts, Text(), self._bar(width), Text())

    def _table(self, shown: list[Entry], width: int) -> Table:
        titles = self._titles(width)
        table = Table(
            box=None,
            padding=(0, len(GAP), 0, 0),
            pad_edge=False,
            width=width if "Last change" in titles else None,
            header_style="bold",
        )
        table.add_column("Job", width=self._job_width(width), no_wrap=True, overflow="ellipsis")
        for title in titles:
            if title == "Last change":
                table.add_column(title, ratio=1, no_wrap=True, overflow="ellipsis")
            else:
                table.add_column(
                    title,
                    width=_WIDTHS[title],
                    justify="left" if title == "Status" else "right",
                    no_wrap=True,
                    overflow="ellipsis",
                )
        for entry in shown:
            cells = self._cells(entry)
            table.add_row(Text(entry.job_id), *(cells[title] for title in titles))
        return table

    def _job_width(self, width: int) -> int:
        room = width - len(GAP) - _WIDTHS["Status"]
        return min(self._id_width, max(_REAL_ID_WIDTH, width // 3), max(room, 1))

    def _titles(self, width: int) -> list[str]:
        """Choose the columns beside that of the job: as many as there is room for."""
        room = width - self._job_width(width)
        chosen = []
        for title in _BY_IMPORTANCE:
            room -= len(GAP) + _WIDTHS[title]
            if room < 0:
                break
            chosen.append(title)
        return [title for title in _WIDTHS if title in chosen]

    def _cells(self, entry: Entry) -> dict[str, RenderableType]:
        now = self._board.elapsed
        rows = entry.record.num_rows if entry.record else None
        return {
            "Status": status_text(self._word(entry), entry.state),
            "Elapsed": stopwatch(now if entry.over_at is None else entry.over_at),
            "Rows": "" if rows is None else count(rows),
            "Last change": Text(self._last_change(entry, now), style="dim"),
        }

    def _word(self, entry: Entry) -> str:
        if entry.report is None or entry.has_error:
            return entry.state
        # There is no room for both `unknown` and the word.
        is_unknown = entry.report.status is JobStatus.UNKNOWN
        return status_word(entry.report, raw=self._raw or is_unknown)

    def _last_change(self, entry: Entry, now: float) -> str:
        if entry.outcome is not None and entry.outcome.error is not None:
            return one_line(str(entry.outcome.error))
        if entry.report is None or entry.changed_at is None:
            return ""
        why = reason(entry.report)
        if why:
            return why
        when = ago(now - entry.changed_at)
        if entry.previous is None:
            return when
        return f"{when}, was {status_word(entry.previous, raw=self._raw)}"

    def _others(self, shown: list[Entry]) -> Text:
        shown_ids = {entry.job_id for entry in shown}
        others = [entry for entry in self._board.entries.values() if entry.job_id not in shown_ids]
        text = f"and {count(len(others))} more: {listed(self._board.count_states(others))}"
        return Text(text, style="dim", no_wrap=True, overflow="ellipsis")

    def _bar(self, width: int) -> Table:
        entries = self._board.entries.values()
        number_over = sum(entry.outcome is not None for entry in entries)
        unsuccessful = listed(
            (number, state)
            for number, state in self._board.count_states()
            if state in {JobStatus.FAILED, JobStatus.CANCELLED, "error"}
        )
        text = f"{count(number_over)} of {count(len(entries))} finished"
        line = Table.grid(padding=(0, 2, 0, 0), expand=False)
        line.width = width
        line.add_column(ratio=1, min_width=10)
        line.add_column(no_wrap=True, overflow="ellipsis")
        line.add_row(
            ProgressBar(total=len(entries), completed=number_over),
            Text(f"{text}, {unsuccessful}" if unsuccessful else text),
        )
        return line


def _changed_at(entry: Entry) -> float:
    return -1.0 if entry.changed_at is None else entry.changed_at
