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

    As soon as the process gets SIGINT or SIGTERM, the monitor closes: those who wait for it get
    `ClientStateError`, and no event stream or long poll of `jobs_router` delays the server. Any
    such signal that the app or the server handles counts as the end, whatever they make of it.

    Args:
        client: What makes the client when the app starts, by default from the environment; or a
            client that is there already, which is left open. Such a client belongs to one event
            loop, so the app can run in that loop only.
        poll: The pace of the monitor; None takes that of the client.
        keep_finished: How many ended jobs the monitor remembers.
        close_on_signal: Whether a signal closes the monitor. False leaves signals alone; the
            monitor then closes with the app, after the server has waited for its connections.
        lifespan: The app's own lifespan, entered once the two are there. What it yields is added to
            the state.
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
    """Remove what the lifespan has put there, unless another has put its own there since."""
    if getattr(state, name, None) is value:
        delattr(state, name)


@asynccontextmanager
async def _open_until_stopped(monitor: JobMonitor) -> AsyncIterator[None]:
    """Open the monitor, and close it at the end or when the process is told to stop.

    A server waits for its connections before it ends the lifespan. To close the monitor only then
    would be too late for the event streams among them, which end with it.
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
    """Call back in the event loop when a signal to stop arrives, before the one who handles it."""
    loop = asyncio.get_running_loop()
    is_active = True
    previous: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        # A handler that was set later passes signals on to this one for as long as it likes.
        if is_active and not loop.is_closed():
            loop.call_soon_threadsafe(callback)
        previous[number](number, frame)

    if threading.current_thread() is threading.main_thread():  # no other may handle signals
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            # A signal that nobody handles is left to the system, which ends the process.
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
    """Give the client of the app: what stands behind `SutroDep`, to be overridden in tests.

    Raises:
        RuntimeError: The app has no `sutro_lifespan`, or it does not run.
    """
    client: SutroClient = _from_state(connection, "sutro_client")
    return client


async def get_job_monitor(connection: HTTPConnection) -> JobMonitor:
    """Give the monitor of the app: what stands behind `MonitorDep`, to be overridden in tests.

    Raises:
        RuntimeError: The app has no `sutro_lifespan`, or it does not run.
    """
    monitor: JobMonitor = _from_state(connection, "sutro_monitor")
    return monitor


def _from_state(connection: HTTPConnection, name: str) -> Any:  # noqa: ANN401 - by its name
    # The first holds in a mounted app, which has an `app.state` of its own; the second in a test
    # that enters the lifespan without a server, which would bring it to the requests.
    for state in (connection.state, connection.app.state):
        if hasattr(state, name):
            return getattr(state, name)
    raise RuntimeError(
        f"there is no {name}: make the app with FastAPI(lifespan=sutro_lifespan()); in a test,"
        " let the lifespan run, or override the dependency"
    )


SutroDep = Annotated[SutroClient, Depends(get_sutro_client)]
"""The client of the app, as a parameter: `async def endpoint(client: SutroDep)`."""

MonitorDep = Annotated[JobMonitor, Depends(get_job_monitor)]
"""The monitor of the app, as a parameter: `async def endpoint(monitor: MonitorDep)`."""
