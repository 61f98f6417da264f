"""`sutro-async fake`: a FakeSutro that serves until it is interrupted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import NoReturn

import click

from sutro_async.cli import _json
from sutro_async.cli._errors import complain
from sutro_async.cli._format import count
from sutro_async.cli._planned import PlannedJob
from sutro_async.testing import FakeSutro

__all__ = ["serve"]


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
        stack.callback(lambda: complain("", f"Requests answered: {count(len(fake.requests))}."))
        if as_json:
            address = {"url": fake.url, "api_key": fake.api_key, "job_ids": job_ids}
            _json.write(address, at_once=True)
        else:
            exports = (f"export SUTRO_API_URL={fake.url}", f"export SUTRO_API_KEY={fake.api_key}")
            print("\n".join(exports), flush=True)
        complain(
            f"A fake Sutro service runs at {fake.url}, with {', '.join(job_ids)}.",
            "Set these two variables in another terminal to use it. Ctrl-C ends it.",
        )
        while True:  # noqa: ASYNC110 - there is nothing to wait for
            await asyncio.sleep(3600)
