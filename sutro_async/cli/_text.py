"""Values as text for people: numbers, durations, money, times, and texts of the service."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sutro_async import Job, JobStatus, JobStatusReport

__all__ = [
    "count",
    "duration",
    "local_time",
    "money",
    "one_line",
    "plural",
    "printable_lines",
    "status_word",
]

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400
_LEAST_COST: Final = 0.0001
_ABSURD_COST: Final = 1e12


def one_line(text: str, *, limit: int | None = None) -> str:
    """Fold a text to one line without control characters, of at most `limit` characters."""
    folded = " ".join(_printable(text).split())
    return folded if limit is None or len(folded) <= limit else folded[: limit - 1] + "…"


def printable_lines(text: str) -> list[str]:
    """Split a text into its lines, without control characters."""
    return [_printable(line.expandtabs(4)) for line in text.splitlines()]


def _printable(text: str) -> str:
    # A text of the service must not move the cursor or change the colours or the title.
    return "".join(char if char.isprintable() else " " for char in text)


def count(number: int) -> str:
    """Write a whole number: `12,000`."""
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """Write a number of things: `1 job`, `12,000 jobs`."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def money(dollars: float) -> str:
    """Write an amount of US dollars: `$0.0185`."""
    if 0 < dollars < _LEAST_COST:
        return f"<${_LEAST_COST:.4f}"
    return f"${dollars:.1e}" if abs(dollars) >= _ABSURD_COST else f"${dollars:,.4f}"


def duration(seconds: float) -> str:
    """Write a duration: `1.5s`, `2m03s`, `1h05m`, `3d02h`; truncated, as a stopwatch does."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < _MINUTE:
        return f"{int(seconds * 10) / 10:.1f}s"
    whole = int(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"


def local_time(moment: datetime) -> str:
    """Write a moment in local time, with its zone: `2024-01-15 11:30:15 CET`."""
    try:
        local = moment.astimezone()
    except OverflowError:  # the first and the last day of the calendar
        local = moment
    return f"{local:%Y-%m-%d %H:%M:%S %Z}"


def status_word(record: Job | JobStatusReport, *, raw: bool) -> str:
    """Write a status; as the service sent it if `raw` is set.

    An unrecognised word is added to `unknown`.
    """
    word = one_line(record.raw_status, limit=40)
    if raw:
        return word
    if record.status is JobStatus.UNKNOWN and word.lower() != JobStatus.UNKNOWN:
        return f"{record.status} ({word.lower()})"
    return str(record.status)
