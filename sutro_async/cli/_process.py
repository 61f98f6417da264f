"""The process: its event loop, the signals that end it, and its standard streams."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final, TextIO, TypeVar

__all__ = ["discard", "run_loop", "standard_streams"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop of its own; Ctrl-C and SIGTERM cancel it.

    `asyncio.run` does so with the first Ctrl-C only. A second one raises KeyboardInterrupt wherever
    the loop is at that moment, and a task that it hits may never end.

    Raises:
        KeyboardInterrupt: A signal ended it; its number is the argument.
    """
    received: list[int] = []
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(main)

        def cancel(number: int, _: FrameType | None) -> None:
            received.append(number)
            loop.call_soon_threadsafe(task.cancel)

        with _signal_handler(cancel):
            try:
                return loop.run_until_complete(task)
            except asyncio.CancelledError:
                raise KeyboardInterrupt(*received[:1]) from None


@contextmanager
def _signal_handler(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    previous = {}
    if threading.current_thread() is threading.main_thread():  # others cannot handle signals
        previous = {number: signal.getsignal(number) for number in _SIGNALS}
    # Scripts that start the command in the background want it to survive Ctrl-C.
    handled = {number: each for number, each in previous.items() if each is not signal.SIG_IGN}
    try:
        for number in handled:
            signal.signal(number, handler)
        yield
    finally:
        for number, each in handled.items():
            signal.signal(number, each)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Replace streams that the process got closed, and let standard output print any text.

    Output to a closed stream is discarded; the exit status is the same.
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


def discard(stream: TextIO) -> None:
    """Discard the buffered output of a stream that cannot be written.

    Python would write it again at exit, and print a traceback.
    """
    with suppress(OSError), Path(os.devnull).open("w", encoding="utf-8") as sink:
        os.dup2(sink.fileno(), stream.fileno())
