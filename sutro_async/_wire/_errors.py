"""Responses with a status other than 200, as errors.

This module chooses the class of the error and finds the service's explanation in the body.
`APIStatusError` in `errors.py` makes the message of it.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from sutro_async._wire._html import describe_html
from sutro_async._wire._json import MalformedError, load
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

__all__ = ["body_for_error", "error_message", "parse_error"]

_MAX_TEXT_CHARACTERS: Final = 10_000
_MAX_KEPT_BYTES: Final = 100_000
_MAX_DETAILS: Final = 5

_ERRORS: Final[Mapping[int, type[APIStatusError]]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: JobNotFoundError,
    410: GoneError,
    429: RateLimitError,
}


def parse_error(
    job_id: str | None, status: int, headers: Mapping[str, str], body: bytes
) -> APIStatusError | InvalidResponseError:
    """Make the error of a response with a status other than 200.

    Args:
        job_id: The job that was requested; None for list-jobs.
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
        page = describe_html(content) if isinstance(content, str) else None
        message = error_message(fields) or page or _text(content) or "no explanation"
    return _error_class(job_id, status)(
        job_id=job_id,
        status_code=status,
        message=message,
        code=_first_label(fields.get("code")),
        request_id=_first_label(fields.get("request_id"), headers.get("x-request-id")),
        retry_after=_retry_after(headers, fields),
        body=body_for_error(content, body),
    )


def _error_class(job_id: str | None, status: int) -> type[APIStatusError]:
    if status == 404 and job_id is None:
        return APIStatusError  # there is no job that could be missing
    return _ERRORS.get(status, ServerError if 500 <= status < 600 else APIStatusError)


def error_message(content: Mapping[str, Any]) -> str:
    """Return the service's explanation in a body, on one line; empty if there is none."""
    texts = (_text(content.get(name)) for name in ("detail", "message", "error"))
    message = next(filter(None, texts), "")
    details = _text(content.get("details"))
    return one_line(f"{message}: {details}") if message and details else message or details


def body_for_error(content: object, body: bytes) -> object:
    """Return what an error keeps of its body: thousands of them may be kept for long."""
    return content if len(body) <= _MAX_KEPT_BYTES else _decode_prefix(body)


def _error_content(body: bytes) -> object:
    try:
        return load(body)
    except MalformedError:
        return _decode_prefix(body)


def _decode_prefix(body: bytes) -> str:
    return body[:_MAX_TEXT_CHARACTERS].decode(errors="replace")


def _text(value: object) -> str:
    details = value[:_MAX_DETAILS] if isinstance(value, list) else [value]
    return one_line("; ".join(filter(None, map(_error_detail, details))))


def _error_detail(value: object) -> str:
    if isinstance(value, dict):
        value = value.get("msg") or value.get("message") or value
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value)


def _first_label(*candidates: object) -> str | None:
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


def _retry_after(headers: Mapping[str, str], fields: Mapping[str, Any]) -> float | None:
    """Seconds after which the service allows a retry; RFC 9110, section 10.2.3."""
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
    return seconds if seconds is not None else _non_negative(fields.get("retry_after"))


def _non_negative(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value).strip()
    if not _DECIMAL.fullmatch(text):
        return None
    number = float(text)
    return number if number < math.inf else None


# Python has no 60th second; it is the second after the 59th.
_LEAP_SECOND: Final = re.compile(r"(?<=\d\d:\d\d:)60\b")


def _http_date(value: str) -> datetime | None:
    text, leap_seconds = _LEAP_SECOND.subn("59", value)
    try:
        date = email.utils.parsedate_to_datetime(text) + timedelta(seconds=leap_seconds)
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
