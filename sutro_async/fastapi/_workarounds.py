"""Workarounds for uvicorn and FastAPI: each with its source, and the versions it was tried with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

__all__ = ["UVICORN_CANCELLATION", "is_cancelled_by_server", "suppress_broken_stream"]

UVICORN_CANCELLATION: Final = "timeout graceful shutdown exceeded"
"""Part of the message with which uvicorn cancels open requests when its shutdown timeout expires.

Nothing else distinguishes this cancellation from others. The message is in `Server.shutdown`:
https://github.com/Kludex/uvicorn/blob/main/uvicorn/server.py. Tried with uvicorn 0.54; 0.22, 0.23,
0.30, 0.35 and 0.40 have the same text. A test fails when it changes. The only effect would be that
a response which the server cancels is cut off, with a traceback in its log.
"""


def is_cancelled_by_server(cancellation: asyncio.CancelledError) -> bool:
    """Whether uvicorn has cancelled the response, because its shutdown timeout has expired."""
    return UVICORN_CANCELLATION in str(cancellation)


@contextmanager
def suppress_broken_stream() -> Iterator[None]:
    """Suppress what FastAPI raises when a visitor disconnects while an event is being sent.

    FastAPI sends events through a stream of anyio, and lets its `BrokenResourceError` through:
    `_sse_producer_cm` in https://github.com/fastapi/fastapi/blob/master/fastapi/routing.py. Tried
    with FastAPI 0.165.
    """
    try:
        yield
    except ExceptionGroup as group:
        _, others = group.split(anyio.BrokenResourceError)
        if others is not None:
            raise others from None
        # If a cancellation has ended the response, the broken stream has replaced it: raise it.
        cause = group.__context__
        if isinstance(cause, asyncio.CancelledError) and not is_cancelled_by_server(cause):
            raise cause from None
