"""Which event loop a client lives in, and the end of whatever still runs when it closes."""

from __future__ import annotations

import asyncio

from sutro_async._scope import Scope
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
        self.is_closed: bool = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.operations: set[Scope] = set()
        self.news: asyncio.Event = asyncio.Event()

    def check(self) -> None:
        """Bind the client to the running event loop, or check that it is this one.

        Raises:
            ClientStateError: The client is closed, or belongs to another event loop.
        """
        if self.is_closed:
            raise ClientStateError("the client is closed: make a new one")
        if self._loop is not asyncio.get_running_loop():
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

    def operation(self) -> Scope:
        """Make the scope of one thing that the client does.

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


class _Operation(Scope):
    __slots__ = ("_lifecycle",)

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def _enter(self) -> None:
        self._lifecycle.check()
        self._lifecycle.operations.add(self)

    def _leave(self) -> None:
        self._lifecycle.operations.remove(self)
        if self._lifecycle.is_closed:
            self._lifecycle.news.set()

    def _error(self) -> Exception:
        return ClientStateError("the client was closed while this was running")
