"""A batch of three jobs beside one of 10,000, in one client.

    python -m tests.benchmarks.fairness [--before PATH] [--rounds 3]

The large batch polls as fast as the client can: its pace is far above that, so its polls are
always overdue. The small one polls every second, ten times, at the same time and alone. Printed
are how much later than at its own pace a poll of the small batch is, and how often the jobs of the
large batch were polled: if polls leave in the order in which they are due, no job is more than one
poll ahead of another.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

from sutro_async import PollPolicy, SutroClient
from tests.benchmarks._apart import measure_apart
from tests.benchmarks._report import add_before, parser, progress, show, spread, trees
from tests.benchmarks._server import running_server, statistics_of

JOBS = 10_000
POLLS = 10
OVERDUE = PollPolicy(initial=0.01, maximum=0.01)
EVERY_SECOND = PollPolicy(initial=1, maximum=1, jitter=0)


def measure(url: str, jobs: int) -> dict[str, float]:
    return asyncio.run(ours(url, jobs))


async def ours(url: str, jobs: int) -> dict[str, float]:
    """Return how much later a poll of the small batch is, and the polls of the large one."""
    async with SutroClient("sk_benchmark", base_url=url) as client:
        large = [f"large-{number}~1000000" for number in range(jobs)]
        crowd = asyncio.create_task(client.wait_for_jobs(large, poll=OVERDUE))
        while statistics_of(url)["large_jobs"] < jobs:
            await asyncio.sleep(0.5)
        began_at = time.monotonic()
        await client.wait_for_jobs([f"small-{n}~{POLLS}" for n in range(3)], poll=EVERY_SECOND)
        elapsed = time.monotonic() - began_at
        polls = statistics_of(url)
        crowd.cancel()
        await asyncio.wait({crowd})
    return {
        "late": (elapsed - (POLLS - 1)) / (POLLS - 1),
        "min": polls["least_polls_of_a_large_job"],
        "max": polls["most_polls_of_a_large_job"],
    }


def main() -> None:
    arguments = parser(__doc__ or "", rounds=3)
    add_before(arguments)
    options = arguments.parse_args()
    results: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    for number in range(options.rounds):
        for name, tree in trees(options).items():
            for jobs in (0, JOBS):
                with running_server() as server:
                    result = measure_apart(tree, __spec__.name, url=server.url, jobs=jobs)
                results[name, jobs].append(result)
        progress(f"fairness: round {number + 1}")
    rows = [
        {
            "min / median / max": f"{name}: beside {jobs:,} jobs",
            "a poll of the small batch is late, ms": spread([1000 * run["late"] for run in runs]),
            "polls of one job, min": spread([run["min"] for run in runs]) if jobs else None,
            "polls of one job, max": spread([run["max"] for run in runs]) if jobs else None,
        }
        for (name, jobs), runs in results.items()
    ]
    show("fairness", rows, as_json=options.json)


if __name__ == "__main__":
    main()
