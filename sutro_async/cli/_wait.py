"""The wait for many jobs, shown while it runs."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from sutro_async import JobOutcome, JobStatusReport, RetryPolicy, Stream, SutroClient, SutroError
from sutro_async.cli._board import Board, Event
from sutro_async.cli._views import View

__all__ = ["wait_for_all"]

# A summary is not worth a long wait of its own: seconds for one request, and for one batch.
_RECORD_TIMEOUT: Final = 10.0
_BATCH_TIMEOUT: Final = 30.0
_BATCH_SIZE: Final = 100
_RECORD_RETRY: Final = RetryPolicy(attempts=2)

_Outcomes = Stream[JobOutcome[JobStatusReport]]


async def wait_for_all(
    client: SutroClient, board: Board, view: View, *, timeout: float | None
) -> None:
    """Wait for the jobs of the board, show each change, and a summary at the end.

    If it is cancelled, or ended by an error that concerns all jobs, it shows what is known by then.

    Args:
        client: The client to poll with.
        board: The jobs; it is kept up to date.
        view: What shows them.
        timeout: Seconds for the wait, the summary not included; None for no limit.

    Raises:
        SutroError: An error that concerns all jobs, such as a wrong key.
    """
    try:
        with view.opened():
            reading_rows = asyncio.create_task(_read_rows(client, board, view))
            try:
                async with client.watch_jobs(board.entries, timeout=timeout) as outcomes:
                    try:
                        await _show_changes(outcomes, board, view)
                    finally:  # after an interrupt, there may be something to show
                        await _show_the_rest(outcomes, board, view)
            finally:
                await _cancel(reading_rows)
            await _read_records(client, board, view)
    except (asyncio.CancelledError, SutroError) as error:
        view.summarise(ended_by=error)
        raise
    view.summarise(ended_by=None)


async def _show_changes(outcomes: _Outcomes, board: Board, view: View) -> None:
    with suppress(StopAsyncIteration):
        while True:
            outcome = await _next_outcome(outcomes, within=view.tick)
            if outcome is None:
                view.refresh()
            else:
                view.show(board.note(_event(outcome)))


async def _show_the_rest(outcomes: _Outcomes, board: Board, view: View) -> None:
    """Show what has arrived, without waiting for more."""
    with suppress(StopAsyncIteration):
        while (outcome := await _next_outcome(outcomes, within=0)) is not None:
            view.show(board.note(_event(outcome)))


async def _next_outcome(
    outcomes: _Outcomes, *, within: float
) -> JobOutcome[JobStatusReport] | None:
    step = asyncio.ensure_future(anext(outcomes))
    try:
        await asyncio.wait({step}, timeout=within)
    finally:
        step.cancel()  # the stream survives that
        await asyncio.wait({step})
    return None if step.cancelled() else step.result()


def _event(outcome: JobOutcome[JobStatusReport]) -> Event:
    report = outcome.value
    return outcome if report is None or report.is_terminal else report


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _read_records(client: SutroClient, board: Board, view: View) -> None:
    """Read the records of finished jobs, as long as the service answers in time."""
    client = client.with_options(timeout=_RECORD_TIMEOUT, retry=_RECORD_RETRY)
    job_ids = [entry.job_id for entry in board.entries.values() if entry.has_ended]
    with suppress(SutroError, TimeoutError):
        for start in range(0, len(job_ids), _BATCH_SIZE):
            async with asyncio.timeout(_BATCH_TIMEOUT):
                outcomes = await client.get_jobs(job_ids[start : start + _BATCH_SIZE])
            for outcome in outcomes.values():
                if outcome.value is not None:
                    board.note(outcome.value)
            view.refresh()


async def _read_rows(client: SutroClient, board: Board, view: View) -> None:
    """Read the records of the jobs on the screen: one at a time, so as not to delay the wait."""
    client = client.with_options(retry=RetryPolicy(attempts=1))
    while True:
        entry = view.next_without_record()
        if entry is None:
            await asyncio.sleep(view.tick)
            continue
        with suppress(SutroError):
            board.note(await client.get_job(entry.job_id))
