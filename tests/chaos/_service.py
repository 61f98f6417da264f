"""A service with outages or a rate limit, which records when requests arrive."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Self

import attrs

from tests.chaos._hostile import FAULTS, Exchange, Fault, HostileServer

__all__ = ["OUTAGES", "Arrival", "Bucket", "Service", "failing", "most_in_a_second"]

# The faults of an unavailable service.
OUTAGES: Final = (
    *("status_503", "rate_limit_nonsense", "reset_at_once"),
    *("html", "never_respond", "refuse"),
)


@attrs.frozen
class Arrival:
    """A request: its time, its job, and whether it got a good response."""

    at: float
    job_id: str
    is_good: bool


class Bucket:
    """A token bucket: a rate of requests a second, and a burst."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._tokens = burst
        self._filled_at = -math.inf

    def take(self, now: float) -> bool:
        """Whether a request may pass."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Service(HostileServer):
    """A server whose jobs all have the same status.

    Attributes:
        status: The status.
        fault: The current fault, of the jobs in `broken_jobs` or, if there are none, of all jobs.
        broken_jobs: The jobs that `fault` affects.
        limit: The rate limit.
        arrivals: The requests received, including refused connections.
    """

    def __init__(self, status: str = "running", *, client_timeout: float = 1.0) -> None:
        super().__init__(lambda _: self.status, self._choose_fault, client_timeout=client_timeout)
        self.keeps_requests = False
        self.status = status
        self.fault: Fault | None = None
        self.broken_jobs: set[str] = set()
        self.limit: Bucket | None = None
        self.refusal = failing("429 with Retry-After", status=429, retry_after=1)
        self.arrivals: list[Arrival] = []

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        loop = asyncio.get_running_loop()
        self._connect = loop.sock_connect
        loop.sock_connect = self._note_connection
        return self

    async def __aexit__(self, *args: object) -> None:
        asyncio.get_running_loop().sock_connect = self._connect
        await super().__aexit__(*args)

    @asynccontextmanager
    async def outage(self, name: str):
        """Be unavailable within the block."""
        if name == "refuse":
            self._stop_listening()
            for connection in tuple(self.connections):
                connection.writer.transport.abort()
            yield
            self._listen()
            return
        self.fault = FAULTS[name]
        yield
        self.fault = None

    def since(self, begin: float, end: float = math.inf) -> list[Arrival]:
        """The requests between two times."""
        return [each for each in self.arrivals if begin <= each.at < end]

    async def _note_connection(self, sock, address) -> None:
        # A refused connection is counted nowhere else.
        if self._listener is None:
            self._note("", is_good=False)
        await self._connect(sock, address)

    def _choose_fault(self, job_id: str) -> Fault | None:
        fault = self.fault
        if self.broken_jobs and job_id not in self.broken_jobs:
            fault = None
        if self.limit is not None and not self.limit.take(asyncio.get_running_loop().time()):
            fault = self.refusal
        self._note(job_id, is_good=fault is None)
        return fault

    def _note(self, job_id: str, *, is_good: bool) -> None:
        self.arrivals.append(Arrival(asyncio.get_running_loop().time(), job_id, is_good))


def failing(
    name: str,
    *,
    status: int,
    body: bytes = b'{"detail": "not now"}',
    retry_after: float | None = None,
) -> Fault:
    """A fault that is not in the table, since its promise depends on more than the fault."""
    headers = [] if retry_after is None else [f"Retry-After: {retry_after:g}"]

    async def inject(x: Exchange) -> None:
        x.send(body, *headers, status=status)

    return attrs.evolve(FAULTS["status_503"], name=name, inject=inject, status_code=status)


def most_in_a_second(arrivals: Iterable[Arrival]) -> int:
    """The largest number of requests within any second."""
    times: Sequence[float] = sorted(each.at for each in arrivals)
    most = first = 0
    for number, at in enumerate(times):
        while at - times[first] >= 1:
            first += 1
        most = max(most, number - first + 1)
    return most
