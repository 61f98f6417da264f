"""Values as people read them: times, durations, money, and texts that came from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from sutro_async import Job, JobFailedError, JobStatus, JobStatusReport

__all__ = [
    "ago",
    "count",
    "duration",
    "job_count",
    "listed",
    "local_time",
    "money",
    "one_line",
    "printable_lines",
    "reason",
    "status_word",
    "stopwatch",
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
    # A text of the service must not move the cursor, nor change the colours or the title.
    return "".join(char if char.isprintable() else " " for char in text)


def count(number: int) -> str:
    """Write a whole number: `12,000`."""
    return f"{number:,}"


def job_count(number: int) -> str:
    """Write a number of jobs: `1 job`, `12,000 jobs`."""
    return f"{count(number)} job" if number == 1 else f"{count(number)} jobs"


def money(dollars: float) -> str:
    """Write an amount of US dollars: `0.0185 USD`."""
    if 0 < dollars < _LEAST_COST:
        return f"< {_LEAST_COST:.4f} USD"
    if abs(dollars) >= _ABSURD_COST:
        return f"{dollars:.1e} USD"
    return f"{dollars:,.4f} USD"


def duration(span: timedelta) -> str:
    """Write a duration in its two largest units: `1.5 s`, `2 min 3 s`, `1 h 5 min`, `3 d 2 h`."""
    seconds = span.total_seconds()
    if seconds < 0:
        return f"-{duration(-span)}"
    if round(seconds, 1) < _MINUTE:
        return f"{seconds:.1f} s"
    if round(seconds) < _HOUR:
        return _two_units(round(seconds), _MINUTE, "min", 1, "s")
    if round(seconds / _MINUTE) * _MINUTE < _DAY:
        return _two_units(round(seconds / _MINUTE), 60, "h", 1, "min")
    return _two_units(round(seconds / _HOUR), 24, "d", 1, "h")


def _two_units(amount: int, large: int, large_name: str, small: int, small_name: str) -> str:
    whole, rest = divmod(amount, large)
    return f"{whole:,} {large_name}" + (f" {rest // small} {small_name}" if rest else "")


def stopwatch(seconds: float) -> str:
    """Write a time that runs: `1.5 s`, `2:03`, `1:05:00`."""
    if seconds < _MINUTE:
        # Cut, not rounded, as a stopwatch does: 59.97 s is not a minute yet.
        return f"{int(seconds * 10) / 10:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ago(seconds: float) -> str:
    """Write how long something is past, in one unit: `5 s ago`, `3 min ago`, `2 h ago`."""
    for size, name in ((_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {name} ago"
    return f"{int(seconds)} s ago"


def local_time(moment: datetime) -> str:
    """Write a moment in local time, with its zone: `2024-01-15 11:30:15 CET`."""
    try:
        local = moment.astimezone()
    except OverflowError:  # the first and the last day of all times have no neighbour
        local = moment
    return f"{local:%Y-%m-%d %H:%M:%S %Z}"


def status_word(answer: Job | JobStatusReport, *, raw: bool) -> str:
    """Write a status; as the service sent it if `raw` is set.

    A word that this version does not know stands beside `unknown`.
    """
    word = one_line(answer.raw_status, limit=40)
    if raw:
        return word
    if answer.status is JobStatus.UNKNOWN and word.lower() != JobStatus.UNKNOWN:
        return f"{answer.status} ({word})"
    return str(answer.status)


def reason(report: JobStatusReport) -> str:
    """Say on one line why a job failed; empty where it did not, or nobody knows."""
    return JobFailedError(report).reason if report.status is JobStatus.FAILED else ""


def listed(parts: Iterable[tuple[int, str]]) -> str:
    """List numbers of things: `2 succeeded, 1 failed`; what there is none of is left out."""
    return ", ".join(f"{count(number)} {name}" for number, name in parts if number)
