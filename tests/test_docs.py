"""Every Python snippet of the documentation runs: README, the pages, and the docstrings.

A page is one namespace, and its snippets run in their order. Each finds a running `fake` with a
`client`, and the jobs named below. One that cannot run has `<!--- skip: next "why" -->` before it,
and what a page takes for granted is in an invisible block. The clock of their event loop is fast,
so that they may have the times that suit readers.
"""

import ast
import asyncio
import inspect
import re
import sys
from pathlib import Path
from unittest import SkipTest

import pytest
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, SkipParser

import sutro_async
from sutro_async import JobMonitor, JobNotFoundError
from sutro_async.testing import FakeSutro
from tests.fast_loop import FastLoop

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted(Path(sutro_async.__file__).parent.rglob("*.py"))

JOB_IDS = ["job-12345", "job-a", "job-b", "job-c"]
TIMELINE = ["queued", "running", "running", "succeeded"]


def start(example):
    """Start a snippet; what it awaits at its top level is left for the test to await."""
    source = "\n" * (example.line + example.parsed.line_offset) + str(example.parsed)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(source, example.path, "exec", flags, dont_inherit=True)
    example.namespace["__started__"] = eval(code, example.namespace)


def parse(path):
    return Sybil(parsers=[CodeBlockParser("python", start), SkipParser()]).parse(path)


def has_snippets(path):
    return "```python" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path",
    [path for path in PAGES + MODULES if has_snippets(path)],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_the_snippets_run(path, monkeypatch):
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


@pytest.mark.parametrize("code", ["1 / 0", "await client.get_job('nope')", "nobody_knows"])
async def test_a_snippet_that_fails_is_noticed(code, tmp_path, client):
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n```python\n{code}\n```\n", encoding="utf-8")
    (example,) = parse(page).examples()
    example.namespace["client"] = client
    with pytest.raises((ArithmeticError, JobNotFoundError, NameError)):
        example.evaluate()
        await example.namespace["__started__"]


def test_what_does_not_run_says_why():
    for path in PAGES:
        for skip in re.findall(r"<!-+ *;? *skip:.*", path.read_text(encoding="utf-8")):
            assert re.fullmatch(r'<!--- skip: next "[^"]{10,}" -->', skip), path


def test_each_page_is_looked_at():
    assert len(PAGES) > 10
    assert all(has_snippets(ROOT / "docs" / name) for name in ("waiting.md", "many-jobs.md"))
