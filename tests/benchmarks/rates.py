"""Good answers and refusals a second, of a service that limits its rate.

    python -m tests.benchmarks.rates [--before PATH] [--seconds 90] [--limits 5 10 50 200]
                                     [--jobs 100 1000 5000]

The service is a token bucket with a burst of a tenth of a second's requests, and answers the rest
with 429 and `Retry-After: 1`. The jobs do not finish, and all settings are the defaults. Then the
herd: 2,500 jobs that have all finished, at 60 requests a second and a burst of 6.

Target: no job is lost; from the second minute on at most 5 % of the requests are refused. The herd
takes at most twice the time that the limit allows.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sutro_async import SutroClient
from tests.benchmarks._apart import measure_apart
from tests.benchmarks._faulty import FINISHED, limit_rate, records, running_service
from tests.benchmarks._report import add_before, parser, progress, show, trees

KEY = "sk_benchmark"
LIMITS = [5, 10, 50, 200]
JOBS = [100, 1000, 5000]
HERD_JOBS, HERD_LIMIT, HERD_BURST = 2500, 60, 6
SECONDS = 90
STEP = 10  # seconds of a column
AT_ONCE = 3


async def run(url: str, control: str, limit: float, jobs: int, seconds: float) -> dict[str, Any]:
    lost: list[str] = []

    async def wait(client: SutroClient) -> None:
        async for outcome in client.as_completed(f"job-{number}" for number in range(jobs)):
            lost.append(repr(outcome.error or outcome.value))

    await asyncio.to_thread(limit_rate, control, limit, max(1, limit / 10))
    async with SutroClient(KEY, base_url=url) as client:
        began_at = time.monotonic()
        task = asyncio.create_task(wait(client))
        await asyncio.sleep(seconds)
        seen = await asyncio.to_thread(records, control)
        task.cancel()
        await asyncio.wait({task})
    return {"requests": [[at - began_at, good] for at, _, good in seen], "lost": len(lost)}


async def run_herd(url: str, control: str) -> dict[str, Any]:
    await asyncio.to_thread(limit_rate, control, HERD_LIMIT, HERD_BURST)
    async with SutroClient(KEY, base_url=url) as client:
        began_at = time.monotonic()
        ids = [f"{FINISHED}-{number}" for number in range(HERD_JOBS)]
        outcomes = await client.wait_for_jobs(ids)
        elapsed = time.monotonic() - began_at
    seen = await asyncio.to_thread(records, control)
    refused = sum(not each.is_good for each in seen)
    lost = sum(not outcome.ok for outcome in outcomes.values())
    return {"seconds": elapsed, "requests": len(seen), "refused": refused, "lost": lost}


def measure(url: str, control: str, **options: Any) -> dict[str, Any]:
    return asyncio.run(run(url, control, **options) if options else run_herd(url, control))


def summary(
    name: str, limit: float, jobs: int, seconds: float, measured: dict[str, Any]
) -> dict[str, object]:
    steps = [[0, 0] for _ in range(int(seconds // STEP))]
    for at, is_good in measured["requests"]:
        if 0 <= at // STEP < len(steps):
            steps[int(at // STEP)][not is_good] += 1
    late = [is_good for at, is_good in measured["requests"] if at >= min(60, seconds / 2)]
    return {
        f"good answers + refusals a second, each {STEP} s": f"{limit}/s, {jobs:,} jobs: {name}",
        **{
            f"{number * STEP} s": f"{good / STEP:.0f}+{refused / STEP:.1f}"
            for number, (good, refused) in enumerate(steps)
        },
        "refused at last": f"{late.count(False) / max(1, len(late)):.1%}",
        "lost": measured["lost"],
    }


def measure_all(
    paths: dict[str, Path], cases: Sequence[tuple[str, dict[str, Any]]]
) -> list[dict[str, Any]]:
    def measured(case: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        tree, options = case
        with running_service() as (url, control):
            result: dict[str, Any] = measure_apart(
                paths[tree], __spec__.name, url=url, control=control, **options
            )
        progress(f"rates: {options or 'herd'}, {tree}")
        return result

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(measured, cases))


def main() -> None:
    arguments = parser(__doc__ or "", rounds=1)
    add_before(arguments)
    arguments.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    arguments.add_argument("--limits", type=int, nargs="*", default=LIMITS)
    arguments.add_argument("--jobs", type=int, nargs="*", default=JOBS)
    options = arguments.parse_args()
    paths = trees(options)
    cases = [
        (tree, {"limit": limit, "jobs": jobs, "seconds": options.seconds})
        for limit, jobs, tree in itertools.product(options.limits, options.jobs, paths)
    ]
    rows = [
        summary(tree, measured=result, **case)
        for (tree, case), result in zip(cases, measure_all(paths, cases), strict=True)
    ]
    if rows:
        show("rates", rows, as_json=options.json)
    herds = [(tree, {}) for _ in range(options.rounds) for tree in paths]
    rows = [
        {f"{HERD_JOBS:,} finished jobs, {HERD_LIMIT}/s": tree, **result}
        for (tree, _), result in zip(herds, measure_all(paths, herds), strict=True)
    ]
    show("herd", rows, as_json=options.json)


if __name__ == "__main__":
    main()
