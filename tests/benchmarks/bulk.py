"""Jobs that finish at different times, found by pages of the list in place of single polls.

    python -m tests.benchmarks.bulk [--rounds 1] [--jobs 300 10000]

Requests, CPU time of the process, and when ends are noticed: by hand with a loop for each job that
polls every 5 s, without bulk, with it, and with a list that is refused; the list lags behind by 0
or 10 s. Two loads:

- 300 jobs that finish at random within 40 s
- 10,000 jobs of half an hour, all times at a scale of 1:30. By hand and without bulk that is more
  than one process can send, so there a fiftieth of the jobs is waited for, and requests and CPU
  time are multiplied

Then the size of a page, and the CPU time to read it, by the size of the prompt in each record.

Target: for 300 jobs at most 2.8 requests a job, noticed after 3.5 s; for 10,000 at most 1/20 of
the requests and 1/10 of the CPU time by hand, noticed no later; where the list is refused, no more
requests and no later than without bulk. All noticed times are medians, without a lag.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from unittest import mock

import aiohttp

from sutro_async import PollPolicy, SutroClient
from sutro_async._wire import parse_statuses
from tests.benchmarks._apart import NOW, measure_apart
from tests.benchmarks._report import parser, progress, show
from tests.benchmarks._server import fill_list, running_server

KEY = "sk_benchmark"
HEADERS = {"Authorization": f"Key {KEY}"}

INTERVAL = 5.0
BULK_FROM = 100
PAGE_SIZE = 100
PROMPTS = [1, 50]  # KiB


class Load(NamedTuple):
    """Jobs that finish between two times; all times are seconds, and divided by the scale."""

    first: float
    last: float
    scale: float
    share: int  # of the jobs are waited for where each is polled by itself
    at_once: int


LOADS = {
    300: Load(first=0, last=40, scale=1, share=1, at_once=6),
    10_000: Load(first=1200, last=2400, scale=30, share=50, at_once=1),
}


async def by_hand(url: str, ids: Sequence[str], scale: float) -> list[float]:
    delays = []

    async def wait(session: aiohttp.ClientSession, job_id: str) -> None:
        while True:
            async with session.get(f"{url}/v1/job-status/{job_id}") as response:
                response.raise_for_status()
                body = await response.json()
            if body["job_status"][job_id] in {"SUCCEEDED", "FAILED", "CANCELLED"}:
                delays.append(delay(job_id))
                return
            await asyncio.sleep(INTERVAL / scale)

    async with aiohttp.ClientSession(headers=HEADERS) as session:
        await asyncio.gather(*(wait(session, job_id) for job_id in ids))
    return delays


async def ours(url: str, ids: Sequence[str], scale: float, *, bulk_from: int | None) -> list[float]:
    poll = PollPolicy(initial=1 / scale, maximum=15 / scale, bulk_from=bulk_from)
    async with SutroClient(KEY, base_url=url, poll=poll) as client:
        async with client.as_completed(ids) as outcomes:
            return [delay(outcome.result().job_id) async for outcome in outcomes]


def delay(job_id: str) -> float:
    return time.monotonic() - float(job_id.partition("@")[2])


def measure(url: str, contender: str, scale: float, listed: dict[str, Any]) -> dict[str, float]:
    ids = fill_list(url, **listed)
    cpu = time.process_time()
    with (
        mock.patch("sutro_async._waits._bulk._LONGEST_INTERVAL", 5.0 / scale),
        mock.patch("sutro_async._waits._bulk._DISABLED_SECONDS", 300.0 / scale),
        mock.patch("sutro_async._waits._pace._LONGEST_COVER", 300.0 / scale),
    ):
        if contender == "by hand":
            delays = asyncio.run(by_hand(url, ids, scale))
        else:
            bulk_from = None if contender == "without bulk" else BULK_FROM
            delays = asyncio.run(ours(url, ids, scale, bulk_from=bulk_from))
    assert len(delays) == len(ids)
    percentiles = statistics.quantiles(delays, n=100)
    return {
        "cpu": time.process_time() - cpu,
        "median": percentiles[49] * scale,
        "p99": percentiles[98] * scale,
    }


# What is waited for how, and how the list is.
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "by hand": ("by hand", {}),
    "without bulk": ("without bulk", {}),
    "with bulk": ("with bulk", {}),
    "with bulk, lag 10 s": ("with bulk", {"lag": 10}),
    "with bulk, refused": ("with bulk", {"refused": True}),
}
SINGLE_POLLS = {"by hand", "without bulk", "with bulk, refused"}


def run(jobs: int, name: str) -> dict[str, object]:
    load = LOADS[jobs]
    contender, how = CONTENDERS[name]
    share = load.share if name in SINGLE_POLLS else 1
    listed = {
        **how,
        "jobs": jobs // share,
        "first": load.first / load.scale,
        "last": load.last / load.scale,
        "lag": how.get("lag", 0) / load.scale,
    }
    with running_server() as server:
        result = measure_apart(
            NOW,
            __spec__.name,
            url=server.url,
            contender=contender,
            scale=load.scale,
            listed=listed,
        )
        seen = server.statistics()
    progress(f"bulk: {jobs} jobs, {name}")
    requests = seen["requests"] * share
    return {
        "jobs": f"{jobs:,}: {name}",
        "requests": requests,
        "of them pages": seen["pages"],
        "requests a job": requests / jobs,
        "CPU s": result["cpu"] * share,
        "noticed after s, median": result["median"],
        "99 %": result["p99"],
    }


def page_size(prompt: int) -> dict[str, object]:
    with running_server() as server:
        fill_list(server.url, jobs=PAGE_SIZE, first=3600, last=3600, prompt=prompt * 1024)
        with urllib.request.urlopen(f"{server.url}/v1/list-jobs?limit={PAGE_SIZE}") as response:
            body = response.read()
    cpu, times = time.process_time(), 20
    for _ in range(times):
        parse_statuses(body)
    cpu = (time.process_time() - cpu) / times
    return {"prompt, KiB": prompt, "KiB a page": len(body) / 1024, "CPU ms to read it": cpu * 1e3}


def main() -> None:
    arguments = parser(__doc__ or "", rounds=1)
    arguments.add_argument("--jobs", type=int, nargs="*", choices=LOADS, default=list(LOADS))
    options = arguments.parse_args()
    for jobs in options.jobs:
        cases = itertools.product(range(options.rounds), CONTENDERS)
        with ThreadPoolExecutor(LOADS[jobs].at_once) as pool:
            rows = list(pool.map(lambda case, jobs=jobs: run(jobs, case[1]), cases))
        show("bulk", rows, as_json=options.json)
    show("pages", [page_size(prompt) for prompt in PROMPTS], as_json=options.json)


if __name__ == "__main__":
    main()
