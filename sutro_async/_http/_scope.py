"""A scope that can be interrupted from outside: what closing and timeouts have in common."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Protocol

__all__ = ["Scope"]


class Owner(Protocol):
    """What may interrupt a scope."""

    def add(self, scope: Any, /) -> None:  # noqa: ANN401 - an owner may want scopes of its own
        """Register a scope that is entered, or raise."""

    def remove(self, scope: Any, /) -> None:  # noqa: ANN401
        """Forget a scope that is left."""

    def interruption(self) -> Exception:
        """Make the error that an interrupted scope raises."""


class Scope:
    """What one task does between entering and leaving, in the manner of `asyncio.timeout`.

    Interrupting it cancels the task, and the cancellation leaves the scope as an error. It must
    not span a `yield`.

    `asyncio.timeout(None)` would do, but it takes a third of what a call of this library costs
    beside the request.
    """

    __slots__ = ("_cancelling", "_ended", "_owner", "task")

    task: asyncio.Task[Any] | None

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._ended: asyncio.Event | None = None

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
            raise self._owner.interruption() from None

    def interrupt(self) -> None:
        """End what runs in the scope."""
        if self._ended is None:
            assert self.task is not None  # noqa: S101 - it was entered
            self._ended = asyncio.Event()
            self.task.cancel()

    async def wait_ended(self) -> None:
        """Wait until the scope, which was interrupted, has been left."""
        assert self._ended is not None  # noqa: S101 - `interrupt` has set it
        await self._ended.wait()
