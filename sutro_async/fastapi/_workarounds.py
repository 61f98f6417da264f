"""Workarounds for what uvicorn and FastAPI do: each with its source, and where it was tried."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

__all__ = ["UVICORN_CANCELLATION", "is_cancelled_by_server", "suppress_broken_stream"]

UVICORN_CANCELLATION: Final = "timeout graceful shutdown exceeded"
"""Part of the message with which uvicorn cancels what is still open after its last timeout.

There is nothing else to tell it from other cancellations by. It is in `Server.shutdown`:
https://github.com/Kludex/uvicorn/blob/main/uvicorn/server.py. Tried with uvicorn 0.54; 0.22, 0.23,
0.30, 0.35 and 0.40 have the same words. A test fails when they change. An answer that the server
cancels is then cut off, with a traceback in its log, and nothing worse.
"""


def is_cancelled_by_server(cancellation: asyncio.CancelledError) -> bool:
    """Whether uvicorn has cancelled the answer, because its time to stop is up."""
    return UVICORN_CANCELLATION in str(cancellation)


@contextmanager
def suppress_broken_stream() -> Iterator[None]:
    """Drop what FastAPI raises where somebody leaves with an event on its way to them.

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
        # The break has taken the place of a cancellation, if that is what has ended the answer.
        cause = group.__context__
        if isinstance(cause, asyncio.CancelledError) and not is_cancelled_by_server(cause):
            raise cause from None
