"""The standard streams where they are closed, or lead nowhere."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TextIO

__all__ = ["abandon", "standard_streams"]


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let the streams be there that were closed from the start, and take any text.

    Nobody reads what is written to a closed one, but the exit status counts all the same.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A text of the service may have characters that the encoding of the locale lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    with (
        Path(os.devnull).open("w", encoding="utf-8") as sink,
        redirect_stdout(sys.stdout or sink),
        redirect_stderr(sys.stderr or sink),
    ):
        yield


def abandon(stream: TextIO) -> None:
    """Throw away what is still to be written to a stream that leads nowhere.

    Python would try once more at its exit, and complain.
    """
    with suppress(OSError), Path(os.devnull).open("w", encoding="utf-8") as sink:
        os.dup2(sink.fileno(), stream.fileno())
