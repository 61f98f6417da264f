"""A service with a rate limit: the client adapts to it, and no job is lost."""

import asyncio

import pytest

from sutro_async import PollPolicy, RetryPolicy, SutroClient
from sutro_async._http._outage_gate import OutageGate
from tests.chaos._service import Bucket, Service, most_in_a_second
from tests.chaos.conftest import assert_no_leaks
from tests.virtual_client import (
    FixedWindow,
    Flaky,
    TokenBucket,
    VirtualClient,
    check_that_client_adapts_to_limit,
)

pytestmark = pytest.mark.usefixtures("fast_clock")

KEY = "sk_very_secret_key"


def ids(count):
    return [f"job-{number}" for number in range(count)]


def now():
    return asyncio.get_running_loop().time()


def client_of(service, **options):
    """A client with default settings."""
    return SutroClient(KEY, base_url=service.url, **options)


async def poll_for(seconds, service, client, jobs):
    """Wait for jobs that do not finish, and return the requests that arrived."""
    began_at = now()
    task = asyncio.create_task(client.wait_for_jobs(ids(jobs)))
    await asyncio.sleep(seconds)
    assert not task.done()
    task.cancel()
    await asyncio.wait({task})
    return service.since(began_at)


def share_of_refusals(arrivals):
    return sum(not each.is_good for each in arrivals) / len(arrivals)


async def test_client_adapts_to_rate_limit_and_loses_no_job():
    rate = 10
    async with assert_no_leaks(), Service() as service:
        service.limit = Bucket(rate, burst=1)
        async with client_of(service, poll=PollPolicy(max_outage=30)) as client:
            began_at = now()
            task = asyncio.create_task(client.wait_for_jobs(ids(1000)))
            await asyncio.sleep(100)
            assert not task.done()
            task.cancel()
            await asyncio.wait({task})
    after_a_minute = service.since(began_at + 60, began_at + 100)
    assert share_of_refusals(after_a_minute) <= 0.05
    assert len(after_a_minute) >= 0.6 * rate * 40


async def test_finished_jobs_are_noticed_within_twice_the_minimum_time():
    rate, jobs = 60, 900
    async with assert_no_leaks(), Service("succeeded") as service:
        service.limit = Bucket(rate, burst=6)
        async with client_of(service) as client:
            began_at = now()
            outcomes = await client.wait_for_jobs(ids(jobs))
            elapsed = now() - began_at
    assert all(outcome.ok for outcome in outcomes.values())
    assert elapsed <= 2 * jobs / rate


@pytest.mark.parametrize("jobs", [20, 200])
async def test_unlimited_client_is_not_slowed(jobs):
    async with assert_no_leaks(), Service("succeeded") as service:
        async with client_of(service) as client:
            began_at = now()
            assert all(outcome.ok for outcome in (await client.wait_for_jobs(ids(jobs))).values())
            assert now() - began_at <= 1


async def test_client_follows_raised_limit():
    async with assert_no_leaks(), Service() as service:
        service.limit = Bucket(5, burst=1)
        async with client_of(service) as client:
            task = asyncio.create_task(client.wait_for_jobs(ids(300)))
            await asyncio.sleep(20)
            service.limit = None
            raised_at = now()
            await asyncio.sleep(60)
            task.cancel()
            await asyncio.wait({task})
    # Nearly as many as the default polling interval makes.
    assert len(service.since(raised_at + 50)) / 10 >= 0.8 * 300 / 15


async def test_requests_resume_gradually_after_pause():
    """One 429 pauses the client; the queued requests are not sent all at once."""
    async with assert_no_leaks(), Service() as service:
        async with client_of(service, poll=PollPolicy(initial=1, maximum=1)) as client:
            task = asyncio.create_task(client.wait_for_jobs(ids(60)))
            await asyncio.sleep(3)
            service.limit = Bucket(0, burst=0)
            await asyncio.sleep(0.5)
            service.limit = None
            paused_at = service.arrivals[-1].at
            await asyncio.sleep(5)
            task.cancel()
            await asyncio.wait({task})
    resumed = [each for each in service.since(paused_at) if each.is_good]
    assert resumed[0].at - paused_at >= 1
    assert most_in_a_second(resumed) <= 1.5 * 60


async def test_call_is_fast_while_polls_are_rate_limited():
    async with assert_no_leaks(), Service() as service:
        service.limit = Bucket(10, burst=1)
        async with client_of(service, retry=RetryPolicy(attempts=10)) as client:
            task = asyncio.create_task(client.wait_for_jobs(ids(500)))
            await asyncio.sleep(20)
            for number in range(5):
                began_at = now()
                await client.get_job_status(f"call-{number}")
                assert now() - began_at <= 3
            task.cancel()
            await asyncio.wait({task})


# ---- in virtual time, without a network


@pytest.mark.parametrize("retry_after", [1.0, None])
@pytest.mark.parametrize("limiter", [FixedWindow, TokenBucket])
@pytest.mark.parametrize("jobs", [100, 1000, 5000])
@pytest.mark.parametrize("limit", [5, 10, 50, 200])
async def test_client_adapts_to_limit(limit, jobs, limiter, retry_after):
    check_that_client_adapts_to_limit(limiter(limit), jobs, retry_after)


# With half of all requests failing, one wait in some hundred fails by chance for two minutes.
@pytest.mark.parametrize(("share", "max_outage"), [(0.2, 120), (0.5, 360)])
@pytest.mark.parametrize("seed", range(3))
async def test_random_failures_lose_no_wait(share, max_outage, seed):
    client = VirtualClient(
        Flaky(share, seed),
        100,
        retry_after=None,
        status_code=503,
        max_outage=max_outage,
        seed=seed,
    )
    client.run(until=900)
    assert not client.lost
    assert all(job.has_report for job in client.jobs)


@pytest.mark.parametrize("seed", range(1, 4))
def test_outage_gate_loses_no_waits_under_random_failures(seed, monkeypatch):
    """Of 100 waits a few fail by chance for `max_outage` seconds, with and without the gate."""

    def run():
        client = VirtualClient(
            Flaky(0.8, seed), 100, retry_after=None, status_code=503, max_outage=120, seed=seed
        )
        client.run(until=900)
        return client

    gated = run()
    monkeypatch.setattr(OutageGate, "note_failure", lambda *args, **kwargs: None)
    ungated = run()
    assert gated.closings
    assert not ungated.closings
    assert len(gated.lost) <= len(ungated.lost) + 5
