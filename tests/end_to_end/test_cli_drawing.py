"""The live view, on an emulated screen."""

import io
import re
import sys

import pyte
import pytest

from sutro_async import (
    Job,
    JobNotFoundError,
    JobOutcome,
    JobStatus,
    JobStatusReport,
    JobWaitTimeoutError,
    cli,
)
from sutro_async.cli._entries import Board
from sutro_async.cli._progress import LiveProgress, open_progress
from sutro_async.cli._show import open_output


class Terminal(io.StringIO):
    """A terminal with a readable screen."""

    encoding = "utf-8"

    def __init__(self, columns=80, lines=24):
        super().__init__()
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.Stream(self.screen)

    def isatty(self):
        return True

    def write(self, text):
        self._stream.feed(text.replace("\n", "\r\n"))
        return super().write(text)

    @property
    def lines(self):
        return [line.rstrip() for line in self.screen.display]


@pytest.fixture
def make_terminal(monkeypatch):
    def make(columns=80, lines=24):
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(lines))
        terminal = Terminal(columns, lines)
        monkeypatch.setattr(sys, "stdout", terminal)
        return terminal

    return make


MIDNIGHT = "2024-01-15T00:00:00Z"
REAL_ID = "job-5f3a9c1e-77aa-4b0e-9d7c-0123456789ab"
LONG_ID = "an-id-of-66-characters-that-a-person-has-written-by-hand-for-a-job"


class Clock:
    """A clock that is set by tests."""

    now = 0.0

    def __call__(self):
        return self.now


def report(job_id, status="running", **fields):
    report = JobStatusReport(
        job_id=job_id, status=JobStatus(status), raw_status=status.upper(), **fields
    )
    return JobOutcome(job_id=job_id, value=report)


@pytest.fixture
def watch(make_terminal):
    """Open a live table of jobs; return a function that notes outcomes and returns the screen."""

    opened = []

    def watch(job_ids, *, raw=False, **size):
        terminal = make_terminal(**size)
        clock = Clock()
        board = Board(job_ids, clock=clock)
        progress = open_progress(open_output(None, raw=raw), board)
        assert isinstance(progress, LiveProgress)
        opened.append(progress.opened())
        opened[-1].__enter__()

        def note(*events, at):
            clock.now = at
            for event in events:
                board.note(event)
            clock.now += 0.125
            progress.refresh()
            return terminal.lines

        return note

    yield watch
    for scope in opened:
        scope.__exit__(None, None, None)


def test_one_job_at_80_columns(watch):
    note = watch(["job-12345"])
    assert note(at=1)[:4] == [
        "Job        Status      Elapsed  Reason",
        "job-12345  not seen    1.1s",
        "",
        "━" * 63 + "  0 of 1 finished",
    ]
    note(report("job-12345", "queued"), at=2)
    assert note(report("job-12345"), at=65)[1] == "job-12345  running     1m05s"
    assert note(report("job-12345", "succeeded"), at=70)[1:4] == [
        "job-12345  succeeded   1m10s",
        "",
        "━" * 47 + "  1 of 1 finished, 0 records read",
    ]
    record = Job(job_id="job-12345", status=JobStatus.SUCCEEDED, raw_status="SUCCEEDED")
    assert note(record, at=71)[3].endswith("  1 of 1 finished, 1 record read")


def test_failed_job_shows_reason(watch):
    note = watch(["a", "b", "c", "d"], columns=120)
    missing = JobNotFoundError(job_id="b", status_code=404, message="No job")
    late = JobWaitTimeoutError(job_id="c", last_report=None, elapsed=1, timeout=1)
    unknown = JobStatusReport(job_id="d", status=JobStatus.UNKNOWN, raw_status="IDLE")
    lines = note(
        report("a", "failed", message="no\x1b[2J GPU"),
        JobOutcome(job_id="b", error=missing),
        JobOutcome(job_id="c", error=late),
        JobOutcome(job_id="d", value=unknown),
        at=1,
    )
    assert lines[1].endswith("  no [2J GPU")
    assert lines[2].startswith("b    error")
    assert lines[2].endswith("job 'b': HTTP 404: No job")
    assert lines[3].split() == ["c", "not", "seen", "1.0s"]
    assert lines[4].startswith("d    unknown")
    assert lines[6].endswith("  3 of 4 finished, 1 failed, 1 error")


def test_500_jobs_fit_screen_and_changing_ones_are_shown(watch):
    ids = [f"job-{number:08}-77aa-4b0e-9d7c-0123456789ab" for number in range(500)]
    note = watch(ids)
    note(*(report(job_id, "queued") for job_id in ids), at=10)
    note(report(ids[400]), report(ids[7]), at=20)
    lines = note(*(report(job_id, "succeeded") for job_id in ids[100:300]), at=30)
    assert lines[0].startswith("Job ")
    shown = [line for line in lines if line.startswith("job-")]
    assert len(shown) == 24 - 7
    running = [line[:12] for line in shown if "running" in line]
    assert running == ["job-00000007", "job-00000400"]
    assert not any("succeeded" in line for line in shown)
    assert "483 more: 283 queued, 200 succeeded" in lines
    assert any(line.endswith("  200 of 500 finished") for line in lines)
    lines = note(*(report(job_id, "succeeded") for job_id in ids[10:]), at=40)
    # The remaining lines show the jobs that finished last.
    assert sum("  queued  " in line or "  running  " in line for line in lines) == 10
    assert sum("  succeeded  " in line for line in lines) == 7


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_long_id_is_folded_without_hiding_columns(watch, columns):
    short = watch(["a", "b"], columns=columns)(report("a"), at=1)
    lines = watch(["a", LONG_ID], columns=columns)(report("a"), at=1)
    titles = ["Job", "Status", "Elapsed"] + (["Reason"] if columns > 60 else [])
    assert lines[0].split() == short[0].split() == titles
    assert lines[1].split() == short[1].split() == ["a", "running", "1.1s"]
    end = next(number for number, line in enumerate(lines) if not line)
    folded = "".join(line.split()[0] for line in lines[2:end])
    assert folded == LONG_ID
    assert lines[2].split()[1:3] == ["not", "seen"]


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_progress_bar_and_text_are_complete(watch, columns):
    events = (report("a", "failed"), report("b", "cancelled"), report("c"))
    lines = watch(["a", "b", "c"], columns=columns)(*events, at=1)
    text = "2 of 3 finished, 1 failed, 1 cancelled"
    if columns == 40:
        assert lines[5].startswith("━" * 20)
        assert lines[6] == text
    else:
        assert lines[5].endswith(f"━  {text}")
        assert len(lines[5]) == columns


@pytest.mark.parametrize("size", [{"columns": 40, "lines": 10}, {"columns": 200, "lines": 50}])
def test_table_never_exceeds_screen(watch, size):
    note = watch([f"job-{number}-{LONG_ID[:40]}" for number in range(60)], **size)
    lines = note(*(report(f"job-{n}-{LONG_ID[:40]}") for n in range(60)), at=1)
    assert lines[0].startswith("Job ")
    assert any(line.endswith("0 of 60 finished") for line in lines)
    assert lines[-1] == ""


def test_very_narrow_terminal_raises_no_error(watch):
    assert watch(["job-1"], columns=8, lines=5)(report("job-1"), at=1)


def test_redraw_rate_is_limited(watch):
    note = watch(["a"])
    note(report("a", "queued"), at=1)
    assert "running" not in note(report("a"), at=1.01)[1]
    assert "running" in note(at=1.2)[1]


def test_raw_status_is_shown_on_request(watch):
    assert "  RUNNING  " in watch(["a"], raw=True)(report("a"), at=1)[1]


# ---- whether it is a terminal


def test_no_color_removes_colours_and_keeps_table(
    service, fast_command, make_terminal, monkeypatch
):
    for has_colours in (True, False):
        service.add_job(f"job-{has_colours}", [("running", 0.3), "succeeded"])
        if not has_colours:
            monkeypatch.setenv("NO_COLOR", "1")
        terminal = make_terminal()
        assert open_output(None, raw=False).is_live
        assert cli.main(["wait", f"job-{has_colours}"]) == 0
        assert "0 of 1 finished" in terminal.getvalue()
        colours = re.findall(r"\x1b\[(?:\d+;)*3\d", terminal.getvalue())
        assert bool(colours) is has_colours


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_dumb_terminal_gets_plain_lines_and_table(
    service, fast_command, make_terminal, monkeypatch, term
):
    service.add_job("job-1", ["running", "succeeded"])
    terminal = make_terminal(columns=60)
    monkeypatch.setenv("TERM", term)
    assert cli.main(["wait", "job-1"]) == 0
    assert "\x1b" not in terminal.getvalue()
    assert terminal.lines[0].split()[1:] == ["job-1", "running"]
    assert terminal.lines[3].split() == ["Job", "Status", "Rows", "Tokens", "Cost", "Time"]


def test_force_color_colours_pipe_without_redrawing(service, run, monkeypatch):
    service.add_job("job-1", ["failed"], failure_reason="no GPU")
    assert run("status", "job-1")[1] == "job-1  failed  no GPU\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1;31mfailed" in run("status", "job-1")[1]
    output = run("wait", "job-1")[1]
    assert "finished" not in output
    assert "\x1b[1;31mfailed" in output


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminal_without_bar_characters_is_not_redrawn(make_terminal, monkeypatch, encoding):
    terminal = make_terminal()
    monkeypatch.setattr(terminal, "encoding", encoding)
    assert not open_output(None, raw=False).is_live


@pytest.mark.parametrize("wanted", ["plain", "json", "csv"])
def test_other_formats_are_not_redrawn_on_terminal(service, make_terminal, wanted):
    service.add_job("job-1")
    terminal = make_terminal()
    assert cli.main(["wait", "job-1", "--format", wanted]) == 0
    assert "\x1b" not in terminal.getvalue()


# ---- the commands on a terminal


def test_wait_prints_summary_on_terminal(service, fast_command, make_terminal):
    service.add_job("job-1", [("running", 0.4), "succeeded"])
    service.add_job("[b]job-2[/b]", ["failed"], failure_reason="no [red]GPU[/red]")
    terminal = make_terminal()
    assert cli.main(["wait", "job-1", "[b]job-2[/b]"]) == 1
    assert re.search(r"1 of 2 finished, 1 failed", terminal.getvalue())
    summary = "\n".join(terminal.lines).rstrip()
    assert re.fullmatch(
        r"Job           Status     Rows  Tokens     Cost  Time\n"
        r"job-1         succeeded   100  15,400  \$0\.0185  0\.4s\n"
        r"\[b\]job-2\[/b\]  failed      100                   0\.0s\n"
        r"\n"
        r"\[b\]job-2\[/b\] failed: no \[red\]GPU\[/red\]\n"
        r"\n"
        r"2 jobs in [\d.]+s: 1 succeeded, 1 failed\n"
        r"15,400 tokens, \$0\.0185",
        summary,
    )
    assert not terminal.screen.cursor.hidden
    records = [request.path for request in service.requests if "/jobs/" in request.path]
    assert len(records) == 2  # one for each job, at the end


def test_wrong_key_prints_no_table(service, make_terminal, monkeypatch):
    monkeypatch.setenv("SUTRO_API_KEY", "sk_wrong")
    terminal = make_terminal()
    assert cli.main(["wait", "job-1"]) == 3
    assert not any(terminal.lines)


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (120, ["Job", "Status", "Rows", "Tokens", "Cost", "Time"]),
        (80, ["Job", "Status", "Rows", "Tokens", "Cost", "Time"]),
        (76, ["Job", "Status", "Rows", "Cost", "Time"]),
        (60, ["Job", "Status", "Cost", "Time"]),
        (40, ["Job", "Status", "Time"]),
    ],
)
def test_summary_reserves_half_width_for_ids(service, fast_command, make_terminal, columns, titles):
    service.add_job(REAL_ID, datetime_started=MIDNIGHT, datetime_completed=MIDNIGHT)
    service.add_job("b")
    terminal = make_terminal(columns=columns)
    assert cli.main(["wait", REAL_ID, "b"]) == 0
    assert terminal.lines[0].split() == titles
    table = terminal.lines[: terminal.lines.index("")]
    assert "".join(line.split()[0] for line in table[1:-1]) == REAL_ID
    assert (len(table) == 3) == (columns >= 76)
    assert table[-1].split()[:2] == ["b", "succeeded"]


def test_id_longer_than_terminal_is_folded_not_truncated(service, fast_command, make_terminal):
    job_id = "x" * 150
    service.add_job(job_id)
    terminal = make_terminal()
    assert cli.main(["wait", job_id]) == 0
    table = "\n".join(terminal.lines).partition("\n\n")[0]
    assert table.count("x") == 150


def test_reason_is_folded_before_id(service, make_terminal):
    service.add_job(REAL_ID, ["failed"], failure_reason="no GPU was free " * 4)
    terminal = make_terminal()
    assert cli.main(["status", REAL_ID]) == 1
    assert terminal.lines[1].startswith(f"{REAL_ID}  failed  no GPU was free")
    assert terminal.lines[2].startswith(" " * 50 + "free no GPU")


def test_printing_many_jobs_as_lines_is_fast(service, make_terminal):
    ids = [f"job-{number}" for number in range(300)]
    for job_id in ids:
        service.add_job(job_id)
    terminal = make_terminal()
    assert cli.main(["status", *ids]) == 0
    assert terminal.getvalue().splitlines() == [f"{job_id:<7}  succeeded" for job_id in ids]


def test_status_and_job_have_colours_on_terminal(service, make_terminal):
    service.add_job("job-1", ["failed"], failure_reason="no GPU " * 20)
    service.add_job("job-2")
    terminal = make_terminal()
    assert cli.main(["status", "job-1", "job-2"]) == 1
    assert "\x1b[1;31mfailed" in terminal.getvalue()
    assert "\x1b[32msucceeded" in terminal.getvalue()
    assert terminal.lines[0] == "Job    Status     Reason"
    assert terminal.lines[1].startswith("job-1  failed     no GPU no GPU")
    assert terminal.lines[2].startswith(" " * 18 + "no GPU")
    terminal = make_terminal(lines=50)
    assert cli.main(["job", "job-1", "job-2"]) == 1
    assert terminal.lines[0] == "Job            job-1"
    assert terminal.lines[2].startswith("Failure        no GPU no GPU")
    assert terminal.lines[3].startswith(" " * 15)
    assert "Job            job-2" in terminal.lines


def test_closed_output_ends_live_table(service, make_terminal, monkeypatch):
    service.add_job("job-1")
    terminal = make_terminal()

    def write(text):
        raise BrokenPipeError

    monkeypatch.setattr(terminal, "write", write)
    assert cli.main(["status", "job-1"]) == 141
