"""Jobs as server-sent events: a report at each change, a problem where there is none.

While the service does not answer, there is nothing to report, and one event says so.
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
"""The id of the event after which there are no others."""

_RECONNECT_AFTER: Final = 3000  # milliseconds
# Seconds between two looks whether the service answers: while it does, and while it does not.
_TICK: Final = 3.0
_TICK_IN_TROUBLE: Final = 1.0


async def events(
    outcomes: Stream[JobOutcome[JobStatusReport]],
    job_ids: Iterable[str],
    stats: Callable[[], ClientStats],
) -> AsyncIterator[ServerSentEvent]:
    """Turn the outcomes of `JobMonitor.watch_jobs` into events, until all jobs have ended.

    Args:
        outcomes: The outcomes.
        job_ids: The jobs.
        stats: Says whether the service answers.
    """
    yield ServerSentEvent(retry=_RECONNECT_AFTER)
    # Each with its newest report.
    unfinished: dict[str, JobStatusReport | None] = dict.fromkeys(job_ids)
    is_settled = True  # whether requesting the events again would bring the same for each job
    is_in_trouble = False
    while unfinished:
        tick = _TICK_IN_TROUBLE if is_in_trouble else _TICK
        new_outcomes = await _next_outcomes(outcomes, unfinished, tick)
        if not new_outcomes:
            trouble = service_trouble(stats())
            if trouble is not None and not is_in_trouble:
                is_in_trouble = True
                yield ServerSentEvent(event="trouble", raw_data=trouble.model_dump_json())
            elif trouble is None and is_in_trouble:
                # Any report says so; without one, the first is still to come.
                new_outcomes = [
                    JobOutcome(job_id=job_id, value=report)
                    for job_id, report in unfinished.items()
                    if report is not None
                ][:1]
        for outcome in new_outcomes:
            if outcome.value is not None:
                event, data = "status", json.dumps(outcome.value.to_dict())
                is_last = outcome.value.is_terminal
                is_in_trouble = False
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
        Nothing if there was none for so many seconds.
    """
    tick = asyncio.timeout(seconds)
    try:
        async with tick:
            return [await anext(outcomes)]
    except SutroError as error:
        return [JobOutcome(job_id=job_id, error=error) for job_id in unfinished]
    except TimeoutError:  # the step was cancelled, which a stream survives
        if not tick.expired():
            raise
        return []
