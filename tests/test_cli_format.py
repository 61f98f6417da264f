"""How the command formats values: text, tables, JSON and CSV, errors and exit statuses."""

import asyncio
import csv
import io
import time
from datetime import UTC, datetime, timedelta

import pytest

from sutro_async.cli import _commands

pytestmark = pytest.mark.usefixtures("fast_command")

MORNING = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)


@pytest.fixture
def paris(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Paris")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def facts(service, run):
    """Read the record of a job with such fields; return the printed values by label."""

    def facts(*options, **fields):
        job_id = f"job-{len(service.requests)}"
        service.add_job(job_id, **fields)
        output = run("job", job_id, "--format", "plain", *options)[1]
        rows = (line.split("  ", 1) for line in output.splitlines())
        return {label: value.strip() for label, value in rows if label}

    return facts


# ---- values


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"),
        (1.59, "1.5s"),
        (59.99, "59.9s"),
        (123.9, "2m03s"),
        (3600, "1h00m"),
        (3900, "1h05m"),
        (86_399, "23h59m"),
        (100_000, "1d03h"),
        (-5, "-5.0s"),
    ],
)
def test_durations_have_two_units_and_are_truncated(facts, seconds, text):
    completed = MORNING + timedelta(seconds=seconds)
    times = {"datetime_started": MORNING, "datetime_completed": completed}
    fields = {name: moment.isoformat() for name, moment in times.items()}
    assert facts(**fields)["Time"] == text


@pytest.mark.parametrize(
    ("dollars", "text"),
    [
        (0, "$0.0000"),
        (0.0234, "$0.0234"),
        (0.00001, "<$0.0001"),
        (1234.5, "$1,234.5000"),
        (1e300, "$1.0e+300"),
    ],
)
def test_money_has_currency(facts, dollars, text):
    assert facts(job_cost=dollars)["Cost"] == text


def test_times_are_local_with_time_zone(facts, paris):
    fields = {
        "datetime_started": "2024-01-15T10:30:15Z",
        "datetime_created": "2024-07-15T10:30:15Z",
    }
    printed = facts(**fields, datetime_completed="9999-12-31T23:59:59Z")
    assert printed["Started"] == "2024-01-15 11:30:15 CET"
    assert printed["Created"] == "2024-07-15 12:30:15 CEST"
    assert printed["Completed"] == "9999-12-31 23:59:59 UTC"


def test_untrusted_text_cannot_move_cursor(facts):
    fields = {"name": "a\x1b[2Jb\n\tc", "system_prompt": "a\x1b[2J\n\tb"}
    assert facts(**fields)["Name"] == "a [2Jb c"
    assert facts("--full", **fields)["System prompt"] == "a [2J"


def test_record_is_folded_unless_full_is_requested(facts):
    fields = {
        "system_prompt": "Answer\nin one word. " * 9,
        "json_schema": {"type": "object"},
        "job_priority": 1,
        "description": " ",
        "cost_estimate": None,
    }
    folded = facts(**fields)
    assert folded["Priority"] == "1 (about an hour)"
    assert folded["JSON schema"] == '{"type": "object"}'
    assert len(folded["System prompt"]) == 60
    assert folded["System prompt"].endswith("…")
    assert not {"Description", "Estimate", "Failure", "Others"} & folded.keys()
    full = facts("--full", "--raw", **fields | {"job_priority": 7})
    assert full["Status"] == "SUCCEEDED"
    assert full["Priority"] == "7"
    assert full["System prompt"] == "Answer"
    assert full["JSON schema"] == "{"


def test_only_failures_have_reason(service, run):
    service.add_job("a", ["running"], message="it runs")
    service.add_job("b", ["failed"], message="in\ninit")
    service.add_job("c", ["failed"], message="Job 7 retrieved.")
    service.add_job("d", ["failed"], failure_reason="no GPU", additional_context="in eu-1")
    service.add_job("e", ["unknown"])
    assert run("status", *"abcde")[1].splitlines() == [
        "a  running",
        "b  failed   in init",
        "c  failed   Job 7 retrieved.",
        "d  failed   no GPU (in eu-1)",
        "e  unknown",
    ]


def test_plain_table_is_aligned_by_display_width(service, run):
    service.add_job("日本", ["running"])
    service.add_job("abcdef", ["failed"], failure_reason="no GPU")
    assert run("status", "日本", "abcdef")[1] == "日本    running\nabcdef  failed   no GPU\n"


def test_summary_counts_known_values(service, run):
    service.add_job("a", num_rows=5, input_tokens=900, output_tokens=200, job_cost=0.1)
    service.add_job("b", num_rows=None, input_tokens=None, job_cost=0.2)
    service.add_job("c", ["failed"], message="in init", num_rows=None)
    service.add_job("d", ["failed"], num_rows=None)
    service.fail_next(9, status=410, job_id="e")
    service.fail_next(9, status=410, job_id="f")
    output = run("wait", *"abcdef", "--raw")[1].partition("\n\n")[2]
    table, reasons, totals = output.split("\n\n")
    assert [line.split() for line in table.splitlines()] == [
        ["Job", "Status", "Rows", "Tokens", "Cost", "Time"],
        ["a", "SUCCEEDED", "5", "1,100", "$0.1000", "0.0s"],
        ["b", "SUCCEEDED", "$0.2000", "0.0s"],
        ["c", "FAILED", "0.0s"],
        ["d", "FAILED", "0.0s"],
        ["e", "error"],
        ["f", "error"],
    ]
    assert reasons == "c failed: in init"
    first, second = totals.splitlines()
    assert first.endswith(": 2 succeeded, 2 failed, 2 errors")
    assert second == "1,100 tokens, $0.3000"


# ---- CSV


def rows_of(output):
    return list(csv.DictReader(io.StringIO(output)))


@pytest.fixture
def jobs(service):
    """Jobs named after their outcomes."""
    service.add_job("good", num_rows=3, job_cost=0.5, datetime_started=MORNING.isoformat())
    service.add_job("bad", ["failed"], failure_reason='no "GPU",\nnone')
    service.add_job("slow", ["running"])
    service.fail_next(9, status=410, job_id="gone")
    return service


def test_csv_has_one_row_per_job(jobs, run):
    status, output, _ = run("wait", "good", "bad", "slow", "gone", "--timeout=0", "--format=csv")
    assert status == 3
    assert output.startswith(
        "id,status,rows,tokens,cost,duration,failure\ngood,succeeded,3,15400,0.5,"
    )
    good, bad, slow, gone = rows_of(output)
    assert float(good["duration"]) > 1e6
    assert (bad["status"], bad["cost"], bad["failure"]) == ("failed", "", 'no "GPU", none')
    assert (slow["status"], slow["rows"]) == ("running", "")
    assert slow["failure"] == "timed out after 0.0s (last status: running)"
    assert (gone["status"], gone["failure"]) == ("error", "job 'gone': HTTP 410: Gone")


def test_csv_of_records_and_of_statuses_has_same_columns(jobs, run):
    of_jobs = rows_of(run("job", "good", "gone", "--format", "csv")[1])
    assert [(row["id"], row["status"], row["rows"]) for row in of_jobs] == [
        ("good", "succeeded", "3"),
        ("gone", "error", ""),
    ]
    of_statuses = rows_of(run("status", "good", "bad", "gone", "--format", "csv", "--raw")[1])
    assert [(row["id"], row["status"], row["rows"]) for row in of_statuses] == [
        ("good", "SUCCEEDED", ""),
        ("bad", "FAILED", ""),
        ("gone", "error", ""),
    ]
    assert of_jobs[0].keys() == of_statuses[0].keys()


def test_csv_after_wrong_key_has_each_job(jobs, run, monkeypatch):
    monkeypatch.setenv("SUTRO_API_KEY", "sk_wrong")
    status, output, _ = run("wait", "good", "bad", "--format", "csv")
    assert status == 3
    assert [(row["id"], row["status"]) for row in rows_of(output)] == [
        ("good", "not seen"),
        ("bad", "not seen"),
    ]
    assert {row["failure"][:16] for row in rows_of(output)} <= {
        "an error of anot",
        "job 'good': HTTP",
        "job 'bad': HTTP ",
    }


# ---- JSON


def test_record_fields_match_api_reference(service, run_json):
    service.add_job(
        "job-1",
        ["failed"],
        failure_reason="no GPU",
        datetime_started="2024-01-15T10:30:00Z",
        datetime_completed="2024-01-15T10:32:03Z",
        input_tokens=1,
        output_tokens=2,
        run_type="x",
    )
    _, (fields,), _ = run_json("job", "job-1")
    assert fields["datetime_started"] == "2024-01-15T10:30:00+00:00"
    assert fields["duration_seconds"] == 123.0
    assert fields["total_tokens"] == 3
    assert fields["failure_reason"]["message"] == "no GPU"
    assert fields["extra"] == {"run_type": "x"}


def test_json_error_has_all_fields(service, run_json):
    _, (missing,), _ = run_json("status", "nope")
    assert missing["error"] == {
        "type": "JobNotFoundError",
        "message": "job 'nope': HTTP 404: No job found with ID nope",
        "job_id": "nope",
        "retryable": False,
        "status_code": 404,
        "code": None,
        "request_id": None,
        "retry_after": None,
    }
    service.add_job("slow", ["running"])
    _, events, _ = run_json("wait", "slow", "--timeout", "0")
    end = next(event for event in events if event["event"] == "end")
    assert (end["status"], end["raw_status"]) == ("running", "RUNNING")
    assert end["error"]["timeout"] == 0


@pytest.mark.parametrize(
    "options", [["--json", "--format", "csv"], ["--format", "table", "--json"]]
)
def test_two_formats_exclude_each_other(run, options):
    status, output, errors = run("status", "a", *options)
    assert (status, output) == (2, "")
    assert "exclude each other" in errors


def test_json_option_equals_json_format(jobs, run):
    assert run("status", "bad", "--format", "json") == run("status", "bad", "--json")
    assert run("status", "bad", "--format", "json", "--json") == run("status", "bad", "--json")


def test_table_in_pipe_is_folded_to_its_columns(service, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    service.add_job("job-1" * 5, ["failed"], failure_reason="no GPU was free")
    output = run("status", "job-1" * 5, "--format", "table")[1]
    assert output.splitlines()[0].split() == ["Job", "Status", "Reason"]
    assert max(len(line) for line in output.splitlines()) <= 30
    assert output.count("job") == 5
    plain = run("status", "job-1" * 5, "--format", "plain")[1]
    assert plain == f"{'job-1' * 5}  failed  no GPU was free\n"


# ---- exit statuses and errors


def test_exit_status_with_more_unknown_jobs_takes_precedence(service, run):
    service.add_job("good")
    service.add_job("bad", ["failed"])
    service.add_job("dropped", ["cancelled"])
    service.add_job("slow", ["running"])
    for arguments, expected in (
        (["good"], 0),
        (["good", "bad"], 1),
        (["dropped"], 1),
        (["bad", "slow", "good"], 124),
        (["bad", "slow", "nope", "good"], 3),
    ):
        assert run("wait", *arguments, "--timeout", "0")[0] == expected
    assert run("status", "good", "slow")[0] == 0
    assert run("status", "good", "dropped")[0] == 1


def test_long_list_of_errors_is_truncated(service, run):
    service.fail_next(1, body=b"nothing", job_id="x")
    ids = [f"job-{number}" for number in range(12)]
    lines = run("status", *ids, "x")[2].splitlines()
    assert lines[9] == "Error: job 'job-9': HTTP 404: No job found with ID job-9"
    assert lines[10:12] == [
        "Error: 2 more of this kind",
        "Check the id, and that the key is that of the account of the job.",
    ]
    assert lines[12].startswith("Error: job 'x': invalid response: $")
    assert lines[13].startswith("Check that there is a Sutro service at the URL")
    assert len(lines) == 14


def test_long_list_of_poll_failures_is_truncated(service, run):
    ids = [f"job-{number}" for number in range(12)]
    for number, job_id in enumerate(ids):
        service.fail_next(9, status=503, body=f"Node {number} is down", job_id=job_id)
    lines = run("wait", *ids, "--timeout", "0")[2].splitlines()
    assert lines[0] == "Error: timed out after 0.0s: 12 of 12 jobs had not finished, 12 never seen"
    assert lines[10:] == [
        "Error: the last poll failed: HTTP 503: Node 9 is down",
        "Error: 2 more of this kind",
        "The service is unavailable: try again later.",
    ]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (401, "Check the key (SUTRO_API_KEY, --key-file)"),
        (403, "Check that the key is that of the account of the job."),
        (404, "Check the id, and that the key is that of the account of the job."),
        (410, "A retry cannot succeed"),
        (422, "contact its support"),
        (429, "with a lower --max-rate"),
        (501, "try again later"),
    ],
)
def test_advice_matches_error(service, run, code, advice):
    headers = {"Retry-After": "999"} if code == 429 else {}
    service.fail_next(9, status=code, headers=headers, job_id="a")
    error, *what_to_do = run("status", "a")[2].splitlines()
    assert error.startswith(f"Error: job 'a': HTTP {code}: ")
    assert len(what_to_do) == 1
    assert advice in what_to_do[0]


def test_unreachable_service_gets_advice(run, monkeypatch):
    monkeypatch.setenv("SUTRO_API_KEY", "sk_secret")
    monkeypatch.setenv("SUTRO_API_URL", "http://127.0.0.1:9")
    status, _, errors = run("wait", "a", "--timeout", "0")
    assert status == 124
    assert "Check the network, the proxy, and the URL" in errors


# ---- jobs for the fake


@pytest.fixture
def parse_fake_jobs(monkeypatch, run):
    """Return the jobs that `fake` would serve, or its error message."""

    def parse_fake_jobs(*texts):
        served = {}

        class Fake:
            def __init__(self, **options):
                pass

            def add_job(self, job_id, timeline, *, failure_reason):
                served[job_id] = (timeline, failure_reason)

        async def serve(fake, job_ids, *, as_json):
            assert job_ids == list(served)
            raise asyncio.CancelledError

        monkeypatch.setattr(_commands, "FakeSutro", Fake)
        monkeypatch.setattr(_commands, "serve", serve)
        errors = run("fake", *(f"--job={text}" for text in texts))[2]
        return served or errors

    return parse_fake_jobs


def test_timeline_advances_by_seconds_or_requests(parse_fake_jobs):
    assert parse_fake_jobs(
        "a=b=queued:2, running:.5,succeeded", "job 1=queued,failed", "c=queued:1,FAILED", "d=failed"
    ) == {
        "a=b": ([("queued", 2.0), ("running", 0.5), "succeeded"], None),
        "job 1": (["queued", "failed"], "no GPU was free"),
        "c": ([("queued", 1.0), "failed"], "no GPU was free"),
        "d": (["failed"], "no GPU was free"),
    }


@pytest.mark.parametrize(
    "text",
    [
        "job-1",
        "=queued",
        "job-1=",
        "job-1=queued,,failed",
        " =queued",
        "job-1=queued,bogus",
        "job-1=unknown",
        "job-1=queued:2",
        "job-1=queued:2,running,succeeded",
        "job-1=queued:soon,succeeded",
        "job-1=queued:0,succeeded",
        "job-1=queued:inf,succeeded",
        "job-1=queued:-1,succeeded",
    ],
)
def test_invalid_timeline_is_rejected(text, parse_fake_jobs):
    errors = parse_fake_jobs(text)
    assert errors.startswith(f"Error: invalid job {text!r}: write it as job-1=queued:2,")
    assert "statuses are pending, submitted, queued, " in errors


def test_invalid_job_id_is_rejected(parse_fake_jobs):
    assert parse_fake_jobs("a\tb=queued").startswith("Error: invalid job id 'a\\tb' in --job")
