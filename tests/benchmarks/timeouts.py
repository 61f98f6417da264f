"""How late the timeout of a batch is: 10,000 and 100,000 jobs that never finish.

    python -m tests.benchmarks.timeouts [--before PATH] [--rounds 3] [--cases 10000:30 ...]

Seconds after the timeout until the first outcome, the last outcome, and the return of
`wait_for_jobs` or the end of the loop over `as_completed`, and the CPU time from the timeout to
that, which other processes disturb less. A case is `JOBS:TIMEOUT`. By default the timeout is long
enough for the first polls of all jobs to be done well before; with a shorter one, such as 10000:2,
it expires while the process is busy with them. Targets: 0.1 s for 10,000 jobs, 1 s for 100,000.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import sys
import time
from typing import Any

from sutro_async import JobWaitTimeoutError, PollPolicy, SutroClient
from tests.benchmarks._apart import measure_apart
from tests.benchmarks._report import add_before, parser, progress, show, spread, trees
from tests.benchmarks._server import running_server, statistics_of

POLL = PollPolicy(initial=3600, maximum=3600)
TARGETS = {10_000: "at most 0.1", 100_000: "at most 1"}
CALLS = ("as_completed", "wait_for_jobs")


async def expire(
    url: str, jobs: int, timeout: float, call: str, *, profile: bool
) -> dict[str, Any]:
    ids = [f"job-{number}" for number in range(jobs)]
    times: list[float] = []
    cpu: list[float] = []
    profiler = cProfile.Profile()
    async with SutroClient("sk_benchmark", base_url=url, poll=POLL) as client:
        deadline = time.monotonic() + timeout
        loop = asyncio.get_running_loop()
        loop.call_at(deadline, lambda: cpu.append(time.process_time()))
        if profile:
            loop.call_at(deadline, profiler.enable)
        if call == "wait_for_jobs":
            outcomes = list((await client.wait_for_jobs(ids, timeout=timeout)).values())
        else:
            outcomes = []
            async for outcome in client.as_completed(ids, timeout=timeout):
                times.append(time.monotonic())
                outcomes.append(outcome)
        times.append(time.monotonic())
        cpu.append(time.process_time())
        profiler.disable()
    assert [outcome.job_id for outcome in outcomes] == ids or call == "as_completed"
    assert {outcome.job_id for outcome in outcomes} == set(ids)
    assert all(isinstance(outcome.error, JobWaitTimeoutError) for outcome in outcomes)
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    late = [each - deadline for each in times]
    return {
        "first": late[0] if len(late) > 1 else None,
        "last": late[-2] if len(late) > 1 else None,
        "return": late[-1],
        "CPU": cpu[1] - cpu[0],
        "polls": statistics_of(url)["requests"] / jobs,
    }


def measure(
    url: str, jobs: int, timeout: float, call: str, *, profile: bool = False
) -> dict[str, Any]:
    return asyncio.run(expire(url, jobs, timeout, call, profile=profile))


def main() -> None:
    arguments = parser(__doc__ or "", rounds=3)
    add_before(arguments)
    arguments.add_argument("--cases", nargs="*", default=["10000:30", "100000:120"])
    arguments.add_argument("--profile", action="store_true", help="print profiles on stderr")
    options = arguments.parse_args()
    rows = []
    for case in options.cases:
        jobs, timeout = case.split(":")
        measured: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for _ in range(options.rounds):
            for call in CALLS:
                for name, tree in trees(options).items():
                    with running_server() as server:
                        result = measure_apart(
                            tree,
                            __spec__.name,
                            url=server.url,
                            jobs=int(jobs),
                            timeout=float(timeout),
                            call=call,
                            profile=options.profile,
                        )
                    measured.setdefault((call, name), []).append(result)
                    progress(f"timeouts: {case} {call} {name} {result}")
        for (call, name), runs in measured.items():
            row: dict[str, object] = {
                "seconds late, min / median / max": f"{call}, {name}",
                "jobs": int(jobs),
                "timeout": float(timeout),
            }
            for key in ("first", "last", "return", "CPU"):
                values = [run[key] for run in runs]
                row[key] = None if None in values else spread(values)
            row["polls a job"] = spread([run["polls"] for run in runs])
            row["target"] = TARGETS.get(int(jobs)) if name == "now" else None
            rows.append(row)
    show("timeouts", rows, as_json=options.json)


if __name__ == "__main__":
    main()
