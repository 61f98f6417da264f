"""Jobs as server-sent events: a report at each change, or a problem.

While the service does not respond there are no reports, and one event says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from http import HTTPStatus
from typing import Final

from fastapi.sse import ServerSentEvent

from sutro_async import JobOutcome, JobStatusReport, Stream, SutroError
from sutro_async.events import ClientStats
from sutro_async.fastapi._problems import log_problem, problem_details, service_trouble

__all__ = ["END", "events"]

END: Final = "end"
"""The id of the last event of a stream."""

_RECONNECT_AFTER: Final = 3000  # milliseconds
# Seconds between two checks whether the service responds: while it does, and while it does not.
_TICK: Final = 3.0
_TICK_IN_OUTAGE: Final = 1.0


async def events(
    outcomes: Stream[JobOutcome[JobStatusReport]],
    job_ids: Iterable[str],
    stats: Callable[[], ClientStats],
) -> AsyncIterator[ServerSentEvent]:
    """Turn the outcomes of `JobMonitor.watch_jobs` into events, until all jobs have finished.

    Args:
        outcomes: The outcomes.
        job_ids: The jobs.
        stats: Returns the state of the client, and so whether the service responds.
    """
    yield ServerSentEvent(retry=_RECONNECT_AFTER)
    # By job id, the newest report.
    unfinished: dict[str, JobStatusReport | None] = dict.fromkeys(job_ids)
    is_settled = True  # whether a new request for the events would get the same for each job
    is_outage = False
    while unfinished:
        tick = _TICK_IN_OUTAGE if is_outage else _TICK
        new_outcomes = await _next_outcomes(outcomes, unfinished, tick)
        if not new_outcomes:
            trouble = service_trouble(stats())
            if trouble is not None and not is_outage:
                is_outage = True
                yield ServerSentEvent(event="trouble", raw_data=trouble.model_dump_json())
            elif trouble is None and is_outage:
                # Any report shows that the service responds again. Without one, the first will.
                new_outcomes = [
                    JobOutcome(job_id=job_id, value=report)
                    for job_id, report in unfinished.items()
                    if report is not None
                ][:1]
        for outcome in new_outcomes:
            if outcome.value is not None:
                event, data = "status", json.dumps(outcome.value.to_dict())
                is_last = outcome.value.is_terminal
                is_outage = False
            else:
                assert outcome.error is not None  # noqa: S101 - one of the two is set
                log_problem(outcome.error)
                problem = problem_details(outcome.error, job_id=outcome.job_id)
                event, data = "problem", problem.model_dump_json(exclude_none=True)
                is_settled &= problem.status < HTTPStatus.INTERNAL_SERVER_ERROR
                is_last = True
            if is_last:
                del unfinished[outcome.job_id]
            else:
                unfinished[outcome.job_id] = outcome.value
            is_end = not unfinished and is_settled
            yield ServerSentEvent(event=event, raw_data=data, id=END if is_end else None)


async def _next_outcomes(
    outcomes: Stream[JobOutcome[JobStatusReport]], unfinished: Iterable[str], seconds: float
) -> list[JobOutcome[JobStatusReport]]:
    """Wait for the next outcome, or for an error that concerns all unfinished jobs.

    Returns:
        The new outcomes; none if there was none for `seconds`.
    """
    step = asyncio.ensure_future(anext(outcomes))
    try:
        await asyncio.wait({step}, timeout=seconds)
    finally:
        step.cancel()  # which a stream survives
    await asyncio.wait({step})
    if step.cancelled():
        return []
    try:
        return [step.result()]
    except SutroError as error:
        return [JobOutcome(job_id=job_id, error=error) for job_id in unfinished]
