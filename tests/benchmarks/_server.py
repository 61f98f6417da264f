"""The server of the benchmarks, in a process of its own, so that it is not measured.

Run as a program it prints its port, and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlencode, urlsplit

JOB = {
    "model": "llama-3.1-8b",
    "system_prompt": "You are a helpful assistant.",
    "job_priority": 1,
    "datetime_created": "2024-01-15T10:30:00Z",
    "datetime_started": "2024-01-15T10:30:15Z",
    "datetime_completed": None,
    "json_schema": None,
    "sampling_params": {"temperature": 0.7, "top_p": 0.95, "max_tokens": 2048},
    "name": "Customer Support Batch",
    "description": "Processing customer inquiries",
    "dataset_id": "dataset-12345",
    "input_tokens": 15420,
    "output_tokens": 8230,
    "job_cost": 0.0234,
    "num_rows": 50,
    "failure_reason": None,
    "cost_estimate": 0.025,
}


class Service(asyncio.Protocol):
    """As little of a server as will do.

    The id of a job says when it succeeds: `NAME@MONOTONIC` at that time, `NAME~POLLS` at the
    poll with that number, and any other never. The list has the jobs that were added to it.
    """

    requests = 0
    pages = 0
    page_bytes = 0
    job_ids: ClassVar[list[str]] = []
    list_lag = 0.0
    refuses_list = False
    entry = ""
    connections = 0
    polls: ClassVar[Counter[str]] = Counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Service.connections += 1
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            path = self.received.split(b" ", 2)[1].decode()
            self.received = self.received[end + 4 :]
            status = b"200 OK"
            if "/list-jobs" not in path:
                body = json.dumps(self.answer(path)).encode()
            elif Service.refuses_list:
                Service.requests += 1
                status, body = b"403 Forbidden", b"{}"
            else:
                body = self.page(path)
            self.transport.write(
                b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (status, len(body), body)
            )

    def answer(self, path: str) -> dict[str, Any]:
        if path == "/statistics":
            Service.connections -= 1
            large = [polls for job, polls in Service.polls.items() if job.startswith("large")]
            return {
                "requests": Service.requests,
                "connections": Service.connections,
                "pages": Service.pages,
                "page_bytes": Service.page_bytes,
                "large_jobs": len(large),
                "least_polls_of_a_large_job": min(large, default=0),
                "most_polls_of_a_large_job": max(large, default=0),
            }
        if path.startswith("/list?"):
            return self.fill(parse_qs(urlsplit(path).query))
        Service.requests += 1
        job_id = path.rpartition("/")[2].replace("%40", "@").replace("%7E", "~")
        status = "SUCCEEDED" if self.has_succeeded(job_id) else "RUNNING"
        if "/jobs/" in path:
            return {"job": {**JOB, "job_id": job_id, "status": status}}
        return {
            "message": f"Job status with job_id {job_id} retrieved.",
            "job_status": {job_id: status},
            "metadata": None,
        }

    def fill(self, query: dict[str, list[str]]) -> dict[str, Any]:
        [jobs], [first], [last], [lag] = (query[name] for name in ("jobs", "first", "last", "lag"))
        began, ends = time.monotonic(), random.Random(jobs)
        Service.job_ids = [
            f"job-{number}@{began + ends.uniform(float(first), float(last)):.6f}"
            for number in range(int(jobs))
        ]
        Service.list_lag = float(lag)
        Service.refuses_list = query["refused"] == ["True"]
        Service.entry = json.dumps({**JOB, "system_prompt": "x" * int(query["prompt"][0])})[:-1]
        return {"job_ids": Service.job_ids}

    def page(self, path: str) -> bytes:
        query = parse_qs(urlsplit(path).query)
        begin, limit = int(query.get("cursor", ["0"])[0]), int(query["limit"][0])
        end = begin + limit
        entries = ", ".join(
            f'{Service.entry}, "job_id": "{job_id}", "status":'
            f' "{"SUCCEEDED" if self.has_succeeded(job_id, Service.list_lag) else "RUNNING"}"}}'
            for job_id in Service.job_ids[begin:end]
        )
        cursor = f'"{end}"' if end < len(Service.job_ids) else "null"
        body = f'{{"jobs": [{entries}], "next_cursor": {cursor}}}'.encode()
        Service.requests += 1
        Service.pages += 1
        Service.page_bytes += len(body)
        return body

    def has_succeeded(self, job_id: str, lag: float = 0.0) -> bool:
        if when := job_id.partition("@")[2]:
            return float(when) <= time.monotonic() - lag
        if polls := job_id.partition("~")[2]:
            Service.polls[job_id] += 1
            return Service.polls[job_id] >= int(polls)
        return False


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Service, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


class Running:
    """A running server: where it is, and what it has seen."""

    def __init__(self, url: str) -> None:
        self.url = url

    def statistics(self) -> dict[str, int]:
        """How many requests and connections there were, this one not included."""
        return statistics_of(self.url)


def statistics_of(url: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{url}/statistics") as response:
        counts: dict[str, int] = json.load(response)
    return counts


def fill_list(
    url: str,
    *,
    jobs: int,
    first: float,
    last: float,
    lag: float = 0.0,
    refused: bool = False,
    prompt: int = 100,
) -> list[str]:
    """Make jobs that finish at random between two times from now on, and list them.

    Args:
        url: Where the server is.
        jobs: How many.
        first: Seconds from now on.
        last: Seconds from now on.
        lag: Seconds by which the list lags behind.
        refused: Whether requests for the list are answered with 403.
        prompt: Bytes of the system prompt of each job.
    """
    query = urlencode(
        {
            "jobs": jobs,
            "first": first,
            "last": last,
            "lag": lag,
            "refused": refused,
            "prompt": prompt,
        }
    )
    with urllib.request.urlopen(f"{url}/list?{query}") as response:
        job_ids: list[str] = json.load(response)["job_ids"]
    return job_ids


@contextmanager
def running_server() -> Iterator[Running]:
    """Run the server."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Running(f"http://127.0.0.1:{process.stdout.readline().strip()}")
        finally:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(serve())
