"""Output while a wait runs: a table that is redrawn in place, a line for each change, or JSON."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sutro_async import JobStatus
from sutro_async.cli._data import report_fields, write_json
from sutro_async.cli._entries import Board, Entry, state_counts
from sutro_async.cli._show import GAP, Output, padded, status_text
from sutro_async.cli._text import count, duration, plural

__all__ = ["JSONProgress", "LiveProgress", "Progress", "open_progress"]

_MAX_WIDTH: Final = 120
# Lines other than those of jobs: the header, the count of jobs left out, a blank one, two of the
# bar, the one of the cursor, and one below, since a table that has scrolled cannot be erased.
_OTHER_LINES: Final = 7
# The widths of the columns beside the ids, and of the narrowest terminal that shows them, in cells.
# The last column gets the rest.
_WIDTHS: Final = {"Status": 10, "Elapsed": 7, "Reason": 14}
_LEAST_WIDTHS: Final = {"Status": 0, "Elapsed": 40, "Reason": 60}
_LEAST_BAR: Final = 10
_UNSUCCESSFUL: Final = {JobStatus.FAILED, JobStatus.CANCELLED, "error"}


class Progress:
    """How a wait is shown while it runs; this one shows nothing.

    Attributes:
        tick: Seconds after which it is refreshed, if there was no change.
    """

    tick = 3600.0

    def opened(self) -> AbstractContextManager[object]:
        """Show what happens, until the end of the block."""
        return nullcontext()

    def show(self, entry: Entry) -> None:
        """Show that the report of a job has changed, or that the wait for it is over."""

    def refresh(self) -> None:
        """Show that time has passed."""


def open_progress(output: Output, board: Board) -> Progress:
    """Choose how to show a wait on standard output."""
    if output.format == "json":
        return JSONProgress()
    if output.format == "csv":
        return Progress()
    return LiveProgress(output, board) if output.is_live else _LineProgress(output, board)


class JSONProgress(Progress):
    """Prints an object a line: `change` for each change, `end` once for each job."""

    def show(self, entry: Entry) -> None:
        event = "change" if entry.over_at is None else "end"
        write_json({"event": event} | report_fields(entry), at_once=True)


class _LineProgress(Progress):
    """Prints a line for each change, of a job or of whether the service responds."""

    tick = 1.0

    def __init__(self, output: Output, board: Board) -> None:
        self._raw = output.raw
        self._board = board
        self._id_width = max(map(cell_len, board.job_ids))
        self._shown: dict[str, str] = {}
        self._is_outage = False

    def show(self, entry: Entry) -> None:
        self.refresh()
        if entry.error is not None and not entry.has_error:
            return  # the wait has ended early, which is no change of the job
        change = entry.word(raw=self._raw)
        if entry.reason:
            change = f"{change}: {entry.reason}"
        if self._shown.get(entry.job_id) == change:
            return  # nothing that is printed has changed
        self._shown[entry.job_id] = change
        self._print(f"{padded(entry.job_id, self._id_width)}{GAP}{change}")

    def refresh(self) -> None:
        if bool(self._board.outage) is not self._is_outage:
            self._is_outage = not self._is_outage
            self._print(self._board.outage or "the service responds again")

    def _print(self, line: str) -> None:
        elapsed = padded(duration(self._board.elapsed), 7, is_number=True)
        print(f"{elapsed}{GAP}{line}", flush=True)


class LiveProgress(Progress):
    """Draws a table of the jobs that fit the screen, counts the others; erased at the end."""

    tick = 0.125

    def __init__(self, output: Output, board: Board) -> None:
        self._board = board
        self._console = output.console
        self._raw = output.raw
        self._draw_at = self.tick
        self._longest_id = max(cell_len(text) for text in ("Job", *board.job_ids))
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, get_renderable=self._render
        )

    def opened(self) -> AbstractContextManager[object]:
        return self._live

    def show(self, entry: Entry) -> None:
        del entry  # all jobs are drawn at once
        self.refresh()

    def refresh(self) -> None:
        # Hundreds of changes may come together, and a few tables a second are enough. Drawing one
        # of thousands of jobs takes a while, during which no request is sent.
        began_at = self._board.elapsed
        if began_at >= self._draw_at:
            self._live.refresh()
            self._draw_at = began_at + max(self.tick, 10 * (self._board.elapsed - began_at))

    def _render(self) -> RenderableType:
        width = min(self._console.width, _MAX_WIDTH)
        titles = [title for title in _WIDTHS if width >= _LEAST_WIDTHS[title]]
        room = width - sum(len(GAP) + _WIDTHS[title] for title in titles)
        id_width = max(1, min(self._longest_id, room))
        entries = self._board.entries
        shown = self._choose(entries, id_width)
        table = Table(
            box=None, padding=(0, len(GAP), 0, 0), pad_edge=False, width=width, header_style="bold"
        )
        table.add_column("Job", width=id_width, overflow="fold")
        for title in titles[:-1]:
            table.add_column(title, width=_WIDTHS[title], no_wrap=True, overflow="ellipsis")
        table.add_column(titles[-1], ratio=1, no_wrap=True, overflow="ellipsis")
        for entry in shown:
            table.add_row(Text(entry.job_id), *self._cells(entry)[: len(titles)])
        parts: list[RenderableType] = [table]
        if len(shown) < len(entries):
            shown_ids = {entry.job_id for entry in shown}
            others = [entry for entry in entries if entry.job_id not in shown_ids]
            text = f"{count(len(others))} more: {state_counts(others)}"
            parts.append(Text(text, style="dim", no_wrap=True, overflow="ellipsis"))
        if self._board.outage:
            parts.append(Text(self._board.outage, style="bold", no_wrap=True, overflow="ellipsis"))
        # The cursor stays on the last line, which is left empty: typed text such as ^C would wrap
        # at the end of a full line, and shift the table by a line.
        return Group(*parts, Text(), self._bar(entries, width), Text())

    def _choose(self, entries: list[Entry], id_width: int) -> list[Entry]:
        """Choose the jobs that fit the screen: unfinished ones that have changed last go first."""
        room = self._console.height - _OTHER_LINES - bool(self._board.outage)
        shown: set[str] = set()
        for entry in sorted(entries, key=_urgency):
            room -= len(Text(entry.job_id).wrap(self._console, id_width, overflow="fold"))
            if room < 0 and shown:
                break
            shown.add(entry.job_id)
        return [entry for entry in entries if entry.job_id in shown]

    def _cells(self, entry: Entry) -> list[Text]:
        elapsed = self._board.elapsed if entry.over_at is None else entry.over_at
        reason = entry.reason if entry.has_error or entry.state == JobStatus.FAILED else ""
        status = status_text(entry.word(raw=self._raw), entry.state)
        return [status, Text(duration(elapsed)), Text(reason, style="dim")]

    def _bar(self, entries: list[Entry], width: int) -> RenderableType:
        over = [entry for entry in entries if entry.over_at is not None]
        parts = [f"{count(len(over))} of {count(len(entries))} finished"]
        parts.append(state_counts(entry for entry in over if entry.state in _UNSUCCESSFUL))
        if len(over) == len(entries):
            read = sum(entry.record is not None for entry in entries)
            parts.append(f"{plural(read, 'record')} read")
        text = Text(", ".join(filter(None, parts)))
        bar_width = width - text.cell_len - len(GAP)
        line = Table.grid(padding=(0, len(GAP), 0, 0))
        if bar_width >= _LEAST_BAR:
            line.add_row(ProgressBar(len(entries), len(over), width=bar_width), text)
        else:
            line.add_row(ProgressBar(len(entries), len(over), width=width))
            line.add_row(text)
        return line


def _urgency(entry: Entry) -> tuple[bool, float]:
    return entry.over_at is not None, 0.0 if entry.changed_at is None else -entry.changed_at
