"""The responses of the router: pydantic models of what `to_dict()` of the library returns.

Fields without a description are described in `sutro_async.models`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from sutro_async import JobStatus

__all__ = [
    "FailureReasonModel",
    "JobListModel",
    "JobModel",
    "JobOutcomeModel",
    "JobOutcomesModel",
    "JobProblem",
    "JobStatusReportModel",
    "ServiceTrouble",
]

JSONObject = dict[str, Any]
Status = Annotated[JobStatus, Field(description="The status of the job.")]
RawStatus = Annotated[str, Field(description="The status as the service sent it.")]
IsTerminal = Annotated[bool, Field(description="Whether the job has finished.")]
Dollars = Annotated[float, Field(description="US dollars.")]


class FailureReasonModel(BaseModel):
    """Why a job failed."""

    message: str | None = Field(description="The reason as text.")
    additional_context: str | None = Field(description="More about the reason.")
    details: JSONObject = Field(description="The reason as the service sent it.")


class JobStatusReportModel(BaseModel):
    """The status of a job."""

    job_id: str
    status: Status
    raw_status: RawStatus
    is_terminal: IsTerminal
    message: str = Field(description="The message of the service; may be empty.")
    metadata: JSONObject = Field(description="The metadata as the service sent it.")
    failure: FailureReasonModel | None


class JobModel(BaseModel):
    """The record of a job."""

    job_id: str
    status: Status
    raw_status: RawStatus
    is_terminal: IsTerminal
    model: str | None
    system_prompt: str | None
    job_priority: int | None
    datetime_created: datetime | None
    datetime_started: datetime | None
    datetime_completed: datetime | None
    duration_seconds: float | None = Field(description="Seconds from start to completion.")
    json_schema: JSONObject | None
    sampling_params: JSONObject | None
    name: str | None
    description: str | None
    dataset_id: str | None
    input_tokens: int | None
    output_tokens: int | None
    total_tokens: int | None
    job_cost: Dollars | None
    num_rows: int | None
    failure_reason: FailureReasonModel | None
    cost_estimate: Dollars | None
    extra: JSONObject = Field(description="Whatever else the service sent.")


class JobListModel(BaseModel):
    """The newest jobs of the caller, newest first."""

    jobs: list[JobModel]
    next: str | None = Field(
        description="What to send as `before` to get the jobs after these; null if there are none."
    )
    is_truncated: bool = Field(
        description="Whether older jobs may be missing: the newest 1000 of the account are read."
    )


class JobProblem(BaseModel):
    """An error, as problem details (RFC 9457)."""

    type: str = Field(description="A URI that identifies the kind of problem.")
    title: str = Field(description="The kind of problem as text.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="A description of the problem.")
    instance: str | None = Field(default=None, description="The path of the request.")
    job_id: str | None = Field(default=None, description="The job that the problem concerns.")
    errors: list[JSONObject] | None = Field(
        default=None, description="What is wrong with the request, each with `loc` and `msg`."
    )


class JobOutcomeModel(BaseModel):
    """The outcome of one job of many: a report or a problem."""

    job_id: str
    report: JobStatusReportModel | None = None
    problem: JobProblem | None = None


class JobOutcomesModel(BaseModel):
    """An outcome for each job, in the order of the ids."""

    outcomes: list[JobOutcomeModel]


class ServiceTrouble(BaseModel):
    """An outage: the service does not respond, so nothing new is known of any job."""

    since: datetime = Field(description="When the first request that got no response was sent.")
    detail: str = Field(description="A description of the last failure.")
