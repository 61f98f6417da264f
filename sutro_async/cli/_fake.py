"""`sutro-async fake`: its jobs as they are written, and a FakeSutro that serves them."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final, NoReturn

import attrs
import click

from sutro_async import JobStatus
from sutro_async.cli import _json
from sutro_async.cli._errors import print_error
from sutro_async.cli._format import count
from sutro_async.cli._ids import check_id

if TYPE_CHECKING:
    from sutro_async.testing import FakeSutro  # brings a server along

__all__ = ["DEFAULT_JOBS", "PlannedJob", "parse_job", "serve"]

# A wait would not know that a job with another last status has ended.
_WORDS: Final = tuple(status.value for status in JobStatus if status is not JobStatus.UNKNOWN)

Step = str | tuple[str, float]


@attrs.frozen(kw_only=True)
class PlannedJob:
    """A job for the fake, and its statuses, as `FakeSutro.add_job` takes them."""

    job_id: str
    timeline: tuple[Step, ...]

    @property
    def fails(self) -> bool:
        """Whether it fails in the end."""
        return self.timeline[-1] == "failed"


DEFAULT_JOBS = (
    PlannedJob(job_id="job-1", timeline=(("queued", 5), ("running", 20), "succeeded")),
    PlannedJob(job_id="job-2", timeline=(("queued", 10), ("running", 30), "failed")),
    PlannedJob(job_id="job-3", timeline=("succeeded",)),
)


def parse_job(text: str) -> PlannedJob:
    """Read a job such as `job-1=queued:2,running:5,succeeded`.

    Raises:
        click.UsageError: It cannot be read so.
    """
    job_id, _, timeline = text.rpartition("=")
    if not job_id.strip():
        raise click.UsageError(f"{text!r} names no job: write it as job-1=queued:2,succeeded")
    check_id(job_id, "in --job")
    steps = tuple(_parse_step(step.strip(), text) for step in timeline.split(","))
    if isinstance(steps[-1], tuple):
        raise click.UsageError(f"the last status in {text!r} stays: give it no seconds")
    if len({type(step) for step in steps[:-1]}) > 1:
        raise click.UsageError(f"in {text!r}, give seconds to each status but the last, or to none")
    return PlannedJob(job_id=job_id, timeline=steps)


def _parse_step(step: str, text: str) -> Step:
    word, colon, seconds = step.lower().partition(":")
    if not word:
        raise click.UsageError(f"{text!r} lacks a status: write it as job-1=queued:2,succeeded")
    if word not in _WORDS:
        raise click.UsageError(f"{word!r} in {text!r} is no status: take {', '.join(_WORDS)}")
    if not colon:
        return word
    try:
        number = float(seconds)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise click.UsageError(f"{step!r} in {text!r} needs a number of seconds above 0")
    return word, number


async def serve(
    fake: FakeSutro, jobs: Sequence[PlannedJob], *, failure_reason: str, as_json: bool
) -> NoReturn:
    """Serve until cancelled, and say how to reach it.

    Raises:
        click.UsageError: The port cannot be had.
    """
    for job in jobs:
        fake.add_job(job.job_id, job.timeline, failure_reason=failure_reason if job.fails else None)
    job_ids = [job.job_id for job in jobs]
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(fake)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise click.UsageError(f"the port cannot be had ({why}): take another") from None
        # On a line of its own: the terminal has written ^C to the last one.
        stack.callback(lambda: print_error("", f"Requests answered: {count(len(fake.requests))}."))
        if as_json:
            address = {"url": fake.url, "api_key": fake.api_key, "job_ids": job_ids}
            _json.write(address, at_once=True)
        else:
            exports = (f"export SUTRO_API_URL={fake.url}", f"export SUTRO_API_KEY={fake.api_key}")
            print("\n".join(exports), flush=True)
        print_error(
            f"A fake Sutro service runs at {fake.url}, with {', '.join(job_ids)}.",
            "Set these two variables in another terminal to use it. Ctrl-C ends it.",
        )
        while True:  # noqa: ASYNC110 - there is nothing to wait for
            await asyncio.sleep(3600)
