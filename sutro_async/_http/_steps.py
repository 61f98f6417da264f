"""The steps of a stream: closing the stream or its client ends the running step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sutro_async._http._lifecycle import Lifecycle
from sutro_async._http._scope import Scope

__all__ = ["Steps"]


class Steps:
    """The steps of one stream; at most one runs at a time.

    Args:
        lifecycle: That of the client.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._running: Scope | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Run a step in the block.

        Raises:
            StopAsyncIteration: The stream was closed during the step.
            ClientStateError: The client is closed, or belongs to another event loop.
        """
        self._running = self._lifecycle.operation()
        try:
            with self._running:
                yield
        finally:
            self._running = None

    async def aclose(self) -> None:
        """End the running step, if there is one, with StopAsyncIteration."""
        if self._running is not None:
            step = self._running
            step.interrupt(StopAsyncIteration)
            await step.wait_ended()
