"""The server of the benchmarks, in a process of its own, so that it is not measured.

Run as a program it prints its port, serves until its standard input ends, and then prints what it
has seen as one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sutro_async.testing import FakeSutro

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
    """As little of a server as will do. The id of a job says when it ends: `NAME@MONOTONIC`."""

    requests = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            path = self.received.split(b" ", 2)[1].decode()
            self.received = self.received[end + 4 :]
            Service.requests += 1
            body = json.dumps(self.answer(path)).encode()
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )

    def answer(self, path: str) -> dict[str, Any]:
        job_id = path.rpartition("/")[2].replace("%40", "@")
        end = job_id.partition("@")[2]
        status = "SUCCEEDED" if end and float(end) <= time.monotonic() else "RUNNING"
        if "/jobs/" in path:
            return {"job": {**JOB, "job_id": job_id, "status": status}}
        return {
            "message": f"Job status with job_id {job_id} retrieved.",
            "job_status": {job_id: status},
            "metadata": None,
        }


async def serve(fake_jobs: int) -> None:
    loop = asyncio.get_running_loop()
    stop = loop.run_in_executor(None, sys.stdin.read)
    if fake_jobs:
        async with FakeSutro() as fake:
            for number in range(fake_jobs):
                fake.add_job(f"job-{number}", ["running", "running", "succeeded"])
            print(fake.url.rpartition(":")[2], flush=True)
            await stop
            statistics = {"requests": len(fake.requests), "max_in_flight": fake.max_in_flight}
    else:
        server = await loop.create_server(Service, "127.0.0.1", 0, backlog=4096)
        print(server.sockets[0].getsockname()[1], flush=True)
        await stop
        statistics = {"requests": Service.requests}
    print(json.dumps(statistics), flush=True)


class Running:
    """A running server: where it is, and once it has ended, what it has seen."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.statistics: dict[str, int] = {}


@contextmanager
def running_server(*, fake_jobs: int = 0) -> Iterator[Running]:
    """Run the server, with `fake_jobs` of them as a FakeSutro with so many jobs."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, "--fake-jobs", str(fake_jobs)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        server = Running(f"http://127.0.0.1:{process.stdout.readline().strip()}")
        try:
            yield server
        finally:
            process.stdin.close()
        server.statistics = json.loads(process.stdout.readline())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--fake-jobs", type=int, default=0)
    asyncio.run(serve(parser.parse_args().fake_jobs))
