"""100,000 waits run to completion in one process, with `max_concurrency=20`.

    python -m tests.benchmarks.completion [--before PATH] [--rounds 1] [--jobs 100000]

Each job succeeds at its third poll. Resident memory at its peak, time, and whether each job was
found to have finished exactly once. Target: at most 400 MiB.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sutro_async import PollPolicy, SutroClient
from tests.benchmarks._apart import measure_apart
from tests.benchmarks._report import add_before, parser, progress, show, spread, trees
from tests.benchmarks._server import running_server, statistics_of

POLL = PollPolicy(initial=0.5, maximum=2)
MAX_CONCURRENCY = 20
POLLS = 3


def resident_mebibytes(which: str) -> float:
    """Return VmRSS, or VmHWM, its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(which)


async def complete(url: str, jobs: int) -> dict[str, Any]:
    at_first = resident_mebibytes("VmRSS")
    found: Counter[str] = Counter()
    began, cpu = time.monotonic(), time.process_time()
    async with SutroClient(
        "sk_benchmark", base_url=url, max_concurrency=MAX_CONCURRENCY, poll=POLL
    ) as client:
        async for outcome in client.as_completed(f"job-{number}~{POLLS}" for number in range(jobs)):
            assert outcome.result().is_terminal
            found[outcome.job_id] += 1
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    return {
        "seconds": seconds,
        "cpu": cpu,
        "at first": at_first,
        "peak": resident_mebibytes("VmHWM"),
        "once": sum(times == 1 for times in found.values()),
        "more often": sum(times > 1 for times in found.values()),
        **statistics_of(url),
    }


def measure(url: str, jobs: int) -> dict[str, Any]:
    return asyncio.run(complete(url, jobs))


def main() -> None:
    arguments = parser(__doc__ or "", rounds=1)
    add_before(arguments)
    arguments.add_argument("--jobs", type=int, default=100_000)
    options = arguments.parse_args()
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in trees(options)}
    for _ in range(options.rounds):
        for name, tree in trees(options).items():
            with running_server() as server:
                result = measure_apart(tree, __spec__.name, url=server.url, jobs=options.jobs)
            measured[name].append(result)
            progress(f"completion: {name} {result}")
    rows = [
        {
            f"{options.jobs:,} jobs, min / median / max": name,
            "peak MiB": spread([run["peak"] for run in runs]),
            "MiB before": spread([run["at first"] for run in runs]),
            "seconds": spread([run["seconds"] for run in runs]),
            "CPU s": spread([run["cpu"] for run in runs]),
            "found once": min(run["once"] for run in runs),
            "more often": max(run["more often"] for run in runs),
            "requests": max(run["requests"] for run in runs),
            "connections": max(run["connections"] for run in runs),
            "target": "at most 400 MiB" if name == "now" else None,
        }
        for name, runs in measured.items()
    ]
    show("completion", rows, as_json=options.json)


if __name__ == "__main__":
    main()
