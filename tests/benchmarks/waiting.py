"""Thousands of jobs waited for at once: CPU, memory, requests, and when finished jobs are noticed.

    python -m tests.benchmarks.waiting [--before PATH] [--rounds 3] [--jobs 100 1000 10000]

Against a hand-written poll loop under `asyncio.gather`, and against threads that poll with
requests, as the official SDK does. All paces are scaled down alike: where the others poll every
5 s, sutro_async goes from 1 s to 15 s, all times the scale. Each measurement has a process of its
own.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable

import aiohttp
import requests

from sutro_async import PollPolicy, SutroClient
from tests.benchmarks._apart import measure_apart
from tests.benchmarks._report import add_before, parser, progress, show, spread, trees
from tests.benchmarks._server import running_server

KEY = "sk_benchmark"
HEADERS = {"Authorization": f"Key {KEY}"}

SUTRO_INTERVAL = 5.0
# With more the hand-written loop would be measured while it is saturated.
MAX_POLLS_A_SECOND = 2000
# Jobs finish at random between these two times, in intervals of the official SDK.
FIRST_END, LAST_END = 2.0, 6.0


class Waiting:
    """The jobs that a contender waits for, and what was measured meanwhile."""

    def __init__(self, url: str, jobs: int) -> None:
        self.url = url
        self.jobs = jobs
        self.interval = max(SUTRO_INTERVAL / 20, jobs / MAX_POLLS_A_SECOND)
        self.delays: list[float] = []
        began = time.monotonic()
        times = random.Random(jobs)
        self.ids = [
            f"job-{number}@{began + self.interval * times.uniform(FIRST_END, LAST_END):.6f}"
            for number in range(jobs)
        ]
        gc.collect()
        self._memory = resident_bytes()
        self._cpu = time.process_time()
        self.bytes_a_job = 0.0
        self._timer = threading.Timer(self.interval * FIRST_END * 0.9, self.weigh)
        self._timer.start()

    def note_finished(self, job_id: str) -> None:
        self.delays.append(time.monotonic() - float(job_id.partition("@")[2]))

    def weigh(self) -> None:
        """Measure memory shortly before the first job finishes."""
        self.bytes_a_job = (resident_bytes() - self._memory) / self.jobs

    def result(self) -> dict[str, float]:
        assert len(self.delays) == self.jobs
        percentiles = statistics.quantiles(self.delays, n=100)
        return {
            "cpu": time.process_time() - self._cpu,
            "bytes": self.bytes_a_job,
            "median": percentiles[49] / self.interval * SUTRO_INTERVAL,
            "p99": percentiles[98] / self.interval * SUTRO_INTERVAL,
        }


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:  # noqa: PTH123 - Linux only, as the numbers
        return int(statm.read().split()[1]) * 4096


def ours(waiting: Waiting) -> None:
    scale = waiting.interval / SUTRO_INTERVAL
    poll = PollPolicy(initial=1.0 * scale, maximum=15.0 * scale)

    async def run() -> None:
        async with SutroClient(KEY, base_url=waiting.url, poll=poll) as client:
            async for outcome in client.as_completed(waiting.ids):
                outcome.result()
                waiting.note_finished(outcome.job_id)

    asyncio.run(run())


def by_hand(waiting: Waiting) -> None:
    async def wait(session: aiohttp.ClientSession, job_id: str) -> None:
        while True:
            async with session.get(f"{waiting.url}/v1/job-status/{job_id}") as response:
                response.raise_for_status()
                body = await response.json()
            if body["job_status"][job_id] in {"SUCCEEDED", "FAILED", "CANCELLED"}:
                waiting.note_finished(job_id)
                return
            await asyncio.sleep(waiting.interval)

    async def run() -> None:
        async with aiohttp.ClientSession(headers=HEADERS) as session:
            await asyncio.gather(*(wait(session, job_id) for job_id in waiting.ids))

    asyncio.run(run())


def threads(waiting: Waiting) -> None:
    def wait(job_id: str) -> None:
        while True:
            response = requests.get(f"{waiting.url}/v1/job-status/{job_id}", headers=HEADERS)
            response.raise_for_status()
            if response.json()["job_status"][job_id] in {"SUCCEEDED", "FAILED", "CANCELLED"}:
                waiting.note_finished(job_id)
                return
            time.sleep(waiting.interval)

    workers = [threading.Thread(target=wait, args=(job_id,)) for job_id in waiting.ids]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


CONTENDERS: dict[str, Callable[[Waiting], None]] = {
    "sutro_async": ours,
    "gather by hand": by_hand,
    "threads": threads,
}
MAX_THREADS = 100


def measure(contender: str, jobs: int, url: str) -> dict[str, float]:
    waiting = Waiting(url, jobs)
    CONTENDERS[contender](waiting)
    return waiting.result()


def summary(jobs: int, name: str, measured: list[dict[str, float]]) -> dict[str, object]:
    return {
        "jobs": jobs,
        "min / median / max": name,
        "CPU µs a poll": spread([run["cpu"] / run["requests"] * 1e6 for run in measured]),
        "KiB a job": spread([run["bytes"] / 1024 for run in measured]),
        "requests a job": spread([run["requests"] / jobs for run in measured]),
        "noticed after s, median": spread([run["median"] for run in measured]),
        "99 %": spread([run["p99"] for run in measured]),
    }


def main() -> None:
    arguments = parser(__doc__ or "", rounds=3)
    add_before(arguments)
    arguments.add_argument("--jobs", type=int, nargs="*", default=[100, 1000, 10_000])
    options = arguments.parse_args()
    contenders = {
        f"sutro_async, {name}": ("sutro_async", path) for name, path in trees(options).items()
    }
    now = trees(options)["now"]
    contenders |= {name: (name, now) for name in CONTENDERS if name != "sutro_async"}
    rows = []
    for jobs in options.jobs:
        measured: dict[str, list[dict[str, float]]] = defaultdict(list)
        for number in range(options.rounds):
            for label, (name, tree) in contenders.items():
                if name == "threads" and jobs > MAX_THREADS:
                    continue
                with running_server() as server:
                    result = measure_apart(
                        tree, __spec__.name, contender=name, jobs=jobs, url=server.url
                    )
                    result["requests"] = server.statistics()["requests"]
                measured[label].append(result)
            progress(f"waiting: {jobs} jobs, round {number + 1}")
        rows += [summary(jobs, name, runs) for name, runs in measured.items()]
    show("waiting", rows, as_json=options.json)


if __name__ == "__main__":
    main()
