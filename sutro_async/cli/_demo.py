"""The demo: six jobs on a fake service, waited for at once through the public API."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from sutro_async import Job, JobStatusReport, PollPolicy, SutroClient
from sutro_async.testing import FakeSutro

__all__ = ["run_demo"]

_POLL: Final = PollPolicy(initial=0.1, maximum=0.3)

_CODE: Final = """\
The same in a program of yours, with the key in SUTRO_API_KEY:

    async with SutroClient() as client:
        report = await client.wait_for_job("job-12345", timeout=3600)
        report.raise_for_failure()
        job = await client.get_job("job-12345")
        print(job.status, job.duration, job.job_cost)
"""


async def run_demo() -> None:
    """Wait for six jobs, and print each change, and the record of each job that has ended."""
    async with FakeSutro() as fake:
        job_ids = _add_jobs(fake)
        fake.fail_next(1, status=503, headers={"Retry-After": "0.4"}, job_id="embed")
        fake.fail_next(1, truncate=True, job_id="translate")
        print(f"A fake Sutro service is at {fake.url}. Waiting for {len(job_ids)} jobs at once:\n")
        async with fake.client(poll=_POLL) as client, asyncio.TaskGroup() as group:
            began_at = time.monotonic()
            for job_id in job_ids:
                group.create_task(_follow(client, job_id, began_at))
        print(
            f"\nIt took {len(fake.requests)} requests. On the way the service answered once with"
            " 503,\nand once broke off in the middle of an answer: no wait noticed.\n"
        )
    print(_CODE, end="")


def _add_jobs(fake: FakeSutro) -> list[str]:
    fake.add_job("translate", [("queued", 0.3), ("running", 1.2), "succeeded"], num_rows=1200)
    fake.add_job("classify", [("queued", 0.6), ("running", 0.8), "succeeded"], num_rows=300)
    fake.add_job("summarise", [("starting", 0.5), ("running", 2.2), "succeeded"], num_rows=5000)
    fake.add_job("embed", [("pending", 0.4), ("running", 1.6), "succeeded"], num_rows=800)
    fake.add_job(
        "extract",
        [("queued", 0.4), ("running", 0.9), "failed"],
        failure_reason="the output does not match the schema",
        additional_context="row 17: 'price' is not a number",
    )
    fake.add_job("rewrite", [("running", 0.7), ("cancelling", 0.5), "cancelled"])
    return ["translate", "classify", "summarise", "embed", "extract", "rewrite"]


async def _follow(client: SutroClient, job_id: str, began_at: float) -> None:
    def show(report: JobStatusReport) -> None:
        print(f"{time.monotonic() - began_at:5.1f} s  {job_id:<10} {report.status}", flush=True)

    report = await client.wait_for_job(job_id, on_change=show)
    job = await client.get_job(job_id)
    print(f"         {job_id:<10} └ {_described(job, report)}", flush=True)


def _described(job: Job, report: JobStatusReport) -> str:
    facts = [
        (job.num_rows, "{} rows"),
        (job.duration and job.duration.total_seconds(), "ran for {:.1f} s"),
        (job.total_tokens, "{} tokens"),
        (job.job_cost, "{:.4f} USD"),
        (report.failure, "because {}"),
    ]
    return ", ".join(text.format(value) for value, text in facts if value is not None)
