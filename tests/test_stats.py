"""`client.stats()`, before, during and after calls, waits and outages."""

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from sutro_async import (
    APITimeoutError,
    JobMonitor,
    JobNotFoundError,
    PollPolicy,
    RateLimitError,
    RetryPolicy,
    ServerError,
    SutroClient,
)
from sutro_async.events import ClientStats
from tests.conftest import FAST_POLL, FAST_RETRY

ONCE = RetryPolicy(attempts=1)
NOTHING = ClientStats(
    in_flight=0,
    queued=0,
    waiting=0,
    pause_reason=None,
    paused_since=None,
    paused_until=None,
    last_response_at=None,
    last_failure=None,
    last_failure_at=None,
    unresponsive_since=None,
    unresponsive_seconds=0.0,
)

on_the_fast_clock = pytest.mark.usefixtures("fast_clock")


def now(seconds=0.0):
    """The time, plus some seconds, within a second."""
    return pytest.approx(datetime.now(UTC) + timedelta(seconds=seconds), abs=timedelta(seconds=1))


def test_stats_before_first_use_without_event_loop():
    assert SutroClient("key").stats() == NOTHING


async def test_stats_are_kept_after_close(fake):
    fake.add_job("job-1")
    client = fake.client(retry=ONCE)
    await client.get_job_status("job-1")
    fake.fail_next(status=503, headers={"Retry-After": "30"})
    with pytest.raises(ServerError):
        await client.get_job_status("job-1")
    assert client.stats().pause_reason == "retry_after"
    await client.aclose()
    stats = client.stats()
    assert stats.last_response_at == now()
    assert stats.last_failure_at == now()
    assert isinstance(stats.last_failure, ServerError)
    assert stats.pause_reason is stats.paused_since is stats.paused_until is None
    assert stats.unresponsive_since is None
    assert stats.unresponsive_seconds == 0


@on_the_fast_clock
async def test_requests_in_flight_and_in_queue_are_counted(fake):
    fake.add_job("job-1")
    fake.fail_next(5, delay=2, status=404)
    async with fake.client(max_concurrency=2, retry=ONCE) as client:
        calls = [asyncio.create_task(client.get_job("job-1")) for _ in range(5)]
        await asyncio.sleep(1)
        stats = client.with_options(timeout=1).stats()
        assert (stats.in_flight, stats.queued, stats.waiting) == (2, 3, 0)
        await asyncio.gather(*calls, return_exceptions=True)
        stats = client.stats()
        assert (stats.in_flight, stats.queued) == (0, 0)


@on_the_fast_clock
async def test_jobs_that_are_waited_for_are_counted(fake):
    for number in range(8):
        fake.add_job(f"job-{number}", [("running", 5), "succeeded"])
    poll = PollPolicy(initial=0.5, maximum=0.5)
    async with fake.client(poll=poll) as client, JobMonitor(client) as monitor:
        waits = [
            asyncio.create_task(client.wait_for_job("job-0")),
            asyncio.create_task(client.wait_for_jobs([f"job-{number}" for number in range(5)])),
            asyncio.create_task(monitor.wait("job-6")),
            asyncio.create_task(monitor.wait("job-6")),
        ]
        await asyncio.sleep(1)
        assert client.stats().waiting == 7
        waits[0].cancel()
        await asyncio.wait(waits[:1])
        assert client.stats().waiting == 6
        await asyncio.wait(waits)
        assert client.stats().waiting == 0


async def test_closed_client_waits_for_no_job(fake):
    fake.add_job("job-1", ["running"])
    async with fake.client() as client:
        stream = client.watch_job("job-1")
        await anext(stream)
        assert client.stats().waiting == 1
    assert client.stats().waiting == 0
    await stream.aclose()


async def test_pause_has_end_time(fake):
    fake.add_job("job-1")
    fake.fail_next(status=429, headers={"Retry-After": "30"})
    async with fake.client(retry=ONCE) as client:
        with pytest.raises(RateLimitError):
            await client.get_job_status("job-1")
        stats = client.stats()
        assert stats.pause_reason == "retry_after"
        assert stats.paused_since == now()
        assert stats.paused_until == now(30)


@on_the_fast_clock
async def test_past_pause_is_none(fake):
    fake.add_job("job-1")
    fake.fail_next(status=429, headers={"Retry-After": "2"})
    async with fake.client(retry=ONCE) as client:
        with pytest.raises(RateLimitError):
            await client.get_job_status("job-1")
        await asyncio.sleep(3)
        stats = client.stats()
    assert stats.pause_reason is stats.paused_since is stats.paused_until is None


async def test_very_long_pause_ends_at_maximum_datetime(fake):
    fake.add_job("job-1")
    fake.fail_next(status=429, headers={"Retry-After": "1" + 12 * "0"})
    retry = RetryPolicy(attempts=1, max_retry_after=float("inf"))
    async with fake.client(retry=retry) as client:
        with pytest.raises(RateLimitError):
            await client.get_job_status("job-1")
        assert client.stats().paused_until == datetime.max.replace(tzinfo=UTC)


@on_the_fast_clock
async def test_outage_is_pause_without_end_time(fake):
    job_ids = [f"job-{number}" for number in range(6)]
    for job_id in job_ids:
        fake.add_job(job_id, ["running", "succeeded"])
    fake.fail_next(1000, status=500)
    async with fake.client(poll=FAST_POLL) as client:
        waits = asyncio.create_task(client.wait_for_jobs(job_ids))
        while client.stats().pause_reason is None:
            await asyncio.sleep(0.01)
        stats = client.stats()
        assert stats.pause_reason == "outage"
        assert stats.paused_since == now()
        assert stats.paused_until is None
        assert stats.unresponsive_since <= stats.paused_since
        fake.clear_faults()
        await waits
        stats = client.stats()
        assert stats.pause_reason is None
        assert stats.unresponsive_since is None
        assert isinstance(stats.last_failure, ServerError)
        assert stats.last_response_at >= stats.last_failure_at


@on_the_fast_clock
async def test_in_outage_seconds_count_from_last_good_response(fake):
    job_ids = [f"job-{number}" for number in range(6)]
    for job_id in job_ids:
        fake.add_job(job_id, ["running", "succeeded"])
    poll = PollPolicy(initial=15, maximum=15, jitter=0)
    async with fake.client(poll=poll) as client:
        waits = asyncio.create_task(client.wait_for_jobs(job_ids))
        await asyncio.sleep(1)
        fake.fail_next(1000, status=503)
        await asyncio.sleep(13)
        assert client.stats().unresponsive_seconds == 0
        await asyncio.sleep(2)
        stats = client.stats()
        assert stats.unresponsive_seconds == pytest.approx(16, abs=0.2)
        assert stats.unresponsive_since == now(-1)
        fake.clear_faults()
        await waits
        assert client.stats().unresponsive_seconds == 0


@on_the_fast_clock
async def test_consecutive_failures_without_response_are_counted(fake):
    fake.add_job("job-1")
    fake.fail_next(3, status=500)
    async with fake.client(retry=ONCE) as client:
        for number in range(3):
            with pytest.raises(ServerError):
                await client.get_job_status("job-1")
            stats = client.stats()
            assert stats.unresponsive_seconds == pytest.approx(5 * number, abs=0.2)
            await asyncio.sleep(5)
        stats = client.stats()
        assert stats.unresponsive_seconds == pytest.approx(15, abs=0.2)
        assert stats.unresponsive_since == now(-15)
        assert stats.last_response_at is None
        await client.get_job_status("job-1")
        stats = client.stats()
        assert stats.unresponsive_seconds == 0
        assert stats.last_response_at == now()
        await asyncio.sleep(100)
        assert client.stats().unresponsive_seconds == 0


@on_the_fast_clock
async def test_error_status_is_a_response(fake):
    fake.add_job("job-1")
    fake.fail_next(status=500)
    async with fake.client(retry=ONCE) as client:
        with pytest.raises(ServerError):
            await client.get_job_status("job-1")
        with pytest.raises(JobNotFoundError):
            await client.get_job_status("nope")
        stats = client.stats()
        assert stats.unresponsive_since is None
        assert isinstance(stats.last_failure, ServerError)


@on_the_fast_clock
async def test_request_in_flight_counts_until_another_response(fake):
    for job_id in ("slow", "quick"):
        fake.add_job(job_id)
    fake.fail_next(2, delay=100, status=500, job_id="slow")
    async with fake.client(timeout=30, retry=ONCE) as client:
        slow = asyncio.create_task(client.get_job_status("slow"))
        await asyncio.sleep(12)
        assert client.stats().unresponsive_seconds == pytest.approx(12, abs=0.2)
        await client.get_job_status("quick")
        await asyncio.sleep(3)
        # Counted from the latest response of the service.
        assert client.stats().unresponsive_seconds == pytest.approx(3, abs=0.2)
        with pytest.raises(JobNotFoundError):
            await client.get_job_status("nope")
        assert client.stats().unresponsive_seconds == pytest.approx(0, abs=0.2)
        with pytest.raises(APITimeoutError):
            await slow
        assert client.stats().unresponsive_seconds == pytest.approx(15, abs=0.5)


@on_the_fast_clock
async def test_cancelled_requests_do_not_count(fake):
    fake.add_job("job-1")
    fake.fail_next(3, delay=100, status=500)
    async with fake.client(timeout=200, retry=ONCE) as client:
        calls = [asyncio.create_task(client.get_job_status("job-1")) for _ in range(2)]
        await asyncio.sleep(5)
        calls[0].cancel()
        await asyncio.wait(calls[:1])
        assert client.stats().unresponsive_seconds == pytest.approx(5, abs=0.2)
        calls[1].cancel()
        await asyncio.wait(calls)
        assert client.stats().unresponsive_since is None


@on_the_fast_clock
async def test_cancelled_request_does_not_change_last_failure(fake):
    fake.add_job("job-1")
    fake.fail_next(status=500)
    fake.fail_next(delay=100, status=500)
    async with fake.client(timeout=200, retry=ONCE) as client:
        with pytest.raises(ServerError):
            await client.get_job_status("job-1")
        call = asyncio.create_task(client.get_job_status("job-1"))
        await asyncio.sleep(5)
        call.cancel()
        await asyncio.wait({call})
        assert client.stats().unresponsive_seconds == pytest.approx(5, abs=0.2)


@on_the_fast_clock
async def test_failure_before_last_response_is_not_current_one(fake):
    fake.add_job("job-1")
    fake.fail_next(status=500)
    async with fake.client(timeout=200, retry=ONCE) as client:
        assert client.stats().current_failure is None
        with pytest.raises(ServerError):
            await client.get_job_status("job-1")
        assert isinstance(client.stats().current_failure, ServerError)
        await client.get_job_status("job-1")
        assert client.stats().current_failure is None
        fake.fail_next(delay=100, status=500)
        call = asyncio.create_task(client.get_job_status("job-1"))
        await asyncio.sleep(50)
        assert client.stats().unresponsive_seconds == pytest.approx(50, abs=0.5)
        assert client.stats().current_failure is None
        await asyncio.wait({call})
        assert isinstance(client.stats().current_failure, ServerError)


async def test_last_failure_holds_no_frames(fake):
    fake.add_job("job-1")
    fake.fail_next(disconnect=True)
    async with fake.client(retry=ONCE) as client:
        with pytest.raises(ConnectionError) as raised:
            await client.get_job_status("job-1")
        kept = client.stats().last_failure
    assert kept is not raised.value
    assert str(kept) == str(raised.value)
    assert kept.__traceback__ is kept.__cause__ is None
    assert raised.value.__cause__ is not None


async def test_stats_can_be_called_from_another_thread(fake):
    fake.add_job("job-1")
    seen = []
    async with fake.client(retry=FAST_RETRY) as client:
        await client.get_job_status("job-1")
        thread = threading.Thread(target=lambda: seen.append(client.stats()))
        thread.start()
        await asyncio.to_thread(thread.join)
    assert seen[0].last_response_at == now()


async def test_stats_are_cheap_for_many_waits(fake):
    async with fake.client(poll=FAST_POLL) as client:
        fake.fail_next(10_000, status=429, headers={"Retry-After": "30"})
        waits = asyncio.create_task(client.wait_for_jobs([f"job-{n}" for n in range(10_000)]))
        await asyncio.sleep(0.3)
        assert client.stats().waiting == 10_000
        began_at = time.process_time()
        for _ in range(1000):
            client.stats()
        assert time.process_time() - began_at < 0.1
        waits.cancel()
        await asyncio.wait({waits})
        assert client.stats().waiting == 0


@on_the_fast_clock
@pytest.mark.parametrize(
    ("hanging", "is_outage"), [(["b"], False), (["a", "b", "c"], True)], ids=["one", "all"]
)
async def test_hanging_requests_of_one_job_are_not_an_outage(fake, hanging, is_outage):
    for job_id in "abc":
        fake.add_job(job_id, [("running", 1000), "succeeded"])
    async with fake.client() as client, JobMonitor(client) as monitor:
        watching = asyncio.create_task(collect(monitor.watch_jobs(["a", "b", "c"])))
        await asyncio.sleep(60)  # until the interval is 15 s
        for job_id in hanging:
            fake.fail_next(100, delay=200, status=500, job_id=job_id)
        unresponsive = []
        for _ in range(100):
            await asyncio.sleep(1)
            unresponsive.append(client.stats().unresponsive_seconds)
        watching.cancel()
        await asyncio.wait([watching])
    assert (max(unresponsive) >= 10) is is_outage


async def collect(stream):
    return [each async for each in stream]
