"""An unavailable service gets no more requests than a healthy one, and no wait is lost."""

import asyncio
import itertools
import logging
from contextlib import asynccontextmanager

import attrs
import pytest

from sutro_async import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ClientStateError,
    InvalidResponseError,
    JobMonitor,
    JobWaitTimeoutError,
    PollPolicy,
    RateLimitError,
    RetryPolicy,
    ServerError,
    SutroError,
)
from tests.chaos._hostile import FAULTS
from tests.chaos._service import OUTAGES, Service, failing, most_in_a_second
from tests.chaos.conftest import assert_no_leaks, make_client

pytestmark = pytest.mark.usefixtures("fast_clock")

REQUEST_TIMEOUT = 1.0
POLL = PollPolicy(initial=1, maximum=1)
ERRORS = {
    "status_503": ServerError,
    "rate_limit_nonsense": RateLimitError,
    "reset_at_once": APIConnectionError,
    "html": InvalidResponseError,
    "never_respond": APITimeoutError,
    "refuse": APIConnectionError,
}
assert set(ERRORS) == set(OUTAGES)

# Seconds in which five requests fail, even if each of them times out.
CLOSING = 3.0
# Seconds; the accuracy of timeouts, compared with a timer of the same event loop.
TOLERANCE = 0.1

every_outage = pytest.mark.parametrize("form", OUTAGES)


def ids(count):
    return [f"job-{number}" for number in range(count)]


def now():
    return asyncio.get_running_loop().time()


async def spread(job_ids, seconds):
    """Yield ids over some time, so that the rate of polls is steady afterwards."""
    for job_id in job_ids:
        yield job_id
        await asyncio.sleep(seconds / len(job_ids))


async def collect(stream):
    return [outcome async for outcome in stream]


async def cancel_all(*tasks):
    """Cancel tasks that are still running, and wait until they have ended."""
    for task in tasks:
        assert not task.done()
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)


@asynccontextmanager
async def service_and_client(**options):
    options = {"poll": POLL, "timeout": REQUEST_TIMEOUT, "retry": RetryPolicy(), **options}
    async with assert_no_leaks(), Service() as service:
        async with make_client(service, **options) as client:
            yield service, client


@asynccontextmanager
async def closed_gate(form="status_503", **options):
    """An outage that lasts as long as the block, with the gate closed."""
    async with service_and_client(**options) as (service, client):
        others = asyncio.create_task(client.wait_for_jobs(f"other-{n}" for n in range(20)))
        await asyncio.sleep(1)
        async with service.outage(form):
            await asyncio.sleep(CLOSING)
            assert client._manager.throttle.service_is_unavailable
            yield service, client
        if client._manager.lifecycle.is_closed:
            assert isinstance(await result_of(others), ClientStateError)
        else:
            await cancel_all(others)


# ---- requests that the service receives


@every_outage
async def test_request_rate_during_and_after_outage(form):
    jobs = ids(30)
    healthy = len(jobs) / POLL.maximum
    async with service_and_client() as (service, client):
        task = asyncio.create_task(collect(client.as_completed(spread(jobs, POLL.maximum))))
        await asyncio.sleep(3)
        async with service.outage(form):
            began_at = now()
            await asyncio.sleep(8)
            service.max_in_flight = 0
            await asyncio.sleep(12)
            max_in_flight = service.max_in_flight
        ended_at = now()
        await asyncio.sleep(9)
        await cancel_all(task)
    assert most_in_a_second(service.since(began_at, ended_at)) <= 1.25 * healthy
    assert len(service.since(began_at + 8, ended_at)) <= 15
    assert max_in_flight <= 1
    recovery = service.since(ended_at)
    assert all(each.is_good for each in recovery)
    assert recovery[0].at - ended_at <= 6
    seen = {}
    for each in recovery:
        seen.setdefault(each.job_id, each.at - ended_at)
    assert set(seen) == set(jobs)
    assert max(seen.values()) <= 6 + 1.5 + POLL.maximum + 0.5
    assert most_in_a_second(recovery) <= 1.5 * healthy


async def test_reopening_causes_no_burst():
    poll = PollPolicy(initial=2, maximum=2)
    jobs = ids(150)
    async with service_and_client(poll=poll) as (service, client):
        task = asyncio.create_task(collect(client.as_completed(spread(jobs, poll.maximum))))
        await asyncio.sleep(poll.maximum)
        async with service.outage("status_503"):
            await asyncio.sleep(2 * poll.maximum)
        ended_at = now()
        await asyncio.sleep(8)
        await cancel_all(task)
    recovery = service.since(ended_at)
    assert {each.job_id for each in recovery} == set(jobs)
    assert most_in_a_second(recovery) <= 1.5 * len(jobs) / poll.maximum


async def test_few_waits_with_long_intervals_recover_soon():
    poll = PollPolicy(initial=15, maximum=15)
    async with service_and_client(poll=poll) as (service, client):
        task = asyncio.create_task(client.wait_for_jobs(ids(2)))
        await asyncio.sleep(5)
        async with service.outage("status_503"):
            await asyncio.sleep(60)
        ended_at = now()
        await asyncio.sleep(9)
        assert service.since(ended_at)
        service.status = "succeeded"
        outcomes = await task
    assert all(outcome.ok for outcome in outcomes.values())
    assert now() - ended_at <= 9 + 1.1 * poll.maximum


@pytest.mark.parametrize("fault", ["status_500", "html"])
async def test_failures_of_one_job_do_not_close_gate(fault):
    healthy = ids(10)
    poll = attrs.evolve(POLL, max_outage=5)
    async with service_and_client(poll=poll) as (service, client):
        service.broken_jobs = {"broken"}
        service.fault = FAULTS[fault]
        began_at = now()
        task = asyncio.create_task(collect(client.as_completed(["broken", *healthy])))
        await asyncio.sleep(12)
        service.status = "succeeded"
        first, *others = await task
    assert (first.job_id, type(first.error)) == ("broken", ERRORS.get(fault, ServerError))
    assert {each.job_id for each in others if each.ok} == set(healthy)
    broken = [each.at for each in service.arrivals if each.job_id == "broken"]
    assert poll.max_outage <= broken[-1] - broken[0] <= poll.max_outage + TOLERANCE
    for job_id in healthy:
        times = [each.at for each in service.since(began_at) if each.job_id == job_id]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert max(gaps) <= 1.1 * POLL.maximum + TOLERANCE


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured_during_outage(status):
    seconds = 3.0
    async with service_and_client(max_concurrency=5) as (service, client):
        task = asyncio.create_task(client.wait_for_jobs(ids(30)))
        await asyncio.sleep(2)
        service.fault = FAULTS["status_500"]
        await asyncio.sleep(CLOSING)
        service.fault = failing("with Retry-After", status=status, retry_after=seconds)
        began_at = now()
        await asyncio.sleep(16)  # three probes, which are five seconds apart at most
        service.fault = None
        await asyncio.sleep(seconds + 8)
        await cancel_all(task)
    times = [each.at for each in service.since(began_at) if not each.is_good]
    assert len(times) >= 3
    # Requests in flight together get their responses together.
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(gap >= seconds or gap <= 0.05 for gap in gaps)
    good = service.since(times[-1] + 0.05)
    assert good[0].at - times[-1] >= seconds
    assert {each.job_id for each in good} == set(ids(30))


# ---- how waits end


async def result_of(wait):
    try:
        return await wait
    except SutroError as error:
        return error


def waits_of(client, monitor, prefix, **options):
    """Tasks of each kind of wait; each returns its errors."""

    async def batch(stream):
        outcomes = await result_of(collect(stream))
        if isinstance(outcomes, SutroError):
            return [outcomes]
        return [outcome.error for outcome in outcomes]

    async def single(wait):
        return [await result_of(wait)]

    async def last(stream):
        return [await result_of(collect(stream))]

    def jobs(kind):
        return [f"{prefix}-{kind}-{number}" for number in range(3)]

    return [
        asyncio.create_task(each)
        for each in (
            single(client.wait_for_job(f"{prefix}-single", **options)),
            last(client.watch_job(f"{prefix}-watch", **options)),
            batch(client.as_completed(jobs("batch"), **options)),
            single(monitor.wait(f"{prefix}-monitor", **options)),
            last(monitor.watch(f"{prefix}-monitor-watch", **options)),
        )
    ]


@every_outage
async def test_max_outage_ends_each_wait_with_its_own_error(form):
    """Waits that failed, that were held back before they failed, and that began in the outage."""
    poll = PollPolicy(initial=2, maximum=2, max_outage=8)
    async with service_and_client(poll=poll) as (service, client), JobMonitor(client) as monitor:
        early = waits_of(client, monitor, "early")
        await asyncio.sleep(1)
        async with service.outage(form):
            began_at = now()
            await asyncio.sleep(5)
            late = waits_of(client, monitor, "late")
            async with asyncio.timeout(poll.max_outage + 5):
                errors = [error for errors in await asyncio.gather(*early) for error in errors]
            assert poll.max_outage <= now() - began_at <= poll.max_outage + 2 + 2 * REQUEST_TIMEOUT
            errors += [error for errors in await asyncio.gather(*late) for error in errors]
            assert now() - began_at <= 5 + poll.max_outage + 2 + 2 * REQUEST_TIMEOUT
    assert {type(error) for error in errors} == {ERRORS[form]}
    assert len({id(error) for error in errors}) == len({error.job_id for error in errors}) == 14
    for error in errors:
        assert error.job_id in str(error)
        assert (error.last_report is None) == error.job_id.startswith("late")
        assert (error.__cause__ is None) == isinstance(error, APIStatusError)


@pytest.mark.parametrize("timeout", [0.5, 2.0, 7.0])
async def test_timeouts_are_accurate_while_gate_is_closed(timeout):
    async with closed_gate() as (_, client), JobMonitor(client) as monitor:
        tasks = waits_of(client, monitor, "job", timeout=timeout)
        ended_at = {}
        for task in tasks:
            task.add_done_callback(lambda task: ended_at.setdefault(task, now()))
        # A timer of the same event loop, which a busy machine delays as much.
        await asyncio.sleep(timeout)
        expected_at = now()
        await asyncio.wait(tasks)
    errors = [error for task in tasks for error in task.result()]
    assert {type(error) for error in errors} == {JobWaitTimeoutError}
    assert all(abs(at - expected_at) <= TOLERANCE for at in ended_at.values())
    # A last poll just before the timeout gives the error a cause. The polls of a monitor are shared
    # by all watchers of the job, so there is no last one.
    causes = [error.__cause__ for error in errors if "monitor" not in error.job_id]
    assert {type(cause) for cause in causes} == {ServerError}


async def test_timeout_0_polls_while_gate_is_closed():
    async with closed_gate() as (service, client):
        before = len(service.arrivals)
        with pytest.raises(JobWaitTimeoutError) as caught:
            await client.wait_for_job("call", timeout=0)
        outcomes = await client.wait_for_jobs(["call-1", "call-2"], timeout=0)
        requests = [each for each in service.arrivals[before:] if each.job_id.startswith("call")]
        assert {each.job_id for each in requests} == {"call", "call-1", "call-2"}
        assert len(requests) == 3
    errors = [caught.value, *(outcome.error for outcome in outcomes.values())]
    assert {type(error.__cause__) for error in errors} == {ServerError}


@every_outage
async def test_cancellation_and_close_are_immediate_while_gate_is_closed(form):
    async with closed_gate(form) as (_, client), JobMonitor(client) as monitor:
        cancelled = waits_of(client, monitor, "cancelled")
        closed = waits_of(client, monitor, "closed")
        fetching = asyncio.create_task(client.get_job_statuses(ids(5)))
        await asyncio.sleep(1.5)
        began_at = now()
        await cancel_all(*cancelled, fetching)
        assert now() - began_at <= TOLERANCE
        await client.aclose()
        for errors in await asyncio.gather(*closed):
            assert [type(error) for error in errors] == [ClientStateError]
        assert now() - began_at <= 2 * TOLERANCE


# ---- calls


@pytest.mark.parametrize("form", [None, "status_503", "never_respond"])
async def test_calls_are_sent_before_polls(form):
    """Even if polls take all slots and hang."""
    poll = PollPolicy(initial=0.5, maximum=0.5)
    retry = RetryPolicy(attempts=1)
    async with service_and_client(poll=poll, max_concurrency=2, retry=retry) as (service, client):
        task = asyncio.create_task(client.wait_for_jobs(ids(400)))
        await asyncio.sleep(2)
        if form is not None:
            service.fault = FAULTS[form]
            service.broken_jobs = set(ids(400))
        for number in range(6):
            await asyncio.sleep(0.37)
            began_at = now()
            call = client.get_job if number % 2 else client.get_job_status
            assert (await call(f"call-{number}")).status == "running"
            # Polls that hang may hold all slots.
            longest = REQUEST_TIMEOUT if form == "never_respond" else 0
            assert now() - began_at <= longest + 0.2
        await cancel_all(task)


async def test_endless_calls_do_not_starve_polls():
    async with service_and_client(max_concurrency=2) as (service, client):

        async def call():
            while True:
                await client.get_job_status("call")

        calls = [asyncio.create_task(call()) for _ in range(100)]
        task = asyncio.create_task(client.wait_for_jobs(ids(20)))
        await asyncio.sleep(1)
        service.status = "succeeded"
        async with asyncio.timeout(2):
            assert all(outcome.ok for outcome in (await task).values())
        await cancel_all(*calls)


async def test_get_job_statuses_during_outage_returns_error_for_each_job():
    retry = RetryPolicy(attempts=3, initial=0.1, maximum=2)
    async with closed_gate(retry=retry) as (service, client):
        began_at = now()
        outcomes = await client.get_job_statuses(ids(60))
        assert {type(outcome.error) for outcome in outcomes.values()} == {ServerError}
        assert len({id(outcome.error) for outcome in outcomes.values()}) == 60
        assert most_in_a_second(service.since(began_at)) <= 60


# ---- the log


async def test_outage_is_logged_in_two_lines(caplog):
    logging.getLogger("sutro_async").setLevel(logging.INFO)
    async with service_and_client() as (service, client):
        task = asyncio.create_task(client.wait_for_jobs(ids(50)))
        await asyncio.sleep(2)
        caplog.clear()
        service.fault = failing(
            "page", status=503, body=b"<html><title>Be patient</title>" + b"x" * 5000
        )
        await asyncio.sleep(20)
        service.fault = None
        await asyncio.sleep(8)
        messages = [(each.levelname, each.getMessage()) for each in caplog.records]
        await cancel_all(task)
    opened = [text for level, text in messages if level == "INFO"]
    closed = [text for level, text in messages if level == "WARNING"]
    # The failures before the gate closes are those of single waits.
    *single, last = closed
    assert len(single) <= 4
    assert all(text.startswith("job '") for text in single)
    assert last.startswith("the service is unavailable, polls are held back: job '")
    assert last.endswith("503: Be patient")
    assert len(opened) == 1
    assert opened[0].startswith("the service is available again after 2")
    assert all(len(text) < 150 for _, text in messages)
