"""What the router answers, as pydantic models of the library's `to_dict()`.

Where a field has no description, it is that of the same field in `sutro_async.models`.
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
Status = Annotated[JobStatus, Field(description="Where the job stands.")]
RawStatus = Annotated[str, Field(description="The service's own word for that.")]
IsTerminal = Annotated[bool, Field(description="Whether the job has ended.")]
Dollars = Annotated[float, Field(description="US dollars.")]


class FailureReasonModel(BaseModel):
    """Why a job failed."""

    message: str | None = Field(description="The reason in words.")
    additional_context: str | None = Field(description="What else is known of it.")
    details: JSONObject = Field(description="The reason as the service sent it.")


class JobStatusReportModel(BaseModel):
    """How a job is doing."""

    job_id: str
    status: Status
    raw_status: RawStatus
    is_terminal: IsTerminal
    message: str = Field(description="What the service says of it; may be empty.")
    metadata: JSONObject = Field(description="Further facts, as the service sent them.")
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
        description="Whether older jobs may be missing: only the newest 1000 of the account count."
    )


class JobProblem(BaseModel):
    """What went wrong, as RFC 9457 tells it."""

    type: str = Field(description="A URI that stands for the kind of problem.")
    title: str = Field(description="The kind of problem, in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What it means here.")
    instance: str | None = Field(default=None, description="The path that was asked for.")
    job_id: str | None = Field(default=None, description="The job that it is about.")
    errors: list[JSONObject] | None = Field(
        default=None, description="What is wrong with the request, each with `loc` and `msg`."
    )


class JobOutcomeModel(BaseModel):
    """What came of one job of many: a report, or a problem."""

    job_id: str
    report: JobStatusReportModel | None = None
    problem: JobProblem | None = None


class JobOutcomesModel(BaseModel):
    """An outcome for each job, in the order of the ids."""

    outcomes: list[JobOutcomeModel]


class ServiceTrouble(BaseModel):
    """Says that the service does not answer, so that nothing new is known of any job."""

    since: datetime = Field(description="When the first request was sent that was not answered.")
    detail: str = Field(description="What it means here.")
