"""A fake service: `fake` serves the jobs of its arguments, `demo` waits for six jobs."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Final, NoReturn

import click

from sutro_async import JobStatus, PollPolicy
from sutro_async.cli._data import write_json
from sutro_async.cli._entries import Board
from sutro_async.cli._errors import ExitStatus, print_error
from sutro_async.cli._options import check_id
from sutro_async.cli._show import Output
from sutro_async.cli._text import plural
from sutro_async.cli._wait import wait_for_all
from sutro_async.testing import FakeSutro

__all__ = ["DEFAULT_JOBS", "Jobs", "parse_jobs", "run_demo", "serve"]

# A wait would not know that a job with another last status has finished.
_WORDS: Final = tuple(status.value for status in JobStatus if status is not JobStatus.UNKNOWN)

Step = str | tuple[str, float]
Jobs = dict[str, list[Step]]
"""Ids of jobs, and their statuses as `FakeSutro.add_job` takes them."""

DEFAULT_JOBS: Final[Jobs] = {
    "job-1": [("queued", 5), ("running", 20), "succeeded"],
    "job-2": [("queued", 10), ("running", 30), "failed"],
    "job-3": ["succeeded"],
}


def parse_jobs(texts: Iterable[str]) -> Jobs:
    """Read jobs such as `job-1=queued:2,running:5,succeeded`.

    Raises:
        click.UsageError: One is invalid, or two have the same id.
    """
    jobs: Jobs = {}
    for text in texts:
        job_id, _, timeline = text.rpartition("=")
        *steps, last = (_parse_step(step.strip().lower()) for step in timeline.split(","))
        has_seconds = {isinstance(step, tuple) for step in steps}
        if not job_id.strip() or not isinstance(last, str) or len(has_seconds) > 1 or None in steps:
            raise click.UsageError(
                f"invalid job {text!r}: write it as job-1=queued:2,running:.5,succeeded, with"
                " seconds for all statuses but the last, or for none; statuses are"
                f" {', '.join(_WORDS)}"
            )
        if check_id(job_id, "in --job") in jobs:
            raise click.UsageError(f"there are two jobs {job_id!r}: keep one")
        jobs[job_id] = [step for step in (*steps, last) if step]
    return jobs


def _parse_step(text: str) -> Step | None:
    word, colon, seconds = text.partition(":")
    if word not in _WORDS:
        return None
    if not colon:
        return word
    is_number = re.fullmatch(r"\d+\.?\d*|\.\d+", seconds, re.ASCII)
    return (word, float(seconds)) if is_number and float(seconds) > 0 else None


async def serve(fake: FakeSutro, job_ids: list[str], *, as_json: bool) -> NoReturn:
    """Serve until cancelled, and print how to reach the service.

    Raises:
        click.UsageError: The port cannot be used.
    """
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(fake)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise click.UsageError(f"the port cannot be used ({why}): choose another") from None
        # On a line of its own: the terminal has written ^C to the last one.
        stack.callback(lambda: print_error("", f"{plural(len(fake.requests), 'request')} served."))
        if as_json:
            address = {"url": fake.url, "api_key": fake.api_key, "job_ids": job_ids}
            write_json(address, at_once=True)
        else:
            exports = (f"export SUTRO_API_URL={fake.url}", f"export SUTRO_API_KEY={fake.api_key}")
            print("\n".join(exports), flush=True)
        print_error(
            f"A fake Sutro service runs at {fake.url}, with {', '.join(job_ids)}.",
            "Set these two variables in another terminal to use it. Ctrl-C ends it.",
        )
        while True:  # noqa: ASYNC110 - there is nothing to wait for
            await asyncio.sleep(3600)


# ---- demo

_POLL: Final = PollPolicy(initial=0.1, maximum=0.3)

_CODE: Final = """\
The same in a program of yours, with the key in SUTRO_API_KEY:

    async with SutroClient() as client:
        report = await client.wait_for_job("job-12345", timeout=3600)
        report.raise_for_failure()
        job = await client.get_job("job-12345")
        print(job.status, job.duration, job.job_cost)
"""


async def run_demo(output: Output) -> ExitStatus:
    """Wait for six jobs, with two failed requests, and show what happens."""
    async with FakeSutro() as fake:
        _add_jobs(fake)
        fake.fail_next(1, status=503, headers={"Retry-After": "0.4"}, job_id="embed")
        fake.fail_next(1, truncate=True, job_id="translate")
        board = Board(["translate", "classify", "summarise", "embed", "extract", "rewrite"])
        if not output.is_data:
            print(f"Waiting for 6 jobs at {fake.url}, a fake Sutro service:\n")
        async with fake.client(poll=_POLL) as client:
            await wait_for_all(client, board, output, timeout=None)
        if not output.is_data:
            print(
                f"\n{len(fake.requests)} requests were sent. One response was a 503 with a"
                " Retry-After,\nand another was truncated: no wait was affected.\n"
            )
            print(_CODE, end="")
    return ExitStatus.OK


def _add_jobs(fake: FakeSutro) -> None:
    for job_id, first, running, rows, tokens in (
        ("translate", ("queued", 0.5), 1.9, 1200, 31),
        ("classify", ("queued", 0.9), 1.2, 300, 212),
        ("summarise", ("starting", 0.8), 3.4, 5000, 740),
        ("embed", ("pending", 0.6), 2.5, 800, 96),
    ):
        fake.add_job(
            job_id,
            [first, ("running", running), "succeeded"],
            num_rows=rows,
            input_tokens=rows * tokens,
            output_tokens=rows * 40,
            job_cost=rows * (tokens + 160) * 1e-7,
        )
    fake.add_job(
        "extract",
        [("queued", 0.6), ("running", 1.4), "failed"],
        failure_reason="the output does not match the schema",
        additional_context="row 17: 'price' is not a number",
        num_rows=80,
    )
    fake.add_job("rewrite", [("running", 1.1), ("cancelling", 0.7), "cancelled"], num_rows=40)
