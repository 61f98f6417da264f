"""1,000 watchers on 10 jobs: requests sent through a JobMonitor, and by independent waits."""

from __future__ import annotations

import asyncio
import time

from sutro_async import JobMonitor, PollPolicy, SutroClient
from tests.benchmarks._report import parser, show, spread
from tests.benchmarks._server import running_server

WATCHERS = 1000
JOBS = 10
SECONDS = 3.0
POLL = PollPolicy(initial=0.1, maximum=0.5)


async def watch(url: str, *, through_monitor: bool) -> float:
    """Return the CPU seconds that it took."""
    end = time.monotonic() + SECONDS
    ids = [f"job-{number % JOBS}@{end:.6f}" for number in range(WATCHERS)]
    began = time.process_time()
    async with SutroClient("sk_benchmark", base_url=url, poll=POLL) as client:
        if through_monitor:
            async with JobMonitor(client) as monitor:
                reports = await asyncio.gather(*(monitor.wait(job_id) for job_id in ids))
        else:
            reports = await asyncio.gather(*(client.wait_for_job(job_id) for job_id in ids))
    assert all(report.is_terminal for report in reports)
    return time.process_time() - began


def main() -> None:
    options = parser(__doc__ or "", rounds=3).parse_args()
    contenders = {"JobMonitor": True, "independent waits": False}
    measured: dict[str, list[tuple[int, float]]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, through_monitor in contenders.items():
            with running_server() as server:
                cpu = asyncio.run(watch(server.url, through_monitor=through_monitor))
                measured[name].append((server.statistics()["requests"], cpu))
    rows = [
        {
            f"{WATCHERS} watchers, {JOBS} jobs, {SECONDS:g} s": name,
            "requests, min / median / max": spread([requests for requests, _ in runs]),
            "CPU ms": spread([cpu * 1000 for _, cpu in runs]),
        }
        for name, runs in measured.items()
    ]
    show("monitor", rows, as_json=options.json)


if __name__ == "__main__":
    main()
