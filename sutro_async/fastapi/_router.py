"""The router: jobs by record, by status, by long poll and by event stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Header, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, StringConstraints
from starlette.types import Message, Receive, Scope, Send

from sutro_async import (
    ClientStateError,
    Job,
    JobMonitor,
    JobStatusReport,
    JobWaitTimeoutError,
    SutroClient,
    SutroError,
)
from sutro_async.fastapi._events import END, watch_jobs
from sutro_async.fastapi._lifespan import MonitorDep, SutroDep
from sutro_async.fastapi._models import (
    JobModel,
    JobOutcomeModel,
    JobOutcomesModel,
    JobProblem,
    JobStatusReportModel,
)
from sutro_async.fastapi._problems import (
    PROBLEM_JSON,
    problem_details,
    problem_response,
    validation_response,
)

__all__ = ["jobs_router"]

_CLIENT_CLOSED_REQUEST: Final = 499  # a word of nginx, for the access log: nobody gets the answer
_SHORTEST_WAIT: Final = 0.1  # seconds; a first report needs some


def jobs_router() -> APIRouter:
    """Make a router that shows jobs to browsers and other clients of the app.

    | route | gives |
    |---|---|
    | `GET /jobs/{job_id}` | the record |
    | `GET /jobs/{job_id}/status` | the status |
    | `GET /jobs/{job_id}/wait?timeout=25` | the status when it has ended, or the newest by then |
    | `GET /jobs/{job_id}/events` | server-sent events: each change until the end |
    | `GET /job-events?job_id=…&job_id=…` | the same for up to 100 jobs, in one stream |
    | `POST /jobs/statuses` | the statuses of up to 1000 jobs |

    Whoever reaches these routes sees every job of the account: put what the app has for logging in
    before them, as in `app.include_router(jobs_router(), dependencies=[Depends(current_user)])`.
    Errors are problem details (RFC 9457). The app needs `sutro_lifespan`.
    """
    router = APIRouter(route_class=_Route, tags=["jobs"])
    router.get(
        "/jobs/{job_id}",
        response_model=JobModel,
        responses=_problems(404, 410),
    )(read_job)
    router.get(
        "/jobs/{job_id}/status",
        response_model=JobStatusReportModel,
        responses=_problems(404, 410),
    )(read_job_status)
    router.get(
        "/jobs/{job_id}/wait",
        response_model=JobStatusReportModel,
        response_description="The job has ended.",
        responses=_problems(404, 410)
        | {202: {"model": JobStatusReportModel, "description": "The job goes on."}},
    )(wait_for_job)
    for path, endpoint in (
        ("/jobs/{job_id}/events", stream_job_events),
        ("/job-events", stream_jobs_events),
    ):
        router.get(
            path,
            response_class=EventSourceResponse,
            dependencies=[Depends(_check_for_the_end)],
            responses=_problems() | _EVENTS,
        )(endpoint)
    router.post(
        "/jobs/statuses",
        response_model=JobOutcomesModel,
        responses=_problems() | _UNREADABLE_BODY,
    )(read_job_statuses)
    for path in ("", "/status", "/wait", "/events"):
        router.get(f"/jobs/{{job_id}}{path}/", include_in_schema=False)(refuse_slash)
    return router


# ---- what the routes have in common


class _EventsAreOverError(Exception):
    """The browser connects again to a stream that has been told to its end."""


class _Route(APIRoute):
    """A route whose errors are answered with problem details, whatever the app does with them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_problems(request: Request) -> Response:
            try:
                return await handle(request)
            except SutroError as error:
                return problem_response(request, error)
            except RequestValidationError as error:
                return validation_response(request, error)
            except _EventsAreOverError:
                return Response(status_code=HTTPStatus.NO_CONTENT)

        return handle_with_problems

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """End the answer in good order when the server cancels it.

        A server does so when its time to stop gracefully is up. The request is over then, whether
        the cancellation goes on or not; but uvicorn would log a traceback of each that does.
        """
        is_started = is_complete = False

        async def noting_send(message: Message) -> None:
            nonlocal is_started, is_complete
            is_started = True
            is_complete = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            await super().handle(scope, receive, noting_send)
        except asyncio.CancelledError:
            if is_complete:
                raise
            if is_started:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                error = ClientStateError("the server has cancelled the request")
                await problem_response(Request(scope), error)(scope, receive, send)


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the answers with problem details: some statuses, and those of every route."""
    content = {PROBLEM_JSON: {"schema": _schema(JobProblem)}}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({*statuses, 422, 500, 502, 503, 504})
    }
    for status in (502, 503):
        responses[status]["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}
        }
    return responses


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Refer to a model that is among those of the answers of some route, and so described."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


_EVENTS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": (
            "A `status` event with each report that differs from the one before, the first at once,"
            " the one on the ended job last; or a `problem` event, after which nothing follows on"
            " its job. The stream ends when there is nothing more to come on any job. Its last"
            " event has the id `end`, unless it pays to connect again."
        ),
        "content": {
            EventSourceResponse.media_type: {
                "itemSchema": {
                    "properties": {
                        "data": {
                            "contentMediaType": "application/json",
                            "contentSchema": {
                                "anyOf": [_schema(JobStatusReportModel), _schema(JobProblem)]
                            },
                        }
                    }
                }
            }
        },
    },
    204: {"description": "Nothing follows the event `end`: do not connect again."},
}
_UNREADABLE_BODY: Final[dict[int | str, dict[str, Any]]] = {
    400: {
        "description": "The body is no text.",
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"detail": {"type": "string"}}}
            }
        },
    },
}


NonEmpty = Annotated[str, StringConstraints(min_length=1)]


def _check_job_ids(job_ids: Iterable[str], client: SutroClient, *location: str) -> None:
    for job_id in job_ids:
        try:
            client.watch_job(job_id)  # which asks nothing before its first step
        except ValueError as error:
            raise RequestValidationError(
                [{"type": "value_error", "loc": location, "msg": str(error)}]
            ) from error


async def _checked_job_id(
    job_id: Annotated[NonEmpty, Path(description="The id of a job.")], client: SutroDep
) -> str:
    _check_job_ids([job_id], client, "path", "job_id")
    return job_id


async def _checked_job_ids(
    job_id: Annotated[
        list[NonEmpty],
        Query(min_length=1, max_length=100, description="The ids of the jobs."),
    ],
    client: SutroDep,
) -> list[str]:
    _check_job_ids(job_id, client, "query", "job_id")
    return job_id


async def _check_for_the_end(
    last_event_id: Annotated[
        str | None, Header(description="Sent by browsers that connect again.")
    ] = None,
) -> None:
    if last_event_id == END:
        raise _EventsAreOverError


async def _job_events(
    job_id: JobId, monitor: MonitorDep
) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    async with watch_jobs(monitor, [job_id]) as events:
        yield events


async def _jobs_events(
    job_ids: JobIds, monitor: MonitorDep
) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    async with watch_jobs(monitor, job_ids) as events:
        yield events


JobId = Annotated[str, Depends(_checked_job_id)]
JobIds = Annotated[list[str], Depends(_checked_job_ids)]
JobEvents = Annotated[AsyncIterator[ServerSentEvent], Depends(_job_events)]
JobsEvents = Annotated[AsyncIterator[ServerSentEvent], Depends(_jobs_events)]


# ---- the endpoints


async def read_job(job_id: JobId, client: SutroDep) -> Job:
    """Read the record of a job."""
    return await client.get_job(job_id)


async def refuse_slash() -> None:
    """Answer 404 where the app would redirect: a job id that ends in a slash is another."""
    raise HTTPException(HTTPStatus.NOT_FOUND)


async def read_job_status(job_id: JobId, client: SutroDep) -> JobStatusReport:
    """Ask how a job is doing."""
    return await client.get_job_status(job_id)


async def wait_for_job(
    request: Request,
    response: Response,
    job_id: JobId,
    monitor: MonitorDep,
    timeout: Annotated[float, Query(ge=0, le=60, description="Seconds.")] = 25,
) -> JobStatusReport | Response:
    """Wait until a job has ended, or for so many seconds."""
    waiting = asyncio.create_task(_newest_report(monitor, job_id, max(timeout, _SHORTEST_WAIT)))
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
    return report


async def _newest_report(monitor: JobMonitor, job_id: str, timeout: float) -> JobStatusReport:
    """Give the report on the end of a job, or the newest when time is up or the server stops."""
    newest = None
    try:
        async with aclosing(monitor.watch(job_id, timeout=timeout)) as reports:
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


async def stream_job_events(events: JobEvents) -> AsyncIterator[ServerSentEvent]:
    """Follow a job to its end, as server-sent events."""
    async for event in events:
        yield event


async def stream_jobs_events(events: JobsEvents) -> AsyncIterator[ServerSentEvent]:
    """Follow many jobs to their ends, as server-sent events in one stream."""
    async for event in events:
        yield event


async def read_job_statuses(
    job_ids: Annotated[
        list[NonEmpty],
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
    _check_job_ids(job_ids, client, "body", "job_ids")
    outcomes = await client.get_job_statuses(job_ids)
    return JobOutcomesModel(
        outcomes=[
            JobOutcomeModel(job_id=outcome.job_id, problem=problem_details(outcome.error))
            if outcome.error is not None
            else JobOutcomeModel(
                job_id=outcome.job_id, report=JobStatusReportModel.model_validate(outcome.value)
            )
            for outcome in outcomes.values()
        ]
    )
