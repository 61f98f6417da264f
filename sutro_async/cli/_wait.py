"""The wait for many jobs, shown as it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final

from sutro_async import Job, JobStatusReport, RetryPolicy, SutroClient, SutroError
from sutro_async.cli._board import Board, Event
from sutro_async.cli._views import View

__all__ = ["wait_for_all"]

# None stands for time that has gone by.
_Queue = asyncio.Queue[Event | None]

# A summary is not worth a long wait of its own: seconds for one request, and for one batch.
_RECORD_TIMEOUT: Final = 10.0
_BATCH_TIMEOUT: Final = 30.0
_BATCH_SIZE: Final = 100
_RECORD_RETRY: Final = RetryPolicy(attempts=2)


async def wait_for_all(
    client: SutroClient, board: Board, view: View, *, timeout: float | None
) -> None:
    """Wait for the jobs of the board, show each change, and a summary at the end.

    When it is cancelled, or ended by an error that is everybody's, it shows what is known by then.

    Args:
        client: The client to ask with.
        board: The jobs, and then what came of them.
        view: What it is shown on.
        timeout: Seconds for the wait, the summary not included; None for no limit.

    Raises:
        SutroError: An error that says nothing about one job, such as a wrong key.
    """
    queue: _Queue = asyncio.Queue()
    try:
        with view.opened():
            try:
                async with aclosing(_events(client, board, view, timeout, queue)) as events:
                    async for event in events:
                        _show(event, board, view)
            except asyncio.CancelledError:
                while not queue.empty():
                    _show(queue.get_nowait(), board, view)
                raise
    except (asyncio.CancelledError, SutroError) as error:
        view.summarise(ended_by=error)
        raise
    view.summarise(ended_by=None)


def _show(event: Event | None, board: Board, view: View) -> None:
    if event is None:
        view.refresh()
        return
    entry = board.note(event)
    if isinstance(event, Job):
        view.refresh()
    else:
        view.show(entry)


async def _events(
    client: SutroClient, board: Board, view: View, timeout: float | None, queue: _Queue
) -> AsyncGenerator[Event | None, None]:
    """Yield the news of the jobs, and None when it is time to refresh the view.

    They go through a queue rather than straight from `on_change` to the view, so that an error of
    the view, such as a broken pipe, ends the wait.
    """
    feeder = asyncio.create_task(_feed(client, board, timeout, queue))
    feeder.add_done_callback(lambda _: queue.put_nowait(None))
    tasks = (feeder, asyncio.create_task(_feed_rows(client, view, queue)))
    try:
        while not (feeder.done() and queue.empty()):
            yield await _next(queue, view.tick)
        feeder.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _next(queue: _Queue, tick: float) -> Event | None:
    try:
        async with asyncio.timeout(tick):
            return await queue.get()
    except TimeoutError:
        return None


async def _feed(client: SutroClient, board: Board, timeout: float | None, queue: _Queue) -> None:
    def on_change(report: JobStatusReport) -> None:
        if not report.is_terminal:  # that one comes with the outcome
            queue.put_nowait(report)

    ended_ids = []
    outcomes = client.as_completed(board.entries, timeout=timeout, on_change=on_change)
    async with aclosing(outcomes):
        async for outcome in outcomes:
            queue.put_nowait(outcome)
            if outcome.ok:
                ended_ids.append(outcome.job_id)
    await _feed_records(client, ended_ids, queue)


async def _feed_records(client: SutroClient, job_ids: list[str], queue: _Queue) -> None:
    """Read the records of the jobs that have ended, as long as the service answers in time."""
    client = client.with_options(timeout=_RECORD_TIMEOUT, retry=_RECORD_RETRY)
    with suppress(SutroError, TimeoutError):
        for start in range(0, len(job_ids), _BATCH_SIZE):
            async with asyncio.timeout(_BATCH_TIMEOUT):
                outcomes = await client.get_jobs(job_ids[start : start + _BATCH_SIZE])
            for outcome in outcomes.values():
                if outcome.value is not None:
                    queue.put_nowait(outcome.value)


async def _feed_rows(client: SutroClient, view: View, queue: _Queue) -> None:
    """Read the records of the jobs on the screen: one at a time, so as not to delay the wait."""
    client = client.with_options(retry=RetryPolicy(attempts=1))
    while True:
        entry = view.next_without_record()
        if entry is None:
            await asyncio.sleep(view.tick)
            continue
        with suppress(SutroError):
            queue.put_nowait(await client.get_job(entry.job_id))
