import json
import math
import pickle
import re
from datetime import timedelta, timezone
from urllib.parse import unquote

import attrs
from cattrs.preconf.json import make_converter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sutro_async._wire import (
    job_path,
    parse_error,
    parse_job,
    parse_report,
    status_path,
)
from sutro_async.errors import APIStatusError, InvalidResponseError, JobNotFoundError, SutroError
from sutro_async.models import Job, JobStatus, JobStatusReport

converter = make_converter()  # as the page on jobs has it

reproducible = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

WORDS = [*JobStatus, "canceled", "canceling", "paused"]

words = st.sampled_from([*WORDS, *map(str.upper, WORDS), *map(str.title, WORDS)])
# Real time zones have no other forms, and take ten times as long to draw.
offsets = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
times = st.one_of(
    st.datetimes().map(lambda time: time.isoformat()),
    st.datetimes(timezones=offsets).map(lambda time: time.isoformat()),
    st.sampled_from(["2024-01-15T10:30:00Z", "0001-01-01T00:00:00+23:59", "2024-01-15"]),
)
numbers = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -0.0, 50.0, 1e308, 2**63, 10**400, -(10**400)]),
)
json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        numbers,
        st.text(),
        # With unpaired surrogates, which JSON can escape and UTF-8 cannot encode.
        st.text(st.characters()),
        words,
        times,
    ),
    # Depth matters, not breadth: broad ones take three times as long to draw.
    lambda children: st.one_of(
        st.lists(children, max_size=2),
        st.dictionaries(
            st.one_of(st.text(max_size=5), st.sampled_from(["message", "additional_context"])),
            children,
            max_size=2,
        ),
    ),
    max_leaves=10,
)
json_objects = st.dictionaries(st.text(max_size=5), json_values, max_size=4)

optional_texts = st.none() | st.text()
reasons = st.one_of(
    st.none(),
    st.text(),
    st.fixed_dictionaries(
        {},
        optional={
            "message": optional_texts,
            "additional_context": optional_texts,
            "details": json_values,
            "code": json_values,
        },
    ),
)

REPORT = {
    "message": "Job failed during initialization",
    "job_status": "failed",
    "metadata": {
        "failure_reason": {"message": "no GPU", "additional_context": "A100"},
        "additional_context": "H100",
    },
}
JOB = {
    "job_id": "job-1",
    "status": "SUCCEEDED",
    "model": "llama-3.1-8b",
    "system_prompt": "Be brief.",
    "job_priority": 1,
    "datetime_created": "2024-01-15T10:30:00Z",
    "datetime_started": "2024-01-15T10:30:15Z",
    "datetime_completed": "2024-01-15T10:32:15Z",
    "json_schema": {"type": "object"},
    "sampling_params": {"temperature": 0.7},
    "name": "Customer Support Batch",
    "description": "Processing customer inquiries",
    "dataset_id": "dataset-12345",
    "input_tokens": 15420,
    "output_tokens": 8230,
    "job_cost": 0.0234,
    "num_rows": 50,
    "failure_reason": {"message": "no GPU", "additional_context": "A100"},
    "cost_estimate": 0.025,
    "run_type": "batch",
}

REPORT_PATHS = [
    (),
    *((name,) for name in REPORT),
    ("job_status", "job-1"),
    ("metadata", "failure_reason"),
    ("metadata", "additional_context"),
    ("metadata", "failure_reason", "message"),
    ("metadata", "failure_reason", "additional_context"),
]
JOB_PATHS = [
    (),
    ("job",),
    *(("job", name) for name in (*JOB, "raw_status", "extra", "additional_context")),
    ("job", "failure_reason", "message"),
    ("job", "failure_reason", "additional_context"),
]


def replaced(content, path, value):
    if not path:
        return value
    name, *rest = path
    inner = content.get(name) if isinstance(content, dict) else None
    outer = content if isinstance(content, dict) else {}
    return {**outer, name: replaced(inner, rest, value)}


def bodies(valid, paths):
    changes = st.lists(st.tuples(st.sampled_from(paths), json_values), min_size=1, max_size=3)

    def change(changes):
        content = valid
        for path, value in changes:
            content = replaced(content, path, value)
        return content

    return changes.map(change)


def truncated(valid):
    body = json.dumps(valid).encode()
    places = st.integers(0, len(body))
    return st.tuples(places, places, st.binary(max_size=4)).map(
        lambda cut: body[: min(cut[:2])] + cut[2] + body[max(cut[:2]) :]
    )


def has_valid_message(error):
    message = str(error)
    return message.isprintable() and len(message) < 1000 and "job-1" in message


def read(parse, body):
    """Return the model, or None if the body is rejected with a valid error."""
    try:
        model = parse("job-1", body)
    except (InvalidResponseError, JobNotFoundError) as error:
        problem = error
    else:
        assert type(model) is {parse_report: JobStatusReport, parse_job: Job}[parse]
        assert model.job_id == "job-1"
        return model
    assert has_valid_message(problem)
    if isinstance(problem, InvalidResponseError):
        assert problem.path.startswith("$")
    else:
        assert parse is parse_job
        assert json.loads(body).get("job") is None
    return None


def survives(model):
    plain = model.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    structured = converter.structure(plain, type(model))
    pickled = pickle.loads(pickle.dumps(model))
    return structured == model == pickled and hash(structured) == hash(model) == hash(pickled)


# ---- hostile bodies


@reproducible
@given(bodies(REPORT, REPORT_PATHS))
def test_any_value_anywhere_in_status_response_is_read_or_reported(content):
    report = read(parse_report, json.dumps(content).encode())
    assert report is None or survives(report)


@reproducible
@given(bodies({"job": JOB}, JOB_PATHS))
def test_any_value_anywhere_in_job_record_is_read_or_reported(content):
    job = read(parse_job, json.dumps(content).encode())
    assert job is None or survives(job)


@reproducible
@given(
    st.one_of(st.binary(), truncated(REPORT), truncated({"job": JOB}), st.text().map(str.encode))
)
def test_any_bytes_are_read_or_reported(body):
    read(parse_report, body)
    read(parse_job, body)


@reproducible
@given(
    st.lists(
        st.sampled_from([*'[]{}:,"\\ \n', '"a"', "\\u", "\\ud8", "00", "1", "e9", "-", ".", "NaN"])
    ).map("".join)
)
def test_any_json_fragments_are_read_or_reported(scraps):
    for body in (scraps, f'{{"job_status": "x", "metadata": {scraps}}}', f'{{"job": {scraps}}}'):
        read(parse_report, body.encode())
        read(parse_job, body.encode())


# ---- other values do not hide the status

report_fields = st.fixed_dictionaries(
    {},
    optional={
        "message": json_values,
        "metadata": json_values
        | st.fixed_dictionaries(
            {},
            optional={
                "failure_reason": json_values
                | st.fixed_dictionaries(
                    {}, optional={"message": json_values, "additional_context": json_values}
                ),
                "additional_context": json_values,
            },
        ),
        "detail": json_values,
        "error": json_values,
    },
)


@reproducible
@given(word=words | st.text().filter(str.strip), mapping=st.booleans(), fields=report_fields)
def test_no_other_value_invalidates_report(word, mapping, fields):
    status = {"job-1": word, "job-2": fields} if mapping else word
    mismatches = []
    body = json.dumps({"job_status": status, **fields}).encode()
    report = parse_report("job-1", body, mismatches.append)
    assert report.raw_status == word
    assert report.status == parse_report("job-1", json.dumps({"job_status": word}).encode()).status
    assert isinstance(report.message, str)
    metadata = fields.get("metadata")
    assert len(report.metadata) == (len(metadata) if isinstance(metadata, dict) else 0)
    if isinstance(metadata, dict) and metadata.get("failure_reason") is not None:
        assert isinstance(str(report.failure), str)
    assert {each.path for each in mismatches} <= {
        "$.message",
        "$.metadata",
        "$.metadata.failure_reason",
        "$.metadata.failure_reason.message",
        "$.metadata.failure_reason.additional_context",
        "$.metadata.additional_context",
    }
    assert survives(report)


@reproducible
@given(
    word=words | st.text().filter(str.strip),
    fields=st.dictionaries(
        st.sampled_from([*JOB, "raw_status", "extra", "additional_context"]).filter(
            lambda name: name not in {"job_id", "status"}
        ),
        json_values,
    ),
)
def test_no_other_value_invalidates_record(word, fields):
    mismatches = []
    body = json.dumps({"job": {"job_id": "job-1", "status": word, **fields}}).encode()
    job = parse_job("job-1", body, mismatches.append)
    assert job.raw_status == word
    paths = {each.path for each in mismatches}
    for name, value in json.loads(body)["job"].items():
        if name in job.extra:
            continue
        # Each value is either in its field or unchanged in `extra`.
        assert (getattr(job, name) is None) is (value is None)
    for name in (
        set(fields) & set(job.extra) & set(attrs.fields_dict(Job)) - {"extra", "raw_status"}
    ):
        assert getattr(job, name) is None
        assert f"$.job.{name}" in paths
    assert survives(job)


# ---- correct bodies


@reproducible
@given(
    word=words,
    mapping=st.booleans(),
    fields=st.fixed_dictionaries(
        {}, optional={"message": optional_texts, "metadata": st.none() | json_objects}
    ),
    facts=st.none()
    | st.fixed_dictionaries({"failure_reason": reasons, "additional_context": optional_texts}),
)
def test_report_survives_json_and_pickling(word, mapping, fields, facts):
    body = {"job_status": {"job-1": word, "job-2": "x"} if mapping else word, **fields}
    if facts is not None:
        body["metadata"] = {**(fields.get("metadata") or {}), **facts}
    report = read(parse_report, json.dumps(body).encode())
    assert report.raw_status == word
    reason = report.metadata.get("failure_reason")
    assert (report.failure is None) is (reason is None)
    assert survives(report)


@reproducible
@given(
    status=words,
    fields=st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(
                ["model", "system_prompt", "name", "description", "dataset_id"], optional_texts
            ),
            **dict.fromkeys(
                ["job_priority", "input_tokens", "output_tokens", "num_rows"],
                st.none() | st.integers() | st.integers(-(2**53), 2**53).map(float),
            ),
            **dict.fromkeys(
                ["job_cost", "cost_estimate"],
                st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(),
            ),
            **dict.fromkeys(
                ["datetime_created", "datetime_started", "datetime_completed"], st.none() | times
            ),
            **dict.fromkeys(["json_schema", "sampling_params"], st.none() | json_objects),
            "failure_reason": reasons,
            "additional_context": optional_texts,
            "run_type": json_values,
            "extra": json_values,
            "raw_status": json_values,
        },
    ),
)
def test_job_survives_json_and_pickling(status, fields):
    body = {"job": {"job_id": "job-1", "status": status, **fields}}
    job = read(parse_job, json.dumps(body).encode())
    assert job.raw_status == status
    assert survives(job)
    for time in (job.datetime_created, job.datetime_started, job.datetime_completed):
        assert time is None or time.utcoffset() is not None


@reproducible
@given(words | st.text().filter(str.strip))
def test_parsing_status_twice_is_idempotent(word):
    status = parse_report("job-1", json.dumps({"job_status": word}).encode()).status
    again = parse_report("job-1", json.dumps({"job_status": status}).encode()).status
    assert type(status) is JobStatus
    assert again is status


# ---- errors


@reproducible
@given(
    status=st.integers(100, 999).filter(lambda status: status != 200),
    headers=st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "date", "location", "x-request-id"]),
        st.one_of(
            st.text(st.characters()),
            st.lists(
                st.sampled_from(
                    ["Mon,", "15", "Jan", "2024", "12:00:00", "12.30", "GMT", "+9999", "-", "1e5"]
                )
            ).map(" ".join),
            st.from_regex(r"https?://[a-z@\[\]:%.?/]*", fullmatch=True),
        ),
    ),
    body=st.one_of(
        st.binary(),
        json_values.map(lambda value: json.dumps(value).encode()),
        st.dictionaries(
            st.sampled_from(["detail", "message", "error", "msg", "code", "request_id"]),
            json_values,
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_any_other_response_is_error_with_reason(status, headers, body):
    error = parse_error("job-1", status, headers, body)
    assert isinstance(error, SutroError)
    assert has_valid_message(error)
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)
    if status < 200 or status >= 300:
        assert isinstance(error, APIStatusError)
        assert error.status_code == status
        assert error.message
        assert error.retry_after is None or 0 <= error.retry_after < math.inf
    else:
        assert isinstance(error, InvalidResponseError)


# ---- requests


@reproducible
@given(st.one_of(st.text(), st.text(st.characters()), st.text("./%\\a\n é")))
def test_any_text_is_one_safe_path_segment_or_rejected(job_id):
    try:
        path = job_path(job_id)
    except ValueError:
        assert job_id in ("", ".", "..") or not job_id.isprintable()
        return
    segment = path.removeprefix("/jobs/")
    assert re.fullmatch(r"([A-Za-z0-9._~-]|%[0-9A-F]{2})+", segment)
    assert segment not in (".", "..")
    assert unquote(segment, errors="strict") == job_id
    assert status_path(job_id) == f"/job-status/{segment}"
