import copy
import enum
import inspect
import json
import pickle
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from sutro_async import models
from sutro_async.errors import (
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobWaitTimeoutError,
)
from sutro_async.models import (
    TERMINAL_STATUSES,
    FailureReason,
    Job,
    JobOutcome,
    JobStatus,
    JobStatusReport,
)

STARTED = datetime(2024, 1, 15, 10, 30, 15, tzinfo=UTC)

REASON = FailureReason(message="no GPU", additional_context="A100")
REPORT = JobStatusReport(
    job_id="job-1",
    status=JobStatus.FAILED,
    raw_status="FAILED",
    message="it failed",
    metadata={"failure_reason": {"message": "no GPU", "additional_context": "A100"}},
    failure=REASON,
)
JOB = Job(
    job_id="job-1",
    status=JobStatus.FAILED,
    raw_status="FAILED",
    datetime_started=STARTED,
    sampling_params={"stop": ["a", "b"]},
    json_schema={"type": "object"},
    input_tokens=5,
    failure_reason=REASON,
    extra={"run_type": "batch"},
)
OUTCOME = JobOutcome(job_id="job-1", value=REPORT)

VALUES = {type(value).__name__: value for value in (REASON, REPORT, JOB, OUTCOME)}
every_value = pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)


def report(status):
    return JobStatusReport(job_id="job-1", status=status, raw_status=status.value)


def job(**fields):
    return Job(job_id="job-1", status=JobStatus.RUNNING, raw_status="running", **fields)


# ---- statuses


def test_statuses_match_service():
    assert {status.name: status.value for status in JobStatus} == {
        "PENDING": "pending",
        "SUBMITTED": "submitted",
        "QUEUED": "queued",
        "STARTING": "starting",
        "RUNNING": "running",
        "CANCELLING": "cancelling",
        "SUCCEEDED": "succeeded",
        "FAILED": "failed",
        "CANCELLED": "cancelled",
        "UNKNOWN": "unknown",
    }


def test_status_is_string():
    assert issubclass(JobStatus, enum.StrEnum)
    assert f"{JobStatus.RUNNING}" == "running"


@pytest.mark.parametrize("status", JobStatus)
def test_terminal_statuses(status):
    expected = status in ("succeeded", "failed", "cancelled")
    assert status.is_terminal is expected
    assert report(status).is_terminal is expected
    assert Job(job_id="j", status=status, raw_status=status).is_terminal is expected
    assert (status in TERMINAL_STATUSES) is expected


def test_terminal_statuses_are_immutable():
    assert isinstance(TERMINAL_STATUSES, frozenset)
    assert len(TERMINAL_STATUSES) == 3


# ---- all values


@every_value
def test_models_are_immutable(value):
    for field in attrs.fields(type(value)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, field.name, None)


@every_value
def test_models_have_slots(value):
    assert not hasattr(value, "__dict__")


@every_value
def test_models_are_keyword_only(value):
    parameters = inspect.signature(type(value)).parameters.values()
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}


@every_value
def test_equal_fields_compare_equal(value):
    twin = attrs.evolve(value)
    assert twin is not value
    assert twin == value
    assert hash(twin) == hash(value)


@every_value
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_models_survive_pickling(value, protocol):
    assert pickle.loads(pickle.dumps(value, protocol)) == value


@every_value
@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_models_can_be_copied(value, copier):
    assert copier(value) == value


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (REASON, {"message": "other"}),
        (REASON, {"additional_context": None}),
        (REASON, {"details": {}}),
        (REPORT, {"job_id": "job-2"}),
        (REPORT, {"status": JobStatus.CANCELLED}),
        (REPORT, {"raw_status": "failed"}),
        (REPORT, {"message": ""}),
        (REPORT, {"metadata": {}}),
        (REPORT, {"failure": None}),
        (JOB, {"sampling_params": None}),
        (JOB, {"json_schema": {}}),
        (JOB, {"extra": {}}),
        (JOB, {"input_tokens": 6}),
        (OUTCOME, {"job_id": "job-2"}),
    ],
    ids=lambda item: ",".join(item) if isinstance(item, dict) else type(item).__name__,
)
def test_different_fields_compare_unequal(value, change):
    assert attrs.evolve(value, **change) != value


def test_module_exports_models():
    assert set(models.__all__) == {*VALUES, "JobStatus", "TERMINAL_STATUSES"}


# ---- failure reasons


@pytest.mark.parametrize(
    ("fields", "details"),
    [
        ({}, {}),
        ({"message": "m"}, {"message": "m"}),
        ({"additional_context": "c"}, {"additional_context": "c"}),
        (
            {"message": "m", "additional_context": "c"},
            {"message": "m", "additional_context": "c"},
        ),
        ({"message": ""}, {"message": ""}),
        ({"message": "m", "details": {"code": 5}}, {"code": 5}),
    ],
    ids=["none", "message", "context", "both", "empty-message", "as-given"],
)
def test_details_default_to_fields(fields, details):
    assert FailureReason(**fields).details == details


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"message": "no GPU", "additional_context": "A100"}, "no GPU (A100)"),
        ({"message": "no GPU"}, "no GPU"),
        ({"message": "no GPU", "additional_context": ""}, "no GPU"),
        ({"additional_context": "A100"}, "A100"),
        ({"message": "", "additional_context": "A100"}, "A100"),
        ({"message": "no GPU", "details": {"code": 5}}, "no GPU"),
        ({"details": {"code": 5, "node": "n1"}}, "code: 5, node: n1"),
        ({}, ""),
        ({"message": ""}, ""),
        ({"message": " \n"}, ""),
        ({"message": "no GPU", "additional_context": " \n"}, "no GPU"),
        ({"details": {"message": None}}, ""),
        ({"details": {"message": "", "additional_context": None}}, ""),
    ],
    ids=[
        "both",
        "message",
        "message-and-empty-context",
        "context",
        "context-and-empty-message",
        "message-beats-details",
        "details",
        "nothing",
        "empty-message",
        "blank-message",
        "message-and-blank-context",
        "null-message",
        "empty-and-null",
    ],
)
def test_str_of_reason(fields, expected):
    assert str(FailureReason(**fields)) == expected


# ---- reports


def test_report_required_arguments():
    bare = report(JobStatus.RUNNING)
    assert (bare.message, bare.metadata, bare.failure) == ("", {}, None)


def test_two_reports_do_not_share_their_metadata():
    assert report(JobStatus.RUNNING).metadata is not report(JobStatus.RUNNING).metadata


@pytest.mark.parametrize(
    "status", [status for status in JobStatus if status not in ("failed", "cancelled")]
)
def test_raise_for_failure_returns_successful_report(status):
    good = report(status)
    assert good.raise_for_failure() is good


@pytest.mark.parametrize(
    ("status", "error_class"),
    [(JobStatus.FAILED, JobFailedError), (JobStatus.CANCELLED, JobCancelledError)],
)
def test_raise_for_failure_raises_with_report(status, error_class):
    bad = report(status)
    with pytest.raises(error_class) as caught:
        bad.raise_for_failure()
    assert caught.value.report is bad


# ---- job records


def test_job_has_documented_fields():
    assert [field.name for field in attrs.fields(Job)] == [
        "job_id",
        "status",
        "raw_status",
        "model",
        "system_prompt",
        "job_priority",
        "datetime_created",
        "datetime_started",
        "datetime_completed",
        "json_schema",
        "sampling_params",
        "name",
        "description",
        "dataset_id",
        "input_tokens",
        "output_tokens",
        "job_cost",
        "num_rows",
        "failure_reason",
        "cost_estimate",
        "extra",
    ]


def test_job_required_arguments():
    fields = attrs.asdict(job())
    given = {"job_id": "job-1", "status": "running", "raw_status": "running", "extra": {}}
    assert fields == {**dict.fromkeys(fields), **given}


def test_two_jobs_do_not_share_their_extra():
    assert job().extra is not job().extra


@pytest.mark.parametrize(
    ("started", "completed", "expected"),
    [
        (STARTED, STARTED + timedelta(seconds=120.5), timedelta(seconds=120.5)),
        (STARTED, STARTED, timedelta(0)),
        (STARTED, None, None),
        (None, STARTED, None),
        (None, None, None),
    ],
    ids=["both", "no-time", "running", "never-started", "neither"],
)
def test_duration_needs_both_times(started, completed, expected):
    assert job(datetime_started=started, datetime_completed=completed).duration == expected


@pytest.mark.parametrize(
    ("read", "written", "expected"),
    [(15420, 8230, 23650), (0, 0, 0), (5, 0, 5), (5, None, None), (None, 5, None)],
)
def test_total_tokens_needs_both_counts(read, written, expected):
    assert job(input_tokens=read, output_tokens=written).total_tokens == expected


# ---- outcomes

ERROR = JobNotFoundError(job_id="job-1", status_code=404, message="no such job")


def test_outcome_with_value_returns_it():
    assert OUTCOME.ok
    assert OUTCOME.error is None
    assert OUTCOME.result() is REPORT


def test_outcome_with_error_raises_it():
    outcome = JobOutcome(job_id="job-1", error=ERROR)
    assert not outcome.ok
    assert outcome.value is None
    for _ in range(3):
        with pytest.raises(JobNotFoundError) as caught:
            outcome.result()
        assert caught.value.to_dict() == ERROR.to_dict()
        assert caught.value.__cause__ is ERROR.__cause__
        assert ERROR.__traceback__ is None  # raising it adds no frames to the one that is kept


@pytest.mark.parametrize("value", [0, "", False, (), {}], ids=repr)
def test_falsy_value_is_a_value(value):
    outcome = JobOutcome(job_id="job-1", value=value)
    assert outcome.ok
    assert outcome.result() is value


@pytest.mark.parametrize("fields", [{}, {"value": REPORT, "error": ERROR}], ids=["neither", "both"])
def test_outcome_has_either_value_or_error(fields):
    with pytest.raises(ValueError, match="either a value or an error"):
        JobOutcome(job_id="job-1", **fields)


def test_outcome_takes_type_argument():
    assert JobOutcome[JobStatusReport](job_id="job-1", value=REPORT) == OUTCOME


def test_outcome_with_error_survives_pickling():
    error = JobWaitTimeoutError(job_id="job-1", last_report=REPORT, elapsed=2, timeout=1)
    back = pickle.loads(pickle.dumps(JobOutcome(job_id="job-1", error=error)))
    assert back.job_id == "job-1"
    assert vars(back.error) == vars(error)


# ---- as plain JSON


@every_value
def test_to_dict_is_plain_json(value):
    fields = value.to_dict()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert type(fields.get("status", "")) is str


def test_reason_to_dict():
    assert REASON.to_dict() == {
        "message": "no GPU",
        "additional_context": "A100",
        "details": {"message": "no GPU", "additional_context": "A100"},
    }


def test_report_to_dict():
    assert REPORT.to_dict() == {
        "job_id": "job-1",
        "status": "failed",
        "raw_status": "FAILED",
        "is_terminal": True,
        "message": "it failed",
        "metadata": {"failure_reason": {"message": "no GPU", "additional_context": "A100"}},
        "failure": REASON.to_dict(),
    }
    assert report(JobStatus.RUNNING).to_dict()["failure"] is None


def test_job_to_dict():
    fields = job(
        datetime_started=STARTED,
        datetime_completed=STARTED + timedelta(seconds=1.5),
        input_tokens=3,
        output_tokens=4,
        failure_reason=REASON,
        extra={"run_type": "FULL"},
    ).to_dict()
    names = attrs.fields_dict(Job).keys()
    assert fields.keys() == names | {"is_terminal", "total_tokens", "duration_seconds"}
    assert (fields["status"], fields["is_terminal"]) == ("running", False)
    assert fields["datetime_started"] == "2024-01-15T10:30:15+00:00"
    assert (fields["total_tokens"], fields["duration_seconds"]) == (7, 1.5)
    assert (fields["failure_reason"], fields["extra"]) == (REASON.to_dict(), {"run_type": "FULL"})
    assert job().to_dict()["duration_seconds"] is None


def test_outcome_to_dict():
    assert OUTCOME.to_dict() == {"job_id": "job-1", "value": REPORT.to_dict(), "error": None}
    assert JobOutcome(job_id="job-1", value=JOB).to_dict()["value"] == JOB.to_dict()
    error = JobNotFoundError(job_id="job-1", status_code=404, message="no such job")
    fields = JobOutcome(job_id="job-1", error=error).to_dict()
    assert fields == {"job_id": "job-1", "value": None, "error": error.to_dict()}


@every_value
def test_to_dict_returns_copy(value):
    def modify(content):
        for each in list(content.values()):
            if isinstance(each, dict):
                modify(each)
        content["spoilt"] = True

    before = copy.deepcopy(value)
    modify(value.to_dict())
    assert value == before
    assert value.to_dict() == before.to_dict()


def test_job_has_failure_like_report():
    assert JOB.failure is JOB.failure_reason is REASON
    assert job().failure is None
