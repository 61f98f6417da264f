"""Timeouts of waits expire on time, while the server does nothing to end anything."""

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


MANY = [f"job-{number}" for number in range(1, 21)]


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


async def watched_batch(client, monitor):
    await end_of(client.watch_jobs(["job-1", "job-2"], timeout=TIMEOUT))


async def monitored_batch(client, monitor):
    await end_of(monitor.watch_jobs(["job-1", "job-2"], timeout=TIMEOUT))


async def end_of(stream):
    """Read a stream of changes to its end, and raise the error of a job that has one."""
    async with stream as outcomes:
        ends = {outcome.job_id: outcome async for outcome in outcomes}
    assert {type(outcome.error) for outcome in ends.values()} == {JobWaitTimeoutError}
    ends["job-1"].result()


async def monitored_wait(client, monitor):
    await monitor.wait("job-1", timeout=TIMEOUT)


async def monitored_watch(client, monitor):
    async with aclosing(monitor.watch("job-1", timeout=TIMEOUT)) as reports:
        async for _ in reports:
            pass


@pytest.mark.parametrize("fault", [None, "never_respond", "status_503", "html"])
@pytest.mark.parametrize(
    "follow",
    [
        *(wait, watch, batch, streamed_batch, watched_batch),
        *(monitored_wait, monitored_watch, monitored_batch),
    ],
)
async def test_timeout_expires_on_time(follow, fault):
    async with nothing_left_behind():
        server = HostileServer(lambda _: "running", lambda _: FAULTS.get(fault))
        async with server, make_client(server) as client, JobMonitor(client) as monitor:
            began = time.monotonic()
            with pytest.raises(JobWaitTimeoutError) as caught:
                await follow(client, monitor)
            elapsed = time.monotonic() - began
    assert TIMEOUT <= elapsed < TIMEOUT + TOLERANCE
    assert TIMEOUT <= caught.value.elapsed < TIMEOUT + TOLERANCE


async def collect(client):
    return (await client.wait_for_jobs(MANY, timeout=TIMEOUT)).values()


async def stream(client):
    async with client.as_completed(MANY, timeout=TIMEOUT) as outcomes:
        return [outcome async for outcome in outcomes]


async def stream_changes(client):
    async with client.watch_jobs(MANY, timeout=TIMEOUT) as outcomes:
        return [outcome async for outcome in outcomes]


@pytest.mark.parametrize("read", [collect, stream, stream_changes])
async def test_timeout_of_a_batch_expires_for_all_jobs_together_after_the_event_loop_was_busy(read):
    """The responses arrive together with the timeout, and say that the jobs have finished."""
    began_at = time.monotonic()

    def tell(_):
        time.sleep(max(0, began_at + TIMEOUT + 0.2 - time.monotonic()))
        return "succeeded"

    async with nothing_left_behind():
        server = HostileServer(tell)
        async with server, make_client(server, max_concurrency=len(MANY)) as client:
            began_at = time.monotonic()
            outcomes = await read(client)
    assert [outcome.job_id for outcome in outcomes] == MANY
    assert {type(outcome.error) for outcome in outcomes} == {JobWaitTimeoutError}
    assert len({outcome.error.elapsed for outcome in outcomes}) == 1


async def test_slow_name_lookup_does_not_delay_a_timeout(monkeypatch):
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
