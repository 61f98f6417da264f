"""Which event loop a client belongs to, and what closing it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from sutro_async._http._scope import Scope
from sutro_async.errors import ClientStateError

__all__ = ["Lifecycle", "Running"]


class Running(Protocol):
    """Something that runs until it ends by itself, or until closing interrupts it."""

    @property
    def task(self) -> asyncio.Task[Any] | None:
        """The task that it runs in, if it is a single one."""

    def interrupt(self, make_error: Callable[[], Exception]) -> None:
        """Let it end with an error."""

    async def wait_ended(self) -> None:
        """Wait until it has ended."""


class Lifecycle:
    """Registers what runs while a client is open, and ends it when the client closes.

    Attributes:
        is_closed: Whether the client is closed.
        running: What runs now, except the requests in flight: they are in a `RequestTimer`.
    """

    def __init__(self) -> None:
        self.is_closed: bool = False
        self.running: set[Running] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> asyncio.AbstractEventLoop:
        """Bind the client to the running event loop, or check that it is this one, and return it.

        Raises:
            ClientStateError: The client is closed, or belongs to another event loop.
        """
        if self.is_closed:
            raise ClientStateError("the client is closed: make a new one")
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.check_loop()
        return loop

    def check_loop(self) -> None:
        """Do what `check` does, whether the client is closed or not."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ClientStateError(
                "the client belongs to the event loop that it first ran in, and this is"
                " another: make one client for each event loop"
            )

    def now(self) -> float:
        """Return the time of the event loop of the client, in seconds; 0 before it has one."""
        return 0.0 if self._loop is None else self._loop.time()

    def add(self, running: Running) -> None:
        """Register something that runs.

        Raises:
            ClientStateError: The client is closed, or belongs to another event loop.
        """
        self.check()
        self.running.add(running)

    def remove(self, running: Running) -> None:
        """Forget something that has ended."""
        self.running.discard(running)

    def operation(self) -> Scope:
        """Make the scope of something that runs in one task.

        Entering it raises `ClientStateError` as `check` does; closing raises it inside.
        """
        return Scope(self)

    async def close(self, *, requests: Iterable[Running] = ()) -> None:
        """Register nothing any more, end what runs, and wait until it has ended.

        A task that closes its own client, in a middleware of its session, is left to end by itself.
        An asynchronous `on_change` is a task of its own, and is cancelled.

        Args:
            requests: The requests in flight, which are not registered here.
        """
        self.is_closed = True
        current = asyncio.current_task()
        others = [each for each in (*self.running, *requests) if each.task is not current]
        message = "the client was closed while this was running"
        for each in others:
            each.interrupt(partial(ClientStateError, message))
        for each in others:
            await each.wait_ended()
