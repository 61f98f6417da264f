"""What the command makes of values, without running it."""

import json
import time
from datetime import UTC, datetime, timedelta

import click
import pytest

from sutro_async import (
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    FailureReason,
    GoneError,
    InvalidResponseError,
    Job,
    JobNotFoundError,
    JobOutcome,
    JobStatus,
    JobStatusReport,
    JobWaitTimeoutError,
    PermissionDeniedError,
    ServerError,
)
from sutro_async.cli import _format, _json
from sutro_async.cli._board import Board
from sutro_async.cli._errors import print_errors, print_timeouts
from sutro_async.cli._exit import status_of_error, status_of_outcomes
from sutro_async.cli._fake import parse_job
from sutro_async.cli._show import describe
from sutro_async.cli._summary import footer_lines, summary_table
from sutro_async.cli._table import Column, Row, Table, plain_lines


def report(status="running", job_id="job-1", **fields):
    return JobStatusReport(
        job_id=job_id, status=JobStatus(status), raw_status=status.upper(), **fields
    )


def not_found(job_id="job-1"):
    return JobNotFoundError(job_id=job_id, status_code=404, message="No job")


def timed_out(job_id="job-1"):
    return JobWaitTimeoutError(job_id=job_id, last_report=report(), elapsed=5.0, timeout=5.0)


@pytest.fixture
def paris(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Paris")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# ---- values


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (1.54, "1.5 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (123, "2 min 3 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h"),
        (3900, "1 h 5 min"),
        (86_390, "1 d"),
        (100_000, "1 d 4 h"),
        (1e8, "1,157 d 10 h"),
        (-5, "-5.0 s"),
    ],
)
def test_durations_are_in_their_two_largest_units(seconds, text):
    assert _format.duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (59.99, "59.9 s"), (123.9, "2:03"), (3661, "1:01:01")]
)
def test_a_stopwatch_never_runs_ahead(seconds, text):
    assert _format.stopwatch(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0 s ago"), (60, "1 min ago"), (7300, "2 h ago")]
)
def test_what_is_past_is_told_in_one_unit(seconds, text):
    assert _format.ago(seconds) == text


@pytest.mark.parametrize(
    ("dollars", "text"),
    [
        (0, "0.0000 USD"),
        (0.0234, "0.0234 USD"),
        (0.00001, "< 0.0001 USD"),
        (1234.5, "1,234.5000 USD"),
        (1e300, "1.0e+300 USD"),
    ],
)
def test_money_has_its_currency(dollars, text):
    assert _format.money(dollars) == text


def test_times_are_local_and_name_their_zone(paris):
    winter = datetime(2024, 1, 15, 10, 30, 15, tzinfo=UTC)
    assert _format.local_time(winter) == "2024-01-15 11:30:15 CET"
    assert _format.local_time(winter.replace(month=7)) == "2024-07-15 12:30:15 CEST"


def test_a_time_at_the_end_of_all_times_is_told(paris):
    assert _format.local_time(datetime.max.replace(tzinfo=UTC)) == "9999-12-31 23:59:59 UTC"


def test_foreign_text_cannot_move_the_cursor():
    assert _format.one_line("a\x1b[2Jb\n\tc") == "a [2Jb c"
    assert _format.printable_lines("a\x1b[2J\n\tb") == ["a [2J", "    b"]
    assert _format.one_line("abcdef", limit=4) == "abc…"


def test_an_unknown_word_stands_beside_unknown():
    odd = JobStatusReport(job_id="job-1", status=JobStatus.UNKNOWN, raw_status="PREEMPTED")
    assert _format.status_word(odd, raw=False) == "unknown (PREEMPTED)"
    assert _format.status_word(odd, raw=True) == "PREEMPTED"
    assert _format.status_word(report("unknown"), raw=False) == "unknown"
    assert _format.status_word(report("running"), raw=True) == "RUNNING"


def test_only_a_failure_needs_a_reason():
    assert _format.reason(report("running", message="it runs")) == ""
    assert _format.reason(report("failed", message="in\ninit")) == "in init"
    boilerplate = "Job status with job_id job-1 retrieved."
    assert _format.reason(report("failed", message=boilerplate)) == ""
    assert _format.reason(report("failed", message="Job 7 retrieved.")) == "Job 7 retrieved."
    failure = FailureReason(message="no GPU", additional_context="in eu-1")
    assert _format.reason(report("failed", message="x", failure=failure)) == "no GPU (in eu-1)"


# ---- tables


def test_a_plain_table_is_aligned_by_what_a_terminal_shows():
    table = Table(
        (Column("Job"), Column("Status"), Column("Rows", is_number=True)),
        (Row(("日本", "running", "5"), "running"), Row(("abcdef", "failed", "1,200"), "failed")),
    )
    assert list(plain_lines(table, has_header=True)) == [
        "Job     Status    Rows",
        "日本    running      5",
        "abcdef  failed   1,200",
    ]


def test_columns_without_a_text_are_left_out():
    table = Table((Column("Job"), Column("Status"), Column("Why")), (Row(("a", "b", ""), ""),))
    assert list(plain_lines(table.without_empty_columns(), has_header=False)) == ["a  b"]


# ---- the board


def test_the_board_keeps_what_changed_last_and_when():
    now = 100.0
    board = Board(["job-1", "job-1"], clock=lambda: now)
    entry = board.entries["job-1"]
    assert entry.state == "not seen"
    assert entry.changed_at is None
    now = 101.0
    board.note(report("queued"))
    now = 102.0
    board.note(report("queued", message="still"))
    assert entry.changed_at == 1.0
    assert entry.previous is None
    now = 104.0
    board.note(JobOutcome(job_id="job-1", value=report("succeeded")))
    assert (entry.previous.status, entry.changed_at, entry.over_at) == ("queued", 4.0, 4.0)
    assert entry.has_ended
    assert entry.state == "succeeded"


def test_a_time_out_leaves_a_job_at_its_status_and_an_error_does_not():
    board = Board(["a", "b"])
    for job_id, error in (("a", timed_out("a")), ("b", not_found("b"))):
        board.note(report("running", job_id))
        board.note(JobOutcome(job_id=job_id, error=error))
    assert [entry.state for entry in board.entries.values()] == ["running", "error"]
    assert not any(entry.has_ended for entry in board.entries.values())


# ---- the summary


def record(job_id="job-1", **fields):
    return Job(job_id=job_id, status=JobStatus.SUCCEEDED, raw_status="SUCCEEDED", **fields)


def test_the_summary_counts_what_is_known():
    board = Board(["a", "b", "c", "d"], clock=lambda: 0.0)
    for job_id in "abc":
        board.note(JobOutcome(job_id=job_id, value=report("succeeded", job_id)))
    board.note(record("a", num_rows=5, input_tokens=900, output_tokens=200, job_cost=0.1))
    board.note(record("b", job_cost=0.2))
    assert footer_lines(board) == [
        "",
        "4 jobs in 0.0 s: 1 not seen, 3 succeeded",
        "1,100 tokens, 0.3000 USD, not counting 1 of which the record was not read",
    ]
    assert list(plain_lines(summary_table(board, raw=True), has_header=True)) == [
        "Job  Status     Rows  Tokens        Cost",
        "a    SUCCEEDED     5   1,100  0.1000 USD",
        "b    SUCCEEDED                0.2000 USD",
        "c    SUCCEEDED",
        "d    not seen",
    ]


def test_a_summary_without_records_counts_no_money():
    board = Board(["a"], clock=lambda: 0.0)
    board.note(JobOutcome(job_id="a", value=report("failed", "a", message="in init")))
    assert footer_lines(board) == ["", "a failed: in init", "", "1 job in 0.0 s: 1 failed"]


# ---- the record


def test_a_record_is_folded_unless_it_is_wanted_in_full(paris):
    job = record(
        system_prompt="Answer\nin one word. " * 9,
        json_schema={"type": "object"},
        job_priority=1,
        datetime_started=datetime(2024, 1, 15, 10, 30, tzinfo=UTC),
        datetime_completed=datetime(2024, 1, 15, 10, 32, 3, tzinfo=UTC),
        failure_reason=FailureReason(message="x" * 200),
        description=" ",
    )
    folded = dict(describe(job, full=False, raw=False))
    assert folded["Priority"] == ["1 (about an hour)"]
    assert folded["Started"] == ["2024-01-15 11:30:00 CET"]
    assert folded["Duration"] == ["2 min 3 s"]
    assert folded["JSON schema"] == ['{"type": "object"}']
    assert len(folded["System prompt"][0]) == 60
    assert folded["System prompt"][0].endswith("…")
    assert folded["Failure"] == ["x" * 200]
    assert not {"Created", "Cost", "Description", "Others"} & folded.keys()
    full = dict(describe(job, full=True, raw=True))
    assert full["Status"] == ["SUCCEEDED"]
    assert len(full["System prompt"]) == 10
    assert full["JSON schema"] == ["{", '  "type": "object"', "}"]


def test_a_priority_of_the_future_is_shown_as_it_is():
    assert dict(describe(record(job_priority=7), full=False, raw=False))["Priority"] == ["7"]


# ---- JSON


def test_the_fields_of_a_record_are_those_of_the_reference(paris):
    job = record(
        datetime_started=datetime(2024, 1, 15, 10, 30, tzinfo=UTC),
        datetime_completed=datetime(2024, 1, 15, 10, 32, 3, tzinfo=UTC),
        failure_reason=FailureReason(message="no GPU"),
        input_tokens=1,
        output_tokens=2,
        extra={"run_type": "x"},
    )
    fields = _json.record_fields(JobOutcome(job_id="job-1", value=job))
    assert json.loads(json.dumps(fields)) == fields
    assert fields["datetime_started"] == "2024-01-15T10:30:00+00:00"
    assert fields["duration_seconds"] == 123.0
    assert fields["total_tokens"] == 3
    assert fields["failure_reason"]["message"] == "no GPU"
    assert fields["extra"] == {"run_type": "x"}
    assert record().to_dict()["duration_seconds"] is None


def test_an_error_keeps_what_it_knows():
    assert _json.error_fields(not_found()) == {
        "type": "JobNotFoundError",
        "message": "job 'job-1': HTTP 404: No job",
        "job_id": "job-1",
        "retryable": False,
        "status_code": 404,
        "code": None,
        "request_id": None,
        "retry_after": None,
    }
    fields = _json.outcome_fields(JobOutcome(job_id="job-1", error=timed_out()))
    assert (fields["status"], fields["raw_status"]) == ("running", "RUNNING")
    assert fields["error"]["timeout"] == 5.0


def test_a_record_tells_the_reason_that_the_status_lacks():
    failed = record(failure_reason=FailureReason(message="no GPU"))
    board = Board(["job-1"])
    assert board.note(failed).report is None
    board.note(JobOutcome(job_id="job-1", value=report("failed")))
    assert _format.reason(board.note(failed).report) == "no GPU"
    board.note(JobOutcome(job_id="job-1", value=report("succeeded")))
    assert board.note(failed).report.failure is None


# ---- exit statuses and errors


def test_what_leaves_more_unknown_decides_the_exit_status():
    good = JobOutcome(job_id="a", value=report("succeeded"))
    failed = JobOutcome(job_id="b", value=report("failed"))
    cancelled = JobOutcome(job_id="b", value=report("cancelled"))
    late = JobOutcome(job_id="c", error=timed_out())
    lost = JobOutcome(job_id="d", error=not_found())
    assert status_of_outcomes([]) == 0
    assert status_of_outcomes([good, JobOutcome(job_id="e", value=report("running"))]) == 0
    assert status_of_outcomes([good, failed]) == 1
    assert status_of_outcomes([cancelled]) == 1
    assert status_of_outcomes([failed, late, good]) == 124
    assert status_of_outcomes([failed, late, lost, good]) == 3


def test_errors_have_exit_statuses():
    assert status_of_error(ConfigurationError("no key")) == 2
    assert status_of_error(timed_out()) == 124
    assert status_of_error(not_found()) == 3


def test_many_errors_of_a_kind_are_cut_short(capsys):
    invalid = InvalidResponseError(job_id="x", path="$", reason="no JSON")
    print_errors([*(not_found(f"job-{n}") for n in range(12)), invalid])
    lines = capsys.readouterr().err.splitlines()
    assert lines[9] == "Error: job 'job-9': HTTP 404: No job"
    assert lines[10:12] == [
        "Error: and 2 more of that kind",
        "Check the id, and that the key is that of the account of the job.",
    ]
    assert lines[12] == "Error: job 'x': invalid response: $: no JSON"
    assert len(lines) == 14


def test_polls_that_failed_in_many_ways_are_cut_short(capsys):
    timeouts = [timed_out(f"job-{number}") for number in range(12)]
    for number, error in enumerate(timeouts):
        error.__cause__ = ServerError(
            job_id=error.job_id, status_code=503, message=f"Node {number} is down"
        )
    print_timeouts(timeouts, 1200)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Error: timed out after 5.0 s: 12 of 1,200 jobs had not finished"
    assert lines[10:12] == [
        "Error: the last poll failed: HTTP 503: Node 9 is down",
        "Error: and the last polls failed in 2 more ways",
    ]
    assert len(lines) == 14


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (AuthenticationError(job_id="x", status_code=401, message="no"), "Check SUTRO_API_KEY"),
        (
            PermissionDeniedError(job_id="x", status_code=403, message="no"),
            "account of the job",
        ),
        (GoneError(job_id="x", status_code=410, message="no"), "Trying again cannot help"),
        (APIStatusError(job_id="x", status_code=422, message="no"), "ask its support"),
    ],
)
def test_the_advice_fits_the_error(error, advice, capsys):
    print_errors([error])
    told, *what_to_do = capsys.readouterr().err.splitlines()
    assert told == f"Error: {error}"
    assert len(what_to_do) == 1
    assert advice in what_to_do[0]


# ---- jobs for the fake


def test_a_timeline_goes_by_seconds_or_by_requests():
    job = parse_job("a=b=queued:2, running:.5,succeeded")
    assert job.job_id == "a=b"
    assert job.timeline == (("queued", 2.0), ("running", 0.5), "succeeded")
    assert parse_job("job 1=queued,failed").timeline == ("queued", "failed")
    assert parse_job("job-1=queued:1,FAILED").fails
    assert not parse_job("job-1=failed:1,running").fails


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("job-1", "names no job"),
        ("=queued", "names no job"),
        ("job-1=", "lacks a status"),
        ("job-1=queued,,failed", "lacks a status"),
        (" =queued", "names no job"),
        ("a\tb=queued", "invalid job id"),
        ("job-1=queued,bogus", "'bogus' in .* is no status: take pending, .*, cancelled$"),
        ("job-1=unknown", "'unknown' in .* is no status"),
        ("job-1=queued:2", "stays"),
        ("job-1=queued:2,running,succeeded", "to each status but the last"),
        ("job-1=queued:soon,succeeded", "number of seconds above 0"),
        ("job-1=queued:0,succeeded", "number of seconds above 0"),
        ("job-1=queued:inf,succeeded", "number of seconds above 0"),
    ],
)
def test_a_timeline_that_makes_no_sense_is_refused(text, complaint):
    with pytest.raises(click.UsageError, match=complaint):
        parse_job(text)
