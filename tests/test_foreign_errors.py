"""Errors of other libraries, raised while a request is sent, in every kind of call."""

import asyncio
import traceback

import aiohttp
import pytest

from sutro_async import (
    APIError,
    ClientStateError,
    ConfigurationError,
    JobMonitor,
    RetryPolicy,
    SutroError,
)
from tests.conftest import FAST_POLL

IDS = ["job-1", "job-2", "job-3"]


async def everything(stream):
    return [item async for item in stream]


def single(name):
    return lambda client: getattr(client, name)(IDS[0])


def many(name):
    return lambda client: getattr(client, name)(IDS)


async def wait(client):
    async with JobMonitor(client) as monitor:
        return await monitor.wait(IDS[0])


async def watch(client):
    async with JobMonitor(client) as monitor:
        return await everything(monitor.watch(IDS[0]))


async def watch_jobs(client):
    async with JobMonitor(client) as monitor:
        return await everything(monitor.watch_jobs(IDS))


SINGLE = {
    **{name: single(name) for name in ("get_job", "get_job_status", "wait_for_job")},
    "watch_job": lambda client: everything(client.watch_job(IDS[0])),
    "list_jobs": lambda client: everything(client.list_jobs()),
    "monitor.wait": wait,
    "monitor.watch": watch,
}
MANY = {
    **{name: many(name) for name in ("get_jobs", "get_job_statuses", "wait_for_jobs")},
    "as_completed": lambda client: everything(client.as_completed(IDS)),
    "watch_jobs": lambda client: everything(client.watch_jobs(IDS)),
    "monitor.watch_jobs": watch_jobs,
}
CALLS = SINGLE | MANY
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


async def outcome_of(fake, call, error):
    """Make a call with a session that raises an error; return its outcome."""

    async def fail(session, context, parameters):
        raise error

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(fail)
    for job_id in IDS:
        fake.add_job(job_id, ["running"])
    async with (
        aiohttp.ClientSession(trace_configs=[trace]) as session,
        fake.client(session=session, poll=FAST_POLL, retry=RetryPolicy(initial=0.01)) as client,
        asyncio.timeout(5),
    ):
        (outcome,) = await asyncio.gather(call(client), return_exceptions=True)
    return outcome


class TwoArgumentsError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


class FalseError(Exception):
    def __len__(self):
        return 0


class Stop(BaseException):
    """A `BaseException`, such as `SystemExit`."""


RAISED_AS_THEY_ARE = {
    "two arguments": lambda: TwoArgumentsError("no", "luck"),
    "a group": lambda: ExceptionGroup("oops", [TwoArgumentsError("no", "luck")]),
    "no Exception": Stop,
    "pytest.fail": lambda: pytest.fail.Exception("oops"),
    "GeneratorExit": GeneratorExit,
    "a group of such": lambda: BaseExceptionGroup("oops", [Stop()]),
}


@every_call
@pytest.mark.parametrize("make", RAISED_AS_THEY_ARE.values(), ids=RAISED_AS_THEY_ARE)
async def test_foreign_error_is_raised_unchanged(fake, call, make):
    error = make()
    assert await outcome_of(fake, call, error) is error


@pytest.mark.parametrize("call", MANY.values(), ids=MANY)
async def test_falsy_error_is_raised(fake, call):
    error = FalseError()
    assert await outcome_of(fake, call, error) is error


@every_call
@pytest.mark.parametrize("make", [StopIteration, StopAsyncIteration])
async def test_stop_iteration_does_not_end_stream(fake, call, make):
    outcome = await outcome_of(fake, call, make("oops"))
    assert isinstance(outcome, ClientStateError)
    assert str(outcome).startswith("the session cannot be used: ")


@every_call
async def test_netrc_is_named_only_for_credentials(fake, call):
    outcome = await outcome_of(fake, call, ValueError("oops"))
    assert isinstance(outcome, ConfigurationError)
    assert str(outcome) == "the session cannot be used: oops"


@every_call
async def test_unexpected_cancellation_is_raised(fake, call):
    outcome = await outcome_of(fake, call, asyncio.CancelledError())
    assert isinstance(outcome, asyncio.CancelledError | ClientStateError)


# ---- subclasses of ours that cannot be copied


class NewWithArgumentsError(SutroError):
    def __new__(cls, first, second):
        return super().__new__(cls, first, second)


class NoPickleError(APIError):
    def __reduce__(self):
        raise TypeError("not for pickles")


NOT_TO_BE_COPIED = {
    "__new__": lambda: NewWithArgumentsError("no", "luck"),
    "__reduce__": lambda: NoPickleError("no", job_id="job-1"),
}
every_such_error = pytest.mark.parametrize("make", NOT_TO_BE_COPIED.values(), ids=NOT_TO_BE_COPIED)


@every_such_error
@pytest.mark.parametrize("call", SINGLE.values(), ids=SINGLE)
async def test_uncopyable_error_is_raised_unchanged(fake, call, make):
    error = make()
    assert await outcome_of(fake, call, error) is error


@every_such_error
@pytest.mark.parametrize("call", MANY.values(), ids=MANY)
async def test_uncopyable_error_becomes_outcome(fake, call, make):
    error = make()
    outcomes = await outcome_of(fake, call, error)
    outcomes = list(outcomes.values()) if isinstance(outcomes, dict) else outcomes
    assert [outcome.error is error for outcome in outcomes] == [True] * len(IDS)
    for outcome in outcomes:
        with pytest.raises(type(error)) as caught:
            outcome.result()
        assert caught.value is error


# ---- many readers of one error


async def test_error_shared_by_watchers_does_not_hold_frames(fake):
    error = TwoArgumentsError("no", "luck")
    lengths = []

    async def watch_once(monitor):
        with pytest.raises(TwoArgumentsError) as caught:
            await monitor.wait("job-1")
        assert caught.value is error
        lengths.append(len(traceback.extract_tb(error.__traceback__)))

    async def call(client):
        async with JobMonitor(client) as monitor:
            await asyncio.gather(*(watch_once(monitor) for _ in range(50)))

    assert await outcome_of(fake, call, error) is None
    assert len(lengths) == 50
    assert len(set(lengths)) == 1
