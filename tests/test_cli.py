"""The command as a process: signals, pipes and closed streams."""

import asyncio
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sutro_async import __version__, _ctrl_c, cli
from sutro_async.cli._process import run as run_loop

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


def test_python_m_is_the_same_program(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sutro-async", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("sutro_async", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"sutro-async {__version__}\n"


# ---- Ctrl-C


@pytest.mark.parametrize(
    ("command", "module"),
    [([SCRIPT], "aiohttp"), (COMMAND, "aiohttp"), ([SCRIPT], "click")],
    ids=["script", "python -m", "the extra"],
)
def test_ctrl_c_while_it_imports_exits_at_once(command, module, tmp_path):
    (tmp_path / f"{module}.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen(
        [*command, "wait", "job-1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    ) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=5) == ("", "")
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("argv", "orig_argv", "expected"),
    [
        (["/usr/bin/sutro-async", "wait"], ["python", "/usr/bin/sutro-async", "wait"], True),
        ([r"C:\bin\sutro-async.exe"], ["python.exe", "sutro-async.exe"], True),
        (["-m", "wait"], ["python", "-W", "error", "-m", "sutro_async", "wait"], True),
        (["-m", "sutro_async"], ["python", "-m", "another", "sutro_async"], False),
        (["app.py", "sutro-async"], ["python", "app.py", "sutro-async"], False),
        ([""], ["python"], False),
        ([], ["python"], False),
    ],
)
def test_only_the_command_itself_handles_ctrl_c_from_the_start(
    argv, orig_argv, expected, monkeypatch
):
    handlers, exits = {}, []
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(os, "_exit", exits.append)
    assert _ctrl_c.install(argv, orig_argv) is expected
    assert bool(handlers) is expected
    for handler in handlers.values():
        handler(signal.SIGINT, None)
        assert exits == [130]


def test_ctrl_c_stays_ignored_in_the_background_of_a_script():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert _ctrl_c.install(["bin/sutro-async"], [])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN

        async def command():
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.01)
            return 7

        assert run_loop(command()) == 7
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_second_ctrl_c_ends_a_wait_as_the_first_does(service):
    ids = [f"job-{number}" for number in range(300)]
    for job_id in ids:
        service.add_job(job_id, ["running"])
    with subprocess.Popen(
        [*COMMAND, "wait", "-", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdin.write("\n".join(ids))
        process.stdin.close()
        for _ in range(100):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
        errors = process.stderr.read()
        assert process.wait(timeout=5) == 130
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


def test_an_interrupt_anywhere_is_an_exit_status(monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sutro_async.cli._commands.run", interrupt)
    assert cli.main(["demo"]) == 130


# ---- pipes and closed streams


def test_head_takes_the_first_line_and_all_is_quiet(service):
    for number in range(500):
        service.add_job(f"job-{number}")
    ids = "\n".join(f"job-{number}" for number in range(500))
    shell = f"{' '.join(COMMAND)} status - --json | head -1; echo ${{PIPESTATUS[0]}}"
    process = run("-c", shell, command=["bash"], stdin=None, input=ids)
    first, status = process.stdout.splitlines()
    assert json.loads(first)["job_id"] == "job-0"
    assert (status, process.stderr) == ("141", "")


def test_closed_streams(service):
    service.add_job("bad", ["failed"], failure_reason="no GPU")

    def run_shell(redirection, *arguments):
        return run("-c", f'"$@" {redirection}', "bash", *COMMAND, *arguments, command=["bash"])

    closed, full = run_all(
        lambda: run_shell("<&- >&- 2>&-", "wait", "bad"),
        lambda: run_shell(">/dev/full", "status", "bad"),
    )
    assert (closed.returncode, closed.stdout, closed.stderr) == (1, "", "")
    assert full.returncode == 2
    assert full.stderr == "Error: the output cannot be written: No space left on device\n"


# ---- the recipes of the documentation


def recipe(heading):
    """The first shell script below a heading of the page."""
    page = (Path(__file__).parent.parent / "docs" / "cli.md").read_text("utf-8")
    return page.partition(f"### {heading}\n")[2].partition("```sh\n")[2].partition("```")[0]


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
def test_the_recipes_run_as_they_are_written(service, tmp_path):
    service.add_job("good", job_cost=0.5)
    service.add_job("bad", ["failed"], failure_reason="no GPU")
    service.add_job("dear", job_cost=1.5)
    service.fail_next(99, status=410, job_id="gone")
    (tmp_path / "notify-send").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" > notified.txt\n")
    (tmp_path / "notify-send").chmod(0o755)
    (tmp_path / "ids.txt").write_text("# nightly\ngood\n\nbad\n")
    (tmp_path / "more.txt").write_text("good\ngone\nbad\ndear\n")
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONWARNINGS": "error"}

    def run_recipe(heading, ids="ids.txt"):
        script = recipe(heading).replace("@ids.txt", f"@{ids}")
        assert "sutro-async" in script
        return run("-uc", script, command=["sh"], cwd=tmp_path, env=environment)

    by_cron, notified, with_jq = run_all(
        lambda: run_recipe("A CSV file, by cron"),
        lambda: run_recipe("A notification at the end"),
        lambda: run_recipe("JSON, with jq", ids="more.txt"),
    )
    assert (by_cron.stdout, by_cron.stderr) == ("", "")
    rows = (tmp_path / "jobs.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows] == [
        ["id", "status"],
        ["good", "succeeded"],
        ["bad", "failed"],
    ]
    assert not (tmp_path / "jobs.new").exists()

    assert (notified.stdout, notified.stderr) == ("", "")
    title, totals, _ = (tmp_path / "notified.txt").read_text().splitlines()
    assert title == "Sutro: some jobs have failed"
    assert totals.endswith(": 1 succeeded, 1 failed")

    assert with_jq.stderr.startswith("Error: job 'gone'")
    assert "Warning" not in with_jq.stderr
    assert service.api_key not in with_jq.stderr + (tmp_path / "events.jsonl").read_text()
    assert (tmp_path / "failed.txt").read_text() == "bad: no GPU\n"
    assert json.loads((tmp_path / "cost.txt").read_text()) == 2.0
    assert (tmp_path / "again.txt").read_text() == "gone\n"
