"""The command as a process: signals, pipes and closed streams."""

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-W", "error", "-m", "sutro_async"]
SCRIPT = shutil.which("sutro-async", path=str(Path(sys.executable).parent))


def run(*arguments, command=COMMAND, **options):
    defaults = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options = defaults | {"text": True, "timeout": 30} | options
    return subprocess.run([*command, *arguments], check=False, **options)


def run_all(*calls):
    """Run commands, each given as a callable, two at a time, since most of the time is startup."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda call: call(), calls))


# ---- Ctrl-C


@pytest.mark.parametrize(
    ("command", "module"),
    [([SCRIPT], "aiohttp"), (COMMAND, "aiohttp"), ([SCRIPT], "click")],
    ids=["script", "python -m", "the extra"],
)
def test_ctrl_c_during_import_exits_at_once(command, module, tmp_path):
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


def test_second_ctrl_c_ends_wait_like_the_first(service):
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


# ---- pipes and closed streams


def test_head_closes_pipe_without_error(service):
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
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")
    return page.partition(f"### {heading}\n")[2].partition("```sh\n")[2].partition("```")[0]


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
def test_documented_recipes_run(service, tmp_path):
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
