"""Whether standard output is a terminal that colours and live tables are for."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["open_terminal"]

_DRAWN: Final = "…━╸╺"


def open_terminal() -> Console | None:
    """Return the terminal, or None where plain lines are wanted.

    They are where the output is piped, where `NO_COLOR` is set, on a terminal that cannot move its
    cursor or lacks the characters of the bar, and where rich is not installed.
    """
    # Windows has no TERM, and terminals that can do without.
    kind = os.environ.get("TERM", "" if os.name == "nt" else "dumb")
    if os.environ.get("NO_COLOR") or kind in {"dumb", "unknown"} or not sys.stdout.isatty():
        return None
    if not _can_write(_DRAWN, sys.stdout.encoding):
        return None
    try:
        from rich.console import Console  # noqa: PLC0415 - of the extra, which may be missing
    except ModuleNotFoundError:
        return None
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def _can_write(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
