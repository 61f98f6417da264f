"""Every Python snippet of the documentation runs: README, the pages, and the docstrings.

A page is one namespace, and its snippets run in their order. Each finds a running `fake` with a
`client`, the jobs named below, and a stand-in for the official SDK. One that cannot run has
`<!--- skip: next "why" -->` before it, and what a page takes for granted is in an invisible block.
The clock of their event loop is fast, so that they may have the times that suit readers.

Snippets that are a file run as such: as a program, or with pytest in a directory. The reason for
skipping them elsewhere names it.
"""

import ast
import asyncio
import inspect
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from unittest import SkipTest

import attrs
import pytest
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, SkipParser

import sutro_async
from sutro_async import JobMonitor, JobNotFoundError, PollPolicy, RetryPolicy, SutroClient
from sutro_async.testing import FakeSutro
from tests.fast_loop import FastLoop

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted(Path(sutro_async.__file__).parent.rglob("*.py"))

JOB_IDS = ["job-12345", "job-a", "job-b", "job-c"]
TIMELINE = ["queued", "running", "running", "succeeded"]

AIOHTTP = tuple(map(int, metadata.version("aiohttp").split(".")[:2]))

FILE = re.compile(
    r'<!--- (?:skip: next "a test runs it |file )(as a program|with pytest): (\S+?)"? -->\n\n'
    r"```\w+\n(.*?)```\n",
    re.DOTALL,
)


def start(example):
    """Start a snippet; return its top-level coroutine for the test to await."""
    source = "\n" * (example.line + example.parsed.line_offset) + str(example.parsed)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(source, example.path, "exec", flags, dont_inherit=True)
    example.namespace["__started__"] = eval(code, example.namespace)


def parse(path):
    return Sybil(parsers=[CodeBlockParser("python", start), SkipParser()]).parse(path)


def has_snippets(path):
    return "```python" in path.read_text(encoding="utf-8")


def files(how):
    """The snippets that are files: their names and their contents."""
    return {
        name: text
        for page in PAGES
        for kind, name, text in FILE.findall(page.read_text(encoding="utf-8"))
        if kind == how
    }


@pytest.mark.parametrize(
    "path",
    [path for path in PAGES + MODULES if has_snippets(path)],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_snippets_run(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        runner.run(run_snippets(path, monkeypatch))


async def run_snippets(path, monkeypatch):
    mains = []
    monkeypatch.setattr(asyncio, "run", mains.append)
    monkeypatch.setattr(sys, "argv", ["program.py", JOB_IDS[0]])
    # Timelines by seconds are as fast.
    now = asyncio.get_running_loop().time
    monkeypatch.setattr("sutro_async.testing._server.monotonic", now)
    for example in parse(path).examples():
        async with FakeSutro() as fake, fake.client() as client, JobMonitor(client) as monitor:
            for job_id in JOB_IDS:
                fake.add_job(job_id, TIMELINE)
            monkeypatch.setenv("SUTRO_API_KEY", fake.api_key)
            monkeypatch.setenv("SUTRO_API_URL", fake.url)
            monkeypatch.setitem(sys.modules, "sutro", official_sdk(fake))
            example.namespace |= {
                "__name__": "__main__",
                "fake": fake,
                "client": client,
                "monitor": monitor,
                "job_id": JOB_IDS[0],
                "job_ids": JOB_IDS,
            }
            try:
                example.evaluate()
            except SkipTest:
                continue
            for started in (example.namespace.pop("__started__", None), *mains):
                if inspect.isawaitable(started):
                    await started
            mains.clear()
            fixtures = {"fake_sutro": fake, "sutro_client": client}
            for name in [name for name in example.namespace if name.startswith("test_")]:
                test = example.namespace.pop(name)
                await test(**{each: fixtures[each] for each in inspect.signature(test).parameters})


def official_sdk(fake):
    """The part of the official SDK that the pages use; `test_official_sdk` uses the real one."""
    return SimpleNamespace(
        infer=lambda rows, *, system_prompt, stay_attached: JOB_IDS[0],
        await_job_completion=lambda job_id, timeout=7200: [job_id],
        get_job_results=lambda job_id: [job_id],
        cancel_job=lambda job_id: fake.set_status(job_id, "cancelled"),
    )


@pytest.mark.parametrize("name", files("as a program"))
def test_programs_run(name, service, tmp_path):
    service.add_job("job-12345", ["succeeded"])
    path = tmp_path / name
    path.write_text(files("as a program")[name], encoding="utf-8")
    command = [sys.executable, "-W", "error", str(path), "job-12345"]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout) == (0, "job-12345 succeeded\n"), result.stderr


def test_killed_program_resumes(service, tmp_path, monkeypatch):
    path = tmp_path / "resume.py"
    path.write_text(files("as a program")["resume.py"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    command = [sys.executable, "-W", "error", str(path)]

    def resume():
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return sorted(done.stdout.splitlines())

    for job_id, status in {
        "gone": "succeeded",
        "finished": "succeeded",
        "other": "running",
    }.items():
        service.add_job(job_id, [status])
    service.fail_next(2, status=410, job_id="gone")
    job_ids = ["gone", "finished", "other"]
    with subprocess.Popen([*command, *job_ids], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        finished, gone = sorted(process.stdout.readline() for _ in range(2))
        with closing(sqlite3.connect("unfinished.db")) as database:
            while database.execute("SELECT * FROM jobs").fetchall() != [("gone",), ("other",)]:
                time.sleep(0.01)
        process.kill()
    assert finished == "finished succeeded\n"
    assert "410" in gone
    service.set_status("other", "failed")
    gone, other = resume()
    assert "410" in gone
    assert other == "other failed"
    assert resume() == ["gone succeeded"]
    assert resume() == []


@pytest.mark.parametrize("folder", sorted({name.split("/")[0] for name in files("with pytest")}))
def test_tests_run(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # others take seconds to load
    for name, text in files("with pytest").items():
        # aiohttp 3.13 does not need it.
        is_shim = name == "aioresponses/conftest.py"
        if name.startswith(f"{folder}/") and not (is_shim and AIOHTTP < (3, 14)):
            (tmp_path / Path(name).name).write_text(text, encoding="utf-8")
    options = ["-o", "asyncio_default_fixture_loop_scope=function"]
    options += ["-W", "error", "-W", "ignore:Using `httpx` with"]  # of Starlette
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_asyncio.plugin", *options]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout


@pytest.mark.parametrize("code", ["1 / 0", "await client.get_job('nope')", "nobody_knows"])
async def test_failing_snippet_is_detected(code, tmp_path, client):
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n```python\n{code}\n```\n", encoding="utf-8")
    (example,) = parse(page).examples()
    example.namespace["client"] = client
    with pytest.raises((ArithmeticError, JobNotFoundError, NameError)):
        example.evaluate()
        await example.namespace["__started__"]


def test_table_of_defaults_matches_code():
    options = inspect.signature(SutroClient).parameters
    expected = {name: options[name].default for name in ("timeout", "max_concurrency", "max_rate")}
    for policy in (RetryPolicy, PollPolicy):
        expected |= {f"{policy.__name__}.{f.name}": f.default for f in attrs.fields(policy)}
    keep_finished = inspect.signature(JobMonitor).parameters["keep_finished"].default
    expected["JobMonitor.keep_finished"] = keep_finished
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| (none|[\d.,]+)(?: s)? \|", page, re.MULTILINE)
    shown = {
        name: None if value == "none" else float(value.replace(",", "")) for name, value in rows
    }
    assert shown == expected


def test_skipped_snippets_give_reason():
    for path in PAGES:
        for skip in re.findall(r"<!-+ *;? *skip:.*", path.read_text(encoding="utf-8")):
            assert re.fullmatch(r'<!--- skip: next "[^"]{10,}" -->', skip), path


def test_each_page_is_collected():
    assert len(PAGES) > 10
    assert all(has_snippets(ROOT / "docs" / name) for name in ("waiting.md", "many-jobs.md"))
