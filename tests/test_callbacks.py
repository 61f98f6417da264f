"""Exceptions of `on_change`, for every kind of callable and of wait."""

import asyncio
import functools
import gc
import itertools
import logging

import pytest

from sutro_async import (
    AuthenticationError,
    ClientStateError,
    JobNotFoundError,
    JobWaitTimeoutError,
)
from sutro_async.testing import FakeSutro
from tests.cases import in_turn
from tests.conftest import FAST_POLL, served

pytestmark = pytest.mark.usefixtures("fast_clock")


class Stop(BaseException):
    """A `BaseException`, such as `SystemExit`."""


# ---- kinds of failing `on_change`


def plain(error):
    def on_change(report):
        raise error

    return on_change


def coroutine_function(error):
    async def on_change(report):
        raise error

    return on_change


def suspended(error):
    async def on_change(report):
        await asyncio.sleep(0.001)
        raise error

    return on_change


class Awaitable:
    def __init__(self, error):
        self._error = error

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        raise self._error


def awaitable(error):
    return lambda report: Awaitable(error)


def future(error):
    def on_change(report):
        pending = asyncio.get_running_loop().create_future()
        pending.set_exception(error)
        return pending

    return on_change


def task(error):
    return lambda report: asyncio.create_task(coroutine_function(error)(report))


class CallableObject:
    def __init__(self, error):
        self._error = error

    async def __call__(self, report):
        raise self._error


def callable_object(error):
    return functools.partial(CallableObject(error))


def task_group(error):
    async def on_change(report):
        async with asyncio.TaskGroup() as group:
            group.create_task(coroutine_function(error)(report))

    return on_change


FORMS = {
    form.__name__: form
    for form in (
        *(plain, coroutine_function, suspended, awaitable, future, task),
        *(callable_object, task_group),
    )
}

# ---- kinds of waits


async def wait_for_job(client, **options):
    return (await client.wait_for_job("job-1", **options)).status


async def wait_for_jobs(client, **options):
    outcomes = await client.wait_for_jobs(["job-1", "job-2"], **options)
    return outcomes["job-1"].result().status


async def as_completed(client, **options):
    async with client.as_completed(["job-1", "job-2"], **options) as stream:
        outcomes = [each async for each in stream]
    assert len(outcomes) == 2
    return outcomes[0].result().status


WAITS = {each.__name__: each for each in (wait_for_job, wait_for_jobs, as_completed)}

every_wait = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)


def add_jobs(fake):
    for job_id in ("job-1", "job-2"):
        fake.add_job(job_id, ["queued", "running", "succeeded"])


EXCEPTIONS = {
    "LookupError": LookupError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "TimeoutError": TimeoutError,
    "CancelledError": asyncio.CancelledError,
    "InvalidStateError": asyncio.InvalidStateError,
    "ExceptionGroup": lambda: ExceptionGroup("oops", [LookupError(), TimeoutError()]),
    "ClientStateError": lambda: ClientStateError("the client is closed: make a new one"),
    "AuthenticationError": lambda: AuthenticationError(
        job_id="job-1", status_code=401, message="no"
    ),
    "JobNotFoundError": lambda: JobNotFoundError(job_id="job-1", status_code=404, message="no"),
    "JobWaitTimeoutError": lambda: JobWaitTimeoutError(
        job_id="job-1", last_report=None, elapsed=1, timeout=1
    ),
}
# With exceptions that coroutines, tasks and futures treat specially: every kind of callable.
EVERY_FORM = ("StopIteration", "StopAsyncIteration", "CancelledError", "LookupError")
PAIRS = list(itertools.product(FORMS, EVERY_FORM))
PAIRS += zip(itertools.cycle(FORMS), sorted(EXCEPTIONS.keys() - {*EVERY_FORM}), strict=False)
FAILURES = {
    f"{form}-{name}": (FORMS[form], EXCEPTIONS[name])
    for form, name in sorted(PAIRS)
    # A future refuses a StopIteration, and a task group ignores a cancelled task.
    if (form, name) not in {("future", "StopIteration"), ("task_group", "CancelledError")}
}


@pytest.mark.parametrize(("failure", "wait"), in_turn(FAILURES, WAITS))
async def test_exception_is_logged_and_wait_continues(fake, client, caplog, wait, failure):
    form, make = failure
    add_jobs(fake)
    task = asyncio.create_task(wait(client, on_change=form(make())))
    async with asyncio.timeout(5):
        assert await task == "succeeded"
    assert task.cancelling() == 0
    logged = [each for each in caplog.records if each.levelno >= logging.WARNING]
    messages = {each.message for each in logged if "'job-1'" in each.message}
    assert messages == {"job 'job-1': on_change failed; the wait continues"}
    assert len(logged) == (3 if wait is wait_for_job else 6)


# ---- BaseException


def run(main):
    """Run in a separate event loop, since some exceptions stop it."""
    unhandled = []
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        runner.run(main())
    assert not unhandled


BASE_EXCEPTIONS = {
    "Stop": Stop,
    "pytest.fail": lambda: pytest.fail.Exception("oops"),
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": SystemExit,
    "GeneratorExit": GeneratorExit,
    "BaseExceptionGroup": lambda: BaseExceptionGroup("oops", [Stop(), LookupError()]),
}


CRASHES = {
    f"{form}-{name}": (FORMS[form], make)
    for form in FORMS
    for name, make in BASE_EXCEPTIONS.items()
    # A task group raises these twice, the second time while the event loop is closed.
    if form != "task_group" or name not in {"KeyboardInterrupt", "SystemExit"}
}


@pytest.mark.parametrize(("crash", "wait"), in_turn(CRASHES, WAITS))
def test_base_exception_is_raised_from_wait(wait, crash):
    form, make = crash
    error = make()
    on_change = form(error)

    async def main():
        async with fake.client(poll=FAST_POLL) as client, asyncio.timeout(5):
            await wait(
                client, on_change=lambda report: report.job_id == "job-1" and on_change(report)
            )

    with served(FakeSutro()) as fake, pytest.raises(BaseException) as caught:
        add_jobs(fake)
        run(main)
    raised = caught.value
    if raised is not error and form is task_group:
        (raised,) = raised.exceptions
    assert raised is error


# ---- when it is cancelled


def fails_when_cancelled(error):
    async def on_change(report):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise error from None

    return on_change


async def cancelled_by(ending, fake, client, wait, error):
    """End a wait whose `on_change` is running, and return its result."""
    for job_id in ("job-1", "job-2"):
        fake.add_job(job_id, ["running"])
    timeout = 0.1 if ending == "timeout" else None
    task = asyncio.create_task(wait(client, on_change=fails_when_cancelled(error), timeout=timeout))
    await asyncio.sleep(0.05)
    if ending == "cancel":
        task.cancel()
    elif ending == "close":
        await client.aclose()
    async with asyncio.timeout(5):
        (result,) = await asyncio.gather(task, return_exceptions=True)
    return result


every_ending = pytest.mark.parametrize("ending", ["timeout", "cancel", "close"])
RESULTS = {
    "timeout": JobWaitTimeoutError,
    "cancel": asyncio.CancelledError,
    "close": ClientStateError,
}


@every_wait
@every_ending
async def test_exception_during_cancellation_is_logged(fake, client, caplog, wait, ending):
    result = await cancelled_by(ending, fake, client, wait, LookupError("oops"))
    assert isinstance(result, RESULTS[ending])
    message = "job 'job-1': on_change failed when it was cancelled"
    assert [each.message for each in caplog.records].count(message) == 1
    gc.collect()  # asyncio would log an exception that was never retrieved
    assert not [each for each in caplog.records if each.name == "asyncio"]


@every_wait
@every_ending
async def test_base_exception_during_cancellation_is_raised(fake, client, wait, ending):
    error = Stop()
    assert await cancelled_by(ending, fake, client, wait, error) is error


@pytest.mark.parametrize("ending", ["close the stream", "next step"])
async def test_base_exception_is_raised_at_end_of_stream(fake, client, ending):
    add_jobs(fake)
    fake.add_job("done")
    error = Stop()

    def on_change(report):
        if report.status == "running":
            raise error

    stream = client.as_completed(["done", "job-1"], on_change=on_change)
    assert (await anext(stream)).job_id == "done"
    while client._manager.lifecycle.running:
        await asyncio.sleep(0.005)
    with pytest.raises(Stop) as caught:
        await (stream.aclose() if ending == "close the stream" else anext(stream))
    assert caught.value is error
    await stream.aclose()


# ---- others


async def test_callback_that_ends_batch_before_it_returns_is_cancelled(fake, client):
    """A task that starts eagerly can do so by closing the client."""
    fake.add_job("job-1", ["running"])
    pending = asyncio.get_running_loop().create_future()

    def on_change(report):
        (batch,) = client._manager.lifecycle.running
        batch.interrupt(ClientStateError)
        return pending

    task = asyncio.create_task(client.wait_for_jobs(["job-1"], on_change=on_change))
    await asyncio.wait({task}, timeout=1)
    was_cancelled = not pending.cancel()  # else the batch would wait for it forever
    with pytest.raises(ClientStateError):
        await task
    assert was_cancelled


@every_wait
async def test_callback_can_return_same_future_for_all_jobs(fake, client, wait):
    add_jobs(fake)
    shared = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.05, shared.set_result, None)
    async with asyncio.timeout(5):
        assert await wait(client, on_change=lambda _: shared) == "succeeded"


@every_wait
async def test_callback_task_cancelled_before_first_step_does_not_hang(fake, client, caplog, wait):
    def on_change(report):
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        return task

    add_jobs(fake)
    async with asyncio.timeout(5):
        assert await wait(client, on_change=on_change) == "succeeded"
    assert "job 'job-1': on_change failed; the wait continues" in caplog.messages


@every_wait
async def test_wait_can_be_cancelled_after_failed_task_group(fake, client, wait):
    """On Python 3.11 and 3.12 the failure increments the cancellation count of its task."""
    for job_id in ("job-1", "job-2"):
        fake.add_job(job_id, ["running"])

    async def fail_and_wait():
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(suspended(LookupError())(None))
                await asyncio.sleep(60)
        await wait(client)

    task = asyncio.create_task(fail_and_wait())
    await asyncio.sleep(0.1)
    assert len(fake.requests) > 2
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task
