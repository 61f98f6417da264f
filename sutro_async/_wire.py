"""Bytes to models or errors: every rule about what the service sends, as pure functions.

Nothing here does I/O. `parse_report` and `parse_job` read a body that came with status 200,
`parse_error` an answer with any other status. What the service really sends differs from its API
reference in places; both are accepted.
"""

from __future__ import annotations

import email.utils
import functools
import itertools
import json
import math
import re
import reprlib
import types
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import attrs
import cattrs

from sutro_async.errors import (
    APIStatusError,
    AuthenticationError,
    GoneError,
    InvalidResponseError,
    JobNotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    one_line,
)
from sutro_async.models import FailureReason, Job, JobStatus, JobStatusReport, JSONObject

__all__ = [
    "MAX_BODY_BYTES",
    "converter",
    "job_path",
    "parse_error",
    "parse_job",
    "parse_report",
    "status_path",
]

MAX_BODY_BYTES: Final = 16 * 2**20
_MAX_TOKENS: Final = 200_000
_MAX_DEPTH: Final = 64
_TOO_DEEP: Final = f"nested deeper than {_MAX_DEPTH} levels"
_MAX_TEXT_CHARACTERS: Final = 10_000
_MAX_KEPT_BYTES: Final = 100_000
_EXCERPT: Final = 60
_MAX_COMPLAINTS: Final = 5

T = TypeVar("T")


# ---- requests


def status_path(job_id: str) -> str:
    """The path of a job's status, below the base URL."""
    return f"/job-status/{_segment(job_id)}"


def job_path(job_id: str) -> str:
    """The path of a job's record, below the base URL."""
    return f"/jobs/{_segment(job_id)}"


# Of RFC 3986; quote would leave them as they are, but takes its time.
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]+")


def _segment(job_id: str) -> str:
    if not isinstance(job_id, str):
        raise ValueError(f"a job id is a string, got {job_id!r}")  # noqa: TRY004 - as documented
    # A dot segment names another path, however its dots are encoded.
    if job_id in {"", ".", ".."} or not job_id.isprintable():
        raise ValueError(
            f"{job_id!r} cannot be a job id: it must be a non-empty string of printable characters"
        )
    return job_id if _UNRESERVED.fullmatch(job_id) else quote(job_id, safe="")


# ---- answers with status 200


def parse_report(job_id: str, body: bytes) -> JobStatusReport:
    """Read the body of a status answer, in either of its two forms.

    Raises:
        InvalidResponseError: The body is not what the API promises.
    """
    content = _load_object(job_id, body)
    word = content.get("job_status")
    if isinstance(word, dict):
        word = word.get(job_id)
    report = {"job_id": job_id, "status": word, "raw_status": word}
    message, metadata = content.get("message"), content.get("metadata")
    if message is not None:
        report["message"] = message
    if metadata is not None:
        report["metadata"] = metadata
    if metadata and isinstance(metadata, dict):
        report["failure"] = _with_context(metadata.get("failure_reason"), metadata)
    try:
        return _report_hook()(report, JobStatusReport)
    except cattrs.BaseValidationError as error:
        is_mapping = isinstance(content.get("job_status"), dict)
        raise _invalid(
            job_id,
            error,
            {
                "$.status": f"$.job_status[{job_id!r}]" if is_mapping else "$.job_status",
                "$.failure": "$.metadata.failure_reason",
            },
        ) from _without_frames(error)


_JOB_FIELDS: Final = frozenset(attrs.fields_dict(Job)) - {"raw_status", "extra"}


def parse_job(job_id: str, body: bytes) -> Job:
    """Read the body of a job's record.

    Raises:
        JobNotFoundError: There is no record in it, which means that there is no such job.
        InvalidResponseError: The body is not what the API promises.
    """
    content = _load_object(job_id, body)
    record = content.get("job")
    if record is None:
        raise JobNotFoundError(
            job_id=job_id,
            status_code=404,
            message=_explanation(content) or "the service answered without a job",
            body=_kept(content, body),
        )
    if not isinstance(record, dict):
        raise InvalidResponseError(
            job_id=job_id, path="$.job", reason=f"expected an object, got {_shown(record)}"
        )
    fields = {
        **record,
        "job_id": record.get("job_id"),
        "status": record.get("status"),
        "raw_status": record.get("status"),
        "failure_reason": _with_context(record.get("failure_reason"), record),
        "extra": {k: v for k, v in record.items() if k not in _JOB_FIELDS},
    }
    try:
        job = _job_hook()(fields, Job)
    except cattrs.BaseValidationError as error:
        raise _invalid(job_id, error, {"$": "$.job"}) from _without_frames(error)
    if job.job_id != job_id:
        raise InvalidResponseError(
            job_id=job_id,
            path="$.job.job_id",
            reason=f"expected {job_id!r}, got {_shown(job.job_id)}",
        )
    return job


# Of a reason; a null in their place says as much as nothing does.
_TEXTS: Final = frozenset({"message", "additional_context"})


def _with_context(reason: object, neighbours: Mapping[str, Any]) -> object:
    """Bring a reason into its richest form: an object that holds its additional context.

    A plain string has its additional context beside it.
    """
    context = neighbours.get("additional_context")
    if isinstance(reason, str):
        reason = {"message": reason}
    if isinstance(reason, dict):
        beside = {"additional_context": context} if isinstance(context, str) else {}
        reason = {**beside, **{k: v for k, v in reason.items() if k not in _TEXTS or v is not None}}
    return reason


# ---- answers with any other status

_ERRORS: Final[Mapping[int, type[APIStatusError]]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: JobNotFoundError,
    410: GoneError,
    429: RateLimitError,
}


def parse_error(
    job_id: str, status: int, headers: Mapping[str, str], body: bytes
) -> APIStatusError | InvalidResponseError:
    """Make the error that an answer with a status other than 200 stands for.

    Args:
        job_id: The job that was asked for.
        status: The HTTP status.
        headers: The headers; a mapping that takes lower-case names.
        body: The body, or as much of it as could be read.
    """
    if 200 <= status < 300:
        return InvalidResponseError(
            job_id=job_id, path="$", reason=f"expected HTTP status 200, got {status}"
        )
    content = _error_content(body)
    fields = content if isinstance(content, dict) else {}
    if 300 <= status < 400:
        message = f"{_redirect(headers)}; redirects are not followed, so check the base_url"
    else:
        message = _explanation(fields) or _text(content) or "no explanation"
    error_class = _ERRORS.get(status, ServerError if 500 <= status < 600 else APIStatusError)
    return error_class(
        job_id=job_id,
        status_code=status,
        message=message,
        code=_name(fields.get("code")),
        request_id=_name(fields.get("request_id"), headers.get("x-request-id")),
        retry_after=_retry_after(headers),
        body=_kept(content, body),
    )


def _kept(content: object, body: bytes) -> object:
    """Return what an error keeps of its body: thousands of them may be kept for long."""
    return content if len(body) <= _MAX_KEPT_BYTES else _beginning(body)


def _error_content(body: bytes) -> object:
    try:
        return _load(body)
    except _MalformedError:
        return _beginning(body)


def _beginning(body: bytes) -> str:
    return body[:_MAX_TEXT_CHARACTERS].decode(errors="replace")


def _explanation(content: Mapping[str, Any]) -> str:
    """Return what an error's body says of it, in one line; empty if it says nothing."""
    texts = (_text(content.get(name)) for name in ("detail", "message", "error"))
    return next(filter(None, texts), "")


def _text(value: object) -> str:
    complaints = value[:_MAX_COMPLAINTS] if isinstance(value, list) else [value]
    return one_line("; ".join(filter(None, map(_complaint, complaints))))


def _complaint(value: object) -> str:
    if isinstance(value, dict):
        value = value.get("msg") or value.get("message") or value
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value)


def _name(*candidates: object) -> str | None:
    """Return the first candidate that is a string and not blank, short enough for a message."""
    texts = (one_line(text, limit=100) for text in candidates if isinstance(text, str))
    return next(filter(None, texts), None)


def _redirect(headers: Mapping[str, str]) -> str:
    try:
        host = urlsplit(headers.get("location", "")).hostname
    except ValueError:
        host = None
    return f"redirect to {one_line(host, limit=100)}" if host else "redirect"


_DECIMAL: Final = re.compile(r"[0-9]+(\.[0-9]+)?")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the service asks to be left alone; RFC 9110, section 10.2.3."""
    milliseconds = _non_negative(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _non_negative(value)
    if seconds is None and value is not None:
        until = _http_date(value)
        # The service's own clock, where it is known: ours may be wrong.
        now = _http_date(headers.get("date", "")) or datetime.now(UTC)
        seconds = max(0.0, (until - now).total_seconds()) if until else None
    return seconds


def _non_negative(value: str | None) -> float | None:
    if value is None or not _DECIMAL.fullmatch(value.strip()):
        return None
    number = float(value)
    return number if number < math.inf else None


def _http_date(value: str) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


# ---- JSON, strictly

_WHITESPACE: Final = " \t\n\r"  # of RFC 8259


class _MalformedError(ValueError):
    """A body that is no JSON, or JSON that no honest service sends."""


def _load_object(job_id: str, body: bytes) -> dict[str, Any]:
    try:
        content = _load(body)
    except _MalformedError as error:
        raise InvalidResponseError(job_id=job_id, path="$", reason=str(error)) from error.__cause__
    if not isinstance(content, dict):
        raise InvalidResponseError(
            job_id=job_id, path="$", reason=f"expected an object, got {_shown(content)}"
        )
    return content


def _load(body: bytes) -> object:
    if len(body) > _MAX_TOKENS:
        _check_size(body)
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _MalformedError("not valid UTF-8") from _excerpt(error)
    content = _parse(text)
    # Few bodies need a second look: long enough for so many brackets, or with an escape in them
    # that may be half a character.
    if len(text) > 2 * _MAX_DEPTH and _depth_at_most(text) > _MAX_DEPTH < _depth(content):
        raise _MalformedError(_TOO_DEEP)
    if "\\u" in text:
        _check_surrogates(content)
    return content


# A string, whether or not it ends, or what stands before a further value. It never backtracks.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{,]', re.DOTALL)
_FOUR_BYTES_WIDE: Final = re.compile(rb"[\xf0-\xff]|\\u[dD][89abAB]")
_TWO_BYTES_WIDE: Final = re.compile(rb"[\xc4-\xef]|\\u")
_CONTINUATIONS: Final = bytes(range(0x80, 0xC0))


def _check_size(body: bytes) -> None:
    """Refuse a body of which parsing would make many times its size.

    A value takes some 60 bytes, even an empty list; and one emoji makes four bytes of each
    character of its text.
    """
    tokens_at_most = sum(map(body.count, (b'"', b"[", b"{", b",")))
    if tokens_at_most > _MAX_TOKENS:
        too_many = itertools.islice(_TOKEN.finditer(body), _MAX_TOKENS, None)
        if next(too_many, None) is not None:
            raise _MalformedError("more values than anybody needs to describe a job")
    if not body.isascii() or b"\\u" in body:
        width = 4 if _FOUR_BYTES_WIDE.search(body) else 2 if _TWO_BYTES_WIDE.search(body) else 1
        if len(body.translate(None, _CONTINUATIONS)) * width > MAX_BODY_BYTES:
            raise _MalformedError(f"larger than {MAX_BODY_BYTES // 2**20} MiB as text")


def _excerpt(
    error: json.JSONDecodeError | UnicodeDecodeError | UnicodeEncodeError,
) -> ValueError:
    """Make the same error again, without the whole body, which it would keep in memory."""
    if isinstance(error, json.JSONDecodeError):
        start = max(0, error.pos - _EXCERPT // 2)
        return json.JSONDecodeError(
            error.msg, error.doc[start : start + _EXCERPT], error.pos - start
        )
    excerpt: Any = error.object[error.start : error.start + _EXCERPT]
    return type(error)(error.encoding, excerpt, 0, error.end - error.start, error.reason)


def _parse(text: str) -> object:
    document = text.strip(_WHITESPACE)  # as `decode` would do, but with slow regular expressions
    try:
        content, end = _decoder.raw_decode(document)
    except RecursionError:
        # Its traceback is as deep as the body; nobody wants to read that.
        raise _MalformedError(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise _MalformedError(f"not JSON: {_shown(text)} ({error.msg})") from _excerpt(error)
    except _MalformedError:
        raise
    except ValueError as error:  # a whole number of more digits than Python converts
        raise _MalformedError("a number is out of range") from error.with_traceback(None)
    if end < len(document):
        raise _MalformedError(f"not JSON: {_shown(text)} (Extra data)")
    return content


def _check_surrogates(content: object) -> None:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _MalformedError("a string holds half a character (a lone surrogate)") from _excerpt(
            error
        )


def _depth_at_most(text: str) -> int:
    return text.count("[") + text.count("{")


def _depth(content: object) -> int:
    depth = 0
    values = [content]
    while parents := [value for value in values if isinstance(value, dict | list)]:
        depth += 1
        values = [
            child
            for parent in parents
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return depth


def _reject_constant(name: str) -> None:
    raise _MalformedError(f"{name} is not JSON")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _MalformedError(f"the number {one_line(digits, limit=40)} is out of range")
    return number


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise _MalformedError("an object has the same name twice")
    return content


_decoder: Final = json.JSONDecoder(
    parse_constant=_reject_constant,
    parse_float=_finite_float,
    object_pairs_hook=_unique_names,
)


# ---- JSON to models, strictly


class _MismatchError(ValueError):
    """A value that is not of its documented type."""

    def __init__(self, expected: str, value: object) -> None:
        super().__init__(f"expected {expected}, got {_shown(value)}")


_shorten: Final = reprlib.Repr()
_shorten.maxstring = _shorten.maxlong = 60
_shorten.maxlevel = 3


def _shown(value: object) -> str:
    return "null" if value is None else one_line(_shorten.repr(value), limit=200)


def _invalid(
    job_id: str, error: cattrs.BaseValidationError, paths: Mapping[str, str]
) -> InvalidResponseError:
    """Make an error of the first complaint; `paths` tells where our fields stand in the body."""
    complaint = cattrs.transform_error(error, format_exception=lambda exc, _: str(exc))[0]
    reason, _, path = complaint.rpartition(" @ ")
    for ours, theirs in paths.items():
        if path.startswith(ours):
            path = theirs + path.removeprefix(ours)
            break
    return InvalidResponseError(job_id=job_id, path=path, reason=reason)


def _without_frames(error: BaseException) -> BaseException:
    """Let go of what the frames of an error and its parts hold, which is all of the content."""
    error.__traceback__ = None
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        _without_frames(part)
    return error


def _exactly(cls: type[T], expected: str) -> Callable[[object, object], T]:
    def structure(value: object, _: object) -> T:
        if not isinstance(value, cls):
            raise _MismatchError(expected, value)
        return value

    return structure


def _integer(value: object, _: object) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _MismatchError("an integer", value)
    return value


def _number(value: object, _: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _MismatchError("a number", value)
    try:
        return float(value)
    except OverflowError:
        raise _MismatchError("a number in range", value) from None


def _time(value: object, _: object) -> datetime:
    try:
        time = datetime.fromisoformat(value)  # type: ignore[arg-type] # any other is a TypeError
    except (TypeError, ValueError):
        raise _MismatchError("an ISO 8601 time", value) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


_SPELLINGS: Final = {
    **{status.value: status for status in JobStatus},
    "canceled": JobStatus.CANCELLED,
    "canceling": JobStatus.CANCELLING,
}


def _status(value: object, _: object) -> JobStatus:
    if not isinstance(value, str):
        raise _MismatchError("a string", value)
    return _SPELLINGS.get(value.lower(), JobStatus.UNKNOWN)


def _is_optional(cls: object) -> bool:
    return isinstance(cls, types.UnionType) and types.NoneType in cls.__args__


def _optional(
    cls: types.UnionType, converter: cattrs.Converter
) -> Callable[[object, object], object]:
    """Make a hook that knows the inner one, which cattrs would look up for each value."""
    (inner,) = set(cls.__args__) - {types.NoneType}
    structure = converter.get_structure_hook(inner)
    return lambda value, _: None if value is None else structure(value, inner)


@functools.cache
def converter() -> cattrs.Converter:
    """The one converter, made when it is first needed: whoever only imports need not wait."""
    converter = cattrs.Converter(detailed_validation=True)
    converter.register_structure_hook(str, _exactly(str, "a string"))
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(datetime, _time)
    converter.register_unstructure_hook(datetime, datetime.isoformat)
    converter.register_structure_hook(JobStatus, _status)
    converter.register_structure_hook_func(
        lambda cls: cls == JSONObject, _exactly(dict, "an object")
    )
    converter.register_structure_hook_factory(_is_optional, _optional)
    structure_fields = cattrs.gen.make_dict_structure_fn(FailureReason, converter)

    def structure_reason(value: object, _: object) -> FailureReason:
        if not isinstance(value, dict):
            raise _MismatchError("a string or an object", value)
        return structure_fields({**value, "details": value}, FailureReason)

    converter.register_structure_hook(FailureReason, structure_reason)
    converter.register_unstructure_hook(FailureReason, lambda reason: dict(reason.details))
    return converter


# Looked up once: half of the time that cattrs takes for a report goes into finding its hook.


@functools.cache
def _report_hook() -> Callable[[object, type], JobStatusReport]:
    return converter().get_structure_hook(JobStatusReport)


@functools.cache
def _job_hook() -> Callable[[object, type], Job]:
    return converter().get_structure_hook(Job)
