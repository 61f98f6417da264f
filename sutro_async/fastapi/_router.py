"""The router: jobs by record, by status, by long poll and by event stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Body, Depends, Header, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import StringConstraints

from sutro_async import (
    ClientStateError,
    JobOutcome,
    JobStatusReport,
    JobWaitTimeoutError,
    Stream,
    SutroError,
)
from sutro_async.fastapi._events import END, events
from sutro_async.fastapi._lifespan import MonitorDep, SutroDep
from sutro_async.fastapi._models import (
    JobModel,
    JobOutcomeModel,
    JobOutcomesModel,
    JobStatusReportModel,
    JSONObject,
)
from sutro_async.fastapi._openapi import EVENTS, UNREADABLE_BODY, problems
from sutro_async.fastapi._problems import log_problem, problem_details
from sutro_async.fastapi._route import JobsRoute, StreamFinished

__all__ = ["jobs_router"]

_CLIENT_CLOSED_REQUEST: Final = 499  # a word of nginx, for the access log: nobody gets the answer
_SHORTEST_WAIT: Final = 0.1  # seconds; a first report needs some


def jobs_router() -> APIRouter:
    """Make a router that shows jobs to browsers and other clients of the app.

    - `GET /jobs/{job_id}`: the record
    - `GET /jobs/{job_id}/status`: the status
    - `GET /jobs/{job_id}/wait?timeout=25`: the status when it has ended, or the newest by then
    - `GET /jobs/{job_id}/events`: server-sent events, each change until the end
    - `GET /job-events?job_id=…&job_id=…`: the same for up to 100 jobs, in one stream
    - `POST /jobs/statuses`: the statuses of up to 1000 jobs

    These routes show every job of the account: put the authentication of the app before them, as in
    `app.include_router(jobs_router(), dependencies=[Depends(current_user)])`.
    Errors are problem details (RFC 9457). The app needs `sutro_lifespan`.
    """
    router = APIRouter(route_class=JobsRoute, tags=["jobs"])
    router.get(
        "/jobs/{job_id}",
        response_model=JobModel,
        responses=problems(404, 410),
    )(read_job)
    router.get(
        "/jobs/{job_id}/status",
        response_model=JobStatusReportModel,
        responses=problems(404, 410),
    )(read_job_status)
    router.get(
        "/jobs/{job_id}/wait",
        response_model=JobStatusReportModel,
        response_description="The job has ended.",
        responses=problems(404, 410)
        | {202: {"model": JobStatusReportModel, "description": "The job is still running."}},
    )(wait_for_job)
    for path, endpoint in (
        ("/jobs/{job_id}/events", stream_job_events),
        ("/job-events", stream_jobs_events),
    ):
        router.get(
            path,
            response_class=EventSourceResponse,
            dependencies=[Depends(_reject_finished_stream)],
            responses=problems() | EVENTS,
        )(endpoint)
    router.post(
        "/jobs/statuses",
        response_model=JobOutcomesModel,
        response_model_exclude_unset=True,
        responses=problems() | UNREADABLE_BODY,
    )(read_job_statuses)
    for path in ("", "/status", "/wait", "/events"):
        router.get(f"/jobs/{{job_id}}{path}/", include_in_schema=False)(reject_trailing_slash)
    return router


# ---- what the endpoints depend on

Events = AsyncIterator[ServerSentEvent]

IdText = Annotated[str, StringConstraints(min_length=1, max_length=500)]
JobId = Annotated[IdText, Path(description="The id of a job.")]
JobIds = Annotated[
    list[IdText], Query(min_length=1, max_length=100, description="The ids of the jobs.")
]


@contextmanager
def _refusing_ids(*location: str) -> Iterator[None]:
    """Answer 422 where the library refuses an id, as it does before it asks anything."""
    try:
        yield
    except SutroError:  # first, since a ConfigurationError is a ValueError as well
        raise
    except ValueError as error:
        raise RequestValidationError(
            [{"type": "value_error", "loc": location, "msg": str(error)}]
        ) from error


async def _watch_one(job_id: JobId, monitor: MonitorDep) -> AsyncIterator[Events]:
    with _refusing_ids("path", "job_id"):
        outcomes = monitor.watch_jobs([job_id])
    async with outcomes:
        yield events(outcomes, [job_id], monitor.stats)


async def _watch_many(job_id: JobIds, monitor: MonitorDep) -> AsyncIterator[Events]:
    with _refusing_ids("query", "job_id"):
        outcomes = monitor.watch_jobs(job_id)
    async with outcomes:
        yield events(outcomes, job_id, monitor.stats)


async def _reject_finished_stream(
    last_event_id: Annotated[
        str | None, Header(description="Sent by browsers that connect again.")
    ] = None,
) -> None:
    if last_event_id == END:
        raise StreamFinished


# A dependency ends with its request, unlike the iterator of an endpoint, which FastAPI drops
# without closing it when a visitor has left.
EventsOfOne = Annotated[Events, Depends(_watch_one)]
EventsOfMany = Annotated[Events, Depends(_watch_many)]


# ---- the endpoints


async def read_job(job_id: JobId, client: SutroDep) -> JSONObject:
    """Read the record of a job."""
    with _refusing_ids("path", "job_id"):
        return (await client.get_job(job_id)).to_dict()


async def read_job_status(job_id: JobId, client: SutroDep) -> JSONObject:
    """Read the status of a job."""
    with _refusing_ids("path", "job_id"):
        return (await client.get_job_status(job_id)).to_dict()


async def wait_for_job(
    request: Request,
    response: Response,
    job_id: JobId,
    monitor: MonitorDep,
    timeout: Annotated[float, Query(ge=0, le=60, description="Seconds.")] = 25,
) -> JSONObject | Response:
    """Wait until a job has ended, or for so many seconds."""
    with _refusing_ids("path", "job_id"):
        reports = monitor.watch(job_id, timeout=max(timeout, _SHORTEST_WAIT))
    waiting = asyncio.create_task(_newest(reports))
    leaving = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        report = waiting.result()
    finally:
        waiting.cancel()
        leaving.cancel()
        await asyncio.gather(waiting, leaving, return_exceptions=True)
    if not report.is_terminal:
        response.status_code = HTTPStatus.ACCEPTED
    return report.to_dict()


async def _newest(reports: Stream[JobStatusReport]) -> JobStatusReport:
    """Return the terminal report, or the newest if the time is up or the server stops."""
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


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def stream_job_events(events: EventsOfOne) -> AsyncIterator[ServerSentEvent]:
    """Watch a job until it has ended, as server-sent events."""
    async for event in events:
        yield event


async def stream_jobs_events(events: EventsOfMany) -> AsyncIterator[ServerSentEvent]:
    """Watch many jobs until all have ended, as server-sent events in one stream."""
    async for event in events:
        yield event


async def read_job_statuses(
    job_ids: Annotated[
        list[IdText],
        Body(
            embed=True,
            min_length=1,
            max_length=1000,
            description="The jobs; one named twice counts once.",
        ),
    ],
    client: SutroDep,
) -> JobOutcomesModel:
    """Ask how each of many jobs is doing."""
    with _refusing_ids("body", "job_ids"):
        outcomes = await client.get_job_statuses(job_ids)
    errors = [outcome.error for outcome in outcomes.values() if outcome.error is not None]
    for error in {type(error): error for error in errors}.values():  # one of a kind will do
        log_problem(error)
    return JobOutcomesModel(outcomes=[_outcome_model(each) for each in outcomes.values()])


def _outcome_model(outcome: JobOutcome[JobStatusReport]) -> JobOutcomeModel:
    job_id = outcome.job_id
    if outcome.error is not None:
        return JobOutcomeModel(job_id=job_id, problem=problem_details(outcome.error, job_id=job_id))
    report = JobStatusReportModel.model_validate(outcome.result().to_dict())
    return JobOutcomeModel(job_id=job_id, report=report)


async def reject_trailing_slash() -> None:
    """Answer 404 where the app would redirect: a job id that ends in a slash is another."""
    raise HTTPException(HTTPStatus.NOT_FOUND)
