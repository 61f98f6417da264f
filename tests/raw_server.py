"""A server that sends exactly the given bytes, for responses that no server framework allows."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import attrs

from sutro_async.testing._listener import close_listener

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

REPORT = b'{"message": "", "job_status": "running", "metadata": {}}'
SUCCEEDED = REPORT.replace(b"running", b"succeeded")


def raw_response(
    body: bytes, *, status: int = 200, headers: str = "", length: int | None = None
) -> bytes:
    """Return the bytes of an HTTP response."""
    return (
        f"HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n{headers}\r\n"
    ).encode() + body


@attrs.define
class RawServer:
    """A running server, as seen by a test."""

    url: str
    port: int
    requests: list[bytes] = attrs.field(factory=list)


@asynccontextmanager
async def raw_server(
    *script: bytes | Handler, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Respond to each request with the next item of the script; the last one is repeated."""
    steps = list(script)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                server.requests.append(await reader.readuntil(b"\r\n\r\n"))
                step = steps.pop(0) if len(steps) > 1 else steps[0]
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                else:
                    await step(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            # Not close(), which waits until unread data has been sent.
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=ssl_context)
    port = listener.sockets[0].getsockname()[1]
    server = RawServer(url=f"http{'s' if ssl_context else ''}://127.0.0.1:{port}", port=port)
    before = asyncio.all_tasks()
    try:
        yield server
    finally:
        await close_listener(listener)
        handlers = [t for t in asyncio.all_tasks() - before if "serve" in repr(t.get_coro())]
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await listener.wait_closed()
