"""A small forward proxy, which opens tunnels with CONNECT."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import attrs

from sutro_async.testing._listener import close_listener


@attrs.define
class ForwardProxy:
    """A running proxy, as seen by a test.

    Attributes:
        port: Where it listens.
        target: The port on this machine to which every tunnel leads, whatever host it is for.
        credentials: The credentials that it requires, as `user:password`.
        status: The status that it responds with; unless it is 200, it opens no tunnel.
        heads: The heads of the requests that arrived.
        tunnelled: The bytes sent through its tunnels, in both directions.
    """

    port: int
    target: int
    credentials: str | None = None
    status: int = 200
    heads: list[bytes] = attrs.field(factory=list)
    tunnelled: bytearray = attrs.field(factory=bytearray)

    @property
    def connects(self) -> list[str]:
        """The hosts and ports of the requested tunnels."""
        return [head.split()[1].decode() for head in self.heads]


async def _tunnel(proxy, reader, writer):
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", proxy.target)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(proxy, reader, far_writer))
            group.create_task(_pump(proxy, far_reader, writer))
    finally:
        far_writer.transport.abort()


async def _pump(proxy, reader, writer):
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            proxy.tunnelled += data
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@asynccontextmanager
async def forward_proxy(
    target: int, *, credentials: str | None = None, status: int = 200
) -> AsyncIterator[ForwardProxy]:
    """Run a proxy."""
    tasks: set[asyncio.Task] = set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                await respond(reader, writer)
        finally:
            writer.transport.abort()

    async def respond(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        proxy.heads.append(head)
        status = proxy.status
        if proxy.credentials is not None:
            token = base64.b64encode(proxy.credentials.encode())
            if b"Proxy-Authorization: Basic " + token not in head:
                status = 407
        writer.write(f"HTTP/1.1 {status} Whatever\r\n".encode())
        if status == 200:
            writer.write(b"\r\n")
            await _tunnel(proxy, reader, writer)
        else:
            writer.write(b"Content-Length: 6\r\n\r\nrefuse")
            await writer.drain()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy = ForwardProxy(
        port=listener.sockets[0].getsockname()[1],
        target=target,
        credentials=credentials,
        status=status,
    )
    try:
        yield proxy
    finally:
        await close_listener(listener)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()
