"""The long poll: waits for a job, unless its visitor disconnects."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import Request

from sutro_async import (
    ClientStateError,
    JobMonitor,
    JobStatusReport,
    JobWaitTimeoutError,
    Stream,
)

__all__ = ["wait_while_connected"]

_SHORTEST_WAIT: Final = 0.1  # seconds, so that a first poll can finish


async def wait_while_connected(
    request: Request, monitor: JobMonitor, job_id: str, timeout: float
) -> JobStatusReport | None:
    """Wait until a job has finished, for `timeout` seconds; None if its visitor has disconnected.

    Raises:
        SutroError: There was no report in that time.
    """
    reports = monitor.watch(job_id, timeout=max(timeout, _SHORTEST_WAIT))
    waiting = asyncio.create_task(_newest(reports))
    disconnecting = asyncio.create_task(_wait_disconnected(request))
    try:
        await asyncio.wait({waiting, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        waiting.cancel()
        disconnecting.cancel()
        await asyncio.gather(waiting, disconnecting, return_exceptions=True)


async def _newest(reports: Stream[JobStatusReport]) -> JobStatusReport:
    """Return the terminal report, or the newest if the timeout expires or the server stops."""
    newest = None
    try:
        async with reports:
            async for newest in reports:  # noqa: B007 - the last one is wanted
                pass
    except (JobWaitTimeoutError, ClientStateError):
        if newest is None:
            raise
    assert newest is not None  # noqa: S101 - a watch gives a report or raises
    return newest


async def _wait_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
