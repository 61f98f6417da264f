"""CPU of a poll, with 10,000 jobs, against a request of a hand-written aiohttp loop.

    python -m tests.benchmarks.polls [--before PATH] [--rounds 4]

CPU time of the process, divided by the requests that the server counted meanwhile, from when all
jobs have been polled once. Two paces:

- paced: each job is polled at once, and then every 10 s on average, at random times, so 500 to
  1,000 polls a second; by hand with a task for each job that sleeps in between
- flat out: jobs are polled as fast as the client can; by hand with 20 tasks, as many as
  `max_concurrency`

Each measurement has a process of its own, and the ratio is that of a round. Target: at most 1.15
of the CPU of the hand-written loop.
"""

from __future__ import annotations

import asyncio
import cProfile
import itertools
import pstats
import random
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable

import aiohttp

from sutro_async import PollPolicy, SutroClient
from tests.benchmarks._apart import measure_apart
from tests.benchmarks._report import add_before, parser, progress, show, spread, trees
from tests.benchmarks._server import running_server, statistics_of

KEY = "sk_benchmark"
HEADERS = {"Authorization": f"Key {KEY}"}
JOBS = 10_000
MAX_CONCURRENCY = 20
INTERVAL = {"paced": 10.0, "flat out": 0.001}
WINDOW = {"paced": 10.0, "flat out": 5.0}


async def measure_window(
    url: str, pace: str, run: Callable[[], Awaitable[None]], *, profile: bool
) -> float:
    """Return CPU microseconds a request."""
    task = asyncio.ensure_future(run())
    while statistics_of(url)["requests"] < JOBS:
        assert not task.done()
        await asyncio.sleep(0.5)
    profiler = cProfile.Profile(time.process_time)
    if profile:
        profiler.enable()
    requests, cpu = statistics_of(url)["requests"], time.process_time()
    await asyncio.sleep(WINDOW[pace])
    cpu, requests = time.process_time() - cpu, statistics_of(url)["requests"] - requests
    if profile:
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(30)
    assert not task.done()
    task.cancel()
    await asyncio.wait({task})
    return cpu / requests * 1e6


async def ours(url: str, pace: str, *, profile: bool) -> float:
    poll = PollPolicy(initial=INTERVAL[pace], maximum=INTERVAL[pace], factor=1, jitter=1)
    async with SutroClient(KEY, base_url=url, poll=poll, max_concurrency=MAX_CONCURRENCY) as client:

        async def run() -> None:
            async for _ in client.as_completed(f"job-{number}" for number in range(JOBS)):
                raise AssertionError

        return await measure_window(url, pace, run, profile=profile)


async def by_hand(url: str, pace: str, *, profile: bool) -> float:
    async with aiohttp.ClientSession(headers=HEADERS) as session:

        async def poll(job_id: str) -> None:
            async with session.get(f"{url}/v1/job-status/{job_id}") as response:
                response.raise_for_status()
                body = await response.json()
            assert body["job_status"][job_id] not in {"SUCCEEDED", "FAILED", "CANCELLED"}

        async def wait(job_id: str) -> None:
            while True:
                await poll(job_id)
                await asyncio.sleep(INTERVAL[pace] * random.uniform(0, 2))

        ids = [f"job-{number}" for number in range(JOBS)]
        endless = itertools.cycle(ids)

        async def work() -> None:
            for job_id in endless:
                await poll(job_id)

        async def run() -> None:
            tasks = (
                (wait(job_id) for job_id in ids)
                if pace == "paced"
                else (work() for _ in range(MAX_CONCURRENCY))
            )
            await asyncio.gather(*tasks)

        return await measure_window(url, pace, run, profile=profile)


def measure(url: str, contender: str, pace: str, *, profile: bool = False) -> float:
    run = by_hand if contender == "by hand" else ours
    return asyncio.run(run(url, pace, profile=profile))


def main() -> None:
    arguments = parser(__doc__ or "", rounds=4)
    add_before(arguments)
    arguments.add_argument("--profile", action="store_true", help="print profiles on stderr")
    options = arguments.parse_args()
    contenders = {"by hand": trees(options)["now"], **trees(options)}
    results: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(options.rounds):
        for pace in INTERVAL:
            for name, tree in contenders.items():
                if options.profile:
                    progress(f"profile: {pace}, {name}")
                with running_server() as server:
                    cpu = measure_apart(
                        tree,
                        __spec__.name,
                        url=server.url,
                        contender=name,
                        pace=pace,
                        profile=options.profile,
                    )
                results[pace, name].append(cpu)
        progress(f"polls: round {number + 1}")
    rows = [
        {
            f"{JOBS:,} jobs, min / median / max": f"{pace}: {name}",
            "CPU µs a poll": spread(runs),
            "CPU to by hand": spread(
                [cpu / other for cpu, other in zip(runs, results[pace, "by hand"], strict=True)]
            ),
            "target": "at most 1.15" if name == "now" else None,
        }
        for (pace, name), runs in results.items()
    ]
    show("polls", rows, as_json=options.json)


if __name__ == "__main__":
    main()
