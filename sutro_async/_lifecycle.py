"""Which event loop a client lives in, and the end of whatever still runs when it closes."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from sutro_async.errors import ClientStateError

__all__ = ["Lifecycle"]


class Lifecycle:
    """Lets operations begin while the client is open, and ends them when it closes.

    Attributes:
        is_closed: Whether the client is closed.
        operations: Those that run.
        news: Set whenever one of them ends after that.
    """

    def __init__(self) -> None:
        self.is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.operations: set[_Operation] = set()
        self.news = asyncio.Event()

    def check(self) -> None:
        """Bind the client to the running event loop, or check that it is this one.

        Raises:
            ClientStateError: The client is closed, or belongs to another event loop.
        """
        if self.is_closed:
            raise ClientStateError("the client is closed: make a new one")
        self.check_loop()

    def check_loop(self) -> None:
        """Do what `check` does, whether the client is closed or not."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ClientStateError(
                "the client belongs to the event loop that it first ran in, and this is another:"
                " make one client for each event loop"
            )

    def operation(self) -> _Operation:
        """Make the scope of one thing that the client does, which must not span a `yield`.

        Entering it raises `ClientStateError` as `check` does; closing the client raises it inside.
        """
        return _Operation(self)

    async def close(self) -> None:
        """Let no operation begin any more, end those that run, and wait until they have ended.

        One that closes the client itself, in `on_change` for instance, is left to end by itself.
        """
        self.is_closed = True
        current = asyncio.current_task()
        for operation in self.operations:
            if operation.task is not current:
                operation.interrupt()
        while any(operation.task is not current for operation in self.operations):
            self.news.clear()
            await self.news.wait()


class _Operation:
    """A cancellation scope in the manner of `asyncio.timeout`, with closing as its time-out."""

    __slots__ = ("_cancelling", "_is_interrupted", "_lifecycle", "task")

    task: asyncio.Task[Any]

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._is_interrupted = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self.task = task
        self._cancelling = task.cancelling()
        self._lifecycle.check()
        self._lifecycle.operations.add(self)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lifecycle.operations.remove(self)
        if self._lifecycle.is_closed:
            self._lifecycle.news.set()
        if not self._is_interrupted:
            return
        # Somebody else may have cancelled the task as well; that must not be swallowed.
        is_ours_alone = self.task.uncancel() <= self._cancelling
        if is_ours_alone and exc_type is asyncio.CancelledError:
            raise ClientStateError("the client was closed while this was running") from None

    def interrupt(self) -> None:
        """End what runs in the scope."""
        if not self._is_interrupted:
            self._is_interrupted = True
            self.task.cancel()
