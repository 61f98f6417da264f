"""Errors as problem details (RFC 9457): their statuses and texts.

What the service sent with an error is logged only. A visitor gets a fixed text of this module, so
that nothing about the account of the server is disclosed.
"""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import attrs
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.requests import Request
from fastapi.responses import JSONResponse, Response

from sutro_async import (
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    ClientStateError,
    GoneError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobUnsuccessfulError,
    JobWaitTimeoutError,
    PermissionDeniedError,
    RateLimitError,
    SutroError,
)
from sutro_async.events import ClientStats
from sutro_async.fastapi._models import JobProblem, ServiceTrouble

__all__ = [
    "PROBLEM_JSON",
    "install_error_handlers",
    "log_problem",
    "problem_details",
    "problem_response",
    "service_trouble",
    "validation_response",
]

PROBLEM_JSON: Final = "application/problem+json"

_log = logging.getLogger("sutro_async")

# Seconds without a response from the service.
_TROUBLE_AFTER: Final = 10.0

_TYPES: Final = "https://github.com/sutro-async/sutro-async/blob/main/docs/fastapi.md#"


@attrs.frozen
class _Kind:
    """A kind of problem; `retry_after` is in seconds, where the service names none."""

    status: int
    title: str
    detail: str
    retry_after: int | None = None

    @property
    def type(self) -> str:
        return _TYPES + self.title.lower().replace(" ", "-")


_ACCESS_REFUSED: Final = _Kind(
    502, "Access refused", "The service refuses access to this server; its operator has to fix it."
)
_INVALID_REQUEST: Final = _Kind(422, "Invalid request", "The request is invalid; see `errors`.")
_NO_REPORT: Final = _Kind(504, "No report", "The timeout expired before there was any report.")

# The class that comes first in the method resolution order of an error decides.
_KINDS: Final[dict[type[BaseException], _Kind]] = {
    JobNotFoundError: _Kind(404, "Job not found", "The service knows no such job."),
    GoneError: _Kind(410, "Job gone", "The service no longer has the job."),
    RateLimitError: _Kind(
        503, "Rate limited", "The service rate-limits this server.", retry_after=5
    ),
    AuthenticationError: _ACCESS_REFUSED,
    PermissionDeniedError: _ACCESS_REFUSED,
    APITimeoutError: _Kind(504, "Service timeout", "The service did not respond in time."),
    APIError: _Kind(502, "Service failure", "The service sent no usable response."),
    JobWaitTimeoutError: _Kind(
        504, "Wait timeout", "The timeout expired before the job had finished; it is still running."
    ),
    JobFailedError: _Kind(409, "Job failed", "The job failed."),
    JobCancelledError: _Kind(409, "Job cancelled", "The job was cancelled."),
    JobUnsuccessfulError: _Kind(409, "Job unsuccessful", "The job did not succeed."),
    ClientStateError: _Kind(
        503, "Server unavailable", "This server cannot poll the service now.", retry_after=1
    ),
    SutroError: _Kind(500, "Internal error", "An internal error of this server."),
}


def install_error_handlers(app: FastAPI) -> None:
    """Let the app respond with problem details to each `SutroError` that an endpoint raises.

    The routes of `jobs_router` do so anyway. The response has a fixed text for each kind of
    error. The error itself is logged if the status is 500 or above.
    """

    async def respond(request: Request, error: Exception) -> Response:
        assert isinstance(error, SutroError)  # noqa: S101 - it is registered for these
        return problem_response(request, error)

    app.add_exception_handler(SutroError, respond)


def problem_response(request: Request, error: SutroError) -> Response:
    """Log an error, and make the response for it."""
    log_problem(error)
    reason = _reason(error)
    kind = _kind(error)
    retry_after = kind.retry_after
    # Not on a 404 or 410: a job that the caller may not see has to look like a missing one.
    is_server_error = kind.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if is_server_error and isinstance(reason, APIStatusError) and reason.retry_after is not None:
        retry_after = math.ceil(reason.retry_after)
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return _response(request, problem_details(error), headers)


def problem_details(error: SutroError, *, job_id: str | None = None) -> JobProblem:
    """Describe an error.

    Args:
        error: The error.
        job_id: The job that it concerns, if the error does not name one.
    """
    kind = _kind(error)
    return JobProblem(
        type=kind.type,
        title=kind.title,
        status=kind.status,
        detail=kind.detail,
        job_id=job_id or _job_id(error),
    )


def service_trouble(stats: ClientStats) -> ServiceTrouble | None:
    """Describe an outage of the service; None if there is none, or it began just now."""
    since = stats.unresponsive_since
    if since is None or stats.unresponsive_seconds < _TROUBLE_AFTER:
        return None
    # Without a failure in that time the first request is still in flight.
    failure = stats.current_failure
    kind = _KINDS[APITimeoutError] if failure is None else _kind(failure)
    return ServiceTrouble(since=since, detail=kind.detail)


def log_problem(error: SutroError) -> None:
    """Log an error that is sent to a visitor, unless it is the visitor's own (4xx)."""
    kind = _kind(error)
    if kind.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        level = logging.DEBUG if isinstance(error, ClientStateError) else logging.WARNING
        _log.log(level, "responded with %d %s: %s", kind.status, kind.title, error)


def validation_response(request: Request, error: RequestValidationError) -> Response:
    """Make the response for an invalid request.

    Unlike FastAPI's own response it does not return the input, which JSON cannot always hold.
    """
    kind = _INVALID_REQUEST
    problem = JobProblem(
        type=kind.type,
        title=kind.title,
        status=kind.status,
        detail=kind.detail,
        errors=[{name: item[name] for name in ("type", "loc", "msg")} for item in error.errors()],
    )
    return _response(request, problem, {})


def _response(request: Request, problem: JobProblem, headers: dict[str, str]) -> Response:
    # Not `request.url.path`, which raises in some versions of Starlette if the Host is malformed.
    problem = problem.model_copy(update={"instance": quote(request.scope["path"])})
    content: Any = problem.model_dump(mode="json", exclude_none=True)
    return JSONResponse(content, problem.status, headers, media_type=PROBLEM_JSON)


def _kind(error: SutroError) -> _Kind:
    reason = _reason(error)
    if isinstance(reason, JobWaitTimeoutError) and reason.last_report is None:
        return _NO_REPORT
    if isinstance(reason, GoneError) and reason.job_id is None:
        return _KINDS[APIError]  # the list of jobs is gone, and not a job
    return next(_KINDS[cls] for cls in type(reason).__mro__ if cls in _KINDS)


def _reason(error: SutroError) -> SutroError:
    """Return the error to report: for a timeout without any report, the failure behind it."""
    if isinstance(error, JobWaitTimeoutError) and error.last_report is None:
        return error.__cause__ if isinstance(error.__cause__, APIError) else error
    return error


def _job_id(error: SutroError) -> str | None:
    if isinstance(error, APIError | JobWaitTimeoutError):
        return error.job_id
    if isinstance(error, JobUnsuccessfulError):
        return error.report.job_id
    return None
