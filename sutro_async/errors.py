"""The errors of the library.

```
SutroError
├── ConfigurationError (ValueError)        no key, a bad URL, a bad option
├── ClientStateError (RuntimeError)        a closed client, or another event loop
├── APIError                               a request failed
│   ├── APIConnectionError (ConnectionError)
│   │   └── APITimeoutError (TimeoutError)
│   ├── InvalidResponseError               a malformed body
│   └── APIStatusError                     an HTTP status outside 200 to 299
│       ├── AuthenticationError            401
│       ├── PermissionDeniedError          403
│       ├── JobNotFoundError               404
│       ├── GoneError                      410
│       ├── RateLimitError                 429
│       └── ServerError                    500 to 599
├── JobWaitTimeoutError (TimeoutError)     the wait timed out; the job is still running
└── JobUnsuccessfulError                   the job failed or was cancelled
    ├── JobFailedError
    └── JobCancelledError
```

Every error survives pickling with its fields, and its message is one line.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from sutro_async._plain import plain

if TYPE_CHECKING:  # at run time, `models` adds the name: it is of the layer above
    from sutro_async.models import JobStatusReport

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "ClientStateError",
    "ConfigurationError",
    "GoneError",
    "InvalidResponseError",
    "JobCancelledError",
    "JobFailedError",
    "JobNotFoundError",
    "JobUnsuccessfulError",
    "JobWaitTimeoutError",
    "PermissionDeniedError",
    "RateLimitError",
    "ServerError",
    "SutroError",
]

_TRANSIENT_STATUSES: Final = frozenset({408, 425, 429, *range(500, 600)} - {501, 505})


class SutroError(Exception):
    """The base class of all errors of this library."""

    _fields: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return type, message and fields as plain JSON values.

        `type` is the name of the class, and `message` the whole text of the error. Numbers that are
        not finite become None, since JSON cannot express them.
        """
        fields = {name: plain(getattr(self, name)) for name in self._fields}
        return {"type": type(self).__name__, "message": str(self), **fields}

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with the message alone, and lose the other fields.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    cls: type[SutroError], args: tuple[object, ...], fields: dict[str, object]
) -> SutroError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    notes = fields.get("__notes__")
    if isinstance(notes, list):
        error.__notes__ = notes.copy()  # so that notes on a copy do not accumulate on the original
    return error


class ConfigurationError(SutroError, ValueError):
    """The configuration is invalid; the message says what to set, and where."""


class ClientStateError(SutroError, RuntimeError):
    """The client is closed, or is used from an event loop other than its own."""


class APIError(SutroError):
    """A request to the service failed.

    Attributes:
        job_id: The job that was requested; None for list-jobs.
        last_report: In a wait, the last good report on the job, if there was one.
        retryable: Whether the same request may succeed later.
    """

    _fields: ClassVar[tuple[str, ...]] = ("job_id", "retryable", "last_report")

    def __init__(self, message: str, *, job_id: str | None, retryable: bool = False) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.last_report: JobStatusReport | None = None
        self.retryable = retryable


class APIConnectionError(APIError, ConnectionError):
    """No complete response: refused, reset, truncated, or not valid HTTP.

    It is retryable, unless the server's certificate does not verify or a proxy refused.
    """

    def __init__(self, message: str, *, job_id: str | None, retryable: bool = True) -> None:
        super().__init__(message, job_id=job_id, retryable=retryable)


class APITimeoutError(APIConnectionError, TimeoutError):
    """No complete response within the timeout of the request."""


class InvalidResponseError(APIError):
    """The body of the response is malformed.

    Attributes:
        path: Where in the body, such as `$.job.status`; `$` is the body itself.
        reason: What is wrong there, such as `expected a status, got null`.
    """

    _fields: ClassVar[tuple[str, ...]] = (*APIError._fields, "path", "reason")

    def __init__(self, *, job_id: str | None, path: str, reason: str) -> None:
        super().__init__(f"{subject(job_id)}: invalid response: {path}: {reason}", job_id=job_id)
        self.path = path
        self.reason = reason


class APIStatusError(APIError):
    """The service responded with an HTTP status outside 200 to 299.

    It is retryable if the status is 408, 425, 429, or 500 to 599 except 501 and 505.

    Attributes:
        status_code: The HTTP status.
        message: The service's explanation, on one line; under this name, `to_dict()` has the whole
            text of the error.
        code: The service's error code, such as `rate_limited`, if it sent one.
        request_id: The service's id of the request, for its support, if it sent one.
        retry_after: Seconds after which the service allows a retry, if it sent them.
        body: The body as parsed from JSON, else as text.
    """

    _fields: ClassVar[tuple[str, ...]] = (
        *APIError._fields,
        "status_code",
        "code",
        "request_id",
        "retry_after",
        "body",
    )

    def __init__(
        self,
        *,
        job_id: str | None,
        status_code: int,
        message: str,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        body: object = "",
    ) -> None:
        details = "".join(
            f" [{name} {value}]"
            for name, value in (("code", code), ("request", request_id))
            if value is not None
        )
        super().__init__(
            f"{subject(job_id)}: HTTP {status_code}: {message}{details}",
            job_id=job_id,
            retryable=status_code in _TRANSIENT_STATUSES,
        )
        self.status_code = status_code
        self.message = message
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        self.body = body


class AuthenticationError(APIStatusError):
    """401: the key is missing or wrong."""


class PermissionDeniedError(APIStatusError):
    """403: the key may not do this."""


class JobNotFoundError(APIStatusError):
    """404: there is no such job. A 404 for list-jobs is a plain `APIStatusError`.

    A record that is null, with status 200, says the same: its `status_code` is 404 too.
    """


class GoneError(APIStatusError):
    """410: the job, or this URL of the service, no longer exists."""


class RateLimitError(APIStatusError):
    """429: too many requests; `retry_after` is the number of seconds to wait, if known."""


class ServerError(APIStatusError):
    """500 to 599: the service, or a proxy in front of it, is unavailable."""


class JobWaitTimeoutError(SutroError, TimeoutError):
    """The timeout of a wait expired. The job is still running, and you can wait for it again.

    Attributes:
        job_id: The job that was waited for.
        last_report: The last good report, if there was one.
        elapsed: Seconds that the wait took.
        timeout: The timeout in seconds.
    """

    _fields: ClassVar[tuple[str, ...]] = ("job_id", "last_report", "elapsed", "timeout")

    def __init__(
        self,
        *,
        job_id: str,
        last_report: JobStatusReport | None,
        elapsed: float,
        timeout: float,
        failure: APIError | None = None,
    ) -> None:
        seen = (
            "no status yet"
            if last_report is None
            else f"last status: {one_line(last_report.raw_status, limit=40)}"
        )
        last_failure = "" if failure is None else f"; the last poll failed: {failure}"
        super().__init__(
            f"timed out after {timeout:g} s waiting for job {job_id!r} ({seen}{last_failure});"
            f" the job is still running on the service, call wait_for_job({job_id!r}) to resume"
        )
        self.job_id = job_id
        self.last_report = last_report
        self.elapsed = elapsed
        self.timeout = timeout


class JobUnsuccessfulError(SutroError):
    """The job failed or was cancelled.

    Attributes:
        report: The terminal report.
        reason: Why, on one line; empty if the service gave no reason.
    """

    _fields: ClassVar[tuple[str, ...]] = ("report", "reason")
    _verb = "ended without success"

    def __init__(self, report: JobStatusReport) -> None:
        reason = one_line(str(report.failure or "")) or one_line(report.message)
        self.report = report
        self.reason: str = "" if is_fixed_sentence(reason) else reason
        super().__init__(
            f"job {report.job_id!r} {self._verb}: {self.reason or 'the service gave no reason'}"
        )


class JobFailedError(JobUnsuccessfulError):
    """The job failed; `report.failure` says why."""

    _verb = "failed"


class JobCancelledError(JobUnsuccessfulError):
    """The job was cancelled."""

    _verb = "was cancelled"


_FIXED_SENTENCE: Final = re.compile(r"job status with job_id .* retrieved\.?", re.IGNORECASE)


def is_fixed_sentence(text: str) -> bool:
    """Whether a text is the message that the service sends with every status."""
    return _FIXED_SENTENCE.fullmatch(text.strip()) is not None


def indicates_outage(error: APIError) -> bool:
    """Whether the service or the network may be the cause, so that other jobs may fail alike."""
    return error.retryable or isinstance(error, InvalidResponseError)


def retry_after_of(error: BaseException | None) -> float:
    """Return the seconds of the `Retry-After` of an error; 0 without one."""
    return (error.retry_after or 0.0) if isinstance(error, APIStatusError) else 0.0


def subject(job_id: str | None) -> str:
    """Return the job or endpoint of a request, for the beginning of a message."""
    return "list-jobs" if job_id is None else f"job {job_id!r}"


def one_line(text: str, *, limit: int = 300) -> str:
    """Shorten a text of others for a message: printable, one line, at most `limit` characters."""
    if len(text) <= limit and text.isalnum():
        return text  # at little cost, for the many errors of a batch
    text = "".join(char if char.isprintable() else " " for char in text[: 4 * limit])
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


SutroErrorT = TypeVar("SutroErrorT", bound=SutroError)


def detached(error: SutroErrorT) -> SutroErrorT:
    """Drop the frames that an error and its causes hold, so that it can be kept for long."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        each.__traceback__ = None
        pending += (each.__cause__, each.__context__)
        if isinstance(each, BaseExceptionGroup):
            pending += each.exceptions
    return error


ErrorT = TypeVar("ErrorT", bound=BaseException)


def copied(error: ErrorT) -> ErrorT:
    """Copy an error for one of its readers, so that raising it adds no frames to the original.

    One of another library is returned as it is, and so is one whose class cannot be copied.
    """
    if not isinstance(error, SutroError):
        return error
    try:
        duplicate = copy.copy(error)
    except Exception:  # noqa: BLE001 - whatever its constructor raises
        return error
    duplicate.__cause__ = error.__cause__
    return duplicate
