"""A server with broken responses of every kind, and the table of these faults.

It uses raw sockets, since no HTTP server would send most of this. Each fault is a function
of one exchange, registered in `FAULTS` with what the library promises for it. The campaign, the
tests of single faults and the table in `docs/reliability.md` all use that table.

Each broken response with a status says that the job was cancelled, which is never true here: a
client that accepts one reports the wrong status.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import gzip
import json
import re
import socket
import ssl
import struct
import zlib
from collections.abc import Awaitable, Callable
from typing import Final, Self
from urllib.parse import unquote

import attrs

from sutro_async import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    GoneError,
    InvalidResponseError,
    RateLimitError,
    ServerError,
)

WRONG_STATUS: Final = "cancelled"

_REQUEST: Final = re.compile(rb"GET (?:/v1)?/(job-status|jobs)/(\S+) HTTP/1\.1\r\n")
# Closing a socket with a linger time of zero sends a TCP reset.
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Promise(enum.Enum):
    """What the library promises for a fault."""

    UNNOTICED = "the caller gets the correct response"
    NEXT_RETRIED = "the caller gets the correct response; the next call is retried"
    RETRIED = "a call is retried, a wait continues"
    SURVIVED = "a call fails at once, a wait continues"
    FINAL = "a call and a wait fail at once"


@attrs.frozen(kw_only=True)
class Fault:
    """One way to break a response.

    Attributes:
        name: Its name.
        does: What the server does, in words.
        promise: What the library promises.
        error: The error of a call that is not retried; None if it gets its response. With
            `NEXT_RETRIED`, the error of the next call on the connection.
        status_code: The status of the error.
        inject: Breaks the response.
        can_spread: Whether it can also affect a later request, for which nothing is promised.
    """

    name: str
    does: str
    promise: Promise
    error: type[APIError] | None
    status_code: int | None
    inject: Callable[[Exchange], Awaitable[None]]
    can_spread: bool = False


FAULTS: Final[dict[str, Fault]] = {}


# ---- the server


class HostileServer:
    """Responds correctly, unless a fault is set.

    Args:
        status_of: Returns the status of a job; called for each correct response.
        choose_fault: Returns the fault of a request for a job; None for a correct response.
        ssl_context: For a server that speaks TLS.

    Attributes:
        requests: The request lines and headers received.
        keeps_requests: Whether to keep them.
        in_flight: The number of requests received that neither side has ended.
        max_in_flight: The largest number of them at one time.
        accepted: The number of connections accepted.
        client_timeout: The timeout of the client in seconds, for faults that exceed it.
    """

    def __init__(
        self,
        status_of: Callable[[str], str],
        choose_fault: Callable[[str], Fault | None] = lambda _: None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        client_timeout: float = 1.0,
    ) -> None:
        self.status_of = status_of
        self.choose_fault = choose_fault
        self.client_timeout = client_timeout
        self.requests: list[bytes] = []
        self.keeps_requests = True
        self.in_flight = 0
        self.max_in_flight = 0
        self.accepted = 0
        self.connections: set[Connection] = set()
        self._ssl_context = ssl_context
        self._listener: socket.socket | None = None
        self._reopening: asyncio.TimerHandle | None = None
        self._accepting: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        # It never listens: it reserves the port while connections are refused.
        self._guard = self._bound_socket(port=0)
        self.port: int = self._guard.getsockname()[1]
        self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
        self._stop_listening()
        self._guard.close()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        tasks = [connection.serving for connection in self.connections if connection.serving]
        for connection in list(self.connections):
            connection.writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self.connections:  # the sockets are closed in the next iteration of the event loop
            await asyncio.sleep(0)

    @property
    def url(self) -> str:
        scheme = "https" if self._ssl_context else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    def refuse(self, seconds: float) -> None:
        """Refuse new connections for a while."""
        if self._listener is not None:
            self._stop_listening()
            self._reopening = asyncio.get_running_loop().call_later(seconds, self._listen)

    def note_begin(self) -> None:
        self.in_flight += 1
        # The end of one connection and a request on the next may be seen in the same iteration of
        # the event loop, in any order; so count after it.
        asyncio.get_running_loop().call_soon(self._note_peak)

    def note_end(self) -> None:
        self.in_flight -= 1

    def _note_peak(self) -> None:
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    # Not asyncio.start_server, which loses a connection accepted in the iteration that closes it.

    def _bound_socket(self, port: int) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        return sock

    def _listen(self) -> None:
        self._listener = self._bound_socket(self.port)
        self._listener.setblocking(False)
        self._listener.listen(1000)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client has disconnected
            sock, _ = listener.accept()
            self.accepted += 1
            task = asyncio.create_task(self._open(sock))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    async def _open(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the TLS handshake failed
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(self), sock, ssl=self._ssl_context
            )


class Connection(asyncio.StreamReaderProtocol):
    """One connection of a client, closed as soon as the client disconnects.

    Attributes:
        drops_next: Whether to close the connection at the next request, without a response.
    """

    def __init__(self, server: HostileServer) -> None:
        super().__init__(asyncio.StreamReader(limit=2**20), self._begin)
        self.drops_next = False
        self.serving: asyncio.Task[None] | None = None
        self.writer: asyncio.StreamWriter
        self._server = server
        self._is_busy = False

    def data_received(self, data: bytes) -> None:
        if not self._is_busy:
            self._is_busy = True
            self._server.note_begin()
        super().data_received(data)

    def eof_received(self) -> bool:
        self.note_end()
        super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.note_end()
        self._server.connections.discard(self)
        if self.serving is not None:
            self.serving.cancel()
        super().connection_lost(exc)

    def note_end(self) -> None:
        """Note that the client has received everything that its request will get."""
        if self._is_busy:
            self._is_busy = False
            self._server.note_end()

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._server.connections.add(self)
        self.serving = asyncio.create_task(self._serve(reader))

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not self.writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                await self._respond(head)
                self.note_end()
        self.writer.close()

    async def _respond(self, head: bytes) -> None:
        server = self._server
        if server.keeps_requests:
            server.requests.append(head)
        if self.drops_next:
            self.writer.close()
            return
        match = _REQUEST.match(head)
        assert match is not None, head
        exchange = Exchange(
            server=server,
            connection=self,
            job_id=unquote(match[2].decode()),
            is_record=match[1] == b"jobs",
        )
        fault = server.choose_fault(exchange.job_id)
        if fault is None:
            exchange.send(exchange.correct_body())
        else:
            await fault.inject(exchange)


@attrs.frozen(kw_only=True)
class Exchange:
    """One request, as a fault sees it."""

    server: HostileServer
    connection: Connection
    job_id: str
    is_record: bool

    def correct_body(self) -> bytes:
        """The body of a correct response."""
        return self.body(self.server.status_of(self.job_id))

    def wrong_body(self, **more: object) -> bytes:
        """A body that the client must not accept."""
        return self.body(WRONG_STATUS, **more)

    def body(self, status: str, *, job_id: str | None = None, **more: object) -> bytes:
        job_id = job_id or self.job_id
        content: dict[str, object]
        if self.is_record:
            content = {"job": {"job_id": job_id, "status": status}}
        elif job_id == self.job_id:
            # The form without an id: a response to another job would be accepted. A failure has a
            # reason, since a wait would otherwise read the record too.
            metadata = {"failure_reason": "no GPU"} if status == "failed" else None
            content = {"message": f"about {job_id}", "job_status": status, "metadata": metadata}
        else:
            content = {"message": "", "job_status": {job_id: status}, "metadata": None}
        return json.dumps({**content, **more}).encode()

    def send(self, body: bytes, *headers: str, status: int = 200, length: object = None) -> None:
        """Send a response in one piece."""
        self.write(self.response(body, *headers, status=status, length=length))

    def response(
        self, body: bytes, *headers: str, status: int = 200, length: object = None
    ) -> bytes:
        """The bytes of a response."""
        lines = [
            f"HTTP/1.1 {status} Whatever",
            "Content-Type: application/json",
            f"Content-Length: {len(body) if length is None else length}",
            *headers,
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def write(self, data: bytes) -> None:
        self.connection.writer.write(data)

    async def flood(self, data: bytes, *, pause: float = 0) -> None:
        """Send it repeatedly, as fast as it is read, until the client disconnects."""
        while not self.connection.writer.is_closing():
            self.write(data)
            await self.connection.writer.drain()
            await asyncio.sleep(pause)

    def close(self) -> None:
        self.connection.writer.close()

    def reset(self) -> None:
        transport = self.connection.writer.transport
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()

    async def hang(self) -> None:
        """Do nothing until the client disconnects."""
        await asyncio.Event().wait()


# ---- the table

Injection = Callable[[Exchange], Awaitable[None]]


def _fault(
    does: str,
    promise: Promise = Promise.RETRIED,
    error: type[APIError] | None = APIConnectionError,
    *,
    status_code: int | None = None,
    can_spread: bool = False,
) -> Callable[[Injection], Injection]:
    """Register a function in the table."""

    def register(inject: Injection) -> Injection:
        name = inject.__name__
        assert name not in FAULTS, name
        FAULTS[name] = Fault(
            name=name,
            does=does,
            promise=promise,
            error=None if promise is Promise.UNNOTICED else error,
            status_code=status_code,
            inject=inject,
            can_spread=can_spread,
        )
        return inject

    return register


def _sends(
    name: str,
    does: str,
    send: Callable[[Exchange], None],
    promise: Promise = Promise.RETRIED,
    error: type[APIError] | None = APIConnectionError,
    *,
    status_code: int | None = None,
) -> None:
    """Register a fault that only sends something."""

    async def inject(x: Exchange) -> None:
        send(x)

    inject.__name__ = name
    _fault(does, promise, error, status_code=status_code)(inject)


# -- connections


@_fault("refuses connections for 20 ms, and resets the current one")
async def refuse(x: Exchange) -> None:
    x.server.refuse(0.02)
    x.reset()


@_fault("resets the connection before it responds")
async def reset_at_once(x: Exchange) -> None:
    x.reset()


@_fault("closes the connection before it responds")
async def close_at_once(x: Exchange) -> None:
    x.close()


@_fault("resets the connection within the headers")
async def reset_in_headers(x: Exchange) -> None:
    x.write(x.response(x.wrong_body())[:30])
    await asyncio.sleep(0.002)
    x.reset()


@_fault("closes the connection within the headers")
async def close_in_headers(x: Exchange) -> None:
    x.write(x.response(x.wrong_body())[:30])
    x.close()


@_fault("resets the connection within the body")
async def reset_in_body(x: Exchange) -> None:
    x.send(x.wrong_body(), length=1000)
    await asyncio.sleep(0.002)
    x.reset()


@_fault("closes the connection within the body")
async def close_in_body(x: Exchange) -> None:
    x.send(x.wrong_body()[:20], length=len(x.wrong_body()))
    x.close()


@_fault("closes a keep-alive connection right after its response", Promise.UNNOTICED)
async def close_after_response(x: Exchange) -> None:
    x.send(x.correct_body())
    x.close()


@_fault("half-closes a keep-alive connection right after its response", Promise.UNNOTICED)
async def half_close_after_response(x: Exchange) -> None:
    x.send(x.correct_body())
    x.connection.writer.write_eof()
    # A request sent before the client has noticed can no longer get a response.
    x.connection.drops_next = True


@_fault("resets a keep-alive connection 2 ms after its response", Promise.UNNOTICED)
async def reset_after_response(x: Exchange) -> None:
    x.send(x.correct_body())
    x.connection.note_end()
    await asyncio.sleep(0.002)
    x.reset()


@_fault("closes a keep-alive connection as the next request arrives", Promise.NEXT_RETRIED)
async def close_at_next_request(x: Exchange) -> None:
    x.send(x.correct_body())
    x.connection.drops_next = True


@_fault("sends a second, unsolicited response", Promise.UNNOTICED, can_spread=True)
async def respond_twice(x: Exchange) -> None:
    x.send(x.correct_body())
    x.connection.note_end()
    await asyncio.sleep(0.002)
    x.send(x.wrong_body())


# -- time


@_fault("never responds", error=APITimeoutError)
async def never_respond(x: Exchange) -> None:
    await x.hang()


@_fault("stops within the headers", error=APITimeoutError)
async def stop_in_headers(x: Exchange) -> None:
    x.write(x.response(x.wrong_body())[:30])
    await x.hang()


@_fault("stops within the body", error=APITimeoutError)
async def stop_in_body(x: Exchange) -> None:
    x.send(x.wrong_body(), length=1000)
    await x.hang()


@_fault("responds after the timeout", error=APITimeoutError)
async def respond_late(x: Exchange) -> None:
    try:
        await asyncio.sleep(x.server.client_timeout + 0.1)
    finally:  # the client has probably disconnected
        x.send(x.wrong_body())


@_fault("sends one byte at a time, fast enough", Promise.UNNOTICED)
async def drip(x: Exchange) -> None:
    for byte in x.response(x.correct_body()):
        x.write(bytes([byte]))
        await asyncio.sleep(0)


@_fault("sends one byte at a time, too slowly", error=APITimeoutError)
async def drip_slowly(x: Exchange) -> None:
    response = x.response(x.wrong_body())
    for byte in response:
        x.write(bytes([byte]))
        await asyncio.sleep(4 * x.server.client_timeout / len(response))


# -- lengths


_sends(
    "length_too_long",
    "sends a Content-Length that is too long, and closes",
    lambda x: (x.send(x.wrong_body(), length=len(x.wrong_body()) + 1), x.close()),
)
_sends(
    "length_too_short",
    "sends a Content-Length that is too short",
    lambda x: x.send(x.wrong_body(), length=len(x.wrong_body()) - 10),
)
_sends(
    "length_negative",
    "sends a negative Content-Length",
    lambda x: x.send(x.wrong_body(), length=-5),
)
_sends(
    "length_not_a_number",
    "sends a Content-Length that is not a number",
    lambda x: x.send(x.wrong_body(), length="many"),
)
_sends(
    "length_twice",
    "sends two different Content-Lengths",
    lambda x: x.send(x.wrong_body(), f"Content-Length: {len(x.wrong_body()) - 1}"),
)
_sends(
    "length_and_chunks",
    "sends a Content-Length, and chunks",
    lambda x: x.send(_chunks(x.wrong_body()), "Transfer-Encoding: chunked"),
)


# -- chunks


def _chunks(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def _chunked(x: Exchange, data: bytes, *, close: bool = False) -> None:
    x.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    if close:
        x.close()


_sends(
    "chunks_cut",
    "breaks off between two chunks",
    lambda x: _chunked(x, _chunks(x.wrong_body()).removesuffix(b"0\r\n\r\n"), close=True),
)
_sends(
    "chunk_cut",
    "breaks off within a chunk",
    lambda x: _chunked(x, _chunks(x.wrong_body())[:20], close=True),
)
_sends(
    "chunk_size_not_a_number",
    "sends a chunk size that is not a number",
    lambda x: _chunked(x, b"zz\r\n" + x.wrong_body() + b"\r\n0\r\n\r\n"),
)
_sends(
    "chunk_size_huge",
    "sends a chunk size that overflows",
    lambda x: _chunked(x, b"f" * 17 + b"\r\n" + x.wrong_body() + b"\r\n0\r\n\r\n"),
)
_sends(
    "chunk_size_too_small",
    "sends a chunk that is longer than it says",
    lambda x: _chunked(x, b"5\r\n" + x.wrong_body() + b"\r\n0\r\n\r\n"),
)


# -- compression


def _zipped(x: Exchange, data: bytes, *, encoding: str = "gzip", status: int = 200) -> None:
    x.send(data, f"Content-Encoding: {encoding}", status=status)


def _bomb(gigabytes: int) -> bytes:
    """A gzip body of a megabyte for each gigabyte of spaces."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    # After a full flush the block is byte-aligned and self-contained, so it can be repeated.
    block = deflate.compress(b" " * 2**20) + deflate.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + block * (1024 * gigabytes)


BOMB: Final = _bomb(4)


_sends(
    "gzip_broken",
    "sends invalid gzip",
    lambda x: _zipped(x, x.wrong_body()),
)
_sends(
    "gzip_bad_checksum",
    "sends gzip with a wrong checksum",
    lambda x: _zipped(x, gzip.compress(x.wrong_body())[:-8] + b"\0" * 8),
)
_sends(
    "gzip_cut",
    "sends truncated gzip",
    lambda x: _zipped(x, gzip.compress(x.wrong_body())[:-20]),
    Promise.SURVIVED,
    InvalidResponseError,
)
_sends(
    "gzip_bomb",
    "sends gzip that expands to 4 GiB",
    lambda x: _zipped(x, BOMB),
    Promise.SURVIVED,
    InvalidResponseError,
)
_sends(
    "gzip_bomb_in_error",
    "sends an error whose gzip expands to 4 GiB",
    lambda x: _zipped(x, BOMB, status=502),
    Promise.RETRIED,
    ServerError,
    status_code=502,
)
_sends(
    "encoding_not_requested",
    "sends a body in an encoding that was not requested",
    lambda x: _zipped(x, x.wrong_body(), encoding="br"),
)


@_fault("sends an endless body", Promise.SURVIVED, InvalidResponseError)
async def endless_body(x: Exchange) -> None:
    x.write(b"HTTP/1.1 200 OK\r\n\r\n")
    await x.flood(b" " * 2**18)


# -- headers


_sends(
    "header_long",
    "sends a header of a megabyte",
    lambda x: x.send(x.wrong_body(), "X-Long: " + "a" * 2**20),
)
_sends(
    "headers_many",
    "sends ten thousand headers",
    lambda x: x.send(x.wrong_body(), *(f"X-{number}: a" for number in range(10_000))),
)


@_fault("sends endless headers")
async def endless_headers(x: Exchange) -> None:
    x.write(b"HTTP/1.1 200 OK\r\n")
    await x.flood(b"X: " + b"a" * 500 + b"\r\n")


_sends(
    "header_with_nul",
    "sends a header with a NUL",
    lambda x: x.send(x.wrong_body(), "X: \0"),
)


# -- 1xx


_sends(
    "informed_first",
    "sends 100, 102 and 103 before its response",
    lambda x: x.write(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"
        + x.response(x.correct_body())
    ),
    Promise.UNNOTICED,
)


@_fault("sends endless 100 responses", error=APITimeoutError)
async def endless_informed(x: Exchange) -> None:
    await x.flood(b"HTTP/1.1 100 Continue\r\n\r\n" * 10, pause=0.005)


_sends(
    "switched",
    "switches to another protocol",
    lambda x: x.write(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        + x.response(x.wrong_body())
    ),
    Promise.FINAL,
    APIStatusError,
    status_code=101,
)


# -- 3xx


def _redirect(name: str, does: str, status: int, target: Callable[[Exchange], str]) -> None:
    _sends(
        name,
        does,
        lambda x: x.send(x.wrong_body(), f"Location: {target(x)}", status=status),
        Promise.FINAL,
        APIStatusError,
        status_code=status,
    )


_redirect("redirect", "redirects to another host", 302, lambda _: "https://evil.test/steal")
_redirect(
    "redirect_to_port", "redirects to another port", 301, lambda x: f"http://127.0.0.1:1/{x.job_id}"
)
_redirect(
    "redirect_to_itself",
    "redirects to itself",
    307,
    lambda x: f"{x.server.url}/v1/job-status/{x.job_id}",
)
_redirect("redirect_to_file", "redirects to a file", 308, lambda _: "file:///etc/passwd")
_sends(
    "not_modified",
    "says that nothing has changed",
    lambda x: x.write(b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    Promise.FINAL,
    APIStatusError,
    status_code=304,
)


# -- no HTTP


def _raw(name: str, does: str, data: Callable[[Exchange], bytes]) -> None:
    _sends(name, does, lambda x: (x.write(data(x)), x.close()))


_raw("http_0_9", "speaks HTTP/0.9: a body and nothing else", lambda x: x.wrong_body())
_raw(
    "http_9_9",
    "speaks HTTP/9.9",
    lambda x: x.response(x.wrong_body()).replace(b"HTTP/1.1", b"HTTP/9.9"),
)
_raw("http_2", "speaks HTTP/2", lambda _: bytes.fromhex("000012040000000000000300000064"))
_raw("ssh", "speaks SSH", lambda _: b"SSH-2.0-OpenSSH_9.6\r\n")
_raw("garbage", "sends random bytes", lambda _: bytes(range(255, 0, -1)) * 40)
_raw(
    "status_not_a_number",
    "sends a status that is not a number",
    lambda x: x.response(x.wrong_body()).replace(b"200", b"2OO"),
)


# -- bodies


def _body(name: str, does: str, body: Callable[[Exchange], bytes]) -> None:
    _sends(name, does, lambda x: x.send(body(x)), Promise.SURVIVED, InvalidResponseError)


def _with_number(x: Exchange, digits: bytes) -> bytes:
    return x.wrong_body(number=12345).replace(b"12345", digits)


_body("million_brackets", "sends a million brackets", lambda _: b"[" * 10**6)
_body(
    "million_levels",
    "sends a million objects, one inside the other",
    lambda _: b'{"job_status":' * 10**6 + b"1" + b"}" * 10**6,
)
_body("nan", "sends NaN", lambda x: _with_number(x, b"NaN"))
_body("infinity", "sends -Infinity", lambda x: _with_number(x, b"-Infinity"))
_body("number_huge", "sends 1e400", lambda x: _with_number(x, b"1e400"))
_body("number_long", "sends a number of 100,000 digits", lambda x: _with_number(x, b"1" * 10**5))
_body(
    "name_twice",
    "sends a key twice in one object",
    lambda x: x.body("running")[:-1] + b", " + x.wrong_body()[1:],
)
_body("other_job", "reports under another id", lambda x: x.body(WRONG_STATUS, job_id="another"))
_body("html", "sends a page of HTML with status 200", lambda _: b"<html><h1>Welcome</h1></html>")
_body("empty", "sends an empty body with status 200", lambda _: b"")
_body("null", "sends null", lambda _: b"null")
_body("wrong_types", "sends numbers for strings", lambda _: b'{"job_status": 3, "job": 3}')
_body("body_cut", "sends half of the JSON as the whole", lambda x: x.wrong_body()[:-5])
_body("bodies_two", "sends two bodies in one", lambda x: x.body("running") + x.wrong_body())
_body("utf_16", "sends UTF-16", lambda x: x.wrong_body().decode().encode("utf-16"))
_body("utf_8_broken", "sends broken UTF-8", lambda x: x.wrong_body(text="?").replace(b"?", b"\xff"))
_sends(
    "no_content",
    "responds with 204",
    lambda x: x.write(b"HTTP/1.1 204 No Content\r\n\r\n"),
    Promise.SURVIVED,
    InvalidResponseError,
)
_sends(
    "partial_content",
    "responds with 206",
    lambda x: x.send(x.wrong_body(), status=206),
    Promise.SURVIVED,
    InvalidResponseError,
)


# -- statuses


_HTML: Final = b"<html><h1>502 Bad Gateway</h1></html>"

for _status in (408, 425, 500, 502, 503, 504, 520, 524, 530):
    _sends(
        f"status_{_status}",
        f"responds with {_status} and a page of HTML",
        lambda x, status=_status: x.send(_HTML, status=status),
        Promise.RETRIED,
        ServerError if _status >= 500 else APIStatusError,
        status_code=_status,
    )
_sends(
    "rate_limit",
    "responds with 429 and a Retry-After of 5 ms",
    lambda x: x.send(b'{"detail": "slow down"}', "Retry-After: 0.005", status=429),
    Promise.RETRIED,
    RateLimitError,
    status_code=429,
)
_sends(
    "rate_limit_nonsense",
    "responds with 429 and an invalid Retry-After",
    lambda x: x.send(b"", "Retry-After: -1e999 days", status=429),
    Promise.RETRIED,
    RateLimitError,
    status_code=429,
)
_sends(
    "error_cut",
    "breaks off within the body of an error",
    lambda x: (x.send(_HTML, status=502, length=1000), x.close()),
    Promise.RETRIED,
    ServerError,
    status_code=502,
)
_sends(
    "error_of_brackets",
    "responds with 500 and a million brackets",
    lambda x: x.send(b"[" * 10**6, status=500),
    Promise.RETRIED,
    ServerError,
    status_code=500,
)
_sends(
    "gone",
    "responds with 410",
    lambda x: x.send(b'{"detail": "gone"}', status=410),
    Promise.FINAL,
    GoneError,
    status_code=410,
)
_sends(
    "status_unknown",
    "responds with 799",
    lambda x: x.send(x.wrong_body(), status=799),
    Promise.FINAL,
    APIStatusError,
    status_code=799,
)


def row(fault: Fault) -> str:
    """The row of a fault in the table of the documentation."""
    error = "" if fault.error is None else f"`{fault.error.__name__}`"
    if fault.status_code is not None:
        error += f" {fault.status_code}"
    return f"| `{fault.name}` | {fault.does} | {fault.promise.value} | {error} |"
