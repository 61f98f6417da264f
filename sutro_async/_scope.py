"""A scope that can be interrupted from outside: what closing and time-outs have in common."""

from __future__ import annotations

import abc
import asyncio
from types import TracebackType
from typing import Any

__all__ = ["Scope"]


class Scope(abc.ABC):
    """What one task does between entering and leaving, in the manner of `asyncio.timeout`.

    Interrupting it cancels the task, and turns the cancellation into an error of the scope's own
    on the way out. It must not span a `yield`.

    Attributes:
        task: The task that is inside.
        is_interrupted: Whether somebody has interrupted it.
    """

    __slots__ = ("_cancelling", "is_interrupted", "task")

    task: asyncio.Task[Any]

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self.task = task
        self._cancelling = task.cancelling()
        self.is_interrupted: bool = False
        self._enter()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()
        if not self.is_interrupted:
            return
        # Somebody else may have cancelled the task as well; that must not be swallowed.
        is_ours_alone = self.task.uncancel() <= self._cancelling
        if is_ours_alone and exc_type is asyncio.CancelledError:
            raise self._error() from None

    def interrupt(self) -> None:
        """End what runs in the scope."""
        if not self.is_interrupted:
            self.is_interrupted = True
            self.task.cancel()

    @abc.abstractmethod
    def _enter(self) -> None:
        """Register the scope with whoever may interrupt it, or raise."""

    @abc.abstractmethod
    def _leave(self) -> None:
        """Undo that."""

    @abc.abstractmethod
    def _error(self) -> Exception:
        """Make the error that an interruption comes out as."""
