"""Serves an app on a real port, as uvicorn does it in production, and reads event streams."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

# Closing a socket with a linger time of zero sends a TCP reset.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Server(uvicorn.Server):
    @property
    def port(self) -> int:
        return self.servers[0].sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serve(app, **options) -> AsyncIterator[Server]:
    """Run a server, and stop it as without a signal."""
    config = uvicorn.Config(
        app, **{"port": 0, "log_config": None, "timeout_graceful_shutdown": 1} | options
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.001)
    try:
        yield server
    finally:
        server.should_exit = True
        await serving


class EventStream:
    """A connection that reads one event stream, with minimal HTTP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.head = b""

    @classmethod
    async def open(cls, server: Server, path: str, headers: str = "") -> "EventStream":
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        stream = cls(reader, writer)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
        stream.head = await reader.readuntil(b"\r\n\r\n")
        return stream

    async def next_block(self) -> str:
        """Read one block of the stream, which is a chunk of the response; empty at the end."""
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2))[:-2].decode()

    async def next_event(self) -> dict | None:
        """Read the next event, with its data as parsed; None at the end."""
        while block := await self.next_block():
            fields = dict(line.split(": ", 1) for line in block.strip().splitlines())
            if "data" in fields:
                return fields | {"data": json.loads(fields["data"])}
        return None

    async def events(self) -> list[dict]:
        """Read all events up to the end of the stream."""
        found = []
        while event := await self.next_event():
            found.append(event)
        return found

    async def close(self) -> None:
        """Disconnect like a browser whose page is closed."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def reset(self) -> None:
        """Disconnect with a TCP reset."""
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        await self.close()
