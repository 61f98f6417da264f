"""`Stream`: the one type of all asynchronous iterators that the library returns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

from sutro_async.errors import ClientStateError

__all__ = ["Stream"]

T_co = TypeVar("T_co", covariant=True)


class Stream(AsyncIterator[T_co]):
    """An asynchronous iterator that releases its resources when it is closed.

    Iterate over it with `async for`; close it with `async with` or `aclose`. A stream that is left
    early is also closed when it is garbage-collected, but when that happens depends on the
    interpreter:

    ```python
    async with client.as_completed(job_ids) as outcomes:
        async for outcome in outcomes:
            ...
    ```

    Cancelling a step loses nothing: the next step continues. One task at a time may wait for the
    next item.
    """

    def __init__(
        self,
        step: Callable[[], Awaitable[T_co]],
        close: Callable[[], Awaitable[None]] | None = None,
        cancel: Callable[[], None] | None = None,
    ) -> None:
        """Make a stream; the library does.

        Args:
            step: Returns the next item, or raises StopAsyncIteration after the last one.
            close: Ends the step and what runs in the background, and waits until that has ended.
            cancel: Ends what runs in the background; called in the event loop of the stream.
        """
        self._step = step
        self._close = close
        self._cancel = cancel
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stepping = False
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        """Wait for the next item.

        Raises:
            StopAsyncIteration: There is none.
            ClientStateError: Another task is waiting for the next item, or the stream belongs to
                another event loop.
        """
        if self._is_stepping:
            raise ClientStateError(
                "another task is waiting for the next item of this stream:"
                " give each task a stream of its own"
            )
        if self._is_over:
            raise StopAsyncIteration
        self._check_loop()
        self._is_stepping = True
        try:
            return await self._step()
        except Exception:  # after the last item, or because of an error
            self._is_over = True
            raise
        finally:
            self._is_stepping = False

    async def aclose(self) -> None:
        """End the stream, and wait until its resources are released.

        A step that another task is waiting for ends with StopAsyncIteration.

        Raises:
            ClientStateError: The stream belongs to another event loop.
        """
        self._check_loop()
        self._is_over = True
        if self._close is not None:
            await self._close()

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ClientStateError(
                "the stream belongs to the event loop of its first step, and this is another:"
                " make it in the event loop that iterates over it"
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._cancel is None or self._loop is None:
            return
        # A finalizer runs in any thread, and at any point of the code.
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing runs in it
            self._loop.call_soon_threadsafe(self._cancel)
