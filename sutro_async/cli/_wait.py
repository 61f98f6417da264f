"""The command `wait`: shows the changes of many jobs, then reads their records."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from sutro_async import (
    Job,
    JobOutcome,
    JobStatusReport,
    RetryPolicy,
    Stream,
    SutroClient,
    SutroError,
)
from sutro_async.cli._data import summary_fields, write_csv, write_json
from sutro_async.cli._entries import Board
from sutro_async.cli._progress import Progress, open_progress
from sutro_async.cli._show import Output, show_summary

__all__ = ["read_records", "wait_for_all"]

# Seconds for one record and for one batch of them: what they add is not worth more.
_RECORD_TIMEOUT: Final = 10.0
_BATCH_TIMEOUT: Final = 30.0
_BATCH_SIZE: Final = 100


async def wait_for_all(
    client: SutroClient,
    board: Board,
    output: Output,
    *,
    timeout: float | None,
    progress: Progress | None = None,
) -> None:
    """Wait for the jobs of the board, show each change, and a summary at the end.

    If it is cancelled, or ended by an error that concerns all jobs, it shows what is known by then.

    Args:
        client: The client to poll with.
        board: The jobs; it is kept up to date.
        output: Where and how to show them.
        timeout: Seconds for the wait, the summary not included; None for no limit.
        progress: What shows the wait while it runs; by default what fits the output.

    Raises:
        SutroError: An error that concerns all jobs, such as a wrong key.
    """
    progress = progress or open_progress(output, board)
    ended_by: BaseException | None = None
    with progress.opened():
        try:
            async with client.watch_jobs(board.job_ids, timeout=timeout) as outcomes:
                try:
                    await _show_changes(client, outcomes, board, progress)
                finally:  # at an interrupt, changes may have arrived that are not shown yet
                    await _show_what_arrived(outcomes, board, progress)
            await _note_records(client, board, progress)
        except (asyncio.CancelledError, SutroError) as error:
            ended_by = error
            for entry in board.end_early(error):
                progress.show(entry)
    is_worth_it = output.is_data or any(entry.report for entry in board.entries)
    if is_worth_it or not isinstance(ended_by, SutroError):
        _summarise(output, board)
    if ended_by is not None:
        raise ended_by


async def _show_changes(
    client: SutroClient,
    outcomes: Stream[JobOutcome[JobStatusReport]],
    board: Board,
    progress: Progress,
) -> None:
    while True:
        board.note_service(client.stats())
        tick = asyncio.timeout(progress.tick)
        try:
            async with tick:
                outcome = await anext(outcomes, None)
        except TimeoutError:  # the step was cancelled; the stream continues
            if not tick.expired():
                raise
            progress.refresh()
            continue
        if outcome is None:
            return
        progress.show(board.note(outcome))


async def _show_what_arrived(
    outcomes: Stream[JobOutcome[JobStatusReport]], board: Board, progress: Progress
) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            while (outcome := await anext(outcomes, None)) is not None:
                progress.show(board.note(outcome))


async def _note_records(client: SutroClient, board: Board, progress: Progress) -> None:
    def note(record: Job) -> None:
        board.note(record)
        progress.refresh()

    finished = [entry.job_id for entry in board.entries if entry.is_finished]
    await read_records(client, finished, note)


async def read_records(
    client: SutroClient, job_ids: Sequence[str], note: Callable[[Job], None]
) -> None:
    """Read the records of jobs, as long as the service responds in time; best effort.

    Args:
        client: The client.
        job_ids: The jobs.
        note: Gets each record that could be read.
    """
    client = client.with_options(timeout=_RECORD_TIMEOUT, retry=RetryPolicy(attempts=2))
    with suppress(SutroError, TimeoutError):
        for start in range(0, len(job_ids), _BATCH_SIZE):
            async with asyncio.timeout(_BATCH_TIMEOUT):
                outcomes = await client.get_jobs(job_ids[start : start + _BATCH_SIZE])
            for outcome in outcomes.values():
                if outcome.value is not None:
                    note(outcome.value)


def _summarise(output: Output, board: Board) -> None:
    if output.format == "json":
        for entry in board.entries:
            write_json(summary_fields(entry))
    elif output.format == "csv":
        write_csv(board.entries, raw=output.raw)
    else:
        if not output.is_live:
            print()
        show_summary(output, board)
    sys.stdout.flush()
