"""One logical GET: what is retried, how often and after how long."""

import asyncio
import logging

import aiohttp
import pytest

from sutro_async import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ClientStateError,
    InvalidResponseError,
    JobNotFoundError,
    RateLimitError,
    RetryPolicy,
    ServerError,
)
from sutro_async._http import Priority
from tests.conftest import FAST_RETRY, TIMER_RESOLUTION, assert_no_leaks

pytestmark = pytest.mark.usefixtures("fast_clock")

RETRYABLE = [408, 425, 429, 500, 502, 503, 504, 507, 519, *range(520, 532), 598, 599]
FINAL = [400, 401, 403, 404, 405, 409, 410, 422, 424, 426, 428, 501, 505]


@pytest.mark.parametrize("status", RETRYABLE)
async def test_transient_status_is_retried(fake, client, status):
    fake.add_job("job-1")
    fake.fail_next(2, status=status)
    assert (await client.get_job_status("job-1")).is_terminal
    assert len(fake.requests) == 3


@pytest.mark.parametrize("status", FINAL)
async def test_other_status_is_raised_at_once(fake, client, status):
    fake.fail_next(1, status=status)
    with pytest.raises(APIStatusError) as caught:
        await client.get_job_status("job-1")
    assert caught.value.status_code == status
    assert len(fake.requests) == 1


async def test_first_try_takes_no_tenacity(fake, client, monkeypatch):
    monkeypatch.delattr("tenacity.AsyncRetrying")
    fake.add_job("job-1")
    await client.get_job("job-1")
    with pytest.raises(JobNotFoundError):
        await client.get_job("missing")
    outcomes = await client.get_jobs(["job-1", "missing"])
    assert [outcome.ok for outcome in outcomes.values()] == [True, False]


@pytest.mark.parametrize("fault", ["truncate", "reset"])
async def test_broken_connection_is_retried(fake, client, fault):
    fake.add_job("job-1")
    fake.fail_next(2, **{fault: True})
    assert (await client.get_job("job-1")).is_terminal


async def test_timeout_is_retried(fake):
    fake.add_job("job-1")
    fake.fail_next(2, delay=60)
    async with fake.client(timeout=0.03, retry=FAST_RETRY) as client:
        assert (await client.get_job_status("job-1")).is_terminal
    assert len(fake.requests) == 3


async def test_malformed_body_is_not_retried(fake, client):
    fake.fail_next(1, body=b"<html>")
    with pytest.raises(InvalidResponseError):
        await client.get_job_status("job-1")
    assert len(fake.requests) == 1


async def test_missing_job_is_not_retried(fake, client):
    with pytest.raises(JobNotFoundError, match="No job found with ID job-9"):
        await client.get_job("job-9")
    assert len(fake.requests) == 1


@pytest.mark.parametrize("attempts", [1, 3])
async def test_last_error_is_raised_after_all_attempts(fake, attempts):
    for status in [*[500] * (attempts - 1), 503]:
        fake.fail_next(1, status=status)
    policy = RetryPolicy(attempts=attempts, initial=0.001)
    async with fake.client(retry=policy) as client:
        with pytest.raises(ServerError, match="503") as caught:
            await client.get_job_status("job-1")
    assert caught.value.status_code == 503
    assert len(fake.requests) == attempts


async def test_backoff_doubles_with_full_jitter_up_to_maximum(fake, monkeypatch):
    bounds = []

    def draw(lower, upper):
        assert lower == 0
        bounds.append(upper)
        return 0.0

    monkeypatch.setattr("random.uniform", draw)
    fake.fail_next(6, status=500)
    async with fake.client(retry=RetryPolicy(attempts=6, initial=0.5, maximum=3)) as client:
        with pytest.raises(ServerError):
            await client.get_job_status("job-1")
    assert bounds[:5] == [0.5, 1, 2, 3, 3]


async def test_backoff_is_slept(fake, monkeypatch):
    monkeypatch.setattr("random.uniform", lambda _, upper: upper)
    fake.fail_next(2, status=500)
    fake.add_job("job-1")
    async with fake.client(retry=RetryPolicy(initial=0.05)) as client:
        await client.get_job_status("job-1")
    first, second, third = (request.time for request in fake.requests)
    assert 0.05 - TIMER_RESOLUTION <= second - first < 0.1
    assert 0.1 - TIMER_RESOLUTION <= third - second < 0.15


async def test_retry_after_is_minimum_delay(fake):
    fake.add_job("job-1")
    # A 500 does not pause the client, so this is the delay of the retry.
    fake.fail_next(1, status=500, headers={"Retry-After": "0.1"})
    async with fake.client(retry=RetryPolicy(initial=0.001)) as client:
        await client.get_job_status("job-1")
    assert 0.1 - TIMER_RESOLUTION <= fake.requests[1].time - fake.requests[0].time < 0.2


async def test_retry_after_does_not_shorten_longer_backoff(fake, monkeypatch):
    monkeypatch.setattr("random.uniform", lambda _, upper: upper)
    fake.add_job("job-1")
    fake.fail_next(1, status=500, headers={"Retry-After": "0.01"})
    async with fake.client(retry=RetryPolicy(initial=0.1)) as client:
        await client.get_job_status("job-1")
    assert fake.requests[1].time - fake.requests[0].time >= 0.1 - TIMER_RESOLUTION


@pytest.mark.parametrize(("retry_after", "tries"), [("0.02", 2), ("0.03", 1)])
async def test_excessive_retry_after_is_raised_at_once(fake, retry_after, tries):
    fake.fail_next(2, status=429, headers={"Retry-After": retry_after})
    policy = RetryPolicy(attempts=2, initial=0.001, max_retry_after=0.02)
    async with fake.client(retry=policy) as client:
        with pytest.raises(RateLimitError) as caught:
            await client.get_job_status("job-1")
    assert caught.value.retry_after == float(retry_after)
    assert len(fake.requests) == tries


async def test_each_retry_is_logged_as_warning(fake, caplog):
    fake.add_job("job-1")
    fake.fail_next(1, status=502)
    async with fake.client(retry=RetryPolicy(initial=0.001)) as client:
        await client.get_job_status("job-1")
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert record.name == "sutro_async"
    assert record.message.startswith("job 'job-1': HTTP 502: ")
    assert record.message.endswith("; retrying in 0.00 s")


async def test_concurrent_calls_count_attempts_separately(fake, client):
    for number in range(30):
        fake.add_job(f"job-{number}")
        for _ in range(number % 4):
            fake.fail_next(1, status=500, job_id=f"job-{number}")
    jobs = await asyncio.gather(*(client.get_job(f"job-{number}") for number in range(30)))
    assert [job.job_id for job in jobs] == [f"job-{number}" for number in range(30)]
    requested = [request.path.rpartition("/")[2] for request in fake.requests]
    assert all(requested.count(f"job-{number}") == 1 + number % 4 for number in range(30))


@pytest.mark.parametrize("moment", ["in flight", "in back-off", "queued"])
async def test_cancellation_leaks_nothing(fake, moment):
    fake.add_job("job-1")
    options = {"max_concurrency": 1, "retry": RetryPolicy(initial=60, maximum=60)}
    async with fake.client(**options) as client:
        if moment == "in flight":
            fake.fail_next(1, delay=60)
        elif moment == "in back-off":
            fake.fail_next(1, status=500, headers={"Retry-After": "30"})
        else:
            await client._manager.throttle.acquire(Priority.CALL)
        async with assert_no_leaks(client, fake):
            task = asyncio.create_task(client.get_job_status("job-1"))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert client._manager.throttle.in_flight == (1 if moment == "queued" else 0)


@pytest.mark.parametrize("moment", ["in flight", "in back-off", "queued"])
async def test_closing_client_ends_call(fake, moment):
    client = fake.client(max_concurrency=1, retry=RetryPolicy(initial=60, maximum=60))
    if moment == "in flight":
        fake.fail_next(1, delay=60)
    elif moment == "in back-off":
        fake.fail_next(1, status=500, headers={"Retry-After": "30"})
    else:
        await client._manager.throttle.acquire(Priority.CALL)
    async with assert_no_leaks(client, fake):
        task = asyncio.create_task(client.get_job_status("job-1"))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(1):
            await client.aclose()
        with pytest.raises(ClientStateError):
            await task


async def test_error_of_call_that_closes_client_is_kept(fake):
    async def close_after(request, handler):
        response = await handler(request)
        await client.aclose()
        return response

    async with aiohttp.ClientSession(middlewares=[close_after]) as session:
        client = fake.client(session=session)
        with pytest.raises(JobNotFoundError):
            await client.get_job("missing")


async def test_cause_of_error_is_kept_through_retries(fake):
    fake.fail_next(9, delay=60)
    async with fake.client(timeout=0.02, retry=RetryPolicy(attempts=2, initial=0.001)) as client:
        with pytest.raises(APITimeoutError) as caught:
            await client.get_job_status("job-1")
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert isinstance(caught.value, APIConnectionError)
