"""Many jobs at once: outcomes, batch-fatal errors, timeouts, limits, and leak checks."""

import asyncio
import contextlib
import math

import attrs
import pytest

from sutro_async import (
    AuthenticationError,
    ClientStateError,
    InvalidResponseError,
    JobFailedError,
    JobMonitor,
    JobNotFoundError,
    JobOutcome,
    JobWaitTimeoutError,
    PermissionDeniedError,
    PollPolicy,
    RateLimitError,
    RetryPolicy,
    ServerError,
    SutroClient,
)
from tests.cases import in_turn
from tests.conftest import FAST_POLL, FAST_RETRY, assert_no_leaks, now

pytestmark = pytest.mark.usefixtures("fast_clock")

MANY = [f"job-{number}" for number in range(12)]


def add_jobs(fake, job_ids=MANY, timeline=("queued", "running", "succeeded")):
    for job_id in job_ids:
        fake.add_job(job_id, timeline)


def request_counts(fake):
    """Return the number of requests for each job."""
    paths = [request.path for request in fake.requests]
    ids = [path.rpartition("/")[2] for path in paths if "/list-jobs" not in path]
    return {job_id: ids.count(job_id) for job_id in ids}


async def everything(stream):
    return [outcome async for outcome in stream]


async def monitored(client, ids):
    async with JobMonitor(client) as monitor:
        return await everything(monitor.watch_jobs(ids))


CALLS = {
    "get_job_statuses": lambda client, ids: client.get_job_statuses(ids),
    "get_jobs": lambda client, ids: client.get_jobs(ids),
    "wait_for_jobs": lambda client, ids: client.wait_for_jobs(ids),
    "as_completed": lambda client, ids: everything(client.as_completed(ids)),
    "watch_jobs": lambda client, ids: everything(client.watch_jobs(ids)),
    "monitor.watch_jobs": monitored,
}
ITERABLES = {
    each.__name__: each for each in (tuple, set, iter, dict.fromkeys, lambda ids: (i for i in ids))
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


# ---- outcomes


async def test_statuses_are_in_order_of_ids(fake, client):
    add_jobs(fake)
    fake.fail_next(1, delay=0.05, job_id="job-3")
    outcomes = await client.get_job_statuses(MANY)
    assert list(outcomes) == MANY
    assert all(outcome.ok and outcome.job_id == job_id for job_id, outcome in outcomes.items())
    assert {outcome.result().status for outcome in outcomes.values()} == {"queued"}


async def test_records_are_in_order_of_ids(fake, client):
    add_jobs(fake)
    outcomes = await client.get_jobs(MANY)
    assert [outcome.value.job_id for outcome in outcomes.values()] == MANY == list(outcomes)


async def test_outcomes_are_in_order_of_ids(fake, client):
    add_jobs(fake)
    fake.set_status("job-7", "cancelled")
    outcomes = await client.wait_for_jobs(MANY)
    assert list(outcomes) == MANY
    assert all(outcome.value.is_terminal for outcome in outcomes.values())
    assert outcomes["job-7"].value.status == "cancelled"


async def test_as_completed_yields_each_job_once_as_it_finishes(fake, client):
    for number, job_id in enumerate(["slow", "middle", "fast"]):
        fake.add_job(job_id, [("running", 0.3 - 0.1 * number), "succeeded"])
    began = now()
    received = []
    async for outcome in client.as_completed(["slow", "middle", "fast"]):
        received.append((outcome.job_id, round(now() - began, 1)))
    assert received == [("fast", 0.1), ("middle", 0.2), ("slow", 0.3)]


async def test_one_failing_job_does_not_affect_others(fake, client):
    add_jobs(fake, ["good", "malformed", "failing", "lost"])
    fake.add_job("failed", ["running", "failed"], failure_reason="no GPU")
    fake.fail_next(1, status=410, job_id="lost")
    fake.fail_next(999, body=b"<html>", job_id="malformed")
    fake.fail_next(999, status=500, job_id="failing")
    ids = ["good", "missing", "malformed", "failing", "failed", "lost"]
    poll = PollPolicy(initial=0.01, maximum=0.02, max_outage=0.2, not_found_grace=0.1)
    outcomes = await client.wait_for_jobs(ids, poll=poll)
    errors = {job_id: type(outcome.error) for job_id, outcome in outcomes.items()}
    assert list(errors) == ids
    assert outcomes["good"].value.status == "succeeded"
    assert errors["missing"] is JobNotFoundError
    assert errors["malformed"] is InvalidResponseError
    assert errors["failing"] is ServerError
    assert errors["lost"].__name__ == "GoneError"
    # A failed job is a value, since its wait succeeded.
    assert outcomes["failed"].ok
    with pytest.raises(JobFailedError, match="no GPU"):
        outcomes["failed"].value.raise_for_failure()
    with pytest.raises(JobNotFoundError):
        outcomes["missing"].result()


async def test_one_failing_job_does_not_affect_single_requests(fake, client):
    add_jobs(fake, ["good", "malformed"])
    fake.fail_next(1, body=b"<html>", job_id="malformed")
    outcomes = await client.get_jobs(["good", "missing", "malformed"])
    assert [outcome.ok for outcome in outcomes.values()] == [True, False, False]
    assert isinstance(outcomes["missing"].error, JobNotFoundError)


async def test_single_requests_are_retried(fake, client):
    add_jobs(fake)
    fake.fail_next(8, status=503)
    assert all(outcome.ok for outcome in (await client.get_job_statuses(MANY)).values())


async def test_on_change_is_called_for_every_job(fake, client):
    add_jobs(fake, ["a", "b"])
    received = []
    await client.wait_for_jobs(
        ["a", "b"], on_change=lambda report: received.append((report.job_id, str(report.status)))
    )
    statuses = ["queued", "running", "succeeded"]
    assert [status for job_id, status in received if job_id == "a"] == statuses
    assert [status for job_id, status in received if job_id == "b"] == statuses


# ---- valid and invalid job ids


@each_call
async def test_no_ids_return_no_results(fake, client, call):
    assert len(await call(client, [])) == 0
    assert not fake.requests


@each_call
async def test_duplicate_id_is_requested_once(fake, client, call):
    add_jobs(fake, ["a", "b"], ["succeeded"])
    assert len(await call(client, ["a", "b", "a", "b", "a"])) == 2
    assert request_counts(fake) == {"a": 1, "b": 1}


@pytest.mark.parametrize(("call", "make"), in_turn(CALLS, ITERABLES))
async def test_any_iterable_is_accepted(fake, client, call, make):
    add_jobs(fake, ["a", "b"], ["succeeded"])
    assert len(await call(client, make(["a", "b"]))) == 2


@each_call
@pytest.mark.parametrize("ids", ["job-1", b"job-1"])
async def test_single_string_as_ids_is_rejected(fake, client, call, ids):
    with pytest.raises(TypeError, match="job_ids must be an iterable of job ids"):
        await call(client, ids)
    assert not fake.requests


@each_call
async def test_invalid_id_is_rejected_before_any_request(fake, client, call):
    with pytest.raises(ValueError, match="job id"):
        await call(client, ["job-1", ".."])
    assert not fake.requests


async def test_as_completed_rejects_invalid_arguments_when_called(client):
    with pytest.raises(TypeError):
        client.as_completed("job-1")
    with pytest.raises(ValueError, match="timeout"):
        client.as_completed(["job-1"], timeout=-1)


# ---- batch-fatal errors


@each_call
async def test_batch_fatal_error_is_raised_and_ends_requests(fake, call):
    add_jobs(fake)
    fake.fail_next(999, status=401)
    async with fake.client(max_concurrency=4, retry=FAST_RETRY, poll=FAST_POLL) as client:
        async with assert_no_leaks(client, fake):
            with pytest.raises(AuthenticationError):
                await call(client, MANY)
        # Only those in flight when the first response arrived.
        assert len(fake.requests) <= 4
        await asyncio.sleep(0.05)
        assert len(fake.requests) <= 4


@each_call
async def test_403_for_three_jobs_and_no_good_response_is_batch_fatal(fake, call):
    add_jobs(fake)
    fake.fail_next(9999, status=403)
    policy = attrs.evolve(FAST_POLL, not_found_grace=0)
    async with fake.client(max_concurrency=4, retry=FAST_RETRY, poll=policy) as client:
        async with assert_no_leaks(client, fake):
            with pytest.raises(PermissionDeniedError):
                await call(client, MANY)
        assert 3 <= len(fake.requests) <= 6


@each_call
@pytest.mark.parametrize("refused", [2, len(MANY)])
async def test_403_is_outcome_of_its_job_after_good_response(fake, call, refused):
    add_jobs(fake, ["good"], ["succeeded"])
    add_jobs(fake, MANY, ["succeeded"])
    for job_id in MANY[:refused]:
        fake.fail_next(999, status=403, job_id=job_id)
    async with fake.client(max_concurrency=1, retry=FAST_RETRY, poll=FAST_POLL) as client:
        outcomes = await call(client, ["good", *MANY])
    if not isinstance(outcomes, dict):
        outcomes = {outcome.job_id: outcome for outcome in outcomes}
    assert outcomes["good"].ok
    for job_id in MANY[:refused]:
        assert isinstance(outcomes[job_id].error, PermissionDeniedError)
    assert sum(outcome.ok for outcome in outcomes.values()) == 1 + len(MANY) - refused


async def test_rejected_request_releases_its_slot(fake):
    add_jobs(fake)
    fake.fail_next(999, status=401)
    async with fake.client(max_concurrency=1) as client:
        with pytest.raises(AuthenticationError):
            await client.get_jobs(MANY)
    assert len(fake.requests) == 1


async def test_finished_jobs_are_yielded_before_batch_fatal_error(fake):
    add_jobs(fake, ["a", "b"], ["succeeded"])
    async with fake.client(max_concurrency=1) as client:
        received = []
        with pytest.raises(AuthenticationError):
            async for outcome in client.as_completed(["a", "b"]):
                received.append(outcome.job_id)
                fake.fail_next(1, status=401)
                await asyncio.sleep(0.05)
    assert received in (["a"], ["a", "b"])


async def test_batch_fatal_error_is_not_replaced_by_timeout_while_consumer_is_busy(fake, client):
    add_jobs(fake, ["done"], ["succeeded"])
    add_jobs(fake, ["a", "b"], ["running"])
    fake.fail_next(1, status=401, job_id="a", delay=0.05)
    with pytest.raises(AuthenticationError):
        async for outcome in client.as_completed(["done", "a", "b"], timeout=0.5):
            assert outcome.job_id == "done"
            await asyncio.sleep(0.6)


async def test_closed_client_is_batch_fatal_error(fake, client):
    add_jobs(fake, timeline=["running"])
    waiting = asyncio.create_task(client.wait_for_jobs(MANY))
    await asyncio.sleep(0.05)
    await client.aclose()
    with pytest.raises(ClientStateError):
        await waiting
    with pytest.raises(ClientStateError):
        await client.get_jobs(MANY)


async def test_internal_error_is_not_swallowed(fake, client, monkeypatch):
    add_jobs(fake)

    async def broken(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(client._manager.transport, "get", broken)
    with pytest.raises(ZeroDivisionError):
        await client.get_jobs(MANY)


def running_tasks(name):
    return [task for task in asyncio.all_tasks() if task.get_coro().__qualname__ == name]


@pytest.mark.parametrize("moment", ["before its first step", "in flight"])
async def test_externally_cancelled_worker_does_not_hang_batch(fake, client, moment):
    add_jobs(fake, ["endless"], ["running"])
    fake.fail_next(1, job_id="endless", delay=math.inf)
    wait = asyncio.create_task(client.wait_for_jobs(["endless"]))
    while not (workers := running_tasks("Schedule._work")):
        await asyncio.sleep(0)
    if moment == "in flight":
        while not fake.in_flight:
            await asyncio.sleep(0.001)
    workers[0].cancel()
    async with asyncio.timeout(1):
        with pytest.raises(ClientStateError, match="'endless': the polling task was cancelled"):
            await wait


async def test_externally_cancelled_fetch_worker_does_not_hang_call(fake, client):
    fake.fail_next(1, delay=math.inf)
    call = asyncio.create_task(client.get_job_statuses(["job-1"]))
    while not fake.in_flight:
        await asyncio.sleep(0.001)
    (worker,) = running_tasks("fetch_all.<locals>.work")
    worker.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(ClientStateError, match="a task of the batch was cancelled"):
            await call


class Stop(BaseException):
    """A `BaseException`, such as `KeyboardInterrupt`."""


@pytest.mark.parametrize("error", [Stop, GeneratorExit])
@pytest.mark.parametrize("is_async", [False, True])
async def test_base_exception_of_on_change_is_raised_from_batch(fake, client, error, is_async):
    add_jobs(fake, MANY, ["running"])

    def fail(report):
        if report.job_id == "job-1":
            raise error

    async def fail_later(report):
        await asyncio.sleep(0)
        fail(report)

    async with assert_no_leaks(client, fake), asyncio.timeout(5):
        with pytest.raises(error):
            await client.wait_for_jobs(MANY, on_change=fail_later if is_async else fail)


async def test_cancelled_on_change_task_does_not_end_wait(fake, client, caplog):
    add_jobs(fake, ["job-1"], ["queued", "succeeded"])

    async def cancel_itself(report):
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    outcomes = await client.wait_for_jobs(["job-1"], on_change=cancel_itself)
    assert outcomes["job-1"].ok
    assert caplog.text.count("on_change failed; the wait continues") == 2


@pytest.mark.single_polls
async def test_timer_handle_without_when_is_accepted(fake, client, monkeypatch):
    """uvloop's timers lack it if their time has passed when they are created."""

    class Timer:
        def __init__(self, timer):
            self.cancel = timer.cancel

    loop = asyncio.get_running_loop()
    call_at = loop.call_at
    monkeypatch.setattr(loop, "call_at", lambda *args, **options: Timer(call_at(*args, **options)))
    add_jobs(fake)
    outcomes = await client.wait_for_jobs(MANY)
    assert all(outcome.ok for outcome in outcomes.values())


# ---- cancelling and closing


async def test_break_leaks_nothing(fake, client):
    add_jobs(fake, ["done"], ["succeeded"])
    add_jobs(fake, MANY, ["running"])
    async with assert_no_leaks(client, fake):
        async for outcome in client.as_completed([*MANY, "done"], timeout=30):
            assert outcome.job_id == "done"
            break
        # An abandoned generator is closed by the loop within one or two iterations.
        await asyncio.sleep(0.01)
    requests = len(fake.requests)
    await asyncio.sleep(0.05)
    assert len(fake.requests) == requests


async def test_no_request_is_sent_after_break(client, monkeypatch):
    """Except in the iteration of the event loop in which a dropped stream is closed."""
    iterations = 0

    async def pause_before_sending(path, **options):
        nonlocal iterations
        while not path.endswith("done"):
            iterations += 1
            await asyncio.sleep(0)
        return b'{"job_status": "succeeded"}'

    monkeypatch.setattr(client._manager.transport, "get", pause_before_sending)
    async for _ in client.as_completed(["done", *MANY]):
        break
    await asyncio.sleep(0)
    before = iterations
    await asyncio.sleep(0.05)
    assert iterations == before > 0


async def test_aclose_ends_iterator(fake, client):
    add_jobs(fake, ["done"], ["succeeded"])
    add_jobs(fake, MANY, ["running"])
    async with assert_no_leaks(client, fake):
        async with contextlib.aclosing(client.as_completed(["done", *MANY])) as outcomes:
            async for outcome in outcomes:
                assert outcome.ok
                break


@each_call
async def test_cancellation_leaks_nothing(fake, call):
    add_jobs(fake, MANY, ["running"])
    fake.fail_next(5, delay=math.inf)
    async with fake.client(max_concurrency=5, poll=FAST_POLL) as client:
        async with assert_no_leaks(client, fake):
            task = asyncio.create_task(call(client, MANY))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        requests = len(fake.requests)
        await asyncio.sleep(0.03)
        assert len(fake.requests) == requests


async def test_cancellation_while_tasks_are_started(fake, client):
    ids = [f"job-{number}" for number in range(1000)]
    async with assert_no_leaks(client, fake):
        task = asyncio.create_task(client.get_jobs(ids))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_error_while_tasks_are_started_starts_no_more(fake, client):
    await client.aclose()
    batch_size = 1000
    before = len(asyncio.all_tasks())
    with pytest.raises(ClientStateError):
        await client.get_jobs([f"job-{number}" for number in range(batch_size)])
    assert len(asyncio.all_tasks()) == before


# ---- the timeout


async def test_timeout_ends_all_unfinished_jobs_together(fake):
    add_jobs(fake, MANY, ["running"])
    add_jobs(fake, ["done"], ["succeeded"])
    fake.fail_next(1, delay=math.inf, job_id="job-3")
    fake.fail_next(99, status=503, job_id="job-4")
    moments = []
    outcomes = {}
    began = now()
    async with fake.client(poll=FAST_POLL, timeout=60) as client:
        async for outcome in client.as_completed(["done", *MANY], timeout=0.4):
            moments.append(now() - began)
            outcomes[outcome.job_id] = outcome
    assert moments[0] < 0.2
    assert 0.399 <= moments[1] <= moments[-1] < 0.5
    assert outcomes["done"].ok
    assert len(outcomes) == 1 + len(MANY)
    for job_id in MANY:
        error = outcomes[job_id].error
        assert isinstance(error, JobWaitTimeoutError)
        assert error.job_id == job_id
        assert error.timeout == 0.4
        assert error.elapsed == outcomes["job-0"].error.elapsed
        assert error.elapsed == pytest.approx(0.4, abs=0.1)
        is_seen = job_id not in {"job-3", "job-4"}
        assert (error.last_report is not None) == is_seen
    assert isinstance(outcomes["job-4"].error.__cause__, ServerError)


async def test_timeout_of_batch_leaks_nothing(fake, client):
    add_jobs(fake, MANY, ["running"])
    async with assert_no_leaks(client, fake):
        began = now()
        outcomes = await client.wait_for_jobs(MANY, timeout=0.2)
        assert now() - began < 0.3
    assert not any(outcome.ok for outcome in outcomes.values())


async def test_timeout_expires_while_consumer_is_busy(fake, client):
    add_jobs(fake, ["done"], ["succeeded"])
    add_jobs(fake, ["endless"], ["running"])
    async for outcome in client.as_completed(["done", "endless"], timeout=0.1):
        if outcome.job_id == "done":
            await asyncio.sleep(0.2)
            requests = len(fake.requests)
            await asyncio.sleep(0.05)
            assert len(fake.requests) == requests
    assert isinstance(outcome.error, JobWaitTimeoutError)
    assert outcome.error.elapsed == pytest.approx(0.1, abs=0.05)


async def test_terminal_report_is_kept_if_on_change_hangs(fake, client):
    add_jobs(fake, ["done"], ["succeeded"])
    outcomes = await client.wait_for_jobs(
        ["done"], timeout=0.1, on_change=lambda _: asyncio.sleep(60)
    )
    assert outcomes["done"].value.is_terminal


async def test_zero_timeout_polls_each_job_once(fake, client):
    add_jobs(fake, ["running"], ["running"])
    add_jobs(fake, ["done"], ["succeeded"])
    outcomes = await client.wait_for_jobs(["running", "done", "missing"], timeout=0)
    assert [type(outcome.error) for outcome in outcomes.values()] == [
        JobWaitTimeoutError,
        type(None),
        JobNotFoundError,
    ]
    assert request_counts(fake) == {"running": 1, "done": 1, "missing": 1}


async def test_waits_without_timeout_do_not_advance_last_poll_of_others(fake):
    ids = [f"job-{number}" for number in range(300)]
    add_jobs(fake, ids, ["running"])
    fake.add_job("done", [("running", 0.5), "succeeded"])
    async with fake.client(poll=PollPolicy(initial=60, maximum=60)) as client:
        idle = asyncio.create_task(client.wait_for_jobs(ids))
        await asyncio.sleep(0.4)
        fake.set_status("done", "running")
        asyncio.get_running_loop().call_later(0.5, fake.set_status, "done", "succeeded")
        assert (await client.wait_for_job("done", timeout=0.8)).is_terminal
        idle.cancel()
        await asyncio.gather(idle, return_exceptions=True)


@pytest.mark.single_polls
async def test_last_polls_are_spread(fake):
    ids = [f"job-{number}" for number in range(300)]
    add_jobs(fake, ids, ["running"])
    async with fake.client(poll=PollPolicy(initial=60, maximum=60)) as client:
        await client.wait_for_jobs(ids, timeout=2)
    last = [request.time for request in fake.requests[300:]]
    assert 300 <= len(last) < 450
    assert max(last) - min(last) > 0.2


@pytest.mark.parametrize("end", ["running", "succeeded"])
async def test_on_change_suppressing_cancellation_does_not_delay_batch(fake, client, end):
    async def suppress_cancellation(_):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    add_jobs(fake, ["a", "b"], [end])
    options = {"on_change": suppress_cancellation}
    async with asyncio.timeout(2):
        outcomes = await client.wait_for_jobs(["a", "b"], timeout=0.2, **options)
        assert [outcome.ok for outcome in outcomes.values()] == [end == "succeeded"] * 2
        fake.add_job("c")
        async with contextlib.aclosing(client.as_completed(["a", "b", "c"], timeout=1)) as those:
            await anext(those)


# ---- limits


async def test_max_concurrency_limits_requests_in_flight(fake):
    ids = [f"job-{number}" for number in range(100)]
    add_jobs(fake, ids, ["running", "succeeded"])
    fake.fail_next(100, delay=0.01)
    async with fake.client(max_concurrency=7, poll=FAST_POLL) as client:
        outcomes = await client.wait_for_jobs(ids)
    assert all(outcome.ok for outcome in outcomes.values())
    assert fake.max_in_flight == 7


async def test_429_pauses_all_jobs_and_clones_but_no_other_client(fake):
    add_jobs(fake, timeline=["running"])
    fake.add_job("job-x", ["running"])
    fake.fail_next(1, status=429, headers={"Retry-After": "1"}, job_id="job-5")
    async with (
        fake.client(poll=FAST_POLL) as client,
        SutroClient("sk_test", base_url=fake.url) as other,
    ):
        batch = asyncio.create_task(client.wait_for_jobs(MANY, timeout=1.4))
        while not any("job-5" in request.path for request in fake.requests):
            await asyncio.sleep(0.001)
        told_at = fake.requests[[r.path for r in fake.requests].index("/v1/job-status/job-5")].time
        with pytest.raises(JobWaitTimeoutError):
            await other.wait_for_job("job-x", timeout=0)
        clone = client.with_options(retry=RetryPolicy(attempts=1))
        await clone.get_job("job-1")
        await batch
    # Requests in flight when the response arrived are not cancelled.
    after = [r.time - told_at for r in fake.requests if "job-x" not in r.path]
    assert not [seconds for seconds in after if 0.05 < seconds < 1]
    assert [seconds for seconds in after if seconds > 1]
    (others,) = (r.time - told_at for r in fake.requests if "job-x" in r.path)
    assert others < 0.3


async def test_max_rate_includes_retries_and_polls(fake):
    add_jobs(fake, timeline=["running"])
    fake.fail_next(4, status=500)  # so few that the service does not look unavailable
    async with fake.client(max_rate=100, poll=FAST_POLL, retry=FAST_RETRY) as client:
        await asyncio.gather(client.wait_for_jobs(MANY, timeout=1.5), client.get_job_statuses(MANY))
    times = [request.time for request in fake.requests]
    assert 60 < len(times) <= 152
    for index, start in enumerate(times):
        assert sum(start <= time < start + 1 for time in times[index:]) <= 102


async def test_excessive_retry_after_becomes_outcome_of_job(fake):
    add_jobs(fake, ["a", "b"], ["succeeded"])
    fake.fail_next(1, status=429, headers={"Retry-After": "3600"}, job_id="a")
    async with fake.client(retry=RetryPolicy(max_retry_after=0.05)) as client:
        outcomes = await client.get_jobs(["a", "b"])
    assert isinstance(outcomes["a"].error, RateLimitError)
    assert outcomes["b"].ok


@pytest.mark.single_polls
async def test_hundreds_of_waits_report_every_completion_once(fake):
    ids = [f"job-{number}" for number in range(500)]
    add_jobs(fake, ids, ["succeeded"])
    fake.fail_next(100, delay=0.01)
    received = set()
    async with fake.client(max_concurrency=20) as client:
        async for outcome in client.as_completed(ids):
            assert outcome.ok
            assert outcome.job_id not in received
            received.add(outcome.job_id)
    assert len(received) == len(fake.requests) == 500
    assert fake.max_in_flight == 20


def test_outcome_type_matches_request():
    outcome: JobOutcome[int] = JobOutcome(job_id="a", value=0)
    assert outcome.result() == 0
