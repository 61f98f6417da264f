"""Responses with status 200: a status in either of its two forms, and a record.

```json
{"message": "…", "job_status": {"job-12345": "RUNNING"}, "metadata": null}
{"message": "…", "job_status": "RUNNING", "metadata": null}
{"job": {"job_id": "job-12345", "status": "RUNNING", "num_rows": 1000}}
```

The status is read whenever possible: no other value of a response can make it invalid. A value
that is not of its documented type is read as far as possible, and reported as a `Mismatch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeGuard

import attrs

from sutro_async._wire._errors import body_for_error, error_message
from sutro_async._wire._json import MalformedError, abbreviate, as_text, load
from sutro_async._wire._structure import structure_job, structure_report
from sutro_async.errors import InvalidResponseError, JobNotFoundError, is_fixed_sentence
from sutro_async.models import Job, JobStatusReport

__all__ = [
    "Mismatch",
    "OnMismatch",
    "ignore_mismatch",
    "invalid",
    "is_status_word",
    "load_object",
    "parse_job",
    "parse_report",
    "read_record",
]


@attrs.frozen(kw_only=True)
class Mismatch:
    """A value of a response that is not of its documented type.

    Attributes:
        path: Where it is in the body, such as `$.job.input_tokens`.
        expected: A description of the type.
        value: The value, as parsed.
    """

    path: str
    expected: str
    value: object

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, got {abbreviate(self.value)}"


OnMismatch = Callable[[Mismatch], None]


def ignore_mismatch(_: Mismatch) -> None:
    """Do nothing."""


def parse_report(
    job_id: str, body: bytes, on_mismatch: OnMismatch = ignore_mismatch
) -> JobStatusReport:
    """Read the body of a status response (API reference: "Checking Job Status").

    Args:
        job_id: The job that was requested.
        body: The body.
        on_mismatch: Called with each value that is not of its documented type.

    Raises:
        InvalidResponseError: It is not a JSON object, or has no status for the job.
    """
    content = load_object(job_id, body)
    word, path = content.get("job_status"), "$.job_status"
    if isinstance(word, dict):
        word, path = word.get(job_id), f"{path}[{job_id!r}]"
    if not is_status_word(word):
        raise invalid(job_id, path, "a status", word, content)
    message = content.get("message")
    if message is not None and not isinstance(message, str):
        on_mismatch(Mismatch(path="$.message", expected="a string", value=message))
    metadata = content.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        on_mismatch(Mismatch(path="$.metadata", expected="an object", value=metadata))
        metadata = None
    return structure_report(
        {
            "job_id": job_id,
            "status": word,
            "raw_status": word,
            "message": "" if message is None else as_text(message),
            "metadata": metadata or {},
            "failure": _normalize_reason(metadata, "$.metadata", on_mismatch) if metadata else None,
        }
    )


_JOB_FIELDS: Final = frozenset(attrs.fields_dict(Job)) - {"raw_status", "extra"}


def parse_job(job_id: str, body: bytes, on_mismatch: OnMismatch = ignore_mismatch) -> Job:
    """Read the body of a job's record (API reference: "Fetch Job Details").

    Args:
        job_id: The job that was requested.
        body: The body.
        on_mismatch: Called with each value that is not of its documented type.

    Raises:
        JobNotFoundError: There is no record in it, which means that there is no such job.
        InvalidResponseError: It is not a JSON object, or the record is not one, or lacks the
            job's id or a status.
    """
    content = load_object(job_id, body)
    record = content.get("job")
    if record is None:
        raise JobNotFoundError(
            job_id=job_id,
            status_code=404,
            message=error_message(content) or "the response contains no job",
            body=body_for_error(content, body),
        )
    if not isinstance(record, dict):
        raise invalid(job_id, "$.job", "an object", record, content)
    if record.get("job_id") != job_id:
        raise invalid(job_id, "$.job.job_id", repr(job_id), record.get("job_id"), content)
    if not is_status_word(word := record.get("status")):
        raise invalid(job_id, "$.job.status", "a status", word, content)
    return read_record(record, "$.job", on_mismatch)


def read_record(record: Mapping[str, Any], path: str, on_mismatch: OnMismatch) -> Job:
    """Read a job's record, which has a job id and a status.

    Args:
        record: The record.
        path: Where it is in the body.
        on_mismatch: Called with each value that is not of its documented type.
    """
    extra = {}
    if not record.keys() <= _JOB_FIELDS:
        extra = {name: value for name, value in record.items() if name not in _JOB_FIELDS}
    reason = _normalize_reason(record, path, on_mismatch)
    job, mismatches = structure_job(
        {**record, "raw_status": record["status"], "failure_reason": reason, "extra": extra}
    )
    for name, expected in mismatches.items():
        on_mismatch(Mismatch(path=f"{path}.{name}", expected=expected, value=record[name]))
    return job


def load_object(job_id: str | None, body: bytes, *, is_lenient: bool = False) -> dict[str, Any]:
    """Parse a body, which has to be a JSON object; `is_lenient` as in `load`.

    Raises:
        InvalidResponseError: It is not one.
    """
    try:
        content = load(body, is_lenient=is_lenient)
    except MalformedError as error:
        raise InvalidResponseError(job_id=job_id, path="$", reason=str(error)) from error.__cause__
    if not isinstance(content, dict):
        raise invalid(job_id, "$", "an object", content, {})
    return content


def is_status_word(word: object) -> TypeGuard[str]:
    """Whether a value can be a status."""
    return isinstance(word, str) and bool(word.strip())


def invalid(
    job_id: str | None, path: str, expected: str, value: object, content: Mapping[str, Any]
) -> InvalidResponseError:
    """Make the error of a body that has a wrong value, with the service's own explanation."""
    reason = f"expected {expected}, got {abbreviate(value)}"
    explanation = error_message(content)
    if explanation and not is_fixed_sentence(explanation):
        reason = f"{reason}; the service says: {explanation}"
    return InvalidResponseError(job_id=job_id, path=path, reason=reason)


# Of a reason; null in their place means the same as their absence.
_TEXTS: Final = ("message", "additional_context")


def _normalize_reason(neighbours: Mapping[str, Any], path: str, on_mismatch: OnMismatch) -> object:
    """Bring a `failure_reason` into its richest form: an object that holds its context.

    Args:
        neighbours: The object that has the reason, and perhaps its context beside it.
        path: Where that is in the body.
        on_mismatch: Called with each value that is not of its documented type.
    """
    reason = neighbours.get("failure_reason")
    if reason is None:
        return None
    context = neighbours.get("additional_context")
    beside = {} if context is None else {"additional_context": context}
    path_of_reason = f"{path}.failure_reason"
    if isinstance(reason, dict):
        inside = {k: v for k, v in reason.items() if k not in _TEXTS or v is not None}
    else:
        inside = {"message": as_text(reason)}
        if not isinstance(reason, str):
            on_mismatch(
                Mismatch(path=path_of_reason, expected="a string or an object", value=reason)
            )
    normalized = {**beside, **inside}
    for name in _TEXTS:
        value = normalized.get(name)
        if value is not None and not isinstance(value, str):
            where = path_of_reason if name in inside else path
            on_mismatch(Mismatch(path=f"{where}.{name}", expected="a string", value=value))
    return normalized
