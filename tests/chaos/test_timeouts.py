"""Time-outs of waits strike on time, while the server does nothing to end anything."""

import asyncio
import time
from contextlib import aclosing

import pytest

from sutro_async import JobMonitor, JobWaitTimeoutError, SutroClient
from tests.chaos._hostile import FAULTS, HostileServer
from tests.chaos.conftest import KEY, make_client, nothing_left_behind

# Seconds; the second one is longer than any hiccup of a busy machine.
TIMEOUT = 0.3
TOLERANCE = 0.4


async def wait(client, monitor):
    await client.wait_for_job("job-1", timeout=TIMEOUT)


async def watch(client, monitor):
    async for _ in client.watch_job("job-1", timeout=TIMEOUT):
        pass


async def batch(client, monitor):
    outcomes = await client.wait_for_jobs(["job-1", "job-2"], timeout=TIMEOUT)
    assert len({outcome.error.elapsed for outcome in outcomes.values()}) == 1
    outcomes["job-1"].result()


async def streamed_batch(client, monitor):
    async with aclosing(client.as_completed(["job-1", "job-2"], timeout=TIMEOUT)) as outcomes:
        (await anext(outcomes)).result()


async def monitored_wait(client, monitor):
    await monitor.wait("job-1", timeout=TIMEOUT)


async def monitored_watch(client, monitor):
    async with aclosing(monitor.watch("job-1", timeout=TIMEOUT)) as reports:
        async for _ in reports:
            pass


@pytest.mark.parametrize("fault", [None, "never_answer", "status_503", "html"])
@pytest.mark.parametrize(
    "follow", [wait, watch, batch, streamed_batch, monitored_wait, monitored_watch]
)
async def test_a_time_out_strikes_on_time(follow, fault):
    async with nothing_left_behind():
        server = HostileServer(lambda _: "running", lambda _: FAULTS.get(fault))
        async with server, make_client(server) as client, JobMonitor(client) as monitor:
            began = time.monotonic()
            with pytest.raises(JobWaitTimeoutError) as caught:
                await follow(client, monitor)
            elapsed = time.monotonic() - began
    assert TIMEOUT <= elapsed < TIMEOUT + TOLERANCE
    assert TIMEOUT <= caught.value.elapsed < TIMEOUT + TOLERANCE


async def test_a_name_that_is_long_looked_up_does_not_hold_up_a_time_out(monkeypatch):
    asked = asyncio.Event()

    async def look_up(*_, **__):
        asked.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    async with nothing_left_behind():
        async with SutroClient(KEY, base_url="https://sutro.test") as client:
            began = time.monotonic()
            with pytest.raises(JobWaitTimeoutError):
                await client.wait_for_job("job-1", timeout=TIMEOUT)
            assert time.monotonic() - began < TIMEOUT + TOLERANCE
            assert asked.is_set()
