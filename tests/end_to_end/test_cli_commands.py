"""The commands, in this process, against a server in a thread."""

import asyncio
import errno
import io
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from sutro_async import (
    APITimeoutError,
    ConfigurationError,
    JobOutcome,
    JobStatus,
    JobStatusReport,
    PollPolicy,
    Stream,
    cli,
)
from sutro_async.cli import _fake, _options, _wait
from sutro_async.cli._entries import Board
from sutro_async.cli._progress import JSONProgress
from sutro_async.cli._show import open_output
from tests.conftest import FAST_POLL

pytestmark = pytest.mark.usefixtures("fast_command")


@contextmanager
def once(condition, action):
    """Act from another thread as soon as the condition holds; return the times when it did."""
    moments = []

    def watch():
        give_up_at = time.monotonic() + 10
        while not condition() and time.monotonic() < give_up_at:
            time.sleep(0.005)
        moments.append(time.monotonic())
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield moments
    finally:
        thread.join()


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


# ---- status


def test_status_prints_one_line_per_job(service, run):
    service.add_job("job-1", ["running"])
    service.add_job("another job", ["failed"], failure_reason="no\nGPU")
    service.add_job("job-3", ["preempted"], allow_unknown=True)
    status, output, errors = run("status", "job-1", "another job", "job-3")
    assert (status, errors) == (1, "")
    assert output.splitlines() == [
        "job-1        running",
        "another job  failed               no GPU",
        "job-3        unknown (preempted)",
    ]
    assert run("status", "job-3", "--raw") == (0, "job-3  PREEMPTED\n", "")


def test_each_status_is_printed_before_errors(service, monkeypatch):
    service.add_job("slow", ["running"])
    service.fail_next(9, status=410, job_id="gone")
    both = io.StringIO()
    monkeypatch.setattr(sys, "stdout", both)
    monkeypatch.setattr(sys, "stderr", both)
    assert cli.main(["status", "slow", "gone"]) == 3
    assert both.getvalue().startswith("slow  running\nError: job 'gone': HTTP 410")


def test_status_of_missing_job_prints_advice(service, run):
    service.add_job("job-1", ["running"])
    status, output, errors = run("status", "job-1", "nope")
    assert (status, output) == (3, "job-1  running\n")
    assert errors.splitlines() == [
        "Error: job 'nope': HTTP 404: No job found with ID nope",
        "Check the id, and that the key is that of the account of the job.",
    ]
    assert run("status", "nope")[1] == ""


def test_status_json_is_one_object_per_job(service, run_json):
    service.add_job("job-1", ["failed"], failure_reason="no GPU")
    status, (first, second), _ = run_json("status", "job-1", "nope")
    assert status == 3
    assert first["status"] == "failed"
    assert first["raw_status"] == "FAILED"
    assert first["failure"]["message"] == "no GPU"
    assert first["error"] is None
    assert second["job_id"] == "nope"
    assert second["status"] is None
    assert second["error"]["type"] == "JobNotFoundError"
    assert second["error"]["status_code"] == 404
    assert first.keys() == second.keys()


@pytest.fixture
def silent_failure(service):
    """A failed job whose reason is only in the record, as with the deployed service."""
    service.add_job("job-1", ["failed"], failure_reason="no GPU", status_reason=False)
    service.add_job("job-2", ["failed"], metadata={"failure_reason": {}})


def test_status_shows_reason_from_record(run, silent_failure):
    assert run("status", "job-1", "job-2")[1] == "job-1  failed  no GPU\njob-2  failed\n"


def test_status_json_shows_reason_from_record(run_json, silent_failure):
    _, (first, second), _ = run_json("status", "job-1", "job-2")
    assert first["failure"]["message"] == "no GPU"
    assert (second["failure"]["message"], second["failure"]["details"]) == (None, {})


def test_wait_shows_reason_from_record(run, silent_failure):
    output = run("wait", "job-1", "job-2")[1]
    assert "\njob-1 failed: no GPU\n" in output
    assert "job-2 failed:" not in output
    assert "retrieved" not in output


def test_wait_json_shows_reason_from_record(run_json, silent_failure):
    end_events = [each for each in run_json("wait", "job-1")[1] if each["event"] == "end"]
    assert [end["failure"]["message"] for end in end_events] == ["no GPU"]


def test_unreadable_record_does_not_affect_status(service, run, silent_failure, monkeypatch):
    service.fail_next(100, endpoint="jobs", status=404)
    assert run("status", "job-1") == (1, "job-1  failed\n", "")
    assert run("wait", "job-1")[0] == 1


def test_wrong_key_is_reported_once_and_not_shown(service, run, monkeypatch):
    monkeypatch.setenv("SUTRO_API_KEY", "sk_wrong")
    status, output, errors = run("status", "a", "b")
    assert (status, output) == (3, "")
    assert re.fullmatch(
        r"Error: job '[ab]': HTTP 401: .*\nCheck the key \(SUTRO_API_KEY.*\n", errors
    )


def test_missing_key_is_configuration_error(run):
    status, output, errors = run("status", "a")
    assert (status, output) == (2, "")
    assert errors == (
        "Error: no API key: pass --key-file, set SUTRO_API_KEY,"
        " or store one in ~/.sutro/config.json with `sutro login`\n"
    )


def test_messages_name_options_instead_of_arguments(service, run, monkeypatch):
    _, _, errors = run("status", "a", "--base-url", "https://elsewhere.example")
    assert errors.endswith("pass the --key-file that belongs to this --base-url\n")
    for option, value, message in (
        ("--base-url", "ftp://example.com", "--base-url must begin with https://"),
        ("--proxy", "socks5://a.test", "--proxy must be the URL of an HTTP proxy"),
        ("--max-rate", "0", "--max-rate must be above 0"),
        ("--interval", "0", "--interval must be at least 0.001"),
    ):
        status, _, errors = run("wait", "a", option, value)
        assert status == 2
        assert errors.startswith(f"Error: {message}")
    monkeypatch.delenv("SUTRO_API_KEY")
    assert "set SUTRO_API_KEY too, or pass --key-file" in run("status", "a")[2]


# ---- the service


def test_base_url_must_match_key(service, run, monkeypatch):
    assert run("status", "a", "--base-url", "https://elsewhere.example")[0] == 2
    monkeypatch.delenv("SUTRO_API_URL")
    service.add_job("job-1")
    assert run("status", "job-1", "--base-url", service.url)[0] == 0


def test_max_concurrency_is_respected(service, run):
    for number in range(8):
        service.add_job(f"job-{number}")
    service.fail_next(8, delay=0.01)
    run("status", *(f"job-{number}" for number in range(8)), "--max-concurrency", "2")
    assert service.max_in_flight == 2
    status, _, errors = run("status", "job-1", "--max-concurrency", "0")
    assert status == 2
    assert "'--max-concurrency': 0 is not in the range x>=1" in errors


def test_key_is_read_from_file(service, run, monkeypatch, tmp_path):
    service.add_job("a")
    monkeypatch.delenv("SUTRO_API_KEY")
    key_file = tmp_path / "key"
    key_file.write_bytes(b"\xef\xbb\xbfsk_secret\n")
    assert run("status", "a", "--key-file", str(key_file)) == (0, "a  succeeded\n", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Invalid value for '--key-file': '.*key': No such file or directory"),
        (b" \n", "--key-file must be a non-empty string"),
        (b"\xff\xfe", "--key-file has a character outside ASCII"),
        (b"sk_secret sk_wrong", "--key-file has white space or a control character inside"),
    ],
)
def test_file_without_key_is_rejected(run, tmp_path, content, message):
    key_file = tmp_path / "key"
    if content is not None:
        key_file.write_bytes(content)
    status, output, errors = run("status", "a", "--key-file", str(key_file))
    assert (status, output) == (2, "")
    assert re.match(f"Error: {message}", errors)


def test_service_options_reach_client(run, monkeypatch, tmp_path):
    made = []

    def client(*args, **options):
        made.append((args, options))
        raise ConfigurationError("made")

    monkeypatch.setattr(_options, "SutroClient", client)
    (tmp_path / "key").write_text("sk_secret")
    options = ["--base-url", "https://a.test", "--key-file", str(tmp_path / "key")]
    options += ["--proxy", "http://b.test", "--max-concurrency", "7", "--max-rate", "2.5"]
    for command in ("status", "job", "wait"):
        assert run(command, "a", *options) == (2, "", "Error: made\n")
        assert made.pop() == (
            ("sk_secret",),
            {
                "base_url": "https://a.test",
                "proxy": "http://b.test",
                "max_concurrency": 7,
                "max_rate": 2.5,
                "poll": PollPolicy(),
            },
        )


def test_max_rate_spaces_requests(service, run):
    for number in range(4):
        service.add_job(f"job-{number}")
    assert run("status", *(f"job-{number}" for number in range(4)), "--max-rate", "20")[0] == 0
    times = [request.time for request in service.requests]
    assert times[-1] - times[0] > 0.1


def test_interval_spaces_polls(service, run):
    service.add_job("a", ["queued", "running", "running", "running", "succeeded"])
    assert run("wait", "a", "--interval", "0.05")[0] == 0
    times = [request.time for request in service.requests if "status" in request.path]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert len(gaps) == 4
    assert all(0.04 <= gap < 0.5 for gap in gaps)


# ---- ids


def test_ids_from_arguments_and_stdin_are_deduplicated(service, run, monkeypatch):
    for job_id in ("a", "b b", "c"):
        service.add_job(job_id)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n  b b \r\n\na\n"))
    status, output, _ = run("status", "c", "-", "a", "-")
    assert status == 0
    assert output == "c    succeeded\nb b  succeeded\na    succeeded\n"
    assert len(service.requests) == 3


def test_10_000_ids_on_stdin(run, monkeypatch):
    requested = []

    class Client:
        def __init__(self, *args, **options):
            pass

        async def __aenter__(self):
            return self

        async def __aexit__(self, *exc_info):
            pass

        def with_options(self, **options):
            return self

        async def get_jobs(self, job_ids):
            assert not list(job_ids)
            return {}

        async def get_job_statuses(self, job_ids):
            requested.extend(job_ids)
            return {
                job_id: JobOutcome(
                    job_id=job_id,
                    value=JobStatusReport(
                        job_id=job_id, status=JobStatus.RUNNING, raw_status="RUNNING"
                    ),
                )
                for job_id in job_ids
            }

    monkeypatch.setattr(_options, "SutroClient", Client)
    ids = [f"job-{number}" for number in range(10_000)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*ids, *ids])))
    for format_option, line in (
        ("plain", "{:<8}  running\n"),
        ("table", "{:<8}  running\n"),
        ("csv", "{},running,,,,,\n"),
    ):
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*ids, *ids])))
        requested.clear()
        status, output, errors = run("status", "-", "--format", format_option)
        assert (status, errors) == (0, "")
        assert output.endswith("".join(map(line.format, ids)))
        assert requested == ids


def test_no_request_follows_403(service, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(f"job-{n}" for n in range(5000))))
    service.fail_next(5000, status=403)
    status, output, errors = run("status", "-", "--json")
    assert (status, output) == (3, "")
    assert errors.count("\n") == 2
    assert len(service.requests) <= 25  # those in flight when the third job was refused


def test_byte_order_mark_is_stripped_from_ids(service, run, monkeypatch):
    service.add_job("a")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffa\n"))
    assert run("status", "-") == (0, "a  succeeded\n", "")


def test_terminal_on_stdin_is_prompted_for_ids(service, run, monkeypatch):
    class Keyboard(io.StringIO):
        def isatty(self):
            return True

    service.add_job("a")
    monkeypatch.setattr(sys, "stdin", Keyboard("a\n"))
    status, output, errors = run("status", "-")
    assert (status, output) == (0, "a  succeeded\n")
    assert errors == "Reading job ids, one per line, until Ctrl-D.\n"


@pytest.mark.parametrize(
    ("argument", "stdin", "message"),
    [
        ("", "", "invalid job id '' as an argument: it must not be empty"),
        ("..", "", "invalid job id '..' as an argument: .* names another path"),
        ("a\tb", "", r"invalid job id 'a\\tb' as an argument: .* printable characters only"),
        ("-", "a\n\nb\x07\n", "on line 3 of standard input: .* printable characters only"),
        ("-", "\n \n", "there are no job ids"),
        ("-", None, "standard input is closed"),
    ],
)
def test_invalid_id_is_rejected(run, monkeypatch, argument, stdin, message):
    monkeypatch.setattr(sys, "stdin", None if stdin is None else io.StringIO(stdin))
    status, output, errors = run("status", argument)
    assert (status, output) == (2, "")
    assert re.search(message, errors)
    assert errors.count("\n") <= 2


def test_blank_lines_and_comments_in_id_files_are_ignored(service, run, monkeypatch, tmp_path):
    for job_id in ("a", "b b", "c"):
        service.add_job(job_id)
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbf# nightly\na\r\n\n  # failed once\n b b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.StringIO("# more\nc\n"))
    status, output, errors = run("status", "@~/ids.txt", "-")
    assert (status, errors) == (0, "")
    assert output == "a    succeeded\nb b  succeeded\nc    succeeded\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "'.*ids.txt' cannot be read: No such file or directory"),
        (b"# none today\n", "there are no job ids: write one per line"),
        (b"a\n\xff\n", "'.*ids.txt' is not text"),
        (b"a\nb\x07\n", r"invalid job id 'b\\x07' on line 2 of '.*ids.txt'"),
    ],
)
def test_file_without_job_ids_is_rejected(run, tmp_path, content, message):
    path = tmp_path / "ids.txt"
    if content is not None:
        path.write_bytes(content)
    status, output, errors = run("wait", f"@{path}")
    assert (status, output) == (2, "")
    assert re.match(f"Error: {message}", errors)
    assert errors.endswith("See `sutro-async wait --help`.\n")


def test_file_name_as_job_id_gets_hint_before_any_request(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids.txt").touch()
    (tmp_path / "job-1").mkdir()
    # Without a key, so that nothing is requested.
    errors = run("wait", "ids.txt", "job-1", "x" * 5000)[2]
    assert errors.startswith(
        "Hint: 'ids.txt' is also a file; to read job ids from it, use @ids.txt\nError: no API key"
    )
    assert errors.count("Hint") == 1


def test_binary_stdin_is_rejected(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xff\n"), encoding="utf-8"))
    assert run("status", "-")[2].startswith("Error: standard input is not text")


def test_unreadable_stdin_is_rejected(run, monkeypatch, tmp_path):
    class Directory(io.StringIO):
        def __next__(self):
            raise OSError(errno.EISDIR, "Is a directory")

    monkeypatch.setattr(sys, "stdin", Directory())
    assert run("status", "-")[2].startswith("Error: standard input cannot be read: Is a directory")


# ---- job


def test_job_shows_record(service, run):
    service.add_job("job-1", name="Reviews", num_rows=1200, system_prompt="One\nword.")
    service.add_job("job-2", ["failed"], failure_reason="no GPU")
    status, output, errors = run("job", "job-1", "job-2", "nope")
    assert status == 3
    first, second = output.split("\n\n")
    assert re.search(
        r"^Job            job-1\nStatus         succeeded\nName +Reviews$", first, re.MULTILINE
    )
    assert re.search(r"^Rows           1,200$", first, re.MULTILINE)
    assert re.search(r"^Cost           \$0\.0185$", first, re.MULTILINE)
    assert re.search(r"^System prompt  One word\.$", first, re.MULTILINE)
    assert re.search(r"^Failure        no GPU$", second, re.MULTILINE)
    assert errors.startswith("Error: job 'nope'")
    assert run("job", "job-1", "--full")[1].count("\n               word.\n") == 1


def test_job_json_is_record(service, run_json):
    service.add_job("job-1", run_type="batch")
    status, (first, second), _ = run_json("job", "job-1", "nope")
    assert status == 3
    assert first["model"] == "llama-3.1-8b"
    assert first["extra"] == {"run_type": "batch"}
    assert first["error"] is None
    assert second.keys() == {"job_id", "error"}


# ---- wait


def test_wait_prints_line_per_change_and_cost(service, run):
    service.add_job("job-1", ["queued", "running", "running", "succeeded"])
    service.add_job("b", ["running", "failed"], failure_reason="no GPU")
    service.fail_next(1, status=503, headers={"Retry-After": "0.05"}, job_id="job-1")
    status, output, errors = run("wait", "job-1", "b")
    assert (status, errors) == (1, "")
    lines, summary = output.split("\n\n", 1)
    changes = [
        line.split("  ", 1)
        for line in (re.sub(r"^ *[\d.]+s  ", "", line) for line in lines.splitlines())
    ]
    assert [text.strip() for job_id, text in changes if job_id == "job-1"] == [
        "queued",
        "running",
        "succeeded",
    ]
    assert [text.strip() for job_id, text in changes if job_id != "job-1"] == [
        "running",
        "failed: no GPU",
    ]
    assert re.fullmatch(
        r"Job    Status     Rows  Tokens     Cost  Time\n"
        r"job-1  succeeded   100  15,400  \$0\.0185  [\d.]+s\n"
        r"b      failed      100 +[\d.]+s\n"
        r"\n"
        r"b failed: no GPU\n"
        r"\n"
        r"2 jobs in [\d.]+s: 1 succeeded, 1 failed\n"
        r"15,400 tokens, \$0\.0185\n",
        summary,
    )
    assert sum("/jobs/" in request.path for request in service.requests) == 2


def test_wait_json_has_one_end_event_per_job(service, run_json):
    service.add_job("job-1", ["queued", "running", "succeeded"])
    service.add_job("job-2", ["running"])
    status, events, errors = run_json("wait", "job-1", "job-2", "nope", "--timeout", "0.4")
    assert status == 3
    of_job_1 = [(event["event"], event["status"]) for event in events if event["job_id"] == "job-1"]
    assert of_job_1 == [
        ("change", "queued"),
        ("change", "running"),
        ("end", "succeeded"),
        ("summary", "succeeded"),
    ]
    end_events = {event["job_id"]: event for event in events if event["event"] == "end"}
    assert end_events["job-1"]["error"] is None
    assert end_events["job-2"]["error"]["type"] == "JobWaitTimeoutError"
    assert end_events["job-2"]["status"] == "running"
    assert end_events["nope"]["error"]["type"] == "JobNotFoundError"
    assert len(end_events) == sum(event["event"] == "end" for event in events) == 3
    assert end_events["job-2"]["error"]["message"] == "timed out after 0.4s (last status: running)"
    summaries = [event for event in events if event["event"] == "summary"]
    assert events[-3:] == summaries
    assert [(event["job_id"], event["status"], event["total_tokens"]) for event in summaries] == [
        ("job-1", "succeeded", 15_400),
        ("job-2", "running", None),
        ("nope", None, None),
    ]
    assert all(event.keys() == summaries[0].keys() for event in summaries)
    assert [event["error"] and event["error"]["type"] for event in summaries] == [
        None,
        "JobWaitTimeoutError",
        "JobNotFoundError",
    ]
    assert "timed out after 0.4s: 1 of 3 jobs had not finished\n" in errors


def test_timeout_is_accurate_and_reported(service, run):
    service.add_job("job-1", ["running"])
    began_at = time.monotonic()
    status, output, errors = run("wait", "job-1", "--raw", "--timeout", "0.2s")
    assert 0.2 <= time.monotonic() - began_at < 0.6
    assert status == 124
    assert re.match(
        r" +\d\.\ds  job-1  RUNNING\n\nJob    Status\njob-1  RUNNING\n\n1 job in", output
    )
    assert errors == (
        "Error: timed out after 0.2s: 1 of 1 job had not finished\n"
        "Unfinished jobs are still running on the service: run the command again to resume,"
        " or with a longer --timeout.\n"
    )


def test_timeout_reports_why_jobs_have_no_status(service, run):
    for job_id in ("a", "b"):
        service.add_job(job_id)
        service.fail_next(9999, status=503, job_id=job_id, body="Down for repairs")
    status, _, errors = run("wait", "a", "b", "--timeout", "0.2")
    assert status == 124
    assert errors.splitlines() == [
        "Error: timed out after 0.2s: 2 of 2 jobs had not finished, 2 never seen",
        "Error: the last poll failed: HTTP 503: Down for repairs",
        "The service is unavailable: try again later.",
    ]


def test_timeout_before_first_response_is_reported(service, run):
    service.fail_next(1, delay=60)
    status, _, errors = run("wait", "a", "--timeout", "0.1")
    assert status == 124
    assert errors == (
        "Error: timed out after 0.1s: 1 of 1 job had not finished, 1 never seen\n"
        "The service has not responded yet: wait again with a longer --timeout.\n"
    )


def test_timeout_reports_last_failed_poll_of_job_with_status(service, run):
    service.add_job("a", ["running"])
    with once(
        lambda: len(service.requests) > 2, lambda: service.fail_next(9999, status=502, body="Down")
    ):
        status, _, errors = run("wait", "a", "--timeout", "0.3")
    assert status == 124
    assert "never seen" not in errors
    assert "Error: the last poll failed: HTTP 502: Down\n" in errors
    assert errors.endswith("or with a longer --timeout.\n")


def test_disappearing_job_is_shown_in_its_line(service, run):
    service.add_job("job-1", ["running"])
    service.fail_next(1, status=410, job_id="gone")
    status, output, _ = run("wait", "gone", "job-1", "--timeout", "0.1")
    assert status == 3
    assert "gone   error: job 'gone': HTTP 410: Gone" in output
    assert re.search(r"^gone   error$", output, re.MULTILINE)


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "1d", "", "٣"])
def test_invalid_timeout_text_is_rejected(text, run):
    status, _, errors = run("wait", "job-1", "--timeout", text)
    assert status == 2
    assert "is not a duration such as 90, 10m or 1.5h" in errors


def test_timeout_accepts_unit(service, run):
    service.add_job("job-1")
    for text in ("0", "90", "10m", "1.5h"):
        assert run("wait", "job-1", "--timeout", text)[0] == 0


def test_summary_skips_unreadable_records(service, run, monkeypatch):
    service.add_job("a")
    service.add_job("b")
    service.fail_next(100, endpoint="jobs", job_id="a", status=410)
    status, output, _ = run("wait", "a", "b")
    assert status == 0
    assert "without 1 job whose record could not be read" in output


def hang_record_requests(service, monkeypatch):
    """Let requests for records hang as soon as a status has been sent."""
    service.fail_next(100, endpoint="jobs", delay=60)


def test_unresponsive_service_does_not_delay_summary(service, run, monkeypatch):
    monkeypatch.setattr(_wait, "_BATCH_TIMEOUT", 0.1)
    service.add_job("a")
    hang_record_requests(service, monkeypatch)
    status, output, _ = run("wait", "a")
    assert status == 0
    assert re.search(r"^1 job in 0\.\ds: 1 succeeded$", output, re.MULTILINE)


def test_revoked_key_ends_wait_with_known_statuses(service, run):
    service.add_job("job-1", ["running"])
    with once(lambda: len(service.requests) > 2, lambda: service.fail_next(99, status=401)):
        status, output, errors = run("wait", "job-1")
    assert status == 3
    assert "job-1  running" in output
    assert output.endswith("1 running\n")
    assert "HTTP 401" in errors


def test_wrong_key_shows_no_jobs(service, run, monkeypatch):
    monkeypatch.setenv("SUTRO_API_KEY", "sk_wrong")
    assert run("wait", "job-1")[:2] == (3, "")


@pytest.mark.parametrize("code", [401])
def test_batch_fatal_error_is_shown_for_its_job_and_others_are_abandoned(service, run_json, code):
    for job_id in ("a", "b", "c"):
        service.add_job(job_id, ["running"] if job_id != "c" else ["succeeded"])

    def refuse_b():
        service.fail_next(99, status=code, job_id="b")

    with once(lambda: len(service.requests) > 8, refuse_b):
        status, events, errors = run_json("wait", "a", "b", "c")
    assert status == 3
    assert errors.startswith(f"Error: job 'b': HTTP {code}: ")
    end_events = {event["job_id"]: event for event in events if event["event"] == "end"}
    assert len(end_events) == sum(event["event"] == "end" for event in events) == 3
    assert end_events["a"]["error"] == {
        "type": "Abandoned",
        "message": "an error of another job ended the wait",
    }
    assert end_events["a"]["status"] == "running"
    assert end_events["b"]["error"]["status_code"] == code
    assert end_events["c"]["error"] is None


def test_each_job_has_end_event_without_any_status(service, run_json, monkeypatch):
    monkeypatch.setenv("SUTRO_API_KEY", "sk_wrong")
    _, events, _ = run_json("wait", "a", "b")
    for kind in ("end", "summary"):
        assert sorted(e["error"]["type"] for e in events if e["event"] == kind) == [
            "Abandoned",
            "AuthenticationError",
        ]


async def test_received_changes_are_shown_after_interrupt(client, monkeypatch, capsys):
    arrived = []

    async def step():
        if arrived:
            return arrived.pop(0)
        if not waiting.cancelling():
            for job_id in ("a", "b", "c"):
                report = JobStatusReport(
                    job_id=job_id, status=JobStatus.SUCCEEDED, raw_status="SUCCEEDED"
                )
                arrived.append(JobOutcome(job_id=job_id, value=report))
            waiting.cancel()
        return await asyncio.Event().wait()

    monkeypatch.setattr(client, "watch_jobs", lambda job_ids, timeout: Stream(step))
    output = open_output("json", raw=False)
    waiting = asyncio.create_task(
        _wait.wait_for_all(client, Board(["a", "b", "c"]), output, timeout=None)
    )
    with pytest.raises(asyncio.CancelledError):
        await waiting
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(event["event"], event["job_id"], event["error"]) for event in events[:3]] == [
        ("end", "a", None),
        ("end", "b", None),
        ("end", "c", None),
    ]


async def test_request_timeout_is_not_mistaken_for_refresh_tick(client, monkeypatch):
    async def step():
        raise APITimeoutError("no response", job_id="a")

    monkeypatch.setattr(client, "watch_jobs", lambda job_ids, timeout: Stream(step))
    with pytest.raises(APITimeoutError):
        output = open_output("plain", raw=False)
        await _wait.wait_for_all(client, Board(["a"]), output, timeout=None)


async def test_progress_is_refreshed_while_idle(fake, client):
    refreshed = []

    class Ticking(JSONProgress):
        tick = 0.01

        def refresh(self):
            refreshed.append(fake.in_flight)

    fake.add_job("a", [("running", 0.1), "succeeded"])
    board = Board(["a"])
    slow = client.with_options(poll=PollPolicy(initial=0.15))
    output = open_output("json", raw=False)
    await _wait.wait_for_all(slow, board, output, timeout=None, progress=Ticking())
    assert len(refreshed) > 5
    assert board.entries[0].is_finished


@pytest.mark.parametrize(
    ("as_json", "number", "exit_status"),
    [(False, signal.SIGINT, 130), (True, signal.SIGINT, 130), (False, signal.SIGTERM, 143)],
)
def test_interrupt_shows_known_statuses(service, run, as_json, number, exit_status):
    service.add_job("a", ["succeeded"])
    service.add_job("b", ["running"])
    with once(lambda: len(service.requests) > 8, lambda: os.kill(os.getpid(), number)) as moments:
        status, output, errors = run("wait", "a", "b", *(["--json"] if as_json else []))
        assert time.monotonic() - moments[0] < 1
    assert status == exit_status
    assert errors == (
        "Interrupted: 1 of 2 jobs had not finished;"
        " unfinished jobs are still running on the service.\n"
    )
    if as_json:
        end_events = [e for e in map(json.loads, output.splitlines()) if e["event"] == "end"]
        assert {end["job_id"]: end["error"] and end["error"]["type"] for end in end_events} == {
            "a": None,
            "b": "Interrupted",
        }
    else:
        assert re.search(r"^a    succeeded\nb    running\n\n2 jobs in", output, re.MULTILINE)


def test_interrupt_after_completion_shows_finished_jobs(service, run, monkeypatch):
    service.add_job("a", ["failed"], failure_reason="no GPU")
    hang_record_requests(service, monkeypatch)
    with once(lambda: any("/jobs/" in r.path for r in service.requests), press_ctrl_c):
        status, output, errors = run("wait", "a")
    assert (status, errors) == (130, "")
    assert ": 1 failed\n" in output


def test_invisible_change_prints_no_line(service, run, monkeypatch):
    service.add_job("a", ["running", "running", "succeeded"])
    correct_response = service._correct_response

    def with_count(*arguments):
        status, body = correct_response(*arguments)
        note = f"seen {len(service.requests)} times".encode()
        return status, body.replace(b"Job status with job_id a retrieved.", note)

    monkeypatch.setattr(service, "_correct_response", with_count)
    output = run("wait", "a")[1]
    assert re.findall(r"s  a  (\w+)", output) == ["running", "succeeded"]


# ---- fake, demo, and the rest


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def responds(port):
    """Whether a server listens on the port."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False


def test_fake_prints_its_url(run, port):
    with once(lambda: responds(port), press_ctrl_c):
        status, output, errors = run("fake", "--port", str(port), "--dialect", "flat")
    assert status == 130
    assert output.splitlines() == [
        f"export SUTRO_API_URL=http://127.0.0.1:{port}",
        "export SUTRO_API_KEY=sk_test",
    ]
    assert "with job-1, job-2, job-3." in errors
    assert errors.endswith("\n1 request served.\n")


def test_fake_prints_its_url_as_json(run_json, port):
    with once(lambda: responds(port), press_ctrl_c):
        status, objects, _ = run_json("fake", "--port", str(port), "--job", "a=running:9,failed")
    assert status == 130
    assert objects == [
        {"url": f"http://127.0.0.1:{port}", "api_key": "sk_test", "job_ids": ["a"]},
    ]


def test_duplicate_fake_job_is_rejected(run):
    status, _, errors = run("fake", "--job", "a=failed", "--job", "a=running")
    assert status == 2
    assert "there are two jobs 'a'" in errors


def test_empty_failure_reason_is_rejected(run):
    status, output, errors = run("fake", "--failure-reason", " ")
    assert (status, output) == (2, "")
    assert "--failure-reason must not be empty" in errors


def test_port_in_use_is_rejected(service, run):
    port = service.url.rpartition(":")[2]
    status, output, errors = run("fake", "--port", port)
    assert (status, output) == (2, "")
    assert "the port cannot be used (Address already in use): choose another" in errors


@pytest.fixture
def quick_demo(monkeypatch):
    """Let the jobs of the demo run ten times as fast."""

    class QuickSutro(_fake.FakeSutro):
        def add_job(self, job_id, timeline, **fields):
            *steps, last = timeline
            super().add_job(job_id, [*((word, time / 10) for word, time in steps), last], **fields)

    monkeypatch.setattr(_fake, "FakeSutro", QuickSutro)
    monkeypatch.setattr(_fake, "_POLL", FAST_POLL)


def test_demo_runs_without_key_and_network(run, quick_demo):
    status, output, errors = run("demo")
    assert (status, errors) == (0, "")
    assert re.search(r"^ +[\d.]+s  rewrite    cancelled$", output, re.MULTILINE)
    assert re.search(
        r"^extract failed: the output does not match the schema \(row 17", output, re.MULTILINE
    )
    assert "6 jobs in" in output
    assert ": 4 succeeded, 1 failed, 1 cancelled\n" in output
    code = output.partition("SUTRO_API_KEY:\n\n")[2]
    assert code.count("\n") == 5
    compile("async def main():\n" + code, "demo", "exec")


def test_demo_json_prints_only_json(run_json, quick_demo):
    status, events, errors = run_json("demo")
    assert (status, errors) == (0, "")
    assert sum(event["event"] == "end" for event in events) == 6


def test_help_has_example_for_each_command(run):
    status, output, _ = run("--help")
    assert status == 0
    commands = re.findall(r"^  (\w+) ", output.partition("Commands:")[2], re.MULTILINE)
    assert commands[:6] == ["demo", "fake", "job", "list", "status", "wait"]
    for command in commands[:5]:
        status, output, errors = run(command, "--help")
        assert (status, errors) == (0, "")
        assert f"sutro-async {command}" in output.partition("Example:")[2]


def test_missing_command_is_usage_error_and_shows_help(run):
    status, output, errors = run()
    assert (status, output) == (2, "")
    assert "Usage: sutro-async" in errors


@pytest.mark.parametrize("arguments", [["dance"], ["status"], ["status", "a", "--fast"]])
def test_usage_error_is_reported_in_two_lines(arguments, run):
    status, output, errors = run(*arguments)
    assert (status, output) == (2, "")
    assert re.fullmatch(r"Error: .*\nSee `sutro-async.* --help`\.\n", errors)


def complete(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_completion_uses_click(capsys, monkeypatch):
    monkeypatch.setenv("_SUTRO_ASYNC_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "sutro-async st")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert complete(capsys) == "plain,status\n"
    # Standard input is not read for that.
    monkeypatch.setenv("COMP_WORDS", "sutro-async wait - --format c")
    monkeypatch.setenv("COMP_CWORD", "4")
    assert complete(capsys) == "plain,csv\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(capsys, monkeypatch, shell):
    monkeypatch.setenv("_SUTRO_ASYNC_COMPLETE", f"{shell}_source")
    assert f"_SUTRO_ASYNC_COMPLETE={shell}_complete" in complete(capsys)


# ---- streams


class BrokenOutput(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def flush(self):
        raise self.error

    def fileno(self):
        raise io.UnsupportedOperation


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["wait", "a"], ["status", "a", "--json"], ["fake"]]
)
def test_closed_output_ends_command(service, monkeypatch, capsys, arguments):
    service.add_job("a", ["running"])
    monkeypatch.setattr(sys, "stdout", BrokenOutput(BrokenPipeError()))
    assert cli.main(arguments) == 141
    assert "Traceback" not in capsys.readouterr().err


def test_write_error_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", BrokenOutput(OSError(errno.ENOSPC, "No space left")))
    assert cli.main(["--version"]) == 2
    assert capsys.readouterr().err == "Error: the output cannot be written: No space left\n"


def test_errors_to_closed_stream_are_dropped(monkeypatch):
    monkeypatch.setattr(sys, "stderr", BrokenOutput(BrokenPipeError()))
    assert cli.main(["dance"]) == 2


def test_unencodable_characters_are_escaped(service, monkeypatch):
    service.add_job("job-1", ["failed"], failure_reason="pas de GPU à Orléans")
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    assert cli.main(["status", "job-1"]) == 1
    assert output.getvalue() == b"job-1  failed  pas de GPU \\xe0 Orl\\xe9ans\n"


def test_closed_standard_streams_are_tolerated(monkeypatch, service):
    service.add_job("job-1", ["failed"])
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["status", "job-1"]) == 1
    assert cli.main(["status", "nope"]) == 3


# ---- without the extra


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_missing_extra_is_named(run, monkeypatch, missing):
    loaded = [name for name in sys.modules if name.startswith("sutro_async.cli._")]
    for name in loaded:
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(cli, name.rpartition(".")[2])
    for name in [name for name in sys.modules if name.startswith(f"{missing}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    for arguments in ([], ["wait", "job-1"], ["demo"], ["--help"]):
        status, output, errors = run(*arguments)
        assert (status, output) == (2, "")
        assert errors == (
            'sutro-async needs click and rich: pip install "sutro-async[cli]",'
            ' or in a checkout pip install ".[cli]"\n'
        )


def test_other_missing_module_is_not_reported_as_missing_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "sutro_async.cli._commands")
    monkeypatch.delattr(cli, "_commands")
    monkeypatch.setitem(sys.modules, "sutro_async.cli._fake", None)
    with pytest.raises(ModuleNotFoundError, match="_fake"):
        cli.main(["--version"])


# ---- list


@pytest.fixture
def account(service):
    """An account with three jobs, of which one has not finished."""
    service.add_job("old", ["succeeded"], job_cost=0.5)
    service.add_job("middle", ["running"])
    service.add_job("new", ["failed"], failure_reason="no GPU")
    return service


def test_list_prints_table_of_jobs_newest_first(account, run):
    status, output, errors = run("list")
    assert (status, errors) == (0, "")
    assert [line.split()[:2] for line in output.splitlines()] == [
        ["Job", "Status"],
        ["new", "failed"],
        ["middle", "running"],
        ["old", "succeeded"],
    ]
    assert "$0.5000" in output


def test_list_of_empty_account_prints_nothing(service, run):
    assert run("list") == (0, "", "")


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ([], "new\nmiddle\nold\n"),
        (["--unfinished"], "middle\n"),
        (["--limit", "2"], "new\nmiddle\n"),
        (["--limit", "9"], "new\nmiddle\nold\n"),
    ],
    ids=str,
)
def test_list_of_ids(account, run, options, ids):
    assert run("list", "--ids", *options) == (0, ids, "")


@pytest.mark.parametrize("data", [["--json"], ["--format", "csv"]])
def test_ids_option_excludes_data_formats(service, run, data):
    status, _, errors = run("list", "--ids", *data)
    assert status == 2
    assert "exclude each other" in errors


def test_listed_ids_can_be_waited_for(account, run, monkeypatch):
    ids = run("list", "--unfinished", "--ids")[1]
    monkeypatch.setattr(sys, "stdin", io.StringIO(ids))
    account.set_status("middle", "succeeded")
    status, output, _ = run("wait", "-", "--format", "csv")
    assert status == 0
    assert output.splitlines()[1].startswith("middle,succeeded,")


def test_list_json_is_one_record_per_line(account, run_json):
    status, records, _ = run_json("list")
    assert status == 0
    assert [record["job_id"] for record in records] == ["new", "middle", "old"]
    assert records[0]["failure_reason"]["message"] == "no GPU"


def test_list_as_csv(account, run):
    lines = run("list", "--format", "csv")[1].splitlines()
    assert lines[0] == "id,status,rows,tokens,cost,duration,failure"
    assert lines[1].startswith("new,failed,")
    assert lines[1].endswith(",no GPU")


def test_unreadable_list_is_api_error(account, run):
    account.fail_next(99, status=403, endpoint="list-jobs")
    status, output, errors = run("list")
    assert (status, output) == (3, "")
    assert "list-jobs: HTTP 403" in errors


# ---- bulk


def test_bulk_reads_list_for_ten_or_more_jobs(service, run):
    ids = [f"job-{number}" for number in range(10)]
    for job_id in ids:
        service.add_job(job_id)
    assert run("wait", *ids, "--bulk")[0] == 0
    assert [request for request in service.requests if "list-jobs" in request.path]
    service.requests.clear()
    assert run("wait", *ids)[0] == 0
    assert run("wait", *ids[1:], "--bulk")[0] == 0
    assert not [request for request in service.requests if "list-jobs" in request.path]
