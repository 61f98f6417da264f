"""The fake service itself: a real HTTP server on a loopback port."""

import asyncio
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from time import monotonic
from types import TracebackType
from typing import Any, Self, cast, get_args

from aiohttp import web

from sutro_async import SutroClient
from sutro_async.testing._faults import Endpoint, Fault, FaultQueue, error_body
from sutro_async.testing._http import RecordedRequest, make_response, parse_path, record, send
from sutro_async.testing._jobs import UNSET, Dialect, FakeJob, Step, require_text
from sutro_async.testing._listener import close_listener
from sutro_async.testing._listing import list_response

_NO_FAULT = Fault()
# Event loops disagree on an infinite timer. This one is longer than any test.
_FOREVER = 1e7
# Seconds that aiohttp waits for handlers; `__aexit__` has ended them before.
_SHUTDOWN_TIMEOUT = 0.1
# Connections that a client may open at once. With asyncio's default of 100, more are delayed.
_BACKLOG = 1024


class FakeSutro:
    """A fake Sutro service that runs inside an `async with`.

    ```python
    async with FakeSutro() as fake:
        fake.add_job("job-1", timeline=["queued", "running", "succeeded"])
        fake.fail_next(2, status=503, headers={"Retry-After": "1"})
        async with fake.client() as client:
            report = await client.wait_for_job("job-1")
    assert len(fake.requests) == 5
    ```

    Jobs and failures can be added before it runs and while it runs. Enter it in one event loop; its
    clients may be in other threads and processes.

    Args:
        api_key: The key that the server accepts.
        dialect: The form of its responses: `"mapping"`, that of the deployed service and the
            official SDK, or `"flat"`, that of the API reference.
        list_lag: Seconds by which the list of jobs lags behind: it shows each job as it was then,
            or with its first status if it is younger.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.

    Attributes:
        api_key: The key that the server accepts.
        dialect: The form of its responses.
        list_lag: Seconds by which the list of jobs lags behind.
        requests: The requests received, oldest first. You may clear the list.
        max_in_flight: The largest number of requests in flight so far.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The key is empty, the dialect unknown, or `list_lag` out of range.
    """

    def __init__(
        self,
        *,
        api_key: str = "sk_test",
        dialect: Dialect = "mapping",
        list_lag: float = 0.0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if dialect not in get_args(Dialect):
            raise ValueError(f"dialect must be 'mapping' or 'flat', got {dialect!r}")
        if not 0 <= list_lag < math.inf:
            raise ValueError(f"list_lag must be 0 or more seconds, got {list_lag!r}")
        self.api_key: str = require_text(api_key, "api_key")
        self.dialect: Dialect = dialect
        self.list_lag: float = list_lag
        self.requests: list[RecordedRequest] = []
        self.max_in_flight: int = 0
        self._host = host
        self._port = port
        self._is_entered = False
        self._listener: asyncio.Server | None = None
        self._cleanup = AsyncExitStack()
        self._jobs: dict[str, FakeJob] = {}
        self._faults = FaultQueue()
        # A connection has one request at a time, so these are the requests in flight.
        self._busy: set[asyncio.Transport] = set()

    async def __aenter__(self) -> Self:
        """Start to listen.

        Raises:
            RuntimeError: It is already running, or is being started or stopped.
            OSError: The address or the port is not available.
        """
        if self._is_entered:
            raise RuntimeError(
                "this FakeSutro is already running: enter it once, or make another one"
            )
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_TIMEOUT
        )
        self._is_entered = True
        async with AsyncExitStack() as started:
            started.callback(setattr, self, "_is_entered", False)
            await runner.setup()
            server = cast("web.Server", runner.server)
            # A cancelled cleanup leaves connections open.
            started.callback(_abort_connections, server)
            started.push_async_callback(runner.cleanup)
            # If cancelled, `create_server` does not close a listener that serves already.
            listener = await asyncio.get_running_loop().create_server(
                server, self._host, self._port, backlog=_BACKLOG, start_serving=False
            )
            started.push_async_callback(close_listener, listener)
            await listener.start_serving()
            self._listener = listener
            self._cleanup = started.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, and abort the requests that are still being handled.

        If cancelled, it closes the port and all connections nevertheless.
        """
        self._listener = None
        for transport in self._busy:
            transport.abort()
        await self._cleanup.aclose()

    @property
    def url(self) -> str:
        """The base URL, with the port.

        Raises:
            RuntimeError: It is not running, so it has no address.
        """
        if self._listener is None:
            raise RuntimeError("this FakeSutro is not running: use it inside `async with`")
        host, port, *_ = self._listener.sockets[0].getsockname()
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def in_flight(self) -> int:
        """How many requests are being handled."""
        return len(self._busy)

    @property
    def faults_left(self) -> int:
        """How many failures of `fail_next` have not happened yet."""
        return self._faults.left

    def client(self, **options: Any) -> SutroClient:  # noqa: ANN401 - SutroClient's own options
        """Make a client of this server; you close it.

        Args:
            **options: Further options of `SutroClient`.

        Raises:
            RuntimeError: The server is not running.
        """
        return SutroClient(api_key=self.api_key, base_url=self.url, **options)

    def add_job(
        self,
        job_id: str,
        timeline: Iterable[Step] = ("succeeded",),
        *,
        failure_reason: object = None,
        additional_context: object = None,
        status_reason: bool = True,
        message: object = UNSET,
        metadata: object = UNSET,
        allow_unknown: bool = False,
        **fields: object,
    ) -> None:
        """Add a job.

        The failure, `message`, `metadata` and the fields are sent as passed in, and may be any JSON
        value.

        Args:
            job_id: Its id.
            timeline: Its statuses, in order; the last one stays. Plain statuses advance with each
                request for the status. Pairs of a status and seconds, with a plain status last,
                advance by the clock, from now on.
            failure_reason: Why it failed, sent once it has failed: a text, or the whole object.
            additional_context: More about the failure.
            status_reason: Whether the status response has the failure's reason too; with False only
                the record has it, as often with the deployed service.
            message: The `message` of the status response, in place of the fake's own.
            metadata: The `metadata` of the status response, in place of the fake's own.
            allow_unknown: Whether statuses and fields are sent that this version does not know, as
                a newer server might send them.
            **fields: Fields of the record, in place of the fake's own or in addition.

        Raises:
            TypeError: An argument has the wrong type, or cannot be sent as JSON.
            ValueError: The job exists already, the timeline is empty or its seconds are missing or
                not positive, a status or a field is unknown, or another argument is invalid.
        """
        if job_id in self._jobs:
            raise ValueError(f"job {job_id!r} exists already: change it with set_status")
        self._jobs[job_id] = FakeJob.plan(
            job_id,
            timeline,
            failure_reason=failure_reason,
            additional_context=additional_context,
            status_reason=status_reason,
            message=message,
            metadata=metadata,
            allow_unknown=allow_unknown,
            fields=fields,
            now=monotonic(),
        )

    def set_status(self, job_id: str, status: str, *, allow_unknown: bool = False) -> None:
        """Set the status of a job from now on; the rest of its timeline is dropped.

        Args:
            job_id: The job.
            status: The status.
            allow_unknown: Whether it may be a status that this version does not know.

        Raises:
            TypeError: The status is not a string.
            ValueError: There is no such job, or the status is empty or unknown.
        """
        if job_id not in self._jobs:
            raise ValueError(f"job {job_id!r} does not exist: add it with add_job first")
        self._jobs[job_id].timeline.jump(status, monotonic(), allow_unknown=allow_unknown)

    def fail_next(
        self,
        times: int = 1,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | str | None = None,
        delay: float = 0.0,
        disconnect: bool = False,
        reset: bool = False,
        truncate: bool = False,
        endpoint: Endpoint | None = None,
        job_id: str | None = None,
    ) -> None:
        """Make the next requests fail. Several calls queue up.

        A job's timeline advances only if the correct response is sent completely. A session of your
        own, unlike the one that `SutroClient` makes, repeats a GET once when its connection is
        closed without a response: two disconnects make one error there.

        Args:
            times: How many requests.
            status: Respond with this status, and a body as the service sends it.
            headers: Send these headers too.
            body: Respond with this body; with status 200 unless `status` is set.
            delay: Seconds before the response or the disconnection; `math.inf` never responds.
            disconnect: Close the connection instead of responding.
            reset: Send the headers and half of the body, then reset the connection.
            truncate: Send the headers and half of the body, then close the connection.
            endpoint: Only requests to this endpoint: `"job-status"`, `"jobs"` or `"list-jobs"`;
                others do not fail, and are not counted.
            job_id: Only requests about this job, likewise.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: No failure is passed, the arguments contradict each other, or a number is
                out of range.
        """
        self._faults.add(
            Fault.plan(
                times=times,
                status=status,
                headers=headers,
                body=body,
                delay=delay,
                disconnect=disconnect,
                reset=reset,
                truncate=truncate,
                endpoint=endpoint,
                job_id=job_id,
            )
        )

    def clear_faults(self) -> None:
        """Remove the failures that are still queued."""
        self._faults.clear()

    async def _handle(self, request: web.Request) -> web.Response:
        now = asyncio.get_running_loop().time()
        self.requests.append(record(request, api_key=self.api_key, now=now))
        endpoint, job_id = parse_path(request.raw_path)
        fault = self._faults.take(endpoint, job_id) or _NO_FAULT
        # Never None: the handler of a lost connection is cancelled, even before its first step.
        transport = cast("asyncio.Transport", request.transport)
        self._busy.add(transport)
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await asyncio.sleep(min(fault.delay, _FOREVER))
            if fault.ending == "disconnect":
                transport.close()
                return web.Response()
            status, body = fault.status, fault.body
            if status is None:
                status, body = self._correct_response(request, endpoint, job_id, fault)
            if body is None:
                body = error_body(status, job_id)
            response = make_response(status, body, fault.headers)
            # A client that disconnects before the end is no error of the server.
            with suppress(ConnectionError):
                await send(response, request, transport, fault.ending)
            return response
        finally:
            self._busy.discard(transport)

    def _correct_response(
        self, request: web.Request, endpoint: str, job_id: str, fault: Fault
    ) -> tuple[int, bytes | None]:
        """Return status and body as the service would; None for the usual body of the status."""
        if not endpoint:
            return 404, None
        if request.method != "GET":
            return 405, None
        if request.headers.get("Authorization") != f"Key {self.api_key}":
            return 401, None
        now = monotonic()
        if endpoint == "list-jobs":
            # As sent: once decoded, a plus sign would be a space.
            query = request.raw_path.partition("?")[2]
            status, content = list_response(self._jobs, query, lambda job: self._entry(job, now))
            return status, json.dumps(content).encode()
        job = self._jobs.get(job_id)
        if job is None:
            return 404, None
        if endpoint == "jobs":
            body = {"job": job.record(self.dialect, now)}
        else:
            # A truncated response does not deliver a status.
            if fault.ending == "whole":
                job.timeline.advance(now)
            body = job.status_body(self.dialect, now)
        return 200, json.dumps(body).encode()

    def _entry(self, job: FakeJob, now: float) -> dict[str, Any]:
        return job.record(self.dialect, max(job.created, now - self.list_lag))


def _abort_connections(server: web.Server) -> None:
    for connection in server.connections:
        # None once the connection is lost, until its handler has finished.
        if connection.transport is not None:
            connection.transport.abort()
