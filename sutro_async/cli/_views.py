"""How a wait is shown: as lines of JSON, as plain lines, or live on a terminal."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

from sutro_async import APIError, JobWaitTimeoutError, SutroError
from sutro_async.cli import _json
from sutro_async.cli._board import Board, Entry
from sutro_async.cli._format import one_line, reason, status_word, stopwatch
from sutro_async.cli._summary import footer_lines, summary_table
from sutro_async.cli._table import padded, plain_lines, width
from sutro_async.cli._terminal import open_terminal

__all__ = ["EndedBy", "JSONView", "PlainView", "View", "open_view"]

_INTERRUPTED: Final = {
    "type": "Interrupted",
    "message": "the wait was interrupted; the job is still running on the service",
}
_ABANDONED: Final = {
    "type": "Abandoned",
    "message": "the wait was ended by an error that is not of this job",
}

EndedBy = asyncio.CancelledError | SutroError
"""What ends a whole wait before its time: an interrupt, or an error that is everybody's."""


class View(Protocol):
    """What a wait shows itself on."""

    @property
    def tick(self) -> float:
        """Seconds after which it wants to be refreshed though nothing happened."""

    def opened(self) -> AbstractContextManager[object]:
        """Show what comes, until the end of the block."""

    def show(self, entry: Entry) -> None:
        """Show that the report of a job has changed, or that the wait for it is over."""

    def refresh(self) -> None:
        """Show that time goes by."""

    def next_without_record(self) -> Entry | None:
        """Give a job that is shown and of which it wants the record, for its rows."""

    def summarise(self, *, ended_by: EndedBy | None) -> None:
        """Show what all came to, after the block; `ended_by` says what ended it too early."""


def open_view(board: Board, *, as_json: bool, raw: bool) -> View:
    """Choose the view that fits standard output."""
    if as_json:
        return JSONView(board)
    console = open_terminal()
    if console is None:
        return PlainView(board, raw=raw)
    from sutro_async.cli._live import LiveView  # noqa: PLC0415 - needs the extra, as terminals do

    return LiveView(board, console, raw=raw)


class _StillView:
    """A view in which nothing moves between two events."""

    tick = 3600.0

    def opened(self) -> AbstractContextManager[object]:
        return nullcontext()

    def refresh(self) -> None:
        pass

    def next_without_record(self) -> Entry | None:
        return None


class JSONView(_StillView):
    """Writes an object a line: `change`, then `end` once for each job, and `summary` last."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def show(self, entry: Entry) -> None:
        if entry.outcome is None:
            fields = {"event": "change"} | _json.report_fields(entry.job_id, entry.report)
        else:
            fields = {"event": "end"} | _json.outcome_fields(entry.outcome)
        _json.write(fields, at_once=True)

    def summarise(self, *, ended_by: EndedBy | None) -> None:
        for entry in self._board.entries.values():
            if ended_by is not None and entry.outcome is None:
                fields = _json.report_fields(entry.job_id, entry.report)
                error = _why_early(entry.job_id, ended_by)
                _json.write({"event": "end"} | fields | {"error": error})
        for entry in self._board.entries.values():
            if entry.record is not None:
                _json.write({"event": "summary"} | entry.record.to_dict())
        sys.stdout.flush()


def _why_early(job_id: str, ended_by: EndedBy) -> dict[str, Any]:
    """Give the `error` of a job for which the wait was ended too early."""
    if not isinstance(ended_by, SutroError):
        return _INTERRUPTED
    if isinstance(ended_by, APIError) and ended_by.job_id == job_id:
        return _json.error_fields(ended_by)
    return _ABANDONED


class PlainView(_StillView):
    """Writes a line a change, and a table at the end."""

    def __init__(self, board: Board, *, raw: bool) -> None:
        self._board = board
        self._raw = raw
        self._id_width = max(map(width, board.entries), default=0)
        self._told: dict[str, str] = {}

    def show(self, entry: Entry) -> None:
        outcome = entry.outcome
        if outcome is not None and isinstance(outcome.error, JobWaitTimeoutError):
            return  # it says nothing of the job, and the end of the wait is near
        news = self._news(entry)
        if self._told.get(entry.job_id) == news:
            return  # what has changed is none of what is shown
        self._told[entry.job_id] = news
        elapsed = padded(stopwatch(self._board.elapsed), 8, is_number=True)
        job_id = padded(entry.job_id, self._id_width, is_number=False)
        print(f"{elapsed}  {job_id}  {news}", flush=True)

    def summarise(self, *, ended_by: EndedBy | None) -> None:
        if isinstance(ended_by, SutroError) and not self._board.is_any_seen:
            return
        print()
        for line in plain_lines(summary_table(self._board, raw=self._raw), has_header=True):
            print(line)
        for line in footer_lines(self._board):
            print(line)
        sys.stdout.flush()

    def _news(self, entry: Entry) -> str:
        if entry.outcome is not None and entry.outcome.error is not None:
            return f"error: {one_line(str(entry.outcome.error))}"
        assert entry.report is not None  # noqa: S101 - there is a report or an error
        word = status_word(entry.report, raw=self._raw)
        why = reason(entry.report)
        return f"{word}: {why}" if why else word
