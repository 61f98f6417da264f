"""The CPU time of a status request, part by part.

    python -m tests.benchmarks.parts [--rounds 20]

Each row adds something to the one before, within its group: first a request by hand, with different
timers for its timeout; then the library, from its transport to `get_job_status`. All of them
request the same job, and alternate in one process; every few rounds a new process begins.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

import aiohttp

from sutro_async import SutroClient
from sutro_async._http import STATUS
from sutro_async._http._request_timer import RequestTimer
from sutro_async._wire import parse_report, status_path
from tests.benchmarks._apart import NOW, measure_apart
from tests.benchmarks._report import parser, progress, show, spread
from tests.benchmarks._server import running_server
from tests.benchmarks.requests import HEADERS, IN_FLIGHT, KEY, Request, rate

JOB_IDS = ["job-1"] * 1000
ROUNDS_IN_A_PROCESS = 5
TIMEOUT = 30.0


def contenders(url: str, client: SutroClient, session: aiohttp.ClientSession) -> dict[str, Request]:
    base = f"{url}/v1/job-status"
    no_timer = aiohttp.ClientTimeout()
    loop = asyncio.get_running_loop()
    timer = RequestTimer()
    manager, options = client._manager, client._options

    async def read(job_id: str, timeout: aiohttp.ClientTimeout = no_timer) -> bytes:
        async with session.get(f"{base}/{job_id}", timeout=timeout) as response:
            response.raise_for_status()
            return await response.read()

    async def with_json(job_id: str) -> object:
        async with session.get(f"{base}/{job_id}") as response:
            response.raise_for_status()
            return await response.json()

    async def with_asyncio_timeout(job_id: str) -> bytes:
        async with asyncio.timeout(TIMEOUT):
            return await read(job_id)

    async def with_request_timer(job_id: str) -> bytes:
        with timer.timeout_at(loop.time() + TIMEOUT):
            return await read(job_id)

    async def transport(job_id: str) -> bytes:
        return await manager.transport.get(
            status_path(job_id), job_id=job_id, sent_at=loop.time(), timeout=TIMEOUT, attempt=1
        )

    async def parsed(job_id: str) -> object:
        return parse_report(job_id, await transport(job_id))

    return {
        "by hand, response.read(), without a timeout": read,
        "... with the timer of aiohttp": lambda job_id: read(
            job_id, aiohttp.ClientTimeout(total=TIMEOUT)
        ),
        "... with asyncio.timeout": with_asyncio_timeout,
        "... with the library's one timer for all": with_request_timer,
        "by hand, response.json(), defaults of aiohttp": with_json,
        "the library's transport, the body as bytes": transport,
        "... with the status parsed and structured": parsed,
        "... with throttle, rate, outage gate and stats": lambda job_id: manager.request(
            STATUS, job_id, options
        ),
        "get_job_status, which may retry": client.get_job_status,
        "get_job, a record of 20 fields": client.get_job,
    }


async def compare(url: str, rounds: int) -> dict[str, list[float]]:
    async with (
        SutroClient(KEY, base_url=url, max_concurrency=IN_FLIGHT) as client,
        aiohttp.ClientSession(headers=HEADERS) as session,
    ):
        requests = contenders(url, client, session)
        for request in requests.values():
            await rate(request, JOB_IDS)
        measured: dict[str, list[float]] = {name: [] for name in requests}
        for _ in range(rounds):
            for name, request in requests.items():
                _, microseconds = await rate(request, JOB_IDS)
                measured[name].append(microseconds)
    return measured


def measure(url: str, rounds: int) -> dict[str, list[float]]:
    return asyncio.run(compare(url, rounds))


def main() -> None:
    options = parser(__doc__ or "", rounds=20).parse_args()
    results: dict[str, list[float]] = defaultdict(list)
    with running_server() as server:
        for number in range(-(-options.rounds // ROUNDS_IN_A_PROCESS)):
            measured = measure_apart(NOW, __spec__.name, url=server.url, rounds=ROUNDS_IN_A_PROCESS)
            for name, values in measured.items():
                results[name] += values
            progress(f"parts: {(number + 1) * ROUNDS_IN_A_PROCESS} rounds")
    rows = [
        {"one job, 50 in flight, min / median / max": name, "CPU µs a request": spread(values)}
        for name, values in results.items()
    ]
    show("parts", rows, as_json=options.json)


if __name__ == "__main__":
    main()
