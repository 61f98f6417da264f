"""Requests a second of `get_job_status` and `get_job`, against what a user would write by hand.

    python -m tests.benchmarks.requests [--before PATH] [--rounds 40]

In each round a contender and the hand-written loop alternate, in the same process; the ratio is
that of the two of a round. Every few rounds a new process begins, and the source trees alternate.
Targets: at least 0.95 of the hand-written loop's requests a second for `get_job_status`, and 0.9
for `get_job`.

One run requests 10,000 jobs in turn, one 1,000, and one the same job again and again. The library
remembers the last 1,024 URLs, and yarl, for the hand-written loop, the last 128.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from itertools import cycle, islice, product
from urllib.parse import urlsplit

import aiohttp
import httpx

from sutro_async import SutroClient
from tests.benchmarks._apart import measure_apart
from tests.benchmarks._report import add_before, parser, progress, show, spread, trees
from tests.benchmarks._server import running_server

IN_FLIGHT = 50
REQUESTS = 500  # short, so that noise affects both of a pair
PAIRS_IN_A_PROCESS = 5
KEY = "sk_benchmark"
HEADERS = {"Authorization": f"Key {KEY}"}
TARGETS = {"status": "at least 0.95", "job": "at least 0.9"}
JOBS = (10_000, 1_000, 1)

Request = Callable[[str], Awaitable[object]]
Rates = list[list[float]]  # requests/s and CPU µs of the contender; the same of the loop by hand


class Bare(asyncio.Protocol):
    """The floor: send the bytes, find the body, parse the JSON."""

    def __init__(self) -> None:
        self.received = b""
        self.answer: asyncio.Future[object] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def request(self, request: bytes) -> asyncio.Future[object]:
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        if separator and len(body) == int(head.rpartition(b"Content-Length: ")[2]):
            self.received = b""
            self.answer.set_result(json.loads(body))


async def bare_contender(url: str, path: str) -> Request:
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    idle = []
    for _ in range(IN_FLIGHT):
        _, protocol = await loop.create_connection(Bare, address.hostname, address.port)
        idle.append(protocol)
    content = (
        f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Key {KEY}\r\n\r\n"
    ).encode()

    async def request(_: str) -> None:
        protocol = idle.pop()
        await protocol.request(content)
        idle.append(protocol)

    return request


async def rate(request: Request, job_ids: Iterable[str]) -> list[float]:
    """Return requests a second, and CPU microseconds a request."""
    ids = list(job_ids)
    count, remaining = len(ids), iter(ids)

    async def work() -> None:
        for job_id in remaining:
            await request(job_id)

    began, cpu_began = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    return [count / elapsed, cpu / count * 1e6]


async def compare(
    url: str, endpoint: str, jobs: int, pairs: int, *, others: bool
) -> dict[str, list[Rates]]:
    async with (
        SutroClient(KEY, base_url=url, max_concurrency=IN_FLIGHT) as client,
        aiohttp.ClientSession(headers=HEADERS) as session,
        httpx.AsyncClient(headers=HEADERS, timeout=30) as httpx_client,
    ):
        path = {"status": "/v1/job-status", "job": "/v1/jobs"}[endpoint]
        method = client.get_job_status if endpoint == "status" else client.get_job

        async def by_hand(job_id: str, **options: object) -> object:
            async with session.get(f"{url}{path}/{job_id}", **options) as response:
                response.raise_for_status()
                return await response.json()

        async def by_httpx(job_id: str) -> object:
            response = await httpx_client.get(f"{url}{path}/{job_id}")
            response.raise_for_status()
            return response.json()

        contenders: dict[str, Request] = {"sutro_async": method}
        if others:
            contenders["by hand, headers each time"] = lambda id_: by_hand(id_, headers=HEADERS)
            contenders["httpx by hand"] = by_httpx
            contenders["bare protocol"] = await bare_contender(url, f"{path}/job-1")
        results: dict[str, list[Rates]] = {}
        for name, request in contenders.items():
            count = REQUESTS // 10 if name.startswith("httpx") else REQUESTS
            ids = {each: cycle(f"job-{n + 1}" for n in range(jobs)) for each in (request, by_hand)}
            for each, its_ids in ids.items():
                await rate(each, islice(its_ids, count))
            results[name] = []
            for number in range(pairs):
                order = [request, by_hand] if number % 2 else [by_hand, request]
                measured = {each: await rate(each, islice(ids[each], count)) for each in order}
                results[name].append([measured[request], measured[by_hand]])
    return results


def measure(
    url: str, endpoint: str, jobs: int, pairs: int, *, others: bool
) -> dict[str, list[Rates]]:
    return asyncio.run(compare(url, endpoint, jobs, pairs, others=others))


def main() -> None:
    arguments = parser(__doc__ or "", rounds=40)
    add_before(arguments)
    options = arguments.parse_args()
    results: dict[str, list[Rates]] = defaultdict(list)
    with running_server() as server:
        for number in range(-(-options.rounds // PAIRS_IN_A_PROCESS)):
            for endpoint, jobs in product(TARGETS, JOBS):
                for tree, path in trees(options).items():
                    measured = measure_apart(
                        path,
                        __spec__.name,
                        url=server.url,
                        endpoint=endpoint,
                        jobs=jobs,
                        pairs=PAIRS_IN_A_PROCESS,
                        others=tree == "now",
                    )
                    for name, pairs in measured.items():
                        label = f"{name}, {tree}" if name == "sutro_async" else name
                        results[f"{endpoint}, {jobs:,}: {label}"] += pairs
            progress(f"requests: {(number + 1) * PAIRS_IN_A_PROCESS} pairs")
    rows = []
    for label, pairs in sorted(results.items(), reverse=True):
        case = label.partition(":")[0]
        for side, name in enumerate([label, f"{case}: aiohttp by hand"]):
            if side and not label.endswith(", now"):
                continue
            rows.append(
                {
                    f"{IN_FLIGHT} in flight, min / median / max": name,
                    "requests/s": spread([pair[side][0] for pair in pairs]),
                    "CPU µs a request": spread([pair[side][1] for pair in pairs]),
                    "requests/s to by hand": spread([pair[side][0] / pair[1][0] for pair in pairs]),
                    "CPU to by hand": spread([pair[side][1] / pair[1][1] for pair in pairs]),
                    "target": TARGETS[case.split(",")[0]]
                    if label.endswith(", now") and not side
                    else None,
                }
            )
    show("requests", rows, as_json=options.json)


if __name__ == "__main__":
    main()
