"""Jobs as server-sent events: a report at each change, a problem where there is none."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from http import HTTPStatus
from typing import Final

from fastapi.sse import ServerSentEvent

from sutro_async import JobOutcome, JobStatusReport, Stream, SutroError
from sutro_async.fastapi._problems import log_problem, problem_details

__all__ = ["END", "events"]

END: Final = "end"
"""The id of the event after which there are no others."""

_RECONNECT_AFTER: Final = 3000  # milliseconds


async def events(
    outcomes: Stream[JobOutcome[JobStatusReport]], job_ids: Iterable[str]
) -> AsyncIterator[ServerSentEvent]:
    """Turn the outcomes of `JobMonitor.watch_jobs` into events, until all jobs have ended."""
    yield ServerSentEvent(retry=_RECONNECT_AFTER)
    unfinished = dict.fromkeys(job_ids)
    is_settled = True  # whether requesting the events again would bring the same for each job
    while unfinished:
        for outcome in await _next_outcomes(outcomes, unfinished):
            if outcome.value is not None:
                event, data = "status", json.dumps(outcome.value.to_dict())
                is_last = outcome.value.is_terminal
            else:
                assert outcome.error is not None  # noqa: S101 - one of the two is set
                log_problem(outcome.error)
                problem = problem_details(outcome.error, job_id=outcome.job_id)
                event, data = "problem", problem.model_dump_json(exclude_none=True)
                is_settled &= problem.status < HTTPStatus.INTERNAL_SERVER_ERROR
                is_last = True
            if is_last:
                del unfinished[outcome.job_id]
            is_end = not unfinished and is_settled
            yield ServerSentEvent(event=event, raw_data=data, id=END if is_end else None)


async def _next_outcomes(
    outcomes: Stream[JobOutcome[JobStatusReport]], unfinished: Iterable[str]
) -> list[JobOutcome[JobStatusReport]]:
    """Wait for the next outcome, or for an error that concerns all unfinished jobs."""
    try:
        return [await anext(outcomes)]
    except SutroError as error:
        return [JobOutcome(job_id=job_id, error=error) for job_id in unfinished]
