"""The event loop of a command, and the signals that end it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

__all__ = ["run"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command in an event loop of its own; Ctrl-C and SIGTERM cancel it.

    `asyncio.run` does so with the first Ctrl-C. A second one raises KeyboardInterrupt wherever the
    loop is just then, and a task that it hits may never end.

    Raises:
        KeyboardInterrupt: A signal ended it; its number is the argument.
    """
    received: list[int] = []
    try:
        with asyncio.Runner() as runner:
            return runner.run(_cancel_on_signals(main, received))
    except asyncio.CancelledError:
        raise KeyboardInterrupt(*received) from None
    finally:
        main.close()  # it has not begun if a signal came very early


async def _cancel_on_signals(main: Coroutine[Any, Any, T], received: list[int]) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task

    def cancel(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in _SIGNALS:
        # Windows has none of this, and no thread but the main one: there it is as in asyncio.run.
        with suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(number, cancel, number)
    return await main
