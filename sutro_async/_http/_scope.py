"""A scope that can be interrupted from outside: what closing and timeouts have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

__all__ = ["Scope"]


class Owner(Protocol):
    """What interrupts scopes."""

    def add(self, scope: Any, /) -> None:  # noqa: ANN401 - an owner may want scopes of its own
        """Register a scope that is entered, or raise."""

    def remove(self, scope: Any, /) -> None:  # noqa: ANN401
        """Forget a scope that is left."""


class Scope:
    """What one task does between entering and leaving, in the manner of `asyncio.timeout`.

    Interrupting it cancels the task, and the cancellation leaves the scope as an error. It must
    not span a `yield`.

    `asyncio.timeout` would do, but it sets a timer for each request: see `_request_timer`.
    """

    __slots__ = ("_cancelling", "_ended", "_make_error", "_owner", "task")

    task: asyncio.Task[Any] | None
    _make_error: Callable[[], Exception]

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._ended: asyncio.Event | None = None

    @property
    def is_interrupted(self) -> bool:
        """Whether it was interrupted."""
        return self._ended is not None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self.task = task
        self._cancelling = task.cancelling()
        self._owner.add(self)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._owner.remove(self)
        if self._ended is None:
            return
        self._ended.set()
        assert self.task is not None  # noqa: S101 - it was entered
        # A cancellation from elsewhere as well must not be swallowed.
        is_ours_alone = self.task.uncancel() <= self._cancelling
        if is_ours_alone and exc_type is asyncio.CancelledError:
            raise self._make_error() from None

    def interrupt(self, make_error: Callable[[], Exception]) -> None:
        """End what runs in the scope, which then raises an error."""
        if self._ended is None:
            assert self.task is not None  # noqa: S101 - it was entered
            self._ended = asyncio.Event()
            self._make_error = make_error
            self.task.cancel()

    async def wait_ended(self) -> None:
        """Wait until the scope, which was interrupted, has been left."""
        assert self._ended is not None  # noqa: S101 - `interrupt` has set it
        await self._ended.wait()
