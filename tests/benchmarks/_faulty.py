"""A service that is unavailable at times or limits its rate, in a process of its own.

Run as a program it prints the ports of the service and of its control, and serves until its
standard input ends. No job of it ever finishes, except those of `FINISHED`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlencode

# What a proxy sends.
PAGE = b"<html><head><title>We will be back soon</title></head>%b</html>" % (b"<p>sorry</p>" * 200)
FORMS = {
    "503": "503 without Retry-After",
    "429": "429 without Retry-After",
    "reset": "connections reset",
    "html": "HTML with status 200",
    "silence": "no answer until the timeout",
    "refuse": "connections refused",
}
FINISHED = "finished"

# Closing a socket with a linger time of zero sends a TCP reset.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Record(NamedTuple):
    """A request that reached the service's socket."""

    at: float  # seconds of the monotonic clock, which all processes share
    job_id: str
    is_good: bool


class Bucket:
    """A token bucket: a rate of requests a second, and a burst."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._filled_at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self.burst, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Service(asyncio.Protocol):
    """Answers status requests, in the way that was set."""

    records: ClassVar[list[Record]] = []
    form: ClassVar[str] = ""
    limit: ClassVar[Bucket | None] = None
    connections: ClassVar[set[asyncio.Transport]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""
        Service.connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        Service.connections.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            job_id = self.received.split(b" ", 2)[1].rpartition(b"/")[2].decode()
            self.received = self.received[end + 4 :]
            self.answer(job_id)

    def answer(self, job_id: str) -> None:
        is_limited = Service.limit is not None and not Service.limit.take()
        is_good = not Service.form and not is_limited
        Service.records.append(Record(time.monotonic(), job_id, is_good))
        if is_limited:
            self.send(429, b'{"detail": "too fast"}', "Retry-After: 1")
        elif is_good:
            status = "SUCCEEDED" if job_id.startswith(FINISHED) else "RUNNING"
            body = {"message": "", "job_status": {job_id: status}, "metadata": None}
            self.send(200, json.dumps(body).encode())
        elif Service.form in {"503", "429"}:
            self.send(int(Service.form), PAGE)
        elif Service.form == "html":
            self.send(200, PAGE)
        elif Service.form == "reset":
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.transport.abort()

    def send(self, status: int, body: bytes, *headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


# ---- the process


def bound_socket(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


class Control:
    """Controls the service by requests on a port of its own."""

    def __init__(self) -> None:
        # It never listens, but keeps the port while connections are refused.
        self._guard = bound_socket(0)
        self.port: int = self._guard.getsockname()[1]
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            Service, sock=bound_socket(self.port), backlog=4096
        )

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path, _, query = head.split(b" ", 2)[1].decode().partition("?")
        options = dict(part.split("=") for part in query.split("&") if part)
        result = await self.run(path, options)
        body = json.dumps(result).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    async def run(self, path: str, options: dict[str, str]) -> object:
        if path == "/records":
            return Service.records
        if path == "/limit":
            Service.limit = Bucket(float(options["rate"]), float(options["burst"]))
            return None
        form = options.get("form", "")
        if form == "refuse" and self._server is not None:
            self._server.close()
            self._server = None
            for transport in tuple(Service.connections):
                transport.abort()
        elif not form and self._server is None:
            await self.listen()
        Service.form = form
        return time.monotonic()


async def serve() -> None:
    control = Control()
    await control.listen()
    server = await asyncio.start_server(control.handle, "127.0.0.1", 0)
    print(control.port, server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


# ---- its use


def told(control: str, path: str, **options: object) -> Any:
    """Send a command to the service, and return its answer."""
    with urllib.request.urlopen(f"{control}/{path}?{urlencode(options)}") as response:
        return json.load(response)


def begin_outage(control: str, form: str) -> float:
    """Begin an outage of a form, and return when."""
    return told(control, "outage", form=form)


def end_outage(control: str) -> float:
    """End the outage, and return when."""
    return told(control, "outage")


def limit_rate(control: str, rate: float, burst: float) -> None:
    """Refuse requests beyond a rate, with a `Retry-After` of one second."""
    told(control, "limit", rate=rate, burst=burst)


def records(control: str) -> list[Record]:
    """Return all requests that have reached the service."""
    return [Record(*each) for each in told(control, "records")]


@contextmanager
def running_service() -> Iterator[tuple[str, str]]:
    """Run the service; gives the URLs of the service and of its control."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            ports = process.stdout.readline().split()
            service, control = (f"http://127.0.0.1:{port}" for port in ports)
            yield service, control
        finally:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(serve())
