"""Requests in an outage of the service, and how fast waits recover from it.

    python -m tests.benchmarks.outage [--before PATH] [--forms 503 429 ...] [--picture PATH]

300 waits in one client, each polled every 1 s to 4 s. Once their pace is steady the service is
unavailable for 20 s, in one of six ways; the timeout of a request is 1 s. The server counts what
reaches its socket. Of refused connections the client counts what it tries, in `sock_connect` of
its event loop. `--picture` draws requests a second over time, of the first of the forms.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sutro_async import PollPolicy, SutroClient
from tests.benchmarks._apart import measure_apart
from tests.benchmarks._faulty import (
    FORMS,
    Record,
    begin_outage,
    end_outage,
    records,
    running_service,
)
from tests.benchmarks._picture import draw
from tests.benchmarks._report import add_before, parser, progress, show, trees

KEY = "sk_benchmark"
WAITS = 300
POLL = PollPolicy(initial=1.0, maximum=4.0)
TIMEOUT = 1.0  # of a request; half of the outages would be over before the default

# Seconds.
BEFORE, HEALTHY, OUTAGE, AFTER, LATE = 20, 8, 20, 20, 12
# The six together take little of a processor, except in the outages of some versions.
FORMS_AT_ONCE = 3


class CountingLoop(asyncio.SelectorEventLoop):
    """Takes note of each attempt to connect."""

    def __init__(self) -> None:
        super().__init__()
        self.attempts: list[float] = []

    async def sock_connect(self, sock: Any, address: Any) -> None:
        self.attempts.append(self.time())
        await super().sock_connect(sock, address)


async def run(url: str, control: str, form: str) -> dict[str, Any]:
    """Wait for jobs through an outage; times count from its beginning."""
    ended: list[str] = []

    async def wait(client: SutroClient) -> None:
        async for outcome in client.as_completed(f"job-{number}" for number in range(WAITS)):
            ended.append(repr(outcome.error or outcome.value))

    async with SutroClient(KEY, base_url=url, poll=POLL, timeout=TIMEOUT) as client:
        task = asyncio.create_task(wait(client))
        await asyncio.sleep(BEFORE)
        began_at = await asyncio.to_thread(begin_outage, control, form)
        await asyncio.sleep(OUTAGE)
        ended_at = await asyncio.to_thread(end_outage, control)
        await asyncio.sleep(AFTER)
        seen = await asyncio.to_thread(records, control)
        task.cancel()
        await asyncio.wait({task})
    if form == "refuse":
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        tried = [at for at in loop.attempts if began_at <= at < ended_at]
        seen = sorted([*seen, *(Record(at, "?", is_good=False) for at in tried)])
    return {
        "requests": [[at - began_at, job_id, is_good] for at, job_id, is_good in seen],
        "outage": ended_at - began_at,
        "ended": ended,
    }


def measure(url: str, control: str, form: str) -> dict[str, Any]:
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        return runner.run(run(url, control, form))


def peak(times: Iterable[float]) -> int:
    """Return the most requests within a second, wherever it begins."""
    ordered = sorted(times)
    most = first = 0
    for number, at in enumerate(ordered):
        while at - ordered[first] >= 1:
            first += 1
        most = max(most, number - first + 1)
    return most


def summary(name: str, measured: dict[str, Any]) -> dict[str, object]:
    seen = [Record(*each) for each in measured["requests"]]
    end = measured["outage"]
    healthy = [each.at for each in seen if -HEALTHY <= each.at < 0]
    outage = [each.at for each in seen if 0 <= each.at < end]
    after = [each for each in seen if each.at >= end]
    first_good: dict[str, float] = {}
    for each in after:
        if each.is_good:
            first_good.setdefault(each.job_id, each.at - end)
    is_all = len(first_good) == WAITS
    return {
        f"{WAITS} waits": name,
        "healthy/s": round(len(healthy) / HEALTHY),
        "healthy peak/s": peak(healthy),
        "outage peak/s": peak(outage),
        f"in its last {LATE} s": sum(at >= end - LATE for at in outage),
        "first good after s": min(first_good.values(), default=None),
        "all polled after s": max(first_good.values()) if is_all else None,
        "reopening peak/s": peak(each.at for each in after),
        "lost": len(measured["ended"]),
    }


def a_second(measured: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the requests of each second, counted from the beginning of the outage."""
    counts = Counter(int(at // 1) for at, _, _ in measured["requests"])
    return [(second, counts[second]) for second in range(-HEALTHY, OUTAGE + AFTER)]


def main() -> None:
    arguments = parser(__doc__ or "", rounds=1)
    add_before(arguments)
    arguments.add_argument("--forms", nargs="*", choices=FORMS, default=list(FORMS))
    arguments.add_argument("--picture", type=Path, metavar="PATH", help="draw an SVG")
    options = arguments.parse_args()

    def measured(tree: str, form: str) -> dict[str, Any]:
        with running_service() as (url, control):
            result: dict[str, Any] = measure_apart(
                trees(options)[tree], __spec__.name, url=url, control=control, form=form
            )
        progress(f"outage: {FORMS[form]}, {tree}")
        return result

    runs = [
        (tree, form)
        for _ in range(options.rounds)
        for form in options.forms
        for tree in trees(options)
    ]
    with ThreadPoolExecutor(FORMS_AT_ONCE) as pool:
        results = list(pool.map(measured, *zip(*runs, strict=True)))
    rows = [
        summary(f"{FORMS[form]}: {tree}", result)
        for (tree, form), result in zip(runs, results, strict=True)
    ]
    show("outage", rows, as_json=options.json)
    if options.picture is not None:
        form = options.forms[0]
        curves = {
            tree: a_second(result)
            for (tree, each), result in zip(runs, results, strict=True)
            if each == form
        }
        title = f"Requests a second of {WAITS} waits in an outage: {FORMS[form]}"
        options.picture.write_text(draw(curves, title=title, outage=(0, OUTAGE)))


if __name__ == "__main__":
    main()
