"""Thousands of jobs waited for at once: CPU, memory, requests, and how soon an end is noticed.

Against a hand-written poll loop under `asyncio.gather`, and against threads that poll with
requests, as the official SDK does. All paces are scaled down alike: where the others poll every
5 s, sutro_async goes from 1 s to 15 s, all times the scale. Every contender runs in a process of
its own. At last, 10,000 waits against a FakeSutro that counts what is in flight.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import aiohttp
import requests

from sutro_async import PollPolicy, SutroClient
from tests.benchmarks._report import parser, show, spread
from tests.benchmarks._server import running_server

KEY = "sk_benchmark"
HEADERS = {"Authorization": f"Key {KEY}"}

SUTRO_INTERVAL = 5.0
# So many polls a second at the most, lest the hand-written loop is measured when it is swamped.
MOST_POLLS_A_SECOND = 2000
# Jobs end at random between these two moments, in intervals of the official SDK.
FIRST_END, LAST_END = 2.0, 6.0


class Waiting:
    """What one contender is to do, and what came of it."""

    def __init__(self, url: str, jobs: int) -> None:
        self.url = url
        self.jobs = jobs
        self.interval = max(SUTRO_INTERVAL / 20, jobs / MOST_POLLS_A_SECOND)
        self.delays: list[float] = []
        began = time.monotonic()
        ends = random.Random(jobs)
        self.ids = [
            f"job-{number}@{began + self.interval * ends.uniform(FIRST_END, LAST_END):.6f}"
            for number in range(jobs)
        ]
        gc.collect()
        self._memory = resident_bytes()
        self._cpu = time.process_time()
        self.bytes_a_job = 0.0
        self._timer = threading.Timer(self.interval * FIRST_END * 0.9, self.weigh)
        self._timer.start()

    def note_end(self, job_id: str) -> None:
        self.delays.append(time.monotonic() - float(job_id.partition("@")[2]))

    def weigh(self) -> None:
        """Measure memory shortly before the first job ends, when all wait."""
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
                waiting.note_end(outcome.job_id)

    asyncio.run(run())


def by_hand(waiting: Waiting) -> None:
    async def wait(session: aiohttp.ClientSession, job_id: str) -> None:
        while True:
            async with session.get(f"{waiting.url}/v1/job-status/{job_id}") as response:
                response.raise_for_status()
                body = await response.json()
            if body["job_status"][job_id] in {"SUCCEEDED", "FAILED", "CANCELLED"}:
                waiting.note_end(job_id)
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
                waiting.note_end(job_id)
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
MOST_THREADS = 100


def run_apart(name: str, jobs: int) -> dict[str, float]:
    """Run a contender in a process of its own, against a server of its own."""
    with running_server() as server:
        command = [sys.executable, "-m", __spec__.name, "--contender", name]
        command += ["--jobs", str(jobs), "--url", server.url]
        result = subprocess.run(command, capture_output=True, check=True, text=True)
    measured: dict[str, float] = json.loads(result.stdout)
    return {**measured, "requests": server.statistics["requests"]}


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


async def count_in_flight(url: str, jobs: int) -> dict[str, float]:
    gc.collect()
    before = resident_bytes()
    seen = set()
    poll = PollPolicy(initial=0.5, maximum=2)
    began = time.monotonic()
    async with SutroClient("sk_test", base_url=url, max_concurrency=20, poll=poll) as client:
        async for outcome in client.as_completed(f"job-{number}" for number in range(jobs)):
            assert outcome.result().is_terminal
            assert outcome.job_id not in seen
            seen.add(outcome.job_id)
            if len(seen) == 1:
                during = resident_bytes()
    elapsed = time.monotonic() - began
    job_count = len(seen)
    seen.clear()
    gc.collect()
    return {
        "jobs ended": job_count,
        "seconds": elapsed,
        "MiB while waiting": (during - before) / 2**20,
        "MiB afterwards": (resident_bytes() - before) / 2**20,
    }


def main() -> None:
    arguments = parser(__doc__ or "", rounds=3)
    arguments.add_argument("--jobs", type=int, nargs="*", default=[100, 1000, 10_000])
    arguments.add_argument("--contender", help="for the benchmark itself")
    arguments.add_argument("--url", help="for the benchmark itself")
    options = arguments.parse_args()
    if options.contender:
        waiting = Waiting(options.url, options.jobs[0])
        CONTENDERS[options.contender](waiting)
        print(json.dumps(waiting.result()))
        return
    rows = []
    for jobs in options.jobs:
        names = [name for name in CONTENDERS if name != "threads" or jobs <= MOST_THREADS]
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                measured[name].append(run_apart(name, jobs))
        rows += [summary(jobs, name, runs) for name, runs in measured.items()]
    show("waiting", rows, as_json=options.json)
    jobs = max(options.jobs)
    with running_server(fake_jobs=jobs) as server:
        counted = asyncio.run(count_in_flight(server.url, jobs))
    row = {"max_concurrency": 20, **counted, **server.statistics}
    show("waiting: in flight, seen by FakeSutro", [row], as_json=options.json)


if __name__ == "__main__":
    main()
