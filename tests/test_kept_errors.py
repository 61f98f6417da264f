"""Errors that are kept: they hold no references to frames, and do not grow."""

import asyncio
import gc
import math
import traceback
import types
import weakref

import attrs
import pytest

from sutro_async import JobMonitor, JobNotFoundError, RetryPolicy, SutroClient
from sutro_async._waits._poller import JobPoller
from tests.cases import in_turn
from tests.conftest import FAST_POLL

pytestmark = pytest.mark.usefixtures("fast_clock")

IDS = ["job-1", "job-2", "job-3"]


async def everything(stream):
    return [item async for item in stream]


async def monitored(client, **options):
    async with JobMonitor(client) as monitor:
        return await everything(monitor.watch_jobs(IDS, **options))


async def values(outcomes):
    return list((await outcomes).values())


FETCHES = {
    "get_jobs": lambda client: values(client.get_jobs(IDS)),
    "get_job_statuses": lambda client: values(client.get_job_statuses(IDS)),
}
WAITS = {
    "wait_for_jobs": lambda client, **options: values(client.wait_for_jobs(IDS, **options)),
    "as_completed": lambda client, **options: everything(client.as_completed(IDS, **options)),
    "watch_jobs": lambda client, **options: everything(client.watch_jobs(IDS, **options)),
    "monitor.watch_jobs": monitored,
}

# How the fake responds to every request.
FAULTS = {
    "not found": {"status": 404},
    "gone": {"status": 410},
    "a redirect": {"status": 302, "headers": {"Location": "https://elsewhere.example/"}},
    "rate limited": {"status": 429},
    "unavailable": {"status": 500},
    "no JSON": {"body": "<html></html>"},
    "another job": {"body": '{"job_status": {"other": "running"}}'},
    "disconnected": {"disconnect": True},
    "reset": {"reset": True},
    "truncated": {"truncate": True},
    "no response": {"delay": math.inf},
}
EXPIRED = {"timeout": {"timeout": 0.1}, "timeout of zero": {"timeout": 0}}


def held_by(error):
    """Return the objects that an error keeps alive, except plain data."""
    heavy = (
        *(types.FrameType, types.TracebackType, types.CoroutineType),
        *(asyncio.Future, asyncio.AbstractEventLoop),
    )
    modules = ("sutro_async._", "sutro_async.client", "sutro_async.monitor", "aiohttp")
    found, seen, pending = set(), set(), [error]
    while pending:
        each = pending.pop()
        if id(each) in seen or isinstance(each, type | types.ModuleType | types.FunctionType):
            continue
        seen.add(id(each))
        is_living = type(each).__module__.startswith(modules)
        if isinstance(each, heavy) or (is_living and not isinstance(each, Exception | tuple)):
            found.add(type(each).__name__)
        else:
            pending += gc.get_referents(each)
    return found


def test_references_of_error_are_detected():
    def fail():
        raise LookupError

    with pytest.raises(LookupError) as caught:
        fail()
    assert "traceback" in held_by(caught.value)
    error = LookupError()
    error.__cause__ = LookupError(JobPoller)
    error.__cause__.poller = object.__new__(JobPoller)
    assert held_by(error) == {"JobPoller"}


async def errors_of(fake, call, fault, **options):
    for job_id in IDS:
        fake.add_job(job_id, ["running"])
    if fault:
        fake.fail_next(1000, **fault)
    poll = attrs.evolve(FAST_POLL, max_outage=0.05, not_found_grace=0.03)
    retry = RetryPolicy(attempts=2, initial=0.01, maximum=0.01)
    async with fake.client(poll=poll, retry=retry, timeout=0.05) as client, asyncio.timeout(10):
        outcomes = [each for each in await call(client, **options) if each.error is not None]
    assert {each.job_id for each in outcomes} == set(IDS)
    return outcomes


def check(outcomes):
    """Check that errors hold no references, before and after they are raised."""
    for outcome in outcomes:
        assert held_by(outcome.error) == set()
        lengths = set()
        for _ in range(3):
            with pytest.raises(type(outcome.error)) as caught:
                outcome.result()
            assert caught.value is not outcome.error
            assert str(caught.value) == str(outcome.error)
            assert caught.value.__cause__ is outcome.error.__cause__
            caught.value.add_note("seen")
            lengths.add(len(traceback.extract_tb(caught.value.__traceback__)))
        assert len(lengths) == 1
        assert held_by(outcome.error) == set()
        assert not hasattr(outcome.error, "__notes__")


@pytest.mark.parametrize(("fault", "call"), in_turn(FAULTS, FETCHES) + in_turn(FAULTS, WAITS))
async def test_outcome_error_holds_no_references_and_does_not_grow(fake, call, fault):
    check(await errors_of(fake, call, fault))


@pytest.mark.parametrize("is_failing", [False, True])
@pytest.mark.parametrize("options", EXPIRED.values(), ids=EXPIRED)
@pytest.mark.parametrize("call", WAITS.values(), ids=WAITS)
async def test_timeout_error_holds_no_references_and_does_not_grow(fake, call, options, is_failing):
    fault = {"status": 500} if is_failing else None
    outcomes = await errors_of(fake, call, fault, **options)
    check(outcomes)


@pytest.mark.parametrize("call", (FETCHES | WAITS).values(), ids=FETCHES | WAITS)
async def test_connection_error_holds_no_references_and_does_not_grow(unused_tcp_port, call):
    url = f"http://127.0.0.1:{unused_tcp_port}"
    poll = attrs.evolve(FAST_POLL, max_outage=0)
    retry = RetryPolicy(attempts=1)
    async with SutroClient("sk_test", base_url=url, poll=poll, retry=retry) as client:
        check(await call(client))


def pollers():
    return [each for each in gc.get_objects() if type(each) is JobPoller]


async def test_one_error_does_not_keep_batch_alive(fake):
    others = {id(each) for each in pollers()}  # of tests before
    ids = [f"job-{number}" for number in range(300)]
    fake.add_job("job-0", ["running"])
    fake.fail_next(9999, status=410)
    client = fake.client(poll=FAST_POLL)
    error = (await client.wait_for_jobs(ids))["job-7"].error
    await client.aclose()
    is_alive = weakref.ref(client)
    del client
    gc.collect()
    assert error.status_code == 410
    assert is_alive() is None
    assert not [each for each in pollers() if id(each) not in others]


async def test_notes_on_copy_are_not_on_error(fake, client):
    outcome = (await client.get_jobs(["missing"]))["missing"]
    outcome.error.add_note("first")
    for _ in range(3):
        with pytest.raises(JobNotFoundError) as caught:
            outcome.result()
        caught.value.add_note("second")
        assert caught.value.__notes__ == ["first", "second"]
    assert outcome.error.__notes__ == ["first"]
