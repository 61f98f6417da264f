"""Memory of a waiting job, with 10,000 of them in one `as_completed`.

    python -m tests.benchmarks.memory [--before PATH] [--rounds 3] [--lines 10]

Bytes that tracemalloc counts after the first poll of each job, against before the call. The
connections are open before that, and the server runs in a process of its own; the ids count.
Target: at most 1.5 KiB a job. `--lines` shows which lines allocated the most.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

from sutro_async import PollPolicy, SutroClient
from tests.benchmarks._apart import measure_apart
from tests.benchmarks._report import add_before, parser, show, spread, trees
from tests.benchmarks._server import running_server, statistics_of

FIRST_JOBS = 200


async def weigh(url: str, jobs: int, lines: int) -> dict[str, Any]:
    poll = PollPolicy(initial=3600, maximum=3600)
    async with SutroClient("sk_benchmark", base_url=url, poll=poll) as client:
        await client.get_job_statuses(f"first-{number}" for number in range(FIRST_JOBS))
        tracemalloc.start(1)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        outcomes = client.as_completed(f"job-{number:06}" for number in range(jobs))
        reader = asyncio.ensure_future(anext(outcomes))
        while statistics_of(url)["requests"] < FIRST_JOBS + jobs:
            assert not reader.done()
            await asyncio.sleep(0.5)
        await asyncio.sleep(1)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        top = tracemalloc.take_snapshot().statistics("lineno")[:lines]
        reader.cancel()
        await asyncio.wait({reader})
        await outcomes.aclose()
    assert statistics_of(url)["requests"] == FIRST_JOBS + jobs  # each was polled once
    shown = [f"{each.size / jobs:6.0f} B a job  {each.traceback[0]}" for each in top]
    return {"bytes": (after - before) / jobs, "top": shown}


def measure(url: str, jobs: int, lines: int) -> dict[str, Any]:
    return asyncio.run(weigh(url, jobs, lines))


def main() -> None:
    arguments = parser(__doc__ or "", rounds=3)
    add_before(arguments)
    arguments.add_argument("--jobs", type=int, default=10_000)
    arguments.add_argument("--lines", type=int, default=0)
    options = arguments.parse_args()
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in trees(options)}
    for _ in range(options.rounds):
        for name, tree in trees(options).items():
            with running_server() as server:
                measured[name].append(
                    measure_apart(
                        tree,
                        __spec__.name,
                        url=server.url,
                        jobs=options.jobs,
                        lines=options.lines,
                    )
                )
    rows = [
        {
            f"{options.jobs:,} jobs, min / median / max": name,
            "KiB a job, tracemalloc": spread([run["bytes"] / 1024 for run in runs]),
            "target": "at most 1.5" if name == "now" else None,
        }
        for name, runs in measured.items()
    ]
    show("memory", rows, as_json=options.json)
    for name, runs in measured.items():
        for line in runs[0]["top"]:
            print(f"{name}: {line}")


if __name__ == "__main__":
    main()
