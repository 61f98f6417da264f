"""The command as a process: exit statuses, signals, pipes and closed streams."""

import asyncio
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from sutro_async import __version__, cli
from sutro_async.cli._loop import run as run_loop

COMMAND = [sys.executable, "-W", "error", "-m", "sutro_async"]
SCRIPT = shutil.which("sutro-async", path=str(Path(sys.executable).parent))


def run(*arguments, command=COMMAND, **options):
    defaults = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options = defaults | {"text": True, "timeout": 30} | options
    return subprocess.run([*command, *arguments], check=False, **options)


def run_all(*calls):
    """Run commands, each given as a callable, two at a time; most of it is their start."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda call: call(), calls))


@pytest.fixture
def jobs(service):
    """Jobs named after what becomes of them."""
    service.add_job("good", [("running", 0.2), "succeeded"])
    service.add_job("bad", ["failed"], failure_reason="no GPU")
    service.add_job("dropped", ["cancelled"])
    service.add_job("slow", ["running"])
    service.fail_next(9, status=410, job_id="gone")
    return service


def test_each_exit_status(jobs):
    cases = [
        (["wait", "good"], 0),
        (["wait", "good", "bad", "dropped", "--json"], 1),
        (["status", "good", "--base-url", "ftp://example.com"], 2),
        (["wait", "good", "gone", "bad"], 3),
        (["wait", "slow", "bad", "--timeout", "0.2", "--json"], 124),
    ]
    calls = [lambda arguments=arguments: run(*arguments) for arguments, _ in cases]
    for (arguments, expected), process in zip(cases, run_all(*calls), strict=True):
        assert process.returncode == expected, (arguments, process.stderr)
        assert "Traceback" not in process.stderr
        assert "Warning" not in process.stderr
        assert jobs.api_key not in process.stdout + process.stderr
        if "--json" in arguments:
            assert all(isinstance(json.loads(line), dict) for line in process.stdout.splitlines())


def test_what_is_known_comes_before_what_is_wrong(jobs):
    process = run("status", "slow", "gone", stderr=subprocess.STDOUT)
    assert process.stdout.startswith("slow  running\nError: job 'gone': HTTP 410")


def test_the_installed_script_is_the_same_program():
    assert SCRIPT is not None
    process = run("--version", command=[SCRIPT])
    assert (process.returncode, process.stdout) == (0, f"sutro-async {__version__}\n")


def test_python_m_is_the_same_program(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sutro-async", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("sutro_async", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"sutro-async {__version__}\n"


def test_importing_the_command_loads_neither_click_nor_rich():
    code = "import sys, sutro_async.cli; print({'click', 'rich'} & set(sys.modules))"
    process = run("-c", code, command=[sys.executable])
    assert process.stdout == "set()\n"


# ---- Ctrl-C


def test_ctrl_c_during_a_wait_for_500_jobs(service):
    ids = [f"job-{number}" for number in range(500)]
    for job_id in ids:
        service.add_job(job_id, ["running"])
    # In the best of three attempts, since the machine may be busy with other things.
    assert any(seconds_to_end(service, ids) < 1 for _ in range(3))


@contextmanager
def started_wait(ids):
    """A wait in a process of its own, for ids on its standard input."""
    with subprocess.Popen(
        [*COMMAND, "wait", "-", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdin.write("\n".join(ids))
        process.stdin.close()
        yield process


def seconds_to_end(service, ids):
    """Interrupt a wait in the midst of its requests, and see that it ends as it should."""
    service.clear_faults()
    with started_wait(ids) as process:
        for _ in ids:
            process.stdout.readline()
        service.fail_next(500, delay=60)
        while service.in_flight < 20:
            time.sleep(0.01)
        began_at = time.monotonic()
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
        errors = process.stderr.read()
        assert process.wait(timeout=5) == 130
        seconds = time.monotonic() - began_at
    assert errors == "Interrupted: 500 of 500 jobs had not ended, and go on at the service.\n"
    ends = [json.loads(line) for line in output.splitlines()]
    assert {(end["event"], end["error"]["type"]) for end in ends} == {("end", "Interrupted")}
    assert [end["job_id"] for end in ends] == ids
    return seconds


@pytest.mark.parametrize(
    ("signals", "exit_status"),
    [([signal.SIGINT] * 2, 130), ([signal.SIGTERM] * 2, 143)],
    ids=["Ctrl-C twice", "SIGTERM twice"],
)
def test_signals_end_a_wait_however_close_they_come(service, signals, exit_status):
    ids = [f"job-{number}" for number in range(300)]
    for job_id in ids:
        service.add_job(job_id, ["running"])
    with started_wait(ids) as process:
        for _ in range(100):
            process.stdout.readline()
        for number in signals:
            process.send_signal(number)
        output = process.stdout.read()
        errors = process.stderr.read()
        assert process.wait(timeout=5) == exit_status
    assert "Traceback" not in errors
    assert all(json.loads(line) for line in output.splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_command_and_leaves_the_handlers_as_they_were(number):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    was_cancelled = False

    async def command():
        nonlocal was_cancelled
        os.kill(os.getpid(), number)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            was_cancelled = True
            raise

    with pytest.raises(KeyboardInterrupt) as caught:
        run_loop(command())
    assert caught.value.args == (number,)
    assert was_cancelled
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_ctrl_c_during_the_demo_leaves_no_traceback():
    with subprocess.Popen(
        [*COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=5)
    assert process.returncode == 130
    assert errors == ""
    assert "6 jobs in" in output


# ---- pipes and closed streams


def test_an_output_that_nobody_reads_ends_every_command_quietly(jobs):
    def run_unread(*arguments):
        read_end, write_end = os.pipe()
        os.close(read_end)
        try:
            return run(*arguments, stdout=write_end)
        finally:
            os.close(write_end)

    cases = (
        ["--help"],
        ["job", "good", "--json"],
        ["wait", "slow"],
        ["demo"],
    )
    calls = [lambda arguments=arguments: run_unread(*arguments) for arguments in cases]
    for arguments, process in zip(cases, run_all(*calls), strict=True):
        assert (process.returncode, process.stderr) == (141, ""), arguments


def test_a_fake_of_which_nobody_reads_the_address_ends():
    with subprocess.Popen(
        [*COMMAND, "fake"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=5) == 141
    assert "Traceback" not in errors


def test_head_takes_the_first_line_and_all_is_quiet(service):
    for number in range(500):
        service.add_job(f"job-{number}")
    ids = "\n".join(f"job-{number}" for number in range(500))
    shell = f"{' '.join(COMMAND)} status - --json | head -1; echo ${{PIPESTATUS[0]}}"
    process = run("-c", shell, command=["bash"], stdin=None, input=ids)
    first, status = process.stdout.splitlines()
    assert json.loads(first)["job_id"] == "job-0"
    assert (status, process.stderr) == ("141", "")


def test_closed_streams(jobs):
    def run_shell(redirection, *arguments):
        return run("-c", f'"$@" {redirection}', "bash", *COMMAND, *arguments, command=["bash"])

    no_input, no_output, no_errors, full = run_all(
        lambda: run_shell("<&-", "status", "-"),
        lambda: run_shell(">&-", "wait", "bad"),
        lambda: run_shell("2>&-", "status", "nope"),
        lambda: run_shell(">/dev/full", "status", "bad"),
    )
    assert no_input.returncode == 2
    assert no_input.stderr.startswith("Error: standard input is closed")
    assert (no_output.returncode, no_output.stdout, no_output.stderr) == (1, "", "")
    assert (no_errors.returncode, no_errors.stderr) == (3, "")
    assert full.returncode == 2
    assert full.stderr == "Error: the output cannot be written: No space left on device\n"


def test_an_interrupt_anywhere_is_an_exit_status(monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run_with_extra", interrupt)
    assert cli.main(["demo"]) == 130
