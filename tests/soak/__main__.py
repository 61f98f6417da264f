"""Thousands of jobs over half an hour, with some broken responses: does anything grow?

    python -m tests.soak --jobs 10000 --minutes 30

Jobs begin evenly spread over the time, each waited for by a wait, a watch, a batch or a monitor,
and the record of each is read when it has finished. Client and hostile server share a process, of
which memory, file descriptors, tasks and timers are sampled. The exit status is 1 if a job has a
wrong result, if a task, timer or file descriptor leaks, or if the last quarter of the time needs
more than the second one.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import statistics
import sys
from contextlib import aclosing

import attrs

from sutro_async import (
    JobMonitor,
    JobStatusReport,
    PollPolicy,
    RetryPolicy,
    SutroClient,
    SutroError,
)
from tests.chaos._campaign import Campaign
from tests.chaos._hostile import HostileServer
from tests.chaos.conftest import assert_no_leaks, open_files

# Seconds.
TIMEOUT = 5.0
POLL = PollPolicy(initial=1.0, maximum=4.0, max_outage=600.0, not_found_grace=0.0)
RETRY = RetryPolicy(attempts=10, initial=0.1, maximum=1.0)
# Correct responses until a job has finished; half a minute on average.
STEPS = (1, 20)
SHARE = 0.1

SAMPLES = 180

# The share by which the last quarter may need more than the second one. The number of waiting jobs
# is random, and with it everything but the memory.
MAX_GROWTH = {"mebibytes": 0.05, "files": 0.25, "tasks": 0.25, "timers": 0.25}


@attrs.frozen
class Sample:
    """The resources of the process at one moment."""

    seconds: float
    waiting: int
    mebibytes: float
    files: int
    tasks: int
    timers: int


class Soak:
    """The jobs and their waits."""

    def __init__(self, client: SutroClient, monitor: JobMonitor, campaign: Campaign) -> None:
        self.waiting = 0
        self._client = client
        self._monitor = monitor
        self._campaign = campaign

    async def follow(self, number: int) -> None:
        """Wait for one job, in one of the possible ways, and read its record."""
        job_id = f"job-{number}"
        wait = [self._wait, self._watch, self._batch, self._share][number % 4]
        self.waiting += 1
        try:
            result: JobStatusReport | SutroError = await wait(job_id)
        except SutroError as error:
            result = error
        self.waiting -= 1
        self._campaign.check_wait(job_id, result)
        if self._campaign.has_finished(job_id):
            outcome = (await self._client.get_jobs([job_id]))[job_id]
            self._campaign.check_record(job_id, outcome.value or outcome.error)
        self._campaign.forget(job_id)

    async def _wait(self, job_id: str) -> JobStatusReport:
        return await self._client.wait_for_job(job_id, timeout=3600)

    async def _watch(self, job_id: str) -> JobStatusReport:
        async for report in self._client.watch_job(job_id):  # noqa: B007 - the last one is wanted
            pass
        return report

    async def _batch(self, job_id: str) -> JobStatusReport:
        async with aclosing(self._client.as_completed([job_id], timeout=3600)) as outcomes:
            return (await anext(outcomes)).result()

    async def _share(self, job_id: str) -> JobStatusReport:
        """Wait together with two waits that time out earlier."""
        others = [self._monitor.wait(job_id, timeout=seconds) for seconds in (0.5, 5)]
        result, *_ = await asyncio.gather(
            self._monitor.wait(job_id), *others, return_exceptions=True
        )
        if isinstance(result, BaseException):
            raise result
        return result


async def soak(jobs: int, seconds: float, campaign: Campaign) -> list[Sample]:
    """Run the jobs, and return the samples."""
    samples = []
    loop = asyncio.get_running_loop()
    server = HostileServer(campaign.next_status, campaign.choose_fault, client_timeout=TIMEOUT)
    server.keeps_requests = False
    async with (
        server,
        SutroClient(
            "sk_soak", base_url=server.url, timeout=TIMEOUT, poll=POLL, retry=RETRY
        ) as client,
        JobMonitor(client, keep_finished=100) as monitor,
    ):
        began_at = loop.time()
        run = Soak(client, monitor, campaign)

        async def sample_periodically() -> None:
            for _ in range(SAMPLES):
                await asyncio.sleep(seconds / SAMPLES)
                samples.append(
                    Sample(
                        seconds=round(loop.time() - began_at),
                        waiting=run.waiting,
                        mebibytes=round(resident_mebibytes(), 1),
                        files=open_files(),
                        tasks=len(asyncio.all_tasks()),
                        timers=len(loop._scheduled),
                    )
                )
                print(json.dumps(attrs.asdict(samples[-1])), flush=True)

        sampling = asyncio.create_task(sample_periodically())
        async with asyncio.TaskGroup() as group:
            for number in range(jobs):
                await asyncio.sleep(began_at + seconds * number / jobs - loop.time())
                group.create_task(run.follow(number))
        await sampling
    return samples


def resident_mebibytes() -> float:
    # Memory that the allocator keeps for reuse varies with each decompression bomb.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as statm:  # noqa: PTH123 - Linux only, as the numbers
        return int(statm.read().split()[1]) * 4096 / 2**20


def medians(samples: list[Sample], name: str) -> tuple[float, float]:
    """The medians of the second and of the last quarter; the first one warms up."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    return tuple(statistics.median(getattr(s, name) for s in part) for part in (second, last))


async def run(jobs: int, seconds: float, seed: int) -> bool:
    """Run the soak, print the results, and return whether all are as expected."""
    campaign = Campaign(seed, steps=STEPS, share=SHARE)
    async with assert_no_leaks():
        samples = await soak(jobs, seconds, campaign)
    growth = {name: medians(samples, name) for name in ("mebibytes", "files", "tasks", "timers")}
    result = {
        "jobs": sum(campaign.results.values()),
        "seconds": seconds,
        "requests": campaign.requests,
        "broken": sum(campaign.faults.values()),
        "kinds": len(campaign.faults),
        "results": campaign.results,
        "wrong": len(campaign.wrong_results),
        **growth,
    }
    print(json.dumps(result))
    print(*campaign.wrong_results, sep="\n", file=sys.stderr)
    is_flat = all(
        last <= second * (1 + MAX_GROWTH[name]) for name, (second, last) in growth.items()
    )
    return is_flat and not campaign.wrong_results and result["jobs"] == jobs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sys.exit(not asyncio.run(run(options.jobs, options.minutes * 60, options.seed)))


if __name__ == "__main__":
    main()
