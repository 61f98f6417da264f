"""The live view: on a screen of our own, and in a real pseudo-terminal."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import pyte
import pytest

from sutro_async import (
    JobNotFoundError,
    JobOutcome,
    JobStatus,
    JobStatusReport,
    JobWaitTimeoutError,
    cli,
)
from sutro_async.cli._board import Board
from sutro_async.cli._live import LiveView
from sutro_async.cli._terminal import open_terminal


class Terminal(io.StringIO):
    """A terminal of which the screen can be read."""

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
        monkeypatch.delenv("NO_COLOR", raising=False)
        terminal = Terminal(columns, lines)
        monkeypatch.setattr(sys, "stdout", terminal)
        return terminal

    return make


MIDNIGHT = "2024-01-15T00:00:00Z"


class Clock:
    """A clock that goes where it is set."""

    now = 0.0

    def __call__(self):
        return self.now


def report(job_id, status="running", **fields):
    return JobStatusReport(
        job_id=job_id, status=JobStatus(status), raw_status=status.upper(), **fields
    )


def ended(job_id, status="succeeded", **fields):
    return JobOutcome(job_id=job_id, value=report(job_id, status, **fields))


@pytest.fixture
def watch(make_terminal):
    """Open a live view on jobs; gives the terminal, its clock, and how to tell it news."""

    opened = []

    def watch(job_ids, *, raw=False, **size):
        terminal = make_terminal(**size)
        clock = Clock()
        board = Board(job_ids, clock=clock)
        view = LiveView(board, open_terminal(), raw=raw)
        opened.append(view.opened())
        opened[-1].__enter__()

        def tell(*events, at):
            for event in events:
                board.note(event)
            clock.now = at
            view.refresh()
            return terminal.lines

        return view, tell

    yield watch
    for scope in opened:
        scope.__exit__(None, None, None)


def test_one_job_at_80_columns(watch):
    _, tell = watch(["job-12345"])
    assert tell(at=1)[:4] == [
        "Job        Status      Elapsed       Rows  Last change",
        "job-12345  not seen      1.0 s",
        "",
        "━" * 63 + "  0 of 1 finished",
    ]
    tell(report("job-12345", "queued"), at=2)
    assert tell(report("job-12345"), at=65)[1] == (
        "job-12345  running        1:05             1 min ago, was queued"
    )
    assert tell(ended("job-12345"), at=70)[1:4] == [
        "job-12345  succeeded      1:05             5 s ago, was running",
        "",
        "━" * 63 + "  1 of 1 finished",
    ]


def test_what_ends_badly_says_why(watch):
    _, tell = watch(["a", "b", "c", "d"], columns=120)
    missing = JobNotFoundError(job_id="b", status_code=404, message="No job")
    late = JobWaitTimeoutError(job_id="c", last_report=None, elapsed=1, timeout=1)
    odd = JobStatusReport(job_id="d", status=JobStatus.UNKNOWN, raw_status="PREEMPTED")
    lines = tell(
        ended("a", "failed", message="no\x1b[2J GPU"),
        JobOutcome(job_id="b", error=missing),
        JobOutcome(job_id="c", error=late),
        odd,
        at=1,
    )
    assert lines[1].endswith("  no [2J GPU")
    assert lines[2].startswith("b    error")
    assert lines[2].endswith("job 'b': HTTP 404: No job")
    assert lines[3].startswith("c    not seen")
    assert lines[4].startswith("d    PREEMPTED")
    assert lines[6].endswith("  3 of 4 finished, 1 failed, 1 error")


def test_500_jobs_fit_the_screen_and_the_moving_ones_are_shown(watch):
    ids = [f"job-{number:03}-5f3a9c1e-77aa-4b0e-9d7c-0123456789ab" for number in range(500)]
    _, tell = watch(ids)
    tell(*(report(job_id, "queued") for job_id in ids), at=10)
    tell(report(ids[400]), report(ids[7]), at=20)
    lines = tell(*(ended(job_id) for job_id in ids[100:300]), at=30)
    assert lines[0].startswith("Job ")
    shown = [line for line in lines if line.startswith("job-")]
    assert len(shown) == 24 - 6
    assert [line[:7] for line in shown if "running" in line] == ["job-007", "job-400"]
    assert not any("succeeded" in line for line in shown)
    assert "and 482 more: 282 queued, 200 succeeded" in lines
    assert lines[-3].endswith("  200 of 500 finished")
    assert lines[-2:] == ["", ""]
    lines = tell(*(ended(job_id) for job_id in ids[10:]), at=40)
    # As fewer go on than there is room for, those that have ended last fill it up.
    assert sum("  queued  " in line or "  running  " in line for line in lines) == 10
    assert sum("  succeeded  " in line for line in lines) == 8


@pytest.mark.parametrize("size", [{"columns": 40, "lines": 8}, {"columns": 200, "lines": 50}])
def test_other_sizes_are_right_too(watch, size):
    ids = [f"job-{number}" for number in range(60)]
    _, tell = watch(ids, **size)
    lines = tell(*(report(job_id) for job_id in ids), at=1)
    assert len([line for line in lines if line.startswith("job-")]) == size["lines"] - 6
    assert lines[-3].endswith(" of 60 finished")


REAL_ID = "job-5f3a9c1e-77aa-4b0e-9d7c-0123456789ab"


def test_an_id_of_the_real_length_is_whole_at_80_columns(watch):
    view, tell = watch([REAL_ID])
    tell(report(REAL_ID, "queued"), at=2)
    assert tell(report(REAL_ID), at=3)[:2] == [
        "Job" + " " * 39 + "Status      Elapsed  Last change",
        REAL_ID + "  running       3.0 s  1 s ago, was que…",
    ]
    assert view.next_without_record() is None  # there is no room for its rows
    _, tell = watch([REAL_ID], columns=100)
    assert tell(at=1)[0].split() == ["Job", "Status", "Elapsed", "Rows", "Last", "change"]
    _, tell = watch([REAL_ID], columns=56)
    assert tell(report(REAL_ID), at=1)[:2] == [
        "Job" + " " * 39 + "Status",
        REAL_ID + "  running",
    ]
    _, tell = watch([REAL_ID], columns=40)
    assert tell(report(REAL_ID), at=1)[1] == REAL_ID[:27] + "…  running"


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (100, ["Job", "Status", "Rows", "Tokens", "Cost", "Duration"]),
        (80, ["Job", "Status", "Rows", "Cost", "Duration"]),
        (76, ["Job", "Status", "Cost", "Duration"]),
        (64, ["Job", "Status", "Duration"]),
        (52, ["Job", "Status"]),
    ],
)
def test_a_summary_leaves_columns_out_before_it_folds_an_id(
    service, fast_command, make_terminal, columns, titles
):
    service.add_job(REAL_ID, datetime_started=MIDNIGHT, datetime_completed=MIDNIGHT)
    terminal = make_terminal(columns=columns)
    assert cli.main(["wait", REAL_ID]) == 0
    assert terminal.lines[0].split() == titles
    assert terminal.lines[1].startswith(f"{REAL_ID}  succeeded")
    assert terminal.lines[2] == ""


def test_an_id_that_is_too_long_for_the_terminal_is_folded_and_not_cut(
    service, fast_command, make_terminal
):
    job_id = "x" * 150
    service.add_job(job_id)
    terminal = make_terminal()
    assert cli.main(["wait", job_id]) == 0
    table = "\n".join(terminal.lines).partition("\n\n")[0]
    assert table.count("x") == 150


def test_a_reason_is_folded_rather_than_the_id(service, make_terminal):
    service.add_job(REAL_ID, ["failed"], failure_reason="no GPU was free " * 4)
    terminal = make_terminal()
    assert cli.main(["status", REAL_ID]) == 1
    assert terminal.lines[1].startswith(f"{REAL_ID}  failed  no GPU was free")
    assert terminal.lines[2].startswith(" " * 50 + "free no GPU")


def test_it_is_drawn_a_few_times_a_second_however_much_happens(watch):
    _, tell = watch(["a"])
    tell(report("a", "queued"), at=1)
    assert "running" not in tell(report("a"), at=1.01)[1]
    assert "running" in tell(at=1.2)[1]


def test_the_raw_word_is_shown_where_it_is_wanted(watch):
    _, tell = watch(["a"], raw=True)
    assert "  RUNNING  " in tell(report("a"), at=1)[1]


def test_only_the_records_of_jobs_on_the_screen_are_asked_for_and_once(watch):
    ids = [f"job-{number}" for number in range(60)]
    view, tell = watch(ids)
    assert view.next_without_record() is None
    tell(*(report(job_id) for job_id in ids[50:]), ended("job-1"), at=1)
    wanted = [view.next_without_record().job_id for _ in range(10)]
    assert wanted == ids[50:]
    assert view.next_without_record() is None


# ---- whether it is a terminal


@pytest.mark.parametrize(
    ("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "unknown")]
)
def test_some_terminals_get_plain_lines(make_terminal, monkeypatch, name, value):
    make_terminal()
    assert open_terminal() is not None
    monkeypatch.setenv(name, value)
    assert open_terminal() is None


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_the_characters_of_the_bar_gets_plain_lines(
    make_terminal, monkeypatch, encoding
):
    terminal = make_terminal()
    monkeypatch.setattr(terminal, "encoding", encoding)
    assert open_terminal() is None


# ---- the commands on a terminal


def test_wait_leaves_a_summary_on_the_terminal(service, fast_command, make_terminal):
    service.add_job("job-1", [("running", 0.4), "succeeded"])
    service.add_job("[b]job-2[/b]", ["failed"], failure_reason="no [red]GPU[/red]")
    terminal = make_terminal()
    assert cli.main(["wait", "job-1", "[b]job-2[/b]"]) == 1
    assert re.search(r"1 of 2 finished, 1 failed", terminal.getvalue())
    summary = "\n".join(terminal.lines).rstrip()
    assert re.fullmatch(
        r"Job           Status     Rows  Tokens        Cost  Duration\n"
        r"job-1         succeeded   100  15,400  0\.0185 USD     0\.4 s\n"
        r"\[b\]job-2\[/b\]  failed      100                         0\.0 s\n"
        r"\n"
        r"\[b\]job-2\[/b\] failed: no \[red\]GPU\[/red\]\n"
        r"\n"
        r"2 jobs in [\d.]+ s: 1 succeeded, 1 failed\n"
        r"15,400 tokens, 0\.0185 USD",
        summary,
    )
    assert not terminal.screen.cursor.hidden
    records = [request.path for request in service.requests if "/jobs/" in request.path]
    assert len(records) == 3  # at first for the job that ran, and at the end for both


def test_a_wrong_key_leaves_no_table(service, make_terminal, monkeypatch):
    monkeypatch.setenv("SUTRO_API_KEY", "sk_wrong")
    terminal = make_terminal()
    assert cli.main(["wait", "job-1"]) == 3
    assert not any(terminal.lines)


def test_the_rows_cannot_fail_a_wait(service, fast_command, make_terminal):
    service.add_job("job-1", [("running", 0.4), "succeeded"], num_rows="many")
    terminal = make_terminal()
    assert cli.main(["wait", "job-1"]) == 0
    assert "1 job in" in "\n".join(terminal.lines)


def test_status_and_job_have_colours_on_a_terminal(service, make_terminal):
    service.add_job("job-1", ["failed"], failure_reason="no GPU " * 20)
    service.add_job("job-2")
    terminal = make_terminal()
    assert cli.main(["status", "job-1", "job-2"]) == 1
    assert "\x1b[1;31mfailed" in terminal.getvalue()
    assert "\x1b[32msucceeded" in terminal.getvalue()
    assert terminal.lines[0] == "Job    Status     Why"
    assert terminal.lines[1].startswith("job-1  failed     no GPU no GPU")
    assert terminal.lines[2].startswith(" " * 18 + "no GPU")
    terminal = make_terminal(lines=50)
    assert cli.main(["job", "job-1", "job-2"]) == 1
    assert terminal.lines[0] == "Job            job-1"
    assert terminal.lines[2].startswith("Failure        no GPU no GPU")
    assert terminal.lines[3].startswith(" " * 15)
    assert "Job            job-2" in terminal.lines


# ---- a real pseudo-terminal


COMMAND = [sys.executable, "-W", "error", "-m", "sutro_async"]
# The first terminal that the leader of a session opens is that of the session, so that Ctrl-C typed
# into it arrives as a signal.
_IN_TERMINAL = (
    "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"
)


class Session:
    """A process in a pseudo-terminal of 80 columns and 24 lines."""

    def __init__(self, *arguments, environ=()):
        self.screen = pyte.HistoryScreen(80, 24, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL, *COMMAND, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(**dict(environ)),
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    @property
    def lines(self):
        return [line.rstrip() for line in self.screen.display]

    @property
    def all_lines(self):
        top = [
            "".join(line[column].data for column in range(80)).rstrip()
            for line in self.screen.history.top
        ]
        return [*top, *self.lines]

    def read_until(self, condition):
        """Read what the process prints, until the condition holds or it has ended."""
        while not condition() and (data := self._read()):
            self._stream.feed(data)

    def _read(self):
        try:
            return os.read(self._master, 65_536)
        except OSError:  # the other end is closed
            return b""

    def type(self, data):
        os.write(self._master, data)

    def wait(self):
        """Wait until the process has ended; only then read the screen, which takes its time."""
        data = b"".join(iter(self._read, b""))
        status = self.process.wait(timeout=5)
        self.ended_at = time.monotonic()
        self._stream.feed(data)
        return status


def environment(**changes):
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return kept | {"TERM": "xterm-256color"} | changes


def test_the_demo_in_a_terminal():
    began_at = time.monotonic()
    with Session("demo") as session:
        unlucky = re.compile("[2-4] of 6 finished, 1 failed, 1 cancelled$")
        session.read_until(lambda: any(map(unlucky.search, session.lines)))
        live = session.lines
        assert live[0].startswith("Waiting for 6 jobs at http://127.0.0.1:")
        assert live[2] == "Job        Status      Elapsed       Rows  Last change"
        assert [line.split()[0] for line in live[3:9]] == [
            "translate",
            "classify",
            "summarise",
            "embed",
            "extract",
            "rewrite",
        ]
        assert unlucky.search(live[10])
        assert not any(live[11:])
        assert session.wait() == 0
        assert time.monotonic() - began_at < 15
        text = "\n".join(session.all_lines)
        assert text.count("Job  ") == 1  # the live table has given way to the summary
        assert re.search(r"^rewrite    cancelled     40 +1\.\d s$", text, re.MULTILINE)
        assert "no wait noticed." in text
        assert text.rstrip().endswith("print(job.status, job.duration, job.job_cost)")


def test_ctrl_c_typed_into_a_wait_for_500_jobs(service):
    ids = [f"job-{number}" for number in range(500)]
    for job_id in ids:
        service.add_job(job_id, ["running"])
    # In the best of three attempts, since the machine may be busy with other things.
    assert any(seconds_to_end(service, ids) < 1 for _ in range(3))


def seconds_to_end(service, ids):
    """Interrupt a wait in the midst of its requests, and see that it ends as it should."""
    service.clear_faults()
    with Session("wait", *ids) as session:
        session.read_until(lambda: any("482 running" in line for line in session.lines))
        service.fail_next(500, delay=60)
        session.read_until(lambda: service.in_flight >= 20)
        began_at = time.monotonic()
        session.type(b"\x03")
        assert session.wait() == 130
        text = "\n".join(session.all_lines)
        assert "Traceback" not in text
        assert "Elapsed" not in text  # nothing of the live table is left
        assert len(re.findall(r"^job-\d+ +running", text, re.MULTILINE)) == 500
        assert "Interrupted: 500 of 500 jobs had not ended, and go on at the service." in text
        assert not session.screen.cursor.hidden
        return session.ended_at - began_at
