"""Timeouts of waits expire on time, whatever the server does."""

import asyncio
import time
from contextlib import aclosing

import pytest

from sutro_async import JobMonitor, JobWaitTimeoutError, SutroClient
from tests.chaos._hostile import FAULTS, HostileServer
from tests.chaos.conftest import KEY, assert_no_leaks, make_client

# Seconds.
TIMEOUT = 0.3
TOLERANCE = 0.4  # for a machine that is busy
ACCURACY = 0.1  # beside a bare timer, which is late as well then


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
    await drain(client.watch_jobs(["job-1", "job-2"], timeout=TIMEOUT))


async def monitored_batch(client, monitor):
    await drain(monitor.watch_jobs(["job-1", "job-2"], timeout=TIMEOUT))


async def drain(stream):
    """Read all changes of a stream, and raise the error of the first job."""
    async with stream as outcomes:
        outcomes_by_job = {outcome.job_id: outcome async for outcome in outcomes}
    assert {type(outcome.error) for outcome in outcomes_by_job.values()} == {JobWaitTimeoutError}
    outcomes_by_job["job-1"].result()


async def monitored_wait(client, monitor):
    await monitor.wait("job-1", timeout=TIMEOUT)


async def monitored_watch(client, monitor):
    async with aclosing(monitor.watch("job-1", timeout=TIMEOUT)) as reports:
        async for _ in reports:
            pass


async def bare_timer():
    """Return when a timer of asyncio expires."""
    await asyncio.sleep(TIMEOUT)
    return time.monotonic()


@pytest.mark.parametrize("fault", [None, "never_respond", "status_503", "html"])
@pytest.mark.parametrize(
    "run_wait",
    [
        *(wait, watch, batch, streamed_batch, watched_batch),
        *(monitored_wait, monitored_watch, monitored_batch),
    ],
)
async def test_timeout_expires_on_time(run_wait, fault):
    async with assert_no_leaks():
        server = HostileServer(lambda _: "running", lambda _: FAULTS.get(fault))
        async with server, make_client(server) as client, JobMonitor(client) as monitor:
            began = time.monotonic()
            bare = asyncio.create_task(bare_timer())
            with pytest.raises(JobWaitTimeoutError) as caught:
                await run_wait(client, monitor)
            elapsed = time.monotonic() - began
            latest = await bare - began + ACCURACY
    assert TIMEOUT <= elapsed < latest
    assert TIMEOUT <= caught.value.elapsed < latest


async def collect(client):
    return (await client.wait_for_jobs(MANY, timeout=TIMEOUT)).values()


async def stream(client):
    async with client.as_completed(MANY, timeout=TIMEOUT) as outcomes:
        return [outcome async for outcome in outcomes]


async def stream_changes(client):
    async with client.watch_jobs(MANY, timeout=TIMEOUT) as outcomes:
        return [outcome async for outcome in outcomes]


@pytest.mark.parametrize("read", [collect, stream, stream_changes])
async def test_batch_timeout_expires_for_all_jobs_together_on_busy_loop(read):
    """The responses arrive as the timeout expires, with terminal statuses."""
    began_at = time.monotonic()

    def status_of(_):
        time.sleep(max(0, began_at + TIMEOUT + 0.2 - time.monotonic()))
        return "succeeded"

    async with assert_no_leaks():
        server = HostileServer(status_of)
        async with server, make_client(server, max_concurrency=len(MANY)) as client:
            began_at = time.monotonic()
            outcomes = await read(client)
    assert [outcome.job_id for outcome in outcomes] == MANY
    assert {type(outcome.error) for outcome in outcomes} == {JobWaitTimeoutError}
    assert len({outcome.error.elapsed for outcome in outcomes}) == 1


async def test_slow_dns_lookup_does_not_delay_timeout(monkeypatch):
    lookup_started = asyncio.Event()

    async def look_up(*_, **__):
        lookup_started.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    async with assert_no_leaks():
        async with SutroClient(KEY, base_url="https://sutro.test") as client:
            began = time.monotonic()
            with pytest.raises(JobWaitTimeoutError):
                await client.wait_for_job("job-1", timeout=TIMEOUT)
            assert time.monotonic() - began < TIMEOUT + TOLERANCE
            assert lookup_started.is_set()
