"""Requests a second of `get_job_status` and `get_job`, against what a user would write by hand.

The contenders take turns in each round, so that a change of the machine's mood hits all of them;
the ratio is that of requests a second to the hand-written loop's of the same round.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import aiohttp
import httpx

from sutro_async import SutroClient
from tests.benchmarks._report import parser, show, spread
from tests.benchmarks._server import running_server

IN_FLIGHT = 50
REQUESTS = 500  # short turns, so that noise hits both of a pair
KEY = "sk_benchmark"
HEADERS = {"Authorization": f"Key {KEY}"}

Ask = Callable[[], Awaitable[object]]


class Bare(asyncio.Protocol):
    """The floor: send the bytes, find the body, parse the JSON."""

    def __init__(self) -> None:
        self.received = b""
        self.answer: asyncio.Future[object] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[object]:
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        if separator and len(body) == int(head.rpartition(b"Content-Length: ")[2]):
            self.received = b""
            self.answer.set_result(json.loads(body))


async def bare_contender(url: str, path: str) -> Ask:
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    idle = []
    for _ in range(IN_FLIGHT):
        _, protocol = await loop.create_connection(Bare, address.hostname, address.port)
        idle.append(protocol)
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Key {KEY}\r\n\r\n"
    ).encode()

    async def ask() -> None:
        protocol = idle.pop()
        await protocol.ask(request)
        idle.append(protocol)

    return ask


async def measure(ask: Ask) -> tuple[float, float]:
    """Return requests a second, and CPU microseconds a request."""
    turns = iter(range(REQUESTS))

    async def work() -> None:
        for _ in turns:
            await ask()

    began, cpu_began = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    return REQUESTS / elapsed, cpu / REQUESTS * 1e6


async def compare(url: str, rounds: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    async with (
        SutroClient(KEY, base_url=url, max_concurrency=IN_FLIGHT) as client,
        aiohttp.ClientSession(headers=HEADERS) as session,
        httpx.AsyncClient(headers=HEADERS, timeout=30) as httpx_client,
    ):
        for what, path in (("status", "/v1/job-status/job-1"), ("job", "/v1/jobs/job-1")):
            target = url + path
            ours = client.get_job_status if what == "status" else client.get_job

            async def by_hand(target: str = target) -> object:
                async with session.get(target) as response:
                    response.raise_for_status()
                    return await response.json()

            async def by_hand_headers(target: str = target) -> object:
                async with session.get(target, headers=HEADERS) as response:
                    response.raise_for_status()
                    return await response.json()

            async def by_httpx(target: str = target) -> object:
                response = await httpx_client.get(target)
                response.raise_for_status()
                return response.json()

            contenders: dict[str, Ask] = {
                "aiohttp by hand": by_hand,
                "aiohttp by hand, headers each time": by_hand_headers,
                "sutro_async": lambda ours=ours: ours("job-1"),
                "httpx by hand": by_httpx,
                "bare protocol": await bare_contender(url, path),
            }
            results: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
            for _ in range(rounds + 1):
                for name, ask in contenders.items():
                    results[name].append(await measure(ask))
            hand = results["aiohttp by hand"][1:]
            for name, measured in results.items():
                pairs = zip(measured[1:], hand, strict=True)
                rows.append(
                    {
                        f"{IN_FLIGHT} in flight, min / median / max": f"{what}: {name}",
                        "requests/s": spread([rate for rate, _ in measured[1:]]),
                        "CPU µs a request": spread([cpu for _, cpu in measured[1:]]),
                        "ratio to by hand": spread([rate / other[0] for (rate, _), other in pairs]),
                    }
                )
    return rows


def main() -> None:
    options = parser(__doc__ or "", rounds=60).parse_args()
    with running_server() as server:
        rows = asyncio.run(compare(server.url, options.rounds))
    show("requests", rows, as_json=options.json)


if __name__ == "__main__":
    main()
