"""The steps of a stream: closing the stream or its client ends the running step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sutro_async._http._lifecycle import Lifecycle
from sutro_async._http._scope import Scope
from sutro_async.errors import ClientStateError

__all__ = ["Steps"]


class Steps:
    """The steps of one stream; at most one runs at a time.

    Args:
        lifecycle: That of the client.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._running: Scope | None = None
        self._is_closed = False

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
        except ClientStateError:
            if self._is_closed:
                raise StopAsyncIteration from None
            raise
        finally:
            self._running = None

    async def aclose(self) -> None:
        """End the running step, if there is one, with StopAsyncIteration."""
        self._is_closed = True
        if self._running is not None:
            step = self._running
            step.interrupt()
            await step.wait_ended()
