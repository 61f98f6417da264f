import copy
import json
import math
import pickle
import re

import pytest

from sutro_async import errors
from sutro_async.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    ClientStateError,
    ConfigurationError,
    GoneError,
    InvalidResponseError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobUnsuccessfulError,
    JobWaitTimeoutError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SutroError,
    detached,
    one_line,
)
from sutro_async.models import FailureReason, JobStatus, JobStatusReport

TREE = """\
SutroError
├── ConfigurationError (ValueError)
├── ClientStateError (RuntimeError)
├── APIError
│   ├── APIConnectionError (ConnectionError)
│   │   └── APITimeoutError (TimeoutError)
│   ├── InvalidResponseError
│   └── APIStatusError
│       ├── AuthenticationError
│       ├── PermissionDeniedError
│       ├── JobNotFoundError
│       ├── GoneError
│       ├── RateLimitError
│       └── ServerError
├── JobWaitTimeoutError (TimeoutError)
└── JobUnsuccessfulError
    ├── JobFailedError
    └── JobCancelledError"""

RUNNING = JobStatusReport(job_id="job-1", status=JobStatus.RUNNING, raw_status="RUNNING")

WAIT_AGAIN = "; the job is still running on the service, call wait_for_job('job-1') to resume"

HOSTILE = "first\r\nsecond\tthird\x00\x1b[31m\u2028\u202eend\ud800"


def failed(message="", failure=None, status=JobStatus.FAILED, job_id="job-1"):
    return JobStatusReport(
        job_id=job_id,
        status=status,
        raw_status=status.value,
        message=message,
        metadata={"node": [1, 2.5, None]},
        failure=failure,
    )


def status_error(cls, status):
    return cls(
        job_id="job-1",
        status_code=status,
        message="some words",
        code="a_code",
        request_id="req-1",
        retry_after=1.5,
        body={"detail": ["some words"]},
    )


def with_report(error):
    error.last_report = RUNNING
    return error


EXAMPLES = {
    type(error).__name__: error
    for error in (
        SutroError("anything"),
        ConfigurationError("no key"),
        ClientStateError("closed"),
        with_report(APIError("job 'job-1': failure", job_id="job-1")),
        with_report(APIConnectionError("job 'job-1': reset", job_id="job-1", retryable=False)),
        with_report(APITimeoutError("job 'job-1': too slow", job_id="job-1")),
        with_report(InvalidResponseError(job_id="job-1", path="$.job", reason="got 5")),
        with_report(status_error(APIStatusError, 418)),
        with_report(status_error(AuthenticationError, 401)),
        with_report(status_error(PermissionDeniedError, 403)),
        with_report(status_error(JobNotFoundError, 404)),
        with_report(status_error(GoneError, 410)),
        with_report(status_error(RateLimitError, 429)),
        with_report(status_error(ServerError, 500)),
        JobWaitTimeoutError(job_id="job-1", last_report=RUNNING, elapsed=5.25, timeout=5.0),
        JobUnsuccessfulError(failed("broken")),
        JobFailedError(failed(failure=FailureReason(message="no GPU", additional_context="A100"))),
        JobCancelledError(failed(status=JobStatus.CANCELLED)),
    )
}

every_error = pytest.mark.parametrize("error", EXAMPLES.values(), ids=EXAMPLES)


def same(error, other):
    return (
        type(other) is type(error)
        and other.args == error.args
        and str(other) == str(error)
        and vars(other) == vars(error)
    )


# ---- the tree


def draw(cls, indent=""):
    builtins = [
        base.__name__
        for base in cls.__bases__
        if base.__module__ == "builtins" and base is not Exception
    ]
    yield cls.__name__ + "".join(f" ({name})" for name in builtins)
    children = [child for child in cls.__subclasses__() if child.__module__ == errors.__name__]
    for child in children:
        last = child is children[-1]
        first, *rest = draw(child)
        yield f"{indent}{'└── ' if last else '├── '}{first}"
        yield from (f"{indent}{'    ' if last else '│   '}{line}" for line in rest)


def test_class_hierarchy_is_as_documented():
    assert "\n".join(draw(SutroError)) == TREE


def test_docstring_shows_class_hierarchy():
    drawing = errors.__doc__.split("```")[1].strip()
    assert re.sub(r"(?<=\S) {2,}\w.*", "", drawing) == TREE


def test_all_lists_exactly_the_error_classes():
    assert set(errors.__all__) == set(re.findall(r"\w+Error(?! *\))", TREE))
    assert set(errors.__all__) == set(EXAMPLES)


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ConfigurationError", ValueError),
        ("ClientStateError", RuntimeError),
        ("APIConnectionError", ConnectionError),
        ("APITimeoutError", ConnectionError),
        ("APITimeoutError", TimeoutError),
        ("JobWaitTimeoutError", TimeoutError),
    ],
)
def test_error_is_caught_as_builtin_base_class(name, builtin):
    with pytest.raises(builtin):
        raise EXAMPLES[name]


def test_only_documented_errors_have_builtin_bases():
    kin = (ValueError, RuntimeError, OSError)
    assert {name for name, error in EXAMPLES.items() if isinstance(error, kin)} == {
        "ConfigurationError",
        "ClientStateError",
        "APIConnectionError",
        "APITimeoutError",
        "JobWaitTimeoutError",
    }


# ---- copies


@every_error
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_class_message_and_fields(error, protocol):
    assert same(error, pickle.loads(pickle.dumps(error, protocol)))


@every_error
@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_copy_has_class_message_and_fields(error, copier):
    duplicate = copier(error)
    assert duplicate is not error
    assert same(error, duplicate)


def test_copy_has_own_fields():
    error = APIError("failure", job_id="job-1")
    duplicate = copy.copy(error)
    duplicate.last_report = RUNNING
    assert error.last_report is None


def test_pickling_keeps_notes():
    error = RateLimitError(job_id="job-1", status_code=429, message="slow down")
    error.add_note("seen at noon")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["seen at noon"]


def test_user_defined_subclass_survives_pickling():
    assert same(_UsersError(5), pickle.loads(pickle.dumps(_UsersError(5))))


class _UsersError(SutroError):
    def __init__(self, number):
        super().__init__(f"number {number}")
        self.number = number


# ---- fields


def test_api_error_has_no_report_outside_waits():
    error = APIError("failure", job_id="job-7")
    assert (error.job_id, error.last_report) == ("job-7", None)


def test_api_status_error_fields():
    error = status_error(RateLimitError, 429)
    assert vars(error) == {
        "job_id": "job-1",
        "last_report": None,
        "retryable": True,
        "status_code": 429,
        "message": "some words",
        "code": "a_code",
        "request_id": "req-1",
        "retry_after": 1.5,
        "body": {"detail": ["some words"]},
    }


def test_api_status_error_required_arguments():
    error = ServerError(job_id="job-1", status_code=500, message="oops")
    assert (error.code, error.request_id, error.retry_after, error.body) == (None, None, None, "")


def test_invalid_response_error_fields():
    error = InvalidResponseError(job_id="job-1", path="$.job", reason="got 5")
    assert (error.job_id, error.path, error.reason) == ("job-1", "$.job", "got 5")


def test_list_jobs_error_has_no_job_id():
    error = InvalidResponseError(job_id=None, path="$.jobs", reason="got 5")
    assert error.job_id is None
    assert error.to_dict()["job_id"] is None
    assert same(error, pickle.loads(pickle.dumps(error)))


def test_job_wait_timeout_error_fields():
    error = JobWaitTimeoutError(job_id="job-1", last_report=RUNNING, elapsed=5.25, timeout=5.0)
    assert vars(error) == {
        "job_id": "job-1",
        "last_report": RUNNING,
        "elapsed": 5.25,
        "timeout": 5.0,
    }


def test_job_unsuccessful_error_has_report():
    report = failed("broken")
    assert JobFailedError(report).report is report


# ---- which request is worth another try


def test_transient_statuses_are_as_documented():
    retryable = [
        status
        for status in range(100, 1000)
        if APIStatusError(job_id="job-1", status_code=status, message="x").retryable
    ]
    assert retryable == [
        *(408, 425, 429),
        *(500, 502, 503, 504),
        *range(506, 600),
    ]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (APIError("x", job_id="job-1"), False),
        (InvalidResponseError(job_id="job-1", path="$", reason="x"), False),
        (APIConnectionError("x", job_id="job-1"), True),
        (APIConnectionError("x", job_id="job-1", retryable=False), False),
        (APITimeoutError("x", job_id="job-1"), True),
    ],
    ids=["any", "invalid-response", "connection", "untrusted-certificate", "timeout"],
)
def test_only_connection_errors_without_status_are_retryable(error, expected):
    assert error.retryable is expected


# ---- messages


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            APIStatusError(job_id="job-1", status_code=418, message="teapot"),
            "job 'job-1': HTTP 418: teapot",
        ),
        (
            APIStatusError(job_id="job-1", status_code=418, message="teapot", code="short"),
            "job 'job-1': HTTP 418: teapot [code short]",
        ),
        (
            APIStatusError(job_id="job-1", status_code=418, message="teapot", request_id="r-9"),
            "job 'job-1': HTTP 418: teapot [request r-9]",
        ),
        (
            status_error(RateLimitError, 429),
            "job 'job-1': HTTP 429: some words [code a_code] [request req-1]",
        ),
        (
            InvalidResponseError(job_id="job-1", path="$.job", reason="got 5"),
            "job 'job-1': invalid response: $.job: got 5",
        ),
        (
            APIStatusError(job_id=None, status_code=418, message="teapot", code="short"),
            "list-jobs: HTTP 418: teapot [code short]",
        ),
        (
            InvalidResponseError(job_id=None, path="$.jobs", reason="got 5"),
            "list-jobs: invalid response: $.jobs: got 5",
        ),
        (
            JobWaitTimeoutError(job_id="job-1", last_report=None, elapsed=3, timeout=2.5),
            "timed out after 2.5 s waiting for job 'job-1' (no status yet)" + WAIT_AGAIN,
        ),
        (
            JobWaitTimeoutError(job_id="job-1", last_report=RUNNING, elapsed=3, timeout=3600.0),
            "timed out after 3600 s waiting for job 'job-1' (last status: RUNNING)" + WAIT_AGAIN,
        ),
        (
            JobWaitTimeoutError(
                job_id="job-1",
                last_report=RUNNING,
                elapsed=3,
                timeout=2,
                failure=APIConnectionError("job 'job-1': reset", job_id="job-1"),
            ),
            "timed out after 2 s waiting for job 'job-1' (last status: RUNNING;"
            " the last poll failed: job 'job-1': reset)" + WAIT_AGAIN,
        ),
        (
            JobUnsuccessfulError(failed("broken")),
            "job 'job-1' ended without success: broken",
        ),
        (
            JobFailedError(failed("words", FailureReason(message="no GPU"))),
            "job 'job-1' failed: no GPU",
        ),
        (
            JobFailedError(
                failed(failure=FailureReason(message="no GPU", additional_context="A100"))
            ),
            "job 'job-1' failed: no GPU (A100)",
        ),
        (JobFailedError(failed("words")), "job 'job-1' failed: words"),
        (JobFailedError(failed()), "job 'job-1' failed: the service gave no reason"),
        (
            JobCancelledError(failed("by you", status=JobStatus.CANCELLED)),
            "job 'job-1' was cancelled: by you",
        ),
    ],
    ids=[
        "status",
        "status-code",
        "status-request",
        "status-code-request",
        "invalid-response",
        "list-status-code",
        "list-invalid-response",
        "wait-unseen",
        "wait-seen",
        "wait-after-failure",
        "unsuccessful",
        "failed-reason-beats-message",
        "failed-with-context",
        "failed-message",
        "failed-silently",
        "cancelled",
    ],
)
def test_message_names_job_and_failure(error, message):
    assert str(error) == message


@pytest.mark.parametrize(
    "failure",
    [
        FailureReason(),
        FailureReason(message=""),
        FailureReason(message=" \n"),
        FailureReason(details={"message": None}),
        FailureReason(details={"message": None, "additional_context": ""}),
    ],
    ids=["empty", "empty-message", "blank-message", "null-message", "null-and-empty"],
)
def test_message_is_used_if_reason_is_empty(failure):
    assert str(JobFailedError(failed("out of GPUs", failure))) == (
        "job 'job-1' failed: out of GPUs"
    )


def test_blank_message_is_not_a_reason():
    assert str(JobFailedError(failed(" \n"))) == "job 'job-1' failed: the service gave no reason"


FOREIGN = pytest.mark.parametrize(
    "text", [HOSTILE, "x" * 1_000_000, "\n" * 1_000_000], ids=["control", "huge", "blank"]
)


@FOREIGN
@pytest.mark.parametrize(
    "error_with",
    [
        lambda text: JobFailedError(failed(text)),
        lambda text: JobFailedError(failed(failure=FailureReason(message=text))),
        lambda text: JobFailedError(
            failed(failure=FailureReason(message="m", additional_context=text))
        ),
        lambda text: JobFailedError(failed(failure=FailureReason(details={"why": [text]}))),
        lambda text: JobCancelledError(failed(text, status=JobStatus.CANCELLED)),
        lambda text: JobWaitTimeoutError(
            job_id="job-1",
            last_report=JobStatusReport(job_id="job-1", status=JobStatus.UNKNOWN, raw_status=text),
            elapsed=1,
            timeout=1,
        ),
    ],
    ids=["message", "reason", "context", "details", "cancelled", "raw-status"],
)
def test_message_is_always_one_short_line(error_with, text):
    message = str(error_with(text))
    assert message.isprintable()
    assert len(message) < 600
    assert "job-1" in message


@pytest.mark.parametrize(
    "error_for",
    [
        lambda job_id: InvalidResponseError(job_id=job_id, path="$", reason="x"),
        lambda job_id: APIStatusError(job_id=job_id, status_code=500, message="x"),
        lambda job_id: JobWaitTimeoutError(job_id=job_id, last_report=None, elapsed=1, timeout=1),
        lambda job_id: JobFailedError(failed(job_id=job_id)),
    ],
    ids=["invalid-response", "status", "wait-timeout", "failed"],
)
def test_hostile_job_id_is_escaped(error_for):
    message = str(error_for(HOSTILE))
    assert message.isprintable()
    assert r"first\r\nsecond\tthird\x00\x1b[31m" in message


# ---- foreign text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \r\n\t ", ""),
        ("plain words", "plain words"),
        ("  two\r\n lines\t", "two lines"),
        ("a\x00b\x1b[1mc", "a b [1mc"),
        ("a\u2028b\u202ec\ud800d\xa0e", "a b c d e"),
        ("naïve 日本 😀", "naïve 日本 😀"),
    ],
    ids=["empty", "blank", "plain", "lines", "control", "unprintable", "non-ascii"],
)
def test_untrusted_text_becomes_one_printable_line(text, expected):
    assert one_line(text) == expected


@pytest.mark.parametrize(
    ("length", "expected"),
    [(299, "x" * 299), (300, "x" * 300), (301, "x" * 299 + "…"), (10**6, "x" * 299 + "…")],
)
def test_untrusted_text_is_truncated_at_300_characters(length, expected):
    assert one_line("x" * length) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("x" * 10, "x" * 10), ("x" * 11, "x" * 9 + "…")], ids=["10", "11"]
)
def test_untrusted_text_is_truncated_in_messages(text, expected):
    assert one_line(text, limit=10) == expected


def test_whitespace_does_not_count_towards_limit():
    assert one_line("x " * 100 + "\n" * 100 + "end", limit=300).endswith("x end")


# ---- as plain JSON


@every_error
def test_to_dict_is_plain_json(error):
    fields = error.to_dict()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert (fields["type"], fields["message"]) == (type(error).__name__, str(error))


@every_error
def test_to_dict_has_every_public_field(error):
    # The service's own text, `message` of an APIStatusError, is part of the whole text.
    assert error.to_dict().keys() == vars(error).keys() | {"type", "message"}


def test_to_dict_values():
    error = EXAMPLES["RateLimitError"]
    fields = error.to_dict()
    assert fields["last_report"] == error.last_report.to_dict()
    names = ("job_id", "retryable", "status_code", "code", "request_id", "retry_after", "body")
    for name in names:
        assert fields[name] == getattr(error, name)
    failed_job = EXAMPLES["JobFailedError"].to_dict()
    assert failed_job["report"]["failure"]["message"] == "no GPU"
    assert failed_job["reason"] == "no GPU (A100)"


def test_to_dict_converts_non_finite_numbers_to_none():
    error = JobWaitTimeoutError(job_id="a", last_report=None, elapsed=5.0, timeout=math.inf)
    assert (error.to_dict()["timeout"], error.to_dict()["elapsed"]) == (None, 5.0)
    error = RateLimitError(job_id="a", status_code=429, message="m", retry_after=math.nan)
    assert error.to_dict()["retry_after"] is None


def test_to_dict_returns_copy():
    error = RateLimitError(job_id="a", status_code=429, message="m", body={"detail": ["x"]})
    error.to_dict()["body"]["detail"].append("y")
    assert error.body == {"detail": ["x"]}


def test_to_dict_ignores_attributes_of_subclasses():
    class OurError(SutroError):
        def __init__(self):
            super().__init__("ours")
            self.lock = object()

    assert OurError().to_dict() == {"type": "OurError", "message": "ours"}


# ---- the fixed sentence


@pytest.mark.parametrize(
    "sentence",
    [
        "Job status with job_id job-1 retrieved.",
        "Job status with job_id job-1 retrieved",
        "JOB STATUS with job_id another retrieved. ",
    ],
)
@pytest.mark.parametrize("cls", [JobFailedError, JobCancelledError, JobUnsuccessfulError])
def test_fixed_sentence_is_not_a_reason(cls, sentence):
    error = cls(failed(sentence))
    assert error.reason == ""
    assert str(error).endswith(": the service gave no reason")


def test_any_other_message_is_reason():
    assert JobFailedError(failed("no GPU")).reason == "no GPU"


def test_detached_error_holds_no_frames():
    def fail(error, cause=None):
        try:
            raise error from cause
        except type(error) as caught:
            return caught

    group = fail(ExceptionGroup("two", [fail(OSError("a")), fail(OSError("b"))]))
    error = detached(fail(APIConnectionError("no", job_id="job-1"), group))
    error.__context__ = error.__cause__  # a cycle does no harm
    group.__context__ = error
    assert detached(error) is error
    assert error.__cause__ is group
    assert [each.__traceback__ for each in (error, group, *group.exceptions)] == [None] * 4
