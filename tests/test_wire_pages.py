"""One page of the list of jobs: its path, and its two readers."""

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sutro_async._wire import (
    is_same_status,
    page_path,
    parse_error,
    parse_job,
    parse_jobs,
    parse_statuses,
)
from sutro_async.errors import (
    APIStatusError,
    AuthenticationError,
    GoneError,
    InvalidResponseError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)
from sutro_async.models import JobStatus
from tests.test_wire_properties import JOB, json_values, reproducible, survives, words

PAYLOADS = Path(__file__).parent / "payloads"
RUNNING = {"job_id": "job-1", "status": "RUNNING"}


def encode(*entries, **fields):
    return json.dumps({"jobs": list(entries), **fields}).encode()


def problem_of(parse, body):
    with pytest.raises(InvalidResponseError) as caught:
        parse(body)
    assert caught.value.job_id is None
    assert str(caught.value).startswith("list-jobs: invalid response: $")
    return caught.value.path, caught.value.reason


both_readers = pytest.mark.parametrize("parse", [parse_jobs, parse_statuses])


# ---- the path


def test_first_page_has_no_cursor():
    assert page_path(None, 100) == "/list-jobs?limit=100"


@pytest.mark.parametrize(
    ("cursor", "encoded"),
    [
        ("abc-._~", "abc-._~"),
        ("eyJ0IjogMX0+/=", "eyJ0IjogMX0%2B%2F%3D"),
        ("a b&limit=1#x?", "a%20b%26limit%3D1%23x%3F"),
        ("100%", "100%25"),
        ("%2B", "%252B"),
        ("\r\n", "%0D%0A"),
        ("grün", "gr%C3%BCn"),
    ],
)
def test_cursor_is_percent_encoded(cursor, encoded):
    assert page_path(cursor, 7) == f"/list-jobs?limit=7&cursor={encoded}"


@reproducible
@given(st.text(min_size=1))
def test_any_cursor_arrives_unaltered(cursor):
    query = urlsplit(page_path(cursor, 100)).query
    assert parse_qs(query, strict_parsing=True) == {"limit": ["100"], "cursor": [cursor]}


# ---- examples


@pytest.mark.parametrize(
    ("name", "statuses", "next_cursor"),
    [
        (
            "page",
            (("job-0000", "RUNNING"), ("job-0001", "QUEUED"), ("job-0002", "SUCCEEDED")),
            "eyJ0IjogMX0+/=",
        ),
        ("last-page", (("job-0003", "FAILED"),), None),
        ("unpaged", (("job-0000", "running"), ("job-0001", "cancelled")), None),
    ],
)
def test_each_example_is_read(name, statuses, next_cursor):
    body = (PAYLOADS / f"list-jobs__{name}.json").read_bytes()
    mismatches = []
    page = parse_jobs(body, mismatches.append)
    assert tuple((job.job_id, job.raw_status) for job in page.jobs) == statuses
    assert (page.next_cursor, page.skipped, page.skipped_count) == (next_cursor, (), 0)
    assert not mismatches
    assert all(job.extra == {"run_type": "FULL"} for job in page.jobs)
    assert parse_statuses(body).statuses == statuses
    assert parse_statuses(body).next_cursor == next_cursor


def test_entry_of_failed_job_has_reason():
    (job,) = parse_jobs((PAYLOADS / "list-jobs__last-page.json").read_bytes()).jobs
    assert job.status is JobStatus.FAILED
    assert str(job.failure) == "bad row"


def test_fields_of_oldest_pages_are_kept():
    old = {"created_at": "2024-01-15T10:30:00Z", "completed_at": None, "input_count": 3}
    (job,) = parse_jobs(encode({**RUNNING, **old, "priority": 0})).jobs
    assert job.extra == {**old, "priority": 0}


def test_every_example_is_tested():
    source = Path(__file__).read_text()
    for path in PAYLOADS.glob("list-jobs__*"):
        assert f'"{path.stem.removeprefix("list-jobs__")}"' in source


def test_empty_account_has_one_empty_page():
    page = parse_jobs(encode(next_cursor=None))
    assert (page.jobs, page.next_cursor) == ((), None)
    assert parse_statuses(encode()).statuses == ()


# ---- entries that cannot be read


UNREADABLE = [
    (5, "$.jobs[1]: expected an object, got 5"),
    (None, "$.jobs[1]: expected an object, got null"),
    (["job-2", "RUNNING"], "$.jobs[1]: expected an object, got ['job-2', 'RUNNING']"),
    ({}, "$.jobs[1].job_id: expected a job id, got null"),
    ({"status": "RUNNING"}, "$.jobs[1].job_id: expected a job id, got null"),
    ({"job_id": 5, "status": "RUNNING"}, "$.jobs[1].job_id: expected a job id, got 5"),
    ({"job_id": "", "status": "RUNNING"}, "$.jobs[1].job_id: expected a job id, got ''"),
    ({"job_id": "..", "status": "RUNNING"}, "$.jobs[1].job_id: expected a job id, got '..'"),
    ({"job_id": "a\nb", "status": "x"}, r"$.jobs[1].job_id: expected a job id, got 'a\nb'"),
    ({"job_id": "b"}, "$.jobs[1].status: expected a status of job 'b', got null"),
    (
        {"job_id": "b", "status": 5},
        "$.jobs[1].status: expected a status of job 'b', got 5",
    ),
    (
        {"job_id": "b", "status": " "},
        "$.jobs[1].status: expected a status of job 'b', got ' '",
    ),
    (
        {"job_id": "b", "status": {"b": "RUNNING"}},
        "$.jobs[1].status: expected a status of job 'b', got {'b': 'RUNNING'}",
    ),
]


@pytest.mark.parametrize(("entry", "problem"), UNREADABLE)
def test_unreadable_entry_is_skipped(entry, problem):
    body = encode(RUNNING, entry, {"job_id": "job-3", "status": "failed"}, next_cursor="c")
    page = parse_jobs(body)
    assert [job.job_id for job in page.jobs] == ["job-1", "job-3"]
    assert [str(mismatch) for mismatch in page.skipped] == [problem]
    assert (page.skipped_count, page.next_cursor) == (1, "c")


@pytest.mark.parametrize("entry", [entry for entry, _ in UNREADABLE])
def test_sweep_skips_unreadable_entry(entry):
    body = encode(RUNNING, entry, {"job_id": "job-3", "status": "failed"}, next_cursor="c")
    page = parse_statuses(body)
    ours = [pair for pair in page.statuses if pair[0] in {"job-1", "b", "job-3"}]
    assert ours == [("job-1", "RUNNING"), ("job-3", "failed")]
    assert page.next_cursor == "c"


def test_first_hundred_unreadable_entries_are_described():
    page = parse_jobs(encode(*[5] * 250, RUNNING))
    assert [mismatch.path for mismatch in page.skipped] == [f"$.jobs[{n}]" for n in range(100)]
    assert page.skipped_count == 250
    assert len(page.jobs) == 1


def test_field_of_wrong_type_has_same_path_in_every_entry():
    mismatches = []
    wrong = {"num_rows": "3.7", "failure_reason": 5}
    entries = [{**RUNNING, "job_id": f"job-{n}", **wrong} for n in range(2)]
    page = parse_jobs(encode(*entries), mismatches.append)
    assert [job.num_rows for job in page.jobs] == [None, None]
    assert page.jobs[1].extra == {"num_rows": "3.7"}
    assert page.skipped == ()
    paths = ["$.jobs[*].failure_reason", "$.jobs[*].num_rows"]
    assert [mismatch.path for mismatch in mismatches] == 2 * paths


def test_duplicate_id_on_page_is_read_twice():
    body = encode(RUNNING, {**RUNNING, "status": "failed"})
    assert [job.raw_status for job in parse_jobs(body).jobs] == ["RUNNING", "failed"]
    assert parse_statuses(body).statuses == (("job-1", "RUNNING"), ("job-1", "failed"))


# ---- bodies that are not a page


@both_readers
@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"[]", ("$", "expected an object, got []")),
        (b"null", ("$", "expected an object, got null")),
        (b"{}", ("$.jobs", "expected a list, got null")),
        (b'{"jobs": null}', ("$.jobs", "expected a list, got null")),
        (b'{"jobs": {"job-1": {}}}', ("$.jobs", "expected a list, got {'job-1': {}}")),
        (
            b'{"jobs": 5, "detail": "overloaded"}',
            ("$.jobs", "expected a list, got 5; the service says: overloaded"),
        ),
        (b"<html><title>Bad gateway</title>", ("$", "not JSON: Bad gateway")),
        (b"\xff", ("$", "not valid UTF-8")),
        (b'{"jobs": ' + b"[" * 100_000, ("$", "nested deeper than 64 levels")),
    ],
)
def test_body_that_is_not_a_page_is_malformed(parse, body, problem):
    assert problem_of(parse, body) == problem


NOT_STRICT = [
    (b'{"jobs": [{"job_id": "a", "status": "r"}, ' + b"[" * 70 + b"]" * 70 + b"]}", "nested deep"),
    (b'{"jobs": [{"job_id": "a", "status": "r", "job_cost": NaN}]}', "NaN is not JSON"),
    (b'{"jobs": [{"job_id": "a", "status": "r", "x": 1, "x": 2}]}', "the same key twice"),
]


@pytest.mark.parametrize(("body", "reason"), NOT_STRICT, ids=["deep", "NaN", "twice"])
def test_non_strict_json_is_malformed_except_for_sweep(body, reason):
    path, problem = problem_of(parse_jobs, body)
    assert path == "$"
    assert reason in problem
    assert parse_statuses(body).statuses == (("a", "r"),)


def test_unpaired_surrogate_in_cursor_can_be_sent():
    body = rb'{"jobs": [], "next_cursor": "a\ud800b"}'
    assert page_path(parse_jobs(body).next_cursor, 5) == "/list-jobs?limit=5&cursor=a%EF%BF%BDb"
    assert page_path(parse_statuses(body).next_cursor, 5) == "/list-jobs?limit=5&cursor=a%3Fb"


@both_readers
@pytest.mark.parametrize("last", [{}, {"next_cursor": None}, {"next_cursor": ""}])
def test_page_without_cursor_is_the_last(parse, last):
    assert parse(encode(RUNNING, **last)).next_cursor is None


@pytest.mark.parametrize("cursor", [5, 0, False, [], ["a"], {"t": 1}], ids=str)
def test_non_string_cursor_is_malformed_except_for_sweep(cursor):
    body = encode(RUNNING, next_cursor=cursor)
    reason = f"expected a string or null, got {cursor!r}"
    assert problem_of(parse_jobs, body) == ("$.next_cursor", reason)
    page = parse_statuses(body)
    assert (page.statuses, page.next_cursor) == ((("job-1", "RUNNING"),), None)


# ---- properties

entries = st.one_of(
    json_values,
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(JOB, json_values),
            "job_id": st.sampled_from(["job-1", "job-2"]) | json_values,
            "status": words | json_values,
            "additional_context": json_values,
        },
    ),
)


@reproducible
@given(st.lists(entries, max_size=5))
def test_each_entry_is_read_as_record_or_skipped(listed):
    body = encode(*listed)
    page = parse_jobs(body)
    assert len(page.jobs) + page.skipped_count == len(listed)
    assert page.skipped_count == len(page.skipped)
    assert all(str(mismatch).isprintable() for mismatch in page.skipped)
    skipped = {mismatch.path.split("]")[0] for mismatch in page.skipped}
    jobs = iter(page.jobs)
    for index, entry in enumerate(json.loads(body)["jobs"]):
        if f"$.jobs[{index}" in skipped:
            continue
        job = next(jobs)
        assert job == parse_job(entry["job_id"], json.dumps({"job": entry}).encode())
        assert survives(job)


@reproducible
@given(st.lists(entries, max_size=5), st.text(st.characters()) | json_values)
def test_sweep_reads_same_entries_as_list(listed, cursor):
    body = encode(*listed, next_cursor=cursor)
    page = parse_statuses(body)
    assert page_path(page.next_cursor, 5).isascii()
    assume(b"\\ud" not in body)  # half characters are replaced where the list is read whole
    cursor = json.loads(body)["next_cursor"]
    if cursor is not None and not isinstance(cursor, str):
        assert problem_of(parse_jobs, body)[0] == "$.next_cursor"
        assert page.next_cursor is None
        return
    whole = parse_jobs(body)
    assert page.next_cursor == whole.next_cursor
    pairs = [(job.job_id, job.raw_status) for job in whole.jobs]
    ids = {job_id for job_id, _ in pairs}
    assert [pair for pair in page.statuses if pair[0] in ids] == pairs


@reproducible
@given(st.one_of(st.binary(), json_values.map(json.dumps).map(str.encode)))
def test_any_body_is_read_or_reported(body):
    for parse in (parse_jobs, parse_statuses):
        try:
            parse(body)
        except InvalidResponseError as error:
            problem = str(error)
        else:
            continue
        assert problem.startswith("list-jobs: invalid response: $")
        assert problem.isprintable()
        assert len(problem) < 1000


# ---- statuses of jobs, and responses with other HTTP statuses


@pytest.mark.parametrize(
    ("word", "other", "expected"),
    [
        ("RUNNING", "running", True),
        ("Canceled", "CANCELLED", True),
        ("cancelling", "CANCELING", True),
        ("running", "queued", False),
        ("Paused", "PAUSED", True),
        ("paused", "unknown", False),
        ("cancelling", "cancelled", False),
    ],
)
def test_statuses_compare_equal_in_any_case_and_spelling(word, other, expected):
    assert is_same_status(word, other) is expected
    assert is_same_status(other, word) is expected


@pytest.mark.parametrize(
    ("status", "error_class"),
    [
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, APIStatusError),
        (410, GoneError),
        (422, APIStatusError),
        (429, RateLimitError),
        (500, ServerError),
    ],
)
def test_list_error_names_no_job(status, error_class):
    error = parse_error(None, status, {}, b'{"detail": "no"}')
    assert type(error) is error_class
    assert (error.job_id, error.status_code) == (None, status)
    assert str(error) == f"list-jobs: HTTP {status}: no"
