"""The time limits of a wait: time in the client's own queues does not count."""

import asyncio
import contextlib
import itertools
import json
import math

import attrs
import pytest

from sutro_async import (
    JobMonitor,
    JobWaitTimeoutError,
    PollPolicy,
    RateLimitError,
    RetryPolicy,
)
from tests.cases import in_turn
from tests.conftest import FAST_POLL, now

pytestmark = pytest.mark.usefixtures("fast_clock")

IDS = [f"job-{number}" for number in range(10)]
FAILING = IDS[::3]  # so few that the service does not look unavailable

# Seconds. Each limit would be exceeded before a request has left the queue.
LIMIT = 0.3
QUEUE = 0.6


async def single_waits(client, ids, **options):
    waits = (client.wait_for_job(job_id, **options) for job_id in ids)
    return await asyncio.gather(*waits, return_exceptions=True)


async def wait_for_jobs(client, ids, **options):
    outcomes = await client.wait_for_jobs(ids, **options)
    return [outcome.value or outcome.error for outcome in outcomes.values()]


async def monitored(client, ids, **options):
    async with JobMonitor(client) as monitor:
        waits = (monitor.wait(job_id, **options) for job_id in ids)
        return await asyncio.gather(*waits, return_exceptions=True)


WAITS = {each.__name__: each for each in (single_waits, wait_for_jobs, monitored)}
every_wait = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
QUEUES = {queue: queue for queue in ("slots", "rate", "pause")}
every_queue = pytest.mark.parametrize("queue", QUEUES)
# How long failures with a status may last.
LIMITS = {"max_outage": ("max_outage", 502), "not_found_grace": ("not_found_grace", 404)}


@contextlib.asynccontextmanager
async def queueing_client(fake, queue, **options):
    """A client whose queue delays ten requests by `QUEUE` seconds; a pause starts later."""
    if queue == "slots":
        options["max_concurrency"] = 1
    elif queue == "rate":
        options["max_rate"] = len(IDS) / QUEUE
    options = {"poll": FAST_POLL, "retry": RetryPolicy(attempts=1), **options}
    async with fake.client(**options) as client:
        yield client


def slow_down_for_slots(fake, queue):
    """Delay each response if requests queue for slots; after all other faults."""
    if queue == "slots":
        fake.fail_next(1000, delay=QUEUE / len(IDS))


async def run(wait, fake, client, queue, **options):
    """Wait for the ten jobs; return their reports or errors."""
    task = asyncio.create_task(wait(client, IDS, **options))
    if queue == "pause":
        while len(fake.requests) < len(IDS):
            await asyncio.sleep(0.001)
        # Before the next polls, which follow after a back-off.
        fake.fail_next(1, job_id="other", status=429, headers={"Retry-After": str(QUEUE)})
        with pytest.raises(RateLimitError):
            await client.get_job_status("other")
    async with asyncio.timeout(60):
        found = await task
    assert len(found) == len(IDS)
    return found


def requests_about(fake, job_id):
    """Return the times of the requests for a job."""
    return [each.time for each in fake.requests if each.path.endswith(f"/{job_id}")]


def longest_gap(fake, job_ids=IDS):
    """Return the longest time between two requests for the same job, in seconds."""
    times = [requests_about(fake, job_id) for job_id in job_ids]
    return max(later - earlier for each in times for earlier, later in itertools.pairwise(each))


@pytest.mark.parametrize(("queue", "wait", "limit"), in_turn(QUEUES, WAITS, LIMITS))
async def test_queue_time_does_not_count_towards_failure_limits(fake, wait, queue, limit):
    """A job fails twice, and queues in between for longer than failures may last."""
    limit, status = limit
    for job_id in IDS:
        fake.add_job(job_id, ["running"] * 4 + ["succeeded"])
    for job_id in FAILING:
        fake.fail_next(2, job_id=job_id, status=status, delay=QUEUE / len(IDS))
    slow_down_for_slots(fake, queue)
    poll = attrs.evolve(FAST_POLL, initial=0.04, maximum=0.04, **{limit: LIMIT})
    async with queueing_client(fake, queue, poll=poll) as client:
        found = await run(wait, fake, client, queue)
    assert [report.status for report in found] == ["succeeded"] * len(IDS)
    assert longest_gap(fake, FAILING) > 0.9 * LIMIT


@every_wait
async def test_held_back_time_does_not_count_towards_not_found_grace(fake, caplog, wait):
    """A job is not found, then the service is unavailable, and then it is not found once more."""
    for job_id in IDS:
        fake.add_job(job_id, ["running", "running", "succeeded"])
        fake.fail_next(1, job_id=job_id, status=404)
    poll = attrs.evolve(FAST_POLL, initial=0.04, maximum=0.04, not_found_grace=LIMIT, max_outage=60)
    async with fake.client(poll=poll) as client:
        task = asyncio.create_task(wait(client, IDS))
        while len(fake.requests) < len(IDS):
            await asyncio.sleep(0.001)
        fake.fail_next(1000, status=502)
        await asyncio.sleep(10 * LIMIT)
        assert "the service is unavailable, polls are held back" in caplog.text
        fake.clear_faults()
        for job_id in IDS:
            fake.fail_next(1, job_id=job_id, status=404)
        async with asyncio.timeout(60):
            found = await task
    assert [report.status for report in found] == ["succeeded"] * len(IDS)
    assert longest_gap(fake) > LIMIT


@pytest.mark.parametrize(("queue", "wait"), in_turn(QUEUES, WAITS))
async def test_queue_time_does_not_count_towards_request_timeout(fake, caplog, wait, queue):
    for job_id in IDS:
        fake.add_job(job_id, ["running", "running", "succeeded"])
    slow_down_for_slots(fake, queue)
    async with queueing_client(fake, queue, timeout=LIMIT) as client:
        found = await run(wait, fake, client, queue)
    assert [report.status for report in found] == ["succeeded"] * len(IDS)
    assert longest_gap(fake) > LIMIT
    assert not [each for each in caplog.messages if "no response" in each]


@pytest.mark.parametrize("call", ["get_jobs", "get_job_statuses"])
@every_queue
async def test_queue_time_does_not_count_towards_timeout_of_many_requests(fake, call, queue):
    for job_id in IDS:
        fake.add_job(job_id)
    slow_down_for_slots(fake, queue)
    began_at = now()
    async with queueing_client(fake, queue, timeout=LIMIT) as client:
        if queue == "pause":
            fake.fail_next(1, job_id="other", status=429, headers={"Retry-After": str(QUEUE)})
            with pytest.raises(RateLimitError):
                await client.get_job_status("other")
        outcomes = await getattr(client, call)(IDS)
    assert [outcome.ok for outcome in outcomes.values()] == [True] * len(IDS)
    assert now() - began_at > LIMIT


@pytest.mark.parametrize(("queue", "wait"), in_turn(QUEUES, WAITS))
async def test_queue_time_does_not_count_towards_record_timeout(fake, wait, queue, caplog):
    """All jobs fail at once, so that the requests for their records queue up."""
    for job_id in IDS:
        fake.add_job(job_id, ["running", "failed"], failure_reason="no GPU", status_reason=False)
    slow_down_for_slots(fake, queue)
    async with queueing_client(fake, queue, timeout=LIMIT) as client:
        found = await run(wait, fake, client, queue)
    assert [str(report.failure) for report in found] == ["no GPU"] * len(IDS)
    assert longest_gap(fake) > LIMIT


@pytest.mark.parametrize(("queue", "wait", "limit"), in_turn(QUEUES, WAITS, LIMITS))
async def test_wait_fails_only_after_second_failed_poll(fake, wait, queue, limit):
    limit, status = limit
    for job_id in IDS:
        fake.add_job(job_id, [("running", 3), "succeeded"])
    for job_id in FAILING:
        fake.fail_next(100, job_id=job_id, status=status, delay=QUEUE / len(IDS))
    slow_down_for_slots(fake, queue)
    poll = attrs.evolve(FAST_POLL, initial=0.04, maximum=0.04, **{limit: LIMIT / 10})
    async with queueing_client(fake, queue, poll=poll) as client:
        found = dict(zip(IDS, await run(wait, fake, client, queue), strict=True))
    for job_id in IDS:
        if job_id in FAILING:
            assert found[job_id].status_code == status
            assert len(requests_about(fake, job_id)) >= 2
        else:
            assert found[job_id].status == "succeeded"


@pytest.mark.parametrize(("queue", "wait"), in_turn(QUEUES, WAITS))
async def test_wait_timeout_includes_queue_time(fake, wait, queue):
    for job_id in IDS:
        fake.add_job(job_id, ["running"])
    slow_down_for_slots(fake, queue)
    began_at = now()
    async with queueing_client(fake, queue) as client:
        found = await run(wait, fake, client, queue, timeout=LIMIT)
    assert {type(error) for error in found} == {JobWaitTimeoutError}
    assert LIMIT <= now() - began_at < LIMIT + 0.1
    assert all(LIMIT <= error.elapsed < LIMIT + 0.1 for error in found)


# ---- Retry-After

# Excessive in every form; one that cannot be parsed is ignored.
ABSURD = {
    "a day": {"Retry-After": "86400"},
    "many digits": {"Retry-After": "9" * 30},
    "more digits than a float takes": {"Retry-After": "9" * 400},
    "a date in 7,000 years": {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"},
    "a date beyond the last": {"Retry-After": "Fri, 31 Dec 9999 23:59:60 GMT"},
    "a date in the year 10000": {"Retry-After": "Sat, 01 Jan 10000 00:00:00 GMT"},
    "a date west of all": {"Retry-After": "Fri, 31 Dec 9999 23:59:59 -2359"},
    "a date at which no zone is": {"Retry-After": "Fri, 31 Dec 2100 23:59:59 +9999"},
    "a date for a clock in the past": {
        "Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT",
        "Date": "Mon, 01 Jan 0001 00:00:00 GMT",
    },
    "negative": {"Retry-After": "-5"},
    "not a number": {"Retry-After": "nan"},
    "infinite": {"Retry-After": "inf"},
    "milliseconds": {"Retry-After-Ms": "86400000"},
}


ABSURD_SECONDS = {
    str(each)[:9]: each for each in (1e30, -5, math.nan, True, None, "soon", [86400], 10**400)
}


async def longest_pause(fake, wait, **fault):
    """The longest gap between two polls of a wait that gets excessive Retry-Afters, in seconds."""
    fake.add_job("job-0")
    fake.fail_next(3, **fault)
    poll = attrs.evolve(FAST_POLL, max_outage=math.inf)
    retry = RetryPolicy(attempts=1, max_retry_after=0.5)
    async with fake.client(poll=poll, retry=retry) as client:
        (report,) = await wait(client, ["job-0"])
    assert report.status == "succeeded"
    assert len(requests_about(fake, "job-0")) == 4
    return longest_gap(fake)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("headers", "wait"), in_turn(ABSURD, WAITS))
async def test_wait_polls_again_within_max_retry_after(fake, wait, status, headers):
    assert await longest_pause(fake, wait, status=status, headers=headers) < 0.6


@pytest.mark.parametrize(("seconds", "wait"), in_turn(ABSURD_SECONDS, WAITS))
async def test_wait_polls_again_within_max_retry_after_from_body(fake, wait, seconds):
    body = json.dumps({"detail": "slow down", "retry_after": seconds})
    assert await longest_pause(fake, wait, status=429, body=body) < 0.6


@pytest.mark.parametrize("headers", ABSURD.values(), ids=ABSURD)
async def test_call_does_not_wait_for_excessive_retry_after(fake, headers):
    fake.add_job("job-1")
    fake.fail_next(1, status=429, headers=headers)
    began_at = now()
    async with fake.client(retry=RetryPolicy(initial=0.01, maximum=0.01)) as client:
        with contextlib.suppress(RateLimitError):
            assert (await client.get_job_status("job-1")).is_terminal
    assert now() - began_at < 1


async def test_retry_after_up_to_interval_is_honoured(fake):
    """A policy with long intervals does not poll during the requested pause."""
    fake.add_job("job-1")
    fake.fail_next(1, status=503, headers={"Retry-After": "86400"})
    poll = PollPolicy(initial=600, maximum=600, max_outage=math.inf)
    async with fake.client(poll=poll) as client:
        await client.wait_for_job("job-1")
    first, second = requests_about(fake, "job-1")
    assert 590 < second - first < 601
