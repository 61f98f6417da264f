"""The live view in a real pseudo-terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import pyte

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


def test_ctrl_c_during_wait_for_500_jobs(service):
    ids = [f"job-{number}" for number in range(500)]
    for job_id in ids:
        service.add_job(job_id, ["running"])
    # The best of three attempts, since the machine may be busy.
    assert any(seconds_until_exit(service, ids) < 1 for _ in range(3))


def seconds_until_exit(service, ids):
    """Interrupt a wait during its requests, and check how it exits."""
    service.clear_faults()
    with Session("wait", *ids) as session:
        session.read_until(lambda: any("483 more: 483 running" in line for line in session.lines))
        service.fail_next(500, delay=60)
        session.read_until(lambda: service.in_flight >= 20)
        began_at = time.monotonic()
        session.type(b"\x03")
        assert session.wait() == 130
        text = "\n".join(session.all_lines)
        assert "Traceback" not in text
        assert "Elapsed" not in text  # nothing of the live table is left
        assert len(re.findall(r"^job-\d+ +running", text, re.MULTILINE)) == 500
        assert "Interrupted: 500 of 500 jobs had not finished;" in text
        assert not session.screen.cursor.hidden
        return session.ended_at - began_at
