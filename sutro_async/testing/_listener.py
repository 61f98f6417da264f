"""Closing of a server without losing the connections that it has just accepted."""

from __future__ import annotations

import asyncio

__all__ = ["close_listener"]


async def close_listener(listener: asyncio.Server) -> None:
    """Stop listening, once the connections that are already accepted have reached their protocol.

    `asyncio.Server.close` alone leaves a connection that is accepted in the same turn of the event
    loop open for ever, and Python then warns of an unclosed transport in whatever runs next:
    https://github.com/python/cpython/issues/109564. No version of Python ends this yet; it was seen
    with 3.11 to 3.15.
    """
    loop = asyncio.get_running_loop()
    for sock in listener.sockets:
        loop.remove_reader(sock.fileno())
    try:
        await asyncio.sleep(0)
    finally:
        listener.close()
