"""Errors as problem details (RFC 9457): which status, and what may be said of them.

What the service sent with an error stays in the log. A visitor is told what it means here, in words
of this module, so that nothing of the account behind the server gets out.
"""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any, Final

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
from sutro_async.fastapi._models import JobProblem

__all__ = [
    "PROBLEM_JSON",
    "install_error_handlers",
    "problem_details",
    "problem_response",
    "validation_response",
]

PROBLEM_JSON: Final = "application/problem+json"

_log = logging.getLogger("sutro_async")

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
    502, "Access refused", "The service refuses this server access; its operator has to see to it."
)
_INVALID_REQUEST: Final = _Kind(
    422, "Invalid request", "The request cannot be understood; see `errors`."
)

# The class that comes first in the method resolution order of an error decides.
_KINDS: Final[dict[type[BaseException], _Kind]] = {
    JobNotFoundError: _Kind(404, "Job not found", "The service knows no such job."),
    GoneError: _Kind(410, "Job gone", "The service has the job no more."),
    RateLimitError: _Kind(
        503, "Rate limited", "The service gets more requests than it takes.", retry_after=5
    ),
    AuthenticationError: _ACCESS_REFUSED,
    PermissionDeniedError: _ACCESS_REFUSED,
    APITimeoutError: _Kind(504, "Service timeout", "The service did not answer in time."),
    APIError: _Kind(502, "Service trouble", "The service gave no answer that can be used."),
    JobWaitTimeoutError: _Kind(
        504, "Wait timeout", "The job had not ended when the time was up; it goes on."
    ),
    JobFailedError: _Kind(409, "Job failed", "The job failed."),
    JobCancelledError: _Kind(409, "Job cancelled", "The job was cancelled."),
    JobUnsuccessfulError: _Kind(409, "Job unsuccessful", "The job ended without success."),
    ClientStateError: _Kind(
        503, "Shutting down", "This server no longer watches jobs: it is stopping.", retry_after=1
    ),
    SutroError: _Kind(500, "Internal error", "This server has met an error of its own."),
}


def install_error_handlers(app: FastAPI) -> None:
    """Let the app answer each `SutroError` that an endpoint raises with problem details.

    The routes of `jobs_router` do so anyway. What the error says goes to the log, where the status
    is 500 or above; the answer says what it means for the visitor.
    """

    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, SutroError)  # noqa: S101 - it is registered for these
        return problem_response(request, error)

    app.add_exception_handler(SutroError, answer)


def problem_response(request: Request, error: SutroError) -> Response:
    """Answer a request that met an error."""
    headers = {}
    retry_after = _kind(error).retry_after
    if isinstance(error, APIStatusError) and error.retry_after is not None:
        retry_after = math.ceil(error.retry_after)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return _response(problem_details(error, instance=request.url.path), headers)


def problem_details(error: SutroError, *, instance: str | None = None) -> JobProblem:
    """Tell of an error, and log it if it is no fault of who asked.

    Args:
        error: The error.
        instance: The path that was asked for.
    """
    kind = _kind(error)
    if kind.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.warning("answered with %d %s: %s", kind.status, kind.title, error)
    return JobProblem(
        type=kind.type,
        title=kind.title,
        status=kind.status,
        detail=kind.detail,
        instance=instance,
        job_id=_job_id(error),
    )


def validation_response(request: Request, error: RequestValidationError) -> Response:
    """Answer a request that makes no sense.

    What was sent is not sent back, unlike in FastAPI's own answer: JSON cannot hold all of it.
    """
    kind = _INVALID_REQUEST
    problem = JobProblem(
        type=kind.type,
        title=kind.title,
        status=kind.status,
        detail=kind.detail,
        instance=request.url.path,
        errors=[{name: item[name] for name in ("type", "loc", "msg")} for item in error.errors()],
    )
    return _response(problem, {})


def _response(problem: JobProblem, headers: dict[str, str]) -> Response:
    content: Any = problem.model_dump(mode="json", exclude_none=True)
    return JSONResponse(content, problem.status, headers, media_type=PROBLEM_JSON)


def _kind(error: SutroError) -> _Kind:
    return next(_KINDS[cls] for cls in type(error).__mro__ if cls in _KINDS)


def _job_id(error: SutroError) -> str | None:
    if isinstance(error, APIError | JobWaitTimeoutError):
        return error.job_id
    if isinstance(error, JobUnsuccessfulError):
        return error.report.job_id
    return None
