"""The router: jobs by record, by status, by long poll and by event stream."""
# Annotations are evaluated where they stand, since they name dependencies that are local.

from collections.abc import AsyncIterator, Callable, Collection
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request
from fastapi.responses import Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from sutro_async import JobOutcome, JobStatusReport, Stream
from sutro_async.fastapi._events import END, events
from sutro_async.fastapi._lifespan import MonitorDep, SutroDep
from sutro_async.fastapi._listing import list_visible_jobs
from sutro_async.fastapi._long_poll import wait_while_connected
from sutro_async.fastapi._models import (
    JobListModel,
    JobModel,
    JobOutcomesModel,
    JobStatusReportModel,
    JSONObject,
)
from sutro_async.fastapi._openapi import EVENTS, UNREADABLE_BODY, Responses, problems
from sutro_async.fastapi._route import JobsRoute, ProblemsRoute, StreamFinished
from sutro_async.fastapi._statuses import job_statuses, outcomes_model
from sutro_async.fastapi._visible import (
    RequestedIds,
    Source,
    before_id,
    body_ids,
    check_visible,
    job_not_found,
    path_id,
    query_ids,
    requested_ids,
    see_all,
    uniform_not_found,
)

__all__ = ["jobs_router"]

_CLIENT_CLOSED_REQUEST: Final = (
    499  # nginx's status for the access log; the visitor does not get it
)


def jobs_router(
    visible: Callable[..., Any] = see_all, *, problem_details: bool = True
) -> APIRouter:
    """Make a router that shows jobs to browsers and other clients of the app.

    - `GET /jobs/{job_id}`: the record
    - `GET /jobs/{job_id}/status`: the status
    - `GET /jobs/{job_id}/wait?timeout=25`: the terminal status, or the newest at the timeout
    - `GET /jobs/{job_id}/events`: server-sent events, one for each change
    - `GET /job-events?job_id=…&job_id=…`: the same for up to 100 jobs, in one stream
    - `POST /jobs/statuses`: the statuses of up to 1000 jobs
    - `GET /jobs`: the jobs that the caller may see, newest first; only with `visible`

    The app needs `sutro_lifespan`.

    Without `visible` these routes show every job of the account: require the login of the app, as
    in `app.include_router(jobs_router(), dependencies=[Depends(current_user)])`.

    Args:
        visible: A FastAPI dependency that gives an async function. It is called with a frozenset
            of job ids, and returns those that the caller may see. Each request calls it once, with
            exactly the ids that its route uses, before anything is done with them. A job that may
            not be seen looks like one that does not exist. If the function raises or returns
            anything else, no job is shown: the response is a 500, and the reason is logged.
        problem_details: Whether errors get problem details (RFC 9457) as the response. False leaves
            them, and requests that cannot be validated, to the exception handlers of the app.

    Raises:
        TypeError: `visible` cannot be called: with None, no user would be kept from any job.
    """
    if not callable(visible):
        raise TypeError(f"visible must be a FastAPI dependency, got {visible!r}")
    router = APIRouter(route_class=ProblemsRoute if problem_details else JobsRoute, tags=["jobs"])
    describe = problems if problem_details else _no_problems
    _add_single(router, visible, describe)
    _add_streams(router, visible, describe)
    _add_many(router, visible, describe)
    if visible is not see_all:
        _add_list(router, visible, describe)
    for path in ("", "/status", "/wait", "/events"):
        router.get(f"/jobs/{{job_id}}{path}/", include_in_schema=False)(_reject_trailing_slash)
    return router


Describe = Callable[..., Responses]


def _no_problems(*statuses: int) -> Responses:  # noqa: ARG001 - as `problems`
    return {}


async def _reject_trailing_slash() -> None:
    """Respond with 404, not with a redirect: with the slash, it would be a different job id."""
    raise HTTPException(HTTPStatus.NOT_FOUND)


def _add_single(router: APIRouter, visible: Callable[..., Any], describe: Describe) -> None:
    """Add the routes for one job."""

    async def visible_id(
        requested: Annotated[RequestedIds, Depends(requested_ids(visible, path_id))],
    ) -> str:
        return requested.only()

    JobId = Annotated[str, Depends(visible_id)]  # noqa: N806 - a type

    @router.get("/jobs/{job_id}", response_model=JobModel, responses=describe(404, 410))
    async def read_job(job_id: JobId, monitor: MonitorDep) -> JSONObject:
        """Read the record of a job."""
        with uniform_not_found():
            return (await monitor.get_job(job_id)).to_dict()

    @router.get(
        "/jobs/{job_id}/status", response_model=JobStatusReportModel, responses=describe(404, 410)
    )
    async def read_job_status(job_id: JobId, monitor: MonitorDep) -> JSONObject:
        """Read the status of a job."""
        with uniform_not_found():
            return (await monitor.get_job_status(job_id)).to_dict()

    @router.get(
        "/jobs/{job_id}/wait",
        response_model=JobStatusReportModel,
        response_description="The job has finished.",
        responses=describe(404, 410)
        | {202: {"model": JobStatusReportModel, "description": "The job is still running."}},
    )
    async def wait_for_job(
        request: Request,
        response: Response,
        job_id: JobId,
        monitor: MonitorDep,
        timeout: Annotated[float, Query(ge=0, le=60, description="Seconds.")] = 25,
    ) -> JSONObject | Response:
        """Wait until a job has finished or the timeout expires."""
        with uniform_not_found():
            report = await wait_while_connected(request, monitor, job_id, timeout)
        if report is None:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        if not report.is_terminal:
            response.status_code = HTTPStatus.ACCEPTED
        return report.to_dict()


def _add_streams(router: APIRouter, visible: Callable[..., Any], describe: Describe) -> None:
    """Add the event streams."""

    def watch(source: Source) -> Callable[..., AsyncIterator[AsyncIterator[ServerSentEvent]]]:
        # A dependency ends with its request, unlike the iterator of an endpoint, which FastAPI
        # drops without closing it when a visitor has left.
        async def dependency(
            requested: Annotated[RequestedIds, Depends(requested_ids(visible, source))],
            monitor: MonitorDep,
            last_event_id: Annotated[
                str | None, Header(description="Sent by browsers that connect again.")
            ] = None,
        ) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
            if last_event_id == END:
                raise StreamFinished
            watched = monitor.watch_jobs(requested.shown)
            async with _with_hidden(requested.hidden, watched) as outcomes:
                yield events(outcomes, requested.ids, monitor.stats)

        return dependency

    responses = describe() | EVENTS

    @router.get("/jobs/{job_id}/events", response_class=EventSourceResponse, responses=responses)
    async def stream_job_events(
        events: Annotated[AsyncIterator[ServerSentEvent], Depends(watch(path_id))],
    ) -> AsyncIterator[ServerSentEvent]:
        """Watch a job until it has finished, as server-sent events."""
        async for event in events:
            yield event

    @router.get("/job-events", response_class=EventSourceResponse, responses=responses)
    async def stream_jobs_events(
        events: Annotated[AsyncIterator[ServerSentEvent], Depends(watch(query_ids))],
    ) -> AsyncIterator[ServerSentEvent]:
        """Watch many jobs until all have finished, as server-sent events in one stream."""
        async for event in events:
            yield event


def _with_hidden(
    hidden: Collection[str], watched: Stream[JobOutcome[JobStatusReport]]
) -> Stream[JobOutcome[JobStatusReport]]:
    """Put the outcomes of jobs that the caller may not see before those of the others."""
    first = [JobOutcome[JobStatusReport](job_id=each, error=job_not_found(each)) for each in hidden]
    first.reverse()

    async def step() -> JobOutcome[JobStatusReport]:
        return first.pop() if first else await anext(watched)

    return Stream(step, watched.aclose)


def _add_many(router: APIRouter, visible: Callable[..., Any], describe: Describe) -> None:
    """Add the route for many jobs at once."""

    @router.post(
        "/jobs/statuses",
        response_model_exclude_unset=True,
        responses=describe() | UNREADABLE_BODY,
    )
    async def read_job_statuses(
        requested: Annotated[RequestedIds, Depends(requested_ids(visible, body_ids))],
        monitor: MonitorDep,
    ) -> JobOutcomesModel:
        """Read the statuses of many jobs."""
        outcomes = await job_statuses(monitor, requested.shown)
        for job_id in requested.hidden:
            outcomes[job_id] = JobOutcome(job_id=job_id, error=job_not_found(job_id))
        return outcomes_model(outcomes[job_id] for job_id in requested.ids)


def _add_list(router: APIRouter, visible: Callable[..., Any], describe: Describe) -> None:
    """Add the list of the jobs that the caller may see."""

    @router.get("/jobs", responses=describe(404))
    async def list_jobs(
        may_see: Annotated[Callable[..., Any], Depends(visible)],
        requested: Annotated[RequestedIds, Depends(requested_ids(visible, before_id))],
        client: SutroDep,
        limit: Annotated[int, Query(ge=1, le=100, description="How many jobs.")] = 20,
    ) -> JobListModel:
        """List the newest jobs of the caller, newest first."""
        return await list_visible_jobs(
            client,
            partial(check_visible, may_see),
            before=requested.only() if requested.ids else None,
            limit=limit,
        )
