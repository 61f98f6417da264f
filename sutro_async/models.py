"""What the service says about a job, as values.

All classes are immutable and compare by value. The mappings in them hold JSON as it was sent; treat
them as read-only.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Generic, Self, TypeVar

import attrs

from sutro_async import errors
from sutro_async._plain import plain
from sutro_async.errors import JobCancelledError, JobFailedError, SutroError, copied

__all__ = [
    "TERMINAL_STATUSES",
    "FailureReason",
    "Job",
    "JobOutcome",
    "JobStatus",
    "JobStatusReport",
]

JSONObject = Mapping[str, Any]
"""A JSON object as parsed; the service decides what it contains."""

T = TypeVar("T")


def _plain_fields(model: attrs.AttrsInstance) -> dict[str, Any]:
    names = [field.name for field in attrs.fields(type(model))]
    return {name: plain(getattr(model, name)) for name in names}


class JobStatus(enum.StrEnum):
    """The status of a job (API reference: "Checking Job Status", "Job Status Values").

    A status that this version does not know reads as `UNKNOWN`; `raw_status` is the status as
    sent.
    """

    PENDING = "pending"
    SUBMITTED = "submitted"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def is_terminal(self) -> bool:
        """Whether a job with this status has finished."""
        return self in TERMINAL_STATUSES


TERMINAL_STATUSES: Final = frozenset(
    {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED},
)
"""The statuses of a finished job."""


def _details_of(reason: FailureReason) -> JSONObject:
    fields = {"message": reason.message, "additional_context": reason.additional_context}
    return {name: text for name, text in fields.items() if text is not None}


@attrs.frozen(kw_only=True)
class FailureReason:
    """Why a job failed, in one form for all forms that the service uses.

    Attributes:
        message: The reason. A value that is not a string becomes compact JSON.
        additional_context: Debugging information of the service, likewise.
        details: The reason as an object: as sent, or made of the two fields above where the
            service sent a plain string.
    """

    message: str | None = None
    additional_context: str | None = None
    # Not by `@details.default`, of which pyright knows nothing: it would require the argument.
    details: JSONObject = attrs.field(
        default=attrs.Factory(_details_of, takes_self=True), hash=False
    )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return _plain_fields(self)

    def __str__(self) -> str:
        message = (self.message or "").strip()
        context = (self.additional_context or "").strip()
        if message and context:
            return f"{message} ({context})"
        others = self.details.keys() - {"message", "additional_context"}
        return message or context or ", ".join(f"{k}: {self.details[k]}" for k in sorted(others))


@attrs.frozen(kw_only=True)
class JobStatusReport:
    """One response of `GET /job-status/{job_id}` (API reference: "Checking Job Status").

    Attributes:
        job_id: The job.
        status: Its status.
        raw_status: The status as sent.
        message: The service's description of the status; empty if it sent none. A value that is
            not a string becomes compact JSON.
        metadata: Further data, as sent; empty if the service sent no object.
        failure: Why the job failed. The service guarantees it in the status response only if the
            job failed during its initialization; a wait reads the record for it.
    """

    job_id: str
    status: JobStatus
    raw_status: str
    message: str = ""
    metadata: JSONObject = attrs.field(factory=dict, hash=False)
    failure: FailureReason | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the job has finished."""
        return self.status.is_terminal

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, and `is_terminal`, as plain JSON values."""
        return {**_plain_fields(self), "is_terminal": self.is_terminal}

    def raise_for_failure(self) -> Self:
        """Return the report itself, unless the job failed or was cancelled.

        Raises:
            JobFailedError: The job failed.
            JobCancelledError: The job was cancelled.
        """
        if self.status is JobStatus.FAILED:
            raise JobFailedError(self)
        if self.status is JobStatus.CANCELLED:
            raise JobCancelledError(self)
        return self


@attrs.frozen(kw_only=True)
class Job:
    """The record of a job, from `GET /jobs/{job_id}` (API reference: "Fetch Job Details").

    The service may omit all fields except `job_id` and `status`; they are None then. A field whose
    value is not of its documented type is None too; `extra` has the value as sent.

    Attributes:
        job_id: The job.
        status: Its status.
        raw_status: The status as sent.
        model: The model that it runs on.
        system_prompt: The system prompt given to the model.
        job_priority: 0 (minutes) or 1 (about an hour).
        datetime_created: When it was submitted; with a time zone, as all times here.
        datetime_started: When processing began.
        datetime_completed: When it finished.
        json_schema: The schema of its structured output.
        sampling_params: The sampling parameters, as given to the model.
        name: Its name.
        description: Its description.
        dataset_id: The data set that it reads.
        input_tokens: Tokens read.
        output_tokens: Tokens written.
        job_cost: Its cost in US dollars; known once it has finished.
        num_rows: Rows processed.
        failure_reason: Why it failed.
        cost_estimate: Its expected cost in US dollars.
        extra: Further fields that the service sent, as sent, and values that are not of their
            documented type.
    """

    job_id: str
    status: JobStatus
    raw_status: str
    model: str | None = None
    system_prompt: str | None = None
    job_priority: int | None = None
    datetime_created: datetime | None = None
    datetime_started: datetime | None = None
    datetime_completed: datetime | None = None
    json_schema: JSONObject | None = attrs.field(default=None, hash=False)
    sampling_params: JSONObject | None = attrs.field(default=None, hash=False)
    name: str | None = None
    description: str | None = None
    dataset_id: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    job_cost: float | None = None
    num_rows: int | None = None
    failure_reason: FailureReason | None = None
    cost_estimate: float | None = None
    extra: JSONObject = attrs.field(factory=dict, hash=False)

    @property
    def is_terminal(self) -> bool:
        """Whether the job has finished."""
        return self.status.is_terminal

    @property
    def failure(self) -> FailureReason | None:
        """Why the job failed; the same as `failure_reason`, named as in a report."""
        return self.failure_reason

    @property
    def duration(self) -> timedelta | None:
        """How long the job ran, from start to completion; None until both are known."""
        if self.datetime_started is None or self.datetime_completed is None:
            return None
        return self.datetime_completed - self.datetime_started

    @property
    def total_tokens(self) -> int | None:
        """Tokens read and written; None until both are known."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, times as ISO 8601.

        `is_terminal`, `total_tokens` and `duration_seconds` are added to the fields.
        """
        return {
            **_plain_fields(self),
            "is_terminal": self.is_terminal,
            "total_tokens": self.total_tokens,
            "duration_seconds": None if self.duration is None else self.duration.total_seconds(),
        }


@attrs.frozen(kw_only=True)
class JobOutcome(Generic[T]):
    """The result for one job of many: a value or an error.

    Attributes:
        job_id: The job.
        value: The report or record; None if there is an error.
        error: Why there is no value; None if there is one.

    Raises:
        ValueError: Both or neither of `value` and `error` are given.
    """

    job_id: str
    value: T | None = None
    error: SutroError | None = None

    def __attrs_post_init__(self) -> None:
        if (self.value is None) == (self.error is None):
            raise ValueError("a JobOutcome has either a value or an error")

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.error is None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, those of the value or of the error included."""
        return _plain_fields(self)

    def result(self) -> T:
        """Return the value.

        Raises:
            SutroError: A copy of the error, if there is one: raising adds frames to an error, which
                would accumulate on the one in the outcome.
        """
        if self.error is not None:
            raise copied(self.error)
        assert self.value is not None  # noqa: S101 - one of the two is set
        return self.value


# Annotations of errors name this class, which is defined above them: `typing.get_type_hints`, and
# so FastAPI, looks it up among the names of their module.
vars(errors)["JobStatusReport"] = JobStatusReport
