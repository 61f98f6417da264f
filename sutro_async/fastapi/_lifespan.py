"""One client and one monitor for an app: their life, and the dependencies that give them."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from types import FrameType
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.requests import HTTPConnection
from starlette.datastructures import State

from sutro_async import JobMonitor, PollPolicy, SutroClient

__all__ = ["MonitorDep", "SutroDep", "get_job_monitor", "get_sutro_client", "sutro_lifespan"]


def sutro_lifespan(
    client: SutroClient | Callable[[], SutroClient] = SutroClient,
    *,
    poll: PollPolicy | None = None,
    keep_finished: int = 10_000,
    close_on_signal: bool = True,
    lifespan: Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]] | None = None,
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """Make a lifespan that opens one client and one monitor for the app, and closes them with it.

    Use it as `FastAPI(lifespan=sutro_lifespan())`, or enter it in a lifespan of your own:

    ```python
    @asynccontextmanager
    async def lifespan(app: FastAPI):
        async with sutro_lifespan()(app) as state, open_database() as database:
            yield {**state, "database": database}
    ```

    The two are `sutro_client` and `sutro_monitor` in `request.state`, and in `app.state`.

    As soon as the process gets SIGINT or SIGTERM, the monitor closes: its waits raise
    `ClientStateError`, and no event stream or long poll of `jobs_router` delays the server. Any
    such signal that the app or the server handles counts as shutdown, even if they ignore it.

    Args:
        client: A callable that makes the client when the app starts, by default from the
            environment; or an existing client, which is left open. An existing client belongs to
            one event loop, so the app can run in that loop only.
        poll: The polling policy of the monitor; None takes that of the client.
        keep_finished: How many finished jobs the monitor remembers.
        close_on_signal: Whether a signal closes the monitor. False handles none; the
            monitor then closes with the app, after the server has waited for its connections.
        lifespan: The app's own lifespan, entered after the two are open. What it yields is added
            to the state.
    """

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            opened = (
                client
                if isinstance(client, SutroClient)
                else await stack.enter_async_context(client())
            )
            monitor = JobMonitor(opened, poll=poll, keep_finished=keep_finished)
            await stack.enter_async_context(
                _open_until_stopped(monitor) if close_on_signal else monitor
            )
            state: dict[str, Any] = {"sutro_client": opened, "sutro_monitor": monitor}
            for name, value in state.items():
                setattr(app.state, name, value)
                stack.callback(_remove, app.state, name, value)
            if lifespan is not None:
                own_state = await stack.enter_async_context(lifespan(app))
                state |= own_state or {}
            yield state

    return run


def _remove(state: State, name: str, value: object) -> None:
    """Remove a value of this lifespan, unless another lifespan has replaced it since."""
    if getattr(state, name, None) is value:
        delattr(state, name)


@asynccontextmanager
async def _open_until_stopped(monitor: JobMonitor) -> AsyncIterator[None]:
    """Open the monitor, and close it at the end or when the process gets a signal to stop.

    A server waits for its connections before it ends the lifespan. Event streams among them end
    when the monitor closes, so closing it with the lifespan would be too late.
    """
    closing: list[asyncio.Task[None]] = []
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(monitor)

        def close() -> None:
            closing.append(asyncio.create_task(opened.aclose()))

        try:
            with _on_signal_to_stop(close):
                yield
        finally:
            await asyncio.gather(*closing)


@contextmanager
def _on_signal_to_stop(callback: Callable[[], None]) -> Iterator[None]:
    """Call `callback` in the event loop when a signal to stop arrives, before its own handler."""
    loop = asyncio.get_running_loop()
    is_active = True
    previous: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        # A handler that was set later may pass signals on to this one even after the block.
        if is_active and not loop.is_closed():
            loop.call_soon_threadsafe(callback)
        previous[number](number, frame)

    if threading.current_thread() is threading.main_thread():  # others cannot handle signals
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            # A signal without a handler is left to the system, which ends the process.
            if callable(handler):
                previous[number] = handler
                signal.signal(number, handle)
    try:
        yield
    finally:
        is_active = False
        for handled, handler in previous.items():
            if signal.getsignal(handled) is handle:
                signal.signal(handled, handler)


async def get_sutro_client(connection: HTTPConnection) -> SutroClient:
    """Return the client of the app; the dependency of `SutroDep`, to be overridden in tests.

    Raises:
        RuntimeError: The app has no `sutro_lifespan`, or it is not running.
    """
    client: SutroClient = _from_state(connection, "sutro_client")
    return client


async def get_job_monitor(connection: HTTPConnection) -> JobMonitor:
    """Return the monitor of the app; the dependency of `MonitorDep`, to be overridden in tests.

    Raises:
        RuntimeError: The app has no `sutro_lifespan`, or it is not running.
    """
    monitor: JobMonitor = _from_state(connection, "sutro_monitor")
    return monitor


def _from_state(connection: HTTPConnection, name: str) -> Any:  # noqa: ANN401 - by its name
    # A mounted app has an `app.state` of its own, but the state of the request is there. A test
    # that enters the lifespan without a server has `app.state` only: servers copy it to requests.
    for state in (connection.state, connection.app.state):
        if hasattr(state, name):
            return getattr(state, name)
    raise RuntimeError(
        f"there is no {name}: make the app with FastAPI(lifespan=sutro_lifespan()); in a test,"
        " run the lifespan, or override the dependency"
    )


SutroDep = Annotated[SutroClient, Depends(get_sutro_client)]
"""The client of the app, as a parameter: `async def endpoint(client: SutroDep)`."""

MonitorDep = Annotated[JobMonitor, Depends(get_job_monitor)]
"""The monitor of the app, as a parameter: `async def endpoint(monitor: MonitorDep)`."""
