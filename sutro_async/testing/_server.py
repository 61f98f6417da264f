"""The fake service itself: a real HTTP server on a loopback port."""

import asyncio
import json
import re
import socket
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Any, Self, cast, get_args
from urllib.parse import unquote

import attrs
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from sutro_async import SutroClient
from sutro_async.testing._faults import Ending, Fault, FaultQueue, error_body
from sutro_async.testing._jobs import UNSET, Dialect, FakeJob, Step, require_text

# The id is taken from the path as sent: once decoded, a slash in it could not be told apart.
_ROUTE = re.compile(r"(?:/v1)?/(?P<endpoint>job-status|jobs)/(?P<job_id>[^/?]+)(?:\?.*)?")
_REDACTED = "[redacted]"
_NO_FAULT = Fault()
# Event loops disagree on a timer at infinity; nobody waits for this one.
_FOREVER = 1e7
# Seconds that aiohttp waits for a handler. Those still at work were ended before.
_SHUTDOWN_TIMEOUT = 0.1
# Closing a socket with a linger time of zero sends a TCP reset.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@attrs.frozen(kw_only=True)
class RecordedRequest:
    """A request that arrived at the fake.

    Attributes:
        method: The HTTP method.
        path: The target as sent: with the prefix, percent-encoded, with the query.
        headers: The headers, whatever the case of their names; the key is redacted.
        time: When it arrived: seconds on the clock of the event loop.
    """

    method: str
    path: str
    headers: Mapping[str, str] = attrs.field(hash=False)
    time: float


class FakeSutro:
    """A Sutro service of your own, for as long as an `async with` lasts.

    ```python
    async with FakeSutro() as fake:
        fake.add_job("job-1", timeline=["queued", "running", "succeeded"])
        fake.fail_next(2, status=503, headers={"Retry-After": "1"})
        async with fake.client() as client:
            report = await client.wait_for_job("job-1")
    assert len(fake.requests) == 5
    ```

    Jobs and faults can be added before it runs, and while it does. Use it from one event loop;
    its clients may be anywhere on this machine.

    Args:
        api_key: The key that the server accepts.
        dialect: The form of its answers: `"mapping"`, as the deployed service and the official SDK
            have it, or `"flat"`, as the API reference has it.
        host: The address to listen at.
        port: The port to listen at; 0 takes a free one.

    Attributes:
        api_key: The key that the server accepts.
        dialect: The form of its answers.
        requests: What has arrived, oldest first. Empty it whenever that helps.
        max_in_flight: The most requests that were in flight at one moment.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The key is empty, or the dialect unknown.
    """

    def __init__(
        self,
        *,
        api_key: str = "sk_test",
        dialect: Dialect = "mapping",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if dialect not in get_args(Dialect):
            raise ValueError(f"dialect must be 'mapping' or 'flat', got {dialect!r}")
        self.api_key: str = require_text(api_key, "api_key")
        self.dialect: Dialect = dialect
        self.requests: list[RecordedRequest] = []
        self.max_in_flight: int = 0
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None
        self._jobs: dict[str, FakeJob] = {}
        self._faults = FaultQueue()
        # One connection answers one request at a time, so these are the requests in flight.
        self._busy: set[asyncio.Transport] = set()

    async def __aenter__(self) -> Self:
        """Start to listen.

        Raises:
            RuntimeError: It runs already.
            OSError: The address or the port cannot be had.
        """
        if self._runner is not None:
            raise RuntimeError("this FakeSutro runs already: enter it once, or make another one")
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_TIMEOUT
        )
        await runner.setup()
        await web.TCPSite(runner, self._host, self._port).start()
        self._runner = runner
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop: what is still being answered is cut off."""
        runner, self._runner = self._runner, None
        for transport in self._busy:
            transport.abort()
        if runner is not None:
            await runner.cleanup()

    @property
    def url(self) -> str:
        """The address to give as a base URL, with the port.

        Raises:
            RuntimeError: It does not run, so it has no address.
        """
        if self._runner is None:
            raise RuntimeError("this FakeSutro does not run: use it inside `async with`")
        host, port, *_ = self._runner.addresses[0]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def in_flight(self) -> int:
        """How many requests have arrived and are not answered to the end."""
        return len(self._busy)

    @property
    def faults_left(self) -> int:
        """How many requests are still to get a fault from `fail_next`."""
        return self._faults.left

    def client(self, **options: Any) -> SutroClient:  # noqa: ANN401 - SutroClient's own options
        """Make a client of this server; closing it is yours.

        Args:
            **options: Further options of `SutroClient`.

        Raises:
            RuntimeError: The server does not run.
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

        Texts and objects of the failure, `message`, `metadata` and the fields are sent as given, so
        that any JSON value can be tried.

        Args:
            job_id: Its id.
            timeline: Its statuses, in order; the last one stays. Plain words go by requests: each
                request for the status is answered with the next one. Pairs of a word and seconds,
                with a plain word last, go by the clock, from now on.
            failure_reason: Why it failed, sent once it has: a text, or the whole object.
            additional_context: More about the failure.
            status_reason: Whether the status answer has the failure's reason too; False leaves it
                to the record, as the deployed service often does.
            message: The `message` of the status answer, in place of the fake's own.
            metadata: The `metadata` of the status answer, in place of the fake's own.
            allow_unknown: Whether statuses and fields are sent that this version does not know, as
                a newer server might send them.
            **fields: Fields of the record, in place of the fake's own or beside them.

        Raises:
            TypeError: An argument has the wrong type, or cannot be sent as JSON.
            ValueError: The job is there already, the timeline is empty or its seconds are missing
                or not positive, a status or a field is unknown, or some other argument makes no
                sense.
        """
        if job_id in self._jobs:
            raise ValueError(f"there is a job {job_id!r} already: move it with set_status")
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
        """Put a job at a status from now on; the rest of its timeline is dropped.

        Args:
            job_id: The job.
            status: The status.
            allow_unknown: Whether it may be one that this version does not know.

        Raises:
            TypeError: The status is not a string.
            ValueError: There is no such job, or the status is empty or unknown.
        """
        if job_id not in self._jobs:
            raise ValueError(f"there is no job {job_id!r}: add it with add_job first")
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
        job_id: str | None = None,
    ) -> None:
        """Let the next requests go wrong. Several calls queue up.

        A job's timeline moves on only where the right answer is sent whole. Note that aiohttp's
        client sends a GET once more by itself when its connection ends without an answer: two
        disconnects make one error.

        Args:
            times: How many requests.
            status: Answer with this status, and a body as the service sends it.
            headers: Send these headers too.
            body: Answer with this body; with status 200 where no other is given.
            delay: Seconds before the answer, or before the disconnection; `math.inf` never answers.
            disconnect: Close the connection instead of answering.
            reset: Send the headers and half of the body, then reset the connection.
            truncate: Send the headers and half of the body, then close the connection.
            job_id: Only requests about this job; others pass, and are not counted.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: Nothing is to go wrong, the arguments contradict each other, or a number is
                out of range.
        """
        endings: dict[Ending, bool] = {
            "disconnect": disconnect,
            "reset": reset,
            "truncate": truncate,
        }
        chosen = [ending for ending, wanted in endings.items() if wanted]
        has_answer = bool(status is not None or headers or body is not None)
        if not (chosen or has_answer or delay):
            raise ValueError(
                "say what goes wrong: status, headers, body, delay, disconnect, reset or truncate"
            )
        if len(chosen) > 1:
            raise ValueError(f"an answer ends in one way: choose one of {', '.join(chosen)}")
        if disconnect and has_answer:
            raise ValueError("disconnect sends no answer: drop status, headers and body")
        if chosen and body is not None and len(body) == 0:
            raise ValueError(f"{chosen[0]} cuts a body in half: give one that is not empty")
        self._faults.add(
            Fault(
                times=times,
                status=200 if status is None and body is not None else status,
                headers=CIMultiDict(headers or {}),
                body=body.encode() if isinstance(body, str) else body,
                delay=delay,
                ending=chosen[0] if chosen else "whole",
                job_id=job_id,
            )
        )

    def clear_faults(self) -> None:
        """Drop the faults that are still queued."""
        self._faults.clear()

    async def _handle(self, request: web.Request) -> web.Response:
        self.requests.append(self._record(request))
        endpoint, job_id = _parse_path(request.raw_path)
        fault = self._faults.take(job_id) or _NO_FAULT
        # It is there: the handler of a lost connection is cancelled, even before its first step.
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
                status, body = self._answer(request, endpoint, job_id, fault)
            if body is None:
                body = error_body(status, job_id)
            response = _response(status, body, fault.headers)
            # That a client leaves while it is answered is no error of the server.
            with suppress(ConnectionError):
                await _send(response, request, transport, fault.ending)
            return response
        finally:
            self._busy.discard(transport)

    def _record(self, request: web.Request) -> RecordedRequest:
        headers: CIMultiDict[str] = CIMultiDict()
        for name, value in request.headers.items():
            if name.lower() == "authorization":
                # Whole: a key that this server refuses may be a real one.
                headers.add(name, "Key [redacted]" if value.startswith("Key ") else _REDACTED)
            else:
                headers.add(name, value.replace(self.api_key, _REDACTED))
        return RecordedRequest(
            method=request.method,
            path=request.raw_path,
            headers=CIMultiDictProxy(headers),
            time=asyncio.get_running_loop().time(),
        )

    def _answer(
        self, request: web.Request, endpoint: str, job_id: str, fault: Fault
    ) -> tuple[int, bytes | None]:
        """Give status and body as the service would; no body stands for the usual one."""
        if not endpoint:
            return 404, None
        if request.method != "GET":
            return 405, None
        if request.headers.get("Authorization") != f"Key {self.api_key}":
            return 401, None
        job = self._jobs.get(job_id)
        if job is None:
            return 404, None
        now = monotonic()
        if endpoint == "jobs":
            body = {"job": job.record(self.dialect, now)}
        else:
            # An answer that will be cut tells the client nothing.
            if fault.ending == "whole":
                job.timeline.advance(now)
            body = job.status_body(self.dialect, now)
        return 200, json.dumps(body).encode()


def _parse_path(path: str) -> tuple[str, str]:
    """Give the endpoint and the job id that a path names; both empty where it names none."""
    match = _ROUTE.fullmatch(path)
    return (match["endpoint"], unquote(match["job_id"])) if match else ("", "")


def _response(status: int, body: bytes, headers: Mapping[str, str]) -> web.Response:
    content_type = "text/html" if body.startswith(b"<") else "application/json"
    merged = CIMultiDict({"Content-Type": content_type})
    merged.update(headers)
    return web.Response(status=status, headers=merged, body=body)


async def _send(
    response: web.Response, request: web.Request, transport: asyncio.Transport, ending: Ending
) -> None:
    await response.prepare(request)
    if ending == "whole":
        await response.write_eof()
        return
    body = cast("bytes", response.body)
    await response.write(body[: len(body) // 2])
    if ending == "reset":
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.close()
