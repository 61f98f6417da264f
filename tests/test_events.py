"""The events of an observer, which has no other effect."""

import asyncio
import gc
import json
import logging
import typing
from datetime import UTC, datetime

import aiohttp
import attrs
import pytest

from sutro_async import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    ClientStateError,
    ConfigurationError,
    InvalidResponseError,
    JobMonitor,
    JobNotFoundError,
    JobStatus,
    JobWaitTimeoutError,
    PollPolicy,
    RateLimitError,
    RetryPolicy,
    ServerError,
    SutroClient,
    events,
)
from sutro_async.events import (
    Event,
    PollFailed,
    RequestEnded,
    StatusChanged,
    ThrottlePaused,
    ThrottleResumed,
    WaitEnded,
)
from sutro_async.testing import FakeSutro
from tests.conftest import FAST_POLL, FAST_RETRY, assert_no_leaks

pytestmark = pytest.mark.usefixtures("fast_clock")

KEY = "sk_secret_of_the_tests"
ONCE = RetryPolicy(attempts=1)


class Recorder(list):
    """Collects events."""

    def of(self, kind):
        return [event for event in self if isinstance(event, kind)]

    @property
    def outcomes(self):
        """The requests as endpoint, outcome, status and attempt."""
        return [
            (each.endpoint, each.outcome, each.status_code, each.attempt)
            for each in self.of(RequestEnded)
        ]

    @property
    def wait_ends(self):
        return [(each.job_id, each.outcome, each.polls) for each in self.of(WaitEnded)]


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
async def client(fake, recorder):
    async with fake.client(retry=FAST_RETRY, poll=FAST_POLL, observer=recorder.append) as opened:
        yield opened


# ---- requests


async def test_each_attempt_of_call_is_an_event(fake, client, recorder):
    fake.add_job("job-1", ["running"])
    fake.fail_next(status=503)
    fake.fail_next(status=429)
    await client.get_job("job-1")
    assert recorder.outcomes == [
        ("jobs", "server_error", 503, 1),
        ("jobs", "rate_limited", 429, 2),
        ("jobs", "ok", 200, 3),
    ]
    first, second, third = recorder
    assert isinstance(first.error, ServerError)
    assert isinstance(second.error, RateLimitError)
    assert third.error is None
    assert {each.job_id for each in recorder} == {"job-1"}
    assert all(0 < each.seconds < 1 for each in recorder)
    assert all(0 <= each.queued_seconds < 0.1 for each in recorder)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 401}, ("client_error", 401, AuthenticationError)),
        ({"status": 404}, ("client_error", 404, JobNotFoundError)),
        ({"status": 302}, ("client_error", 302, APIStatusError)),
        ({"status": 500}, ("server_error", 500, ServerError)),
        ({"status": 200, "body": b"{"}, ("invalid_response", 200, InvalidResponseError)),
        ({"disconnect": True}, ("connection_error", None, APIConnectionError)),
        ({"delay": 60}, ("timeout", None, APITimeoutError)),
    ],
)
async def test_request_outcome_is_one_of_few_values(fake, client, recorder, fault, expected):
    outcome, status_code, error = expected
    fake.add_job("job-1")
    fake.fail_next(**fault)
    with pytest.raises(error):
        await client.with_options(retry=ONCE, timeout=5).get_job_status("job-1")
    [event] = recorder
    assert (event.outcome, event.status_code) == (outcome, status_code)
    assert type(event.error) is error
    assert outcome in typing.get_args(events.RequestOutcome)
    if outcome == "timeout":
        assert event.seconds == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("cause", ["cancel", "close"])
async def test_cancelled_call_is_an_event(fake, client, recorder, cause):
    fake.add_job("job-1")
    fake.fail_next(delay=60)
    task = asyncio.create_task(client.get_job_status("job-1"))
    await asyncio.sleep(1)
    if cause == "cancel":
        task.cancel()
    else:
        await client.aclose()
    await asyncio.wait({task})
    [event] = recorder
    assert (event.outcome, event.status_code, event.error) == ("cancelled", None, None)
    assert event.seconds == pytest.approx(1, abs=0.1)


async def test_unusable_session_is_an_event(fake, recorder):
    async with aiohttp.ClientSession() as session:
        client = fake.client(session=session, observer=recorder.append)
    async with client:
        with pytest.raises(ClientStateError):
            await client.get_job_status("job-1")
    [event] = recorder
    assert event.outcome == "unusable_session"
    assert isinstance(event.error, ClientStateError)


async def test_closing_client_in_observer_ends_pause(fake, recorder):
    closing = []

    def observe(event):
        recorder.append(event)
        if isinstance(event, ThrottlePaused):
            closing.append(asyncio.create_task(client.aclose()))

    fake.fail_next(status=429, headers={"Retry-After": "40"})
    client = fake.client(observer=observe)
    async with assert_no_leaks(client, fake):
        with pytest.raises(ClientStateError):
            await client.get_job_status("job-1")
        await asyncio.gather(*closing)
    kinds = {type(event) for event in recorder}
    assert kinds == {ThrottlePaused, RequestEnded, ThrottleResumed}


async def test_call_cancelled_in_queue_is_not_an_event(fake, recorder):
    fake.add_job("job-1")
    fake.fail_next(delay=60)
    async with fake.client(max_concurrency=1, observer=recorder.append) as client:
        first = asyncio.create_task(client.get_job_status("job-1"))
        second = asyncio.create_task(client.get_job("job-1"))
        await asyncio.sleep(1)
        second.cancel()
        await asyncio.wait({second})
        first.cancel()
        await asyncio.wait({first})
    assert recorder.outcomes == [("job-status", "cancelled", None, 1)]


async def test_queue_time_and_request_time_are_separate(fake, recorder):
    for number in range(3):
        fake.add_job(f"job-{number}", ["succeeded"])
    fake.fail_next(6, delay=1, status=404)
    async with fake.client(max_concurrency=1, retry=ONCE, observer=recorder.append) as client:
        await client.get_jobs(["job-0", "job-1", "job-2"])
        await asyncio.gather(*(client.get_job("job-0") for _ in range(3)), return_exceptions=True)
    queued = [event.queued_seconds for event in recorder]
    assert queued[3:] == pytest.approx([0, 1, 2], abs=0.2)
    assert [event.seconds for event in recorder] == pytest.approx([1] * 6, abs=0.2)


async def test_time_waiting_for_worker_counts_as_queued(fake, recorder):
    for number in range(3):
        fake.add_job(f"job-{number}", ["succeeded"])
    fake.fail_next(3, delay=1, status=410)
    async with fake.client(max_concurrency=1, observer=recorder.append) as client:
        await client.wait_for_jobs(["job-0", "job-1", "job-2"])
    queued = [event.queued_seconds for event in recorder.of(RequestEnded)]
    assert queued == pytest.approx([0, 1, 2], abs=0.2)


async def test_list_pages_are_events(fake, client, recorder):
    fake.add_job("job-1")
    fake.fail_next(status=500)
    assert [job.job_id async for job in client.list_jobs()] == ["job-1"]
    assert recorder.outcomes == [
        ("list-jobs", "server_error", 500, 1),
        ("list-jobs", "ok", 200, 2),
    ]
    assert {event.job_id for event in recorder} == {None}


# ---- waits


def waits_of(client, monitor):
    """Each kind of wait for two jobs."""

    async def drain(stream):
        return [item async for item in stream]

    async def wait_for_job(job_ids):
        await asyncio.gather(*map(client.wait_for_job, job_ids), return_exceptions=True)

    async def watch_job(job_ids):
        await asyncio.gather(
            *(drain(client.watch_job(each)) for each in job_ids), return_exceptions=True
        )

    async def monitor_wait(job_ids):
        await asyncio.gather(*map(monitor.wait, job_ids * 3), return_exceptions=True)

    async def monitor_watch(job_ids):
        streams = [monitor.watch(each) for each in job_ids * 3]
        await asyncio.gather(*map(drain, streams), return_exceptions=True)

    return {
        "wait_for_job": wait_for_job,
        "watch_job": watch_job,
        "wait_for_jobs": client.wait_for_jobs,
        "as_completed": lambda job_ids: drain(client.as_completed(job_ids)),
        "watch_jobs": lambda job_ids: drain(client.watch_jobs(job_ids)),
        "monitor.wait": monitor_wait,
        "monitor.watch": monitor_watch,
        "monitor.watch_jobs": lambda job_ids: drain(monitor.watch_jobs(job_ids)),
    }


KINDS = list(waits_of(SutroClient("key"), None))


@pytest.mark.parametrize("kind", KINDS)
async def test_every_wait_sends_events_for_changes_failures_and_end(fake, client, recorder, kind):
    fake.add_job("good", ["queued", "queued", "running", "succeeded"])
    fake.fail_next(status=500, job_id="good")
    fake.add_job("gone", ["queued", "failed"], failure_reason="no GPU")
    fake.fail_next(2, status=410, job_id="late")
    async with JobMonitor(client) as monitor:
        await waits_of(client, monitor)[kind](["good", "gone", "late"])
        assert client.stats().waiting == 0
    changes = [
        (event.previous, event.report.status)
        for event in recorder.of(StatusChanged)
        if event.job_id == "good"
    ]
    assert changes == [
        (None, JobStatus.QUEUED),
        (JobStatus.QUEUED, JobStatus.RUNNING),
        (JobStatus.RUNNING, JobStatus.SUCCEEDED),
    ]
    assert sorted(recorder.wait_ends) == [
        ("gone", "failed", 2),
        ("good", "succeeded", 5),
        ("late", "error", 1),
    ]
    failures = {event.job_id: event for event in recorder.of(PollFailed)}
    assert sorted(failures) == ["good", "late"]
    assert isinstance(failures["good"].error, ServerError)
    assert 0 < failures["good"].next_poll_in < 0.1
    assert failures["late"].next_poll_in is None
    polls = [event for event in recorder.of(RequestEnded) if event.job_id == "good"]
    assert [event.attempt for event in polls] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_wait_counts_jobs_until_abandoned(fake, client, recorder, kind):
    for job_id in ("a", "b"):
        fake.add_job(job_id, ["running"])
    assert client.stats().waiting == 0
    async with JobMonitor(client) as monitor:
        task = asyncio.ensure_future(waits_of(client, monitor)[kind](["a", "b"]))
        await asyncio.sleep(0.1)
        assert client.stats().waiting == 2
        task.cancel()
        await asyncio.wait({task})
        # A dropped stream is closed by the event loop in its next iterations.
        del task
        gc.collect()
        await asyncio.sleep(0.01)
        assert client.stats().waiting == 0
    wait_ends = [(job_id, outcome) for job_id, outcome, _ in sorted(recorder.wait_ends)]
    assert wait_ends == [("a", "abandoned"), ("b", "abandoned")]


async def test_timeout_is_an_outcome(fake, client, recorder):
    for job_id in "abcdef":
        fake.add_job(job_id, ["running"])
    with pytest.raises(JobWaitTimeoutError):
        await client.wait_for_job("a", timeout=1)
    with pytest.raises(JobWaitTimeoutError):
        await client.wait_for_job("b", timeout=0)
    await client.wait_for_jobs(["c"], timeout=1)
    await client.wait_for_jobs(["d"], timeout=0)
    async with JobMonitor(client) as monitor:
        with pytest.raises(JobWaitTimeoutError):
            await monitor.wait("e", timeout=1)
        with pytest.raises(JobWaitTimeoutError):
            await monitor.wait("f", timeout=0)
    wait_ends = recorder.of(WaitEnded)
    assert [(event.job_id, event.outcome) for event in wait_ends] == [
        (job_id, "timeout") for job_id in "abcdef"
    ]
    assert [event.elapsed for event in wait_ends[::2]] == pytest.approx([1] * 3, abs=0.1)
    assert [event.polls for event in wait_ends[1::2]] == [1] * 3
    assert client.stats().waiting == 0


async def test_last_watcher_ends_shared_wait(fake, client, recorder):
    fake.add_job("job-1", [("running", 3), "succeeded"])
    async with JobMonitor(client) as monitor:
        early = asyncio.create_task(monitor.wait("job-1", timeout=1))
        await asyncio.gather(early, monitor.wait("job-1"), return_exceptions=True)
        assert isinstance(early.exception(), JobWaitTimeoutError)
    assert [outcome for _, outcome, _ in recorder.wait_ends] == ["succeeded"]
    assert len(recorder.of(StatusChanged)) == 2


async def test_wait_ended_by_closing_client_is_abandoned(fake, recorder):
    for job_id in ("a", "b", "c"):
        fake.add_job(job_id, ["running"])
    client = fake.client(poll=FAST_POLL, observer=recorder.append)
    monitor = JobMonitor(client)
    async with monitor:
        waits = asyncio.gather(
            client.wait_for_job("a"),
            client.wait_for_jobs(["b"]),
            monitor.wait("c"),
            return_exceptions=True,
        )
        await asyncio.sleep(1)
        await client.aclose()
        assert {type(error) for error in await waits} == {ClientStateError}
    assert sorted(recorder.wait_ends, key=lambda end: end[0]) == [
        (job_id, "abandoned", polls) for (job_id, _, polls) in sorted(recorder.wait_ends)
    ]
    assert len(recorder.wait_ends) == 3


async def test_error_that_concerns_batch_is_outcome_of_one_job(fake, client, recorder):
    for job_id in ("a", "b"):
        fake.add_job(job_id, ["running"])
    fake.fail_next(status=401, job_id="b")
    with pytest.raises(AuthenticationError):
        await client.wait_for_jobs(["a", "b"])
    wait_ends = {job_id: outcome for job_id, outcome, _ in recorder.wait_ends}
    assert wait_ends == {"a": "abandoned", "b": "error"}


@pytest.mark.parametrize("is_closed", [True, False])
async def test_closed_stream_is_abandoned(fake, client, recorder, is_closed):
    fake.add_job("job-1", ["running"])
    stream = client.watch_job("job-1")
    async for _ in stream:
        assert client.stats().waiting == 1
        break
    if is_closed:
        await stream.aclose()
        await stream.aclose()
    else:
        del stream
        gc.collect()
        await asyncio.sleep(0.01)
    assert client.stats().waiting == 0
    assert recorder.wait_ends == [("job-1", "abandoned", 1)]


async def test_step_closed_by_another_task_is_abandoned(fake, client, recorder):
    fake.add_job("job-1", ["running"])
    stream = client.watch_job("job-1")
    await anext(stream)
    step = asyncio.create_task(anext(stream, None))
    await asyncio.sleep(1)
    await stream.aclose()
    assert await step is None
    assert [outcome for _, outcome, _ in recorder.wait_ends] == ["abandoned"]


async def test_failed_poll_has_failing_since(fake):
    failing_for = []

    def observer(event):
        if isinstance(event, PollFailed):
            since = (datetime.now(UTC) - event.failing_since).total_seconds()
            failing_for.append((asyncio.get_running_loop().time(), since))

    fake.add_job("job-1", ["queued", "running", "succeeded"])
    async with fake.client(poll=PollPolicy(initial=2, maximum=2), observer=observer) as client:
        async for _ in client.watch_job("job-1"):
            fake.fail_next(3, status=500)
    for began, *others in (failing_for[:3], failing_for[3:]):
        assert began[1] == pytest.approx(0, abs=0.1)
        for at, since in others:
            assert since == pytest.approx(at - began[0], abs=0.1)
            assert since > 0.2


async def test_last_failed_poll_has_no_next_poll(fake, client, recorder):
    fake.add_job("job-1")
    fake.fail_next(status=500)
    with pytest.raises(JobWaitTimeoutError):
        await client.wait_for_job("job-1", timeout=0)
    [event] = recorder.of(PollFailed)
    assert event.next_poll_in is None
    assert [outcome for _, outcome, _ in recorder.wait_ends] == ["timeout"]


async def test_late_is_known_if_record_was_read(fake, client, recorder):
    fake.add_job("job-1", ["failed"], failure_reason="no GPU", status_reason=False)
    fake.add_job("job-2", ["failed"], failure_reason="no GPU")
    fake.add_job("job-3", ["succeeded"])
    await asyncio.sleep(0)
    began_at = datetime.now(UTC)
    await client.wait_for_jobs(["job-1", "job-2", "job-3"])
    completed_at = (await client.get_job("job-1")).datetime_completed
    late = {event.job_id: event.late for event in recorder.of(WaitEnded)}
    assert late["job-2"] is late["job-3"] is None
    assert late["job-1"] == pytest.approx((began_at - completed_at).total_seconds(), abs=1)
    # No request was made for it.
    assert [request.path for request in fake.requests].count("/v1/jobs/job-1") == 2
    assert len(fake.requests) == 5


# ---- pauses and outages


async def test_pause_has_begin_and_end_events(fake, client, recorder):
    fake.add_job("job-1", ["running"])
    fake.fail_next(status=429, headers={"Retry-After": "5"})
    await client.get_job_status("job-1")
    kinds = [type(event) for event in recorder]
    assert kinds == [ThrottlePaused, RequestEnded, ThrottleResumed, RequestEnded]
    paused, resumed = recorder[0], recorder[2]
    assert (paused.reason, resumed.reason) == ("retry_after", "retry_after")
    assert paused.seconds == pytest.approx(5)
    assert resumed.seconds == pytest.approx(5, abs=0.1)


async def test_extended_pause_is_one_pause(fake, recorder):
    for job_id in ("a", "b"):
        fake.add_job(job_id, ["running"])
    fake.fail_next(status=429, headers={"Retry-After": "2"}, job_id="a")
    fake.fail_next(status=429, headers={"Retry-After": "5"}, job_id="b", delay=1)
    async with fake.client(observer=recorder.append) as client:
        await client.get_job_statuses(["a", "b"])
    [paused], [resumed] = recorder.of(ThrottlePaused), recorder.of(ThrottleResumed)
    assert paused.seconds == pytest.approx(2)
    assert resumed.seconds == pytest.approx(6, abs=0.2)


async def test_closing_client_ends_pause(fake, recorder):
    fake.add_job("job-1")
    fake.fail_next(status=429, headers={"Retry-After": "60"})
    async with fake.client(retry=ONCE, observer=recorder.append) as client:
        async with assert_no_leaks(client, fake):
            with pytest.raises(RateLimitError):
                await client.get_job_status("job-1")
            await asyncio.sleep(1)
            await client.aclose()
    assert recorder[-1] == ThrottleResumed(reason="retry_after", seconds=pytest.approx(1, abs=0.1))


async def test_new_pause_is_distinguished_from_overdue_one(fake, recorder, monkeypatch):
    fake.add_job("job-1", ["running"])
    async with fake.client(retry=ONCE, observer=recorder.append) as client:
        throttle = client._manager.throttle
        loop = asyncio.get_running_loop()
        for seconds in ("1", "2"):
            fake.fail_next(status=429, headers={"Retry-After": seconds})
            with pytest.raises(RateLimitError):
                await client.get_job_status("job-1")
            if seconds == "1":
                # The loop was busy for so long that a request comes before the timer.
                throttle._resume_timer.cancel()
                throttle._resume_timer = loop.call_later(100, throttle._on_resume_timer)
                await asyncio.sleep(1)
    assert [type(each) for each in recorder if not isinstance(each, RequestEnded)] == [
        ThrottlePaused,
        ThrottleResumed,
        ThrottlePaused,
        ThrottleResumed,
    ]


@pytest.mark.parametrize("is_closed", [False, True])
async def test_outage_has_begin_and_end_events(fake, client, recorder, is_closed):
    job_ids = [f"job-{number}" for number in range(6)]
    for job_id in job_ids:
        fake.add_job(job_id, ["running", "succeeded"])
    fake.fail_next(6 if not is_closed else 10_000, status=500)
    waits = asyncio.create_task(client.wait_for_jobs(job_ids, timeout=1))
    while not recorder.of(ThrottlePaused):
        await asyncio.sleep(0.001)
    assert client.stats().pause_reason == "outage"
    if is_closed:
        await client.aclose()
        assert client.stats().pause_reason is None
    await asyncio.wait({waits})
    [paused], [resumed] = recorder.of(ThrottlePaused), recorder.of(ThrottleResumed)
    assert (paused.reason, paused.seconds) == ("outage", None)
    assert resumed.reason == "outage"
    assert 0 <= resumed.seconds < 5
    assert client.stats().pause_reason is None


# ---- the observer


async def test_clones_share_observer(fake, client, recorder):
    fake.add_job("job-1", ["running"])
    await client.with_options(timeout=5).get_job_status("job-1")
    assert len(recorder) == 1


@pytest.mark.parametrize("observer", ["f", 7])
def test_non_callable_observer_is_rejected(observer):
    with pytest.raises(ConfigurationError, match="plain callable"):
        SutroClient("key", observer=observer)


async def coroutine_function(event):
    pytest.fail("called")


class AsyncObserver:
    async def __call__(self, event):
        pytest.fail("called")


@pytest.mark.parametrize("observer", [coroutine_function, AsyncObserver()])
def test_coroutine_function_as_observer_is_rejected(observer):
    with pytest.raises(ConfigurationError, match="plain callable, not a coroutine function"):
        SutroClient("key", observer=observer)


@pytest.mark.parametrize("error", [ValueError("oops"), asyncio.CancelledError()])
async def test_observer_exception_is_logged_once_and_has_no_effect(fake, caplog, error):
    seen = []

    def observer(event):
        seen.append(event)
        raise error

    for job_id in "abc":
        fake.add_job(job_id, ["queued", "running", "succeeded"])
    fake.fail_next(2, status=503, headers={"Retry-After": "1"})
    async with fake.client(poll=FAST_POLL, observer=observer) as client:
        outcomes = await client.wait_for_jobs(["a", "b", "c"])
    assert [outcome.value.status for outcome in outcomes.values()] == [JobStatus.SUCCEEDED] * 3
    kinds = {type(event) for event in seen}
    assert len(kinds) == 6
    records = [each for each in caplog.records if "the observer failed" in each.getMessage()]
    assert len(records) == len(kinds)
    assert {record.levelno for record in records} == {logging.ERROR}
    assert {record.exc_info[1] for record in records} == {error}


async def test_observer_errors_do_not_flood_log(fake, caplog):
    def observer(event):
        raise type("Oops", (Exception,), {})

    fake.add_job("job-1", ["running"])
    async with fake.client(observer=observer) as client:
        for _ in range(110):
            await client.get_job_status("job-1")
    assert len([each for each in caplog.records if each.exc_info]) == 100


async def test_base_exception_of_observer_is_raised(fake):
    class EndOfProgram(BaseException):
        pass

    def observer(event):
        raise EndOfProgram

    fake.add_job("job-1", ["running"])
    async with fake.client(observer=observer) as client:
        with pytest.raises(EndOfProgram):
            await client.get_job_status("job-1")
        assert client.stats().in_flight == 0


async def test_observer_can_call_stats(fake):
    fake.add_job("job-1", ["running", "succeeded"])
    seen = []
    async with fake.client(
        poll=FAST_POLL, observer=lambda event: seen.append((event, client.stats()))
    ) as client:
        await client.wait_for_job("job-1")
    assert {stats.in_flight for event, stats in seen if isinstance(event, RequestEnded)} == {0}
    assert isinstance(seen[-1][0], WaitEnded)
    assert seen[-1][1].waiting == 0


# ---- the event classes


def all_events(cls=Event):
    for each in cls.__subclasses__():
        yield each
        yield from all_events(each)


def test_events_are_frozen_and_keyword_only():
    assert {each.__name__ for each in all_events()} == {
        "PollFailed",
        "RequestEnded",
        "StatusChanged",
        "ThrottlePaused",
        "ThrottleResumed",
        "WaitEnded",
    }
    for cls in (*all_events(), events.ClientStats):
        assert attrs.has(cls)
        assert not hasattr(cls, "__dict__") or "__dict__" not in cls.__slots__
        assert all(field.kw_only for field in attrs.fields(cls))
    event = ThrottlePaused(reason="outage", seconds=None)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.seconds = 1
    with pytest.raises((AttributeError, TypeError)):
        event.other = 1


def texts_of(value, seen=None):
    """Return all texts of a value: its repr, its fields, and those of its parts."""
    yield repr(value)
    yield str(value)
    if isinstance(value, BaseException):
        assert value.__cause__ is None
        assert value.__traceback__ is None
        parts = [*vars(value).values(), *value.args, value.__context__]
    elif attrs.has(type(value)):
        parts = [getattr(value, field.name) for field in attrs.fields(type(value))]
    elif isinstance(value, dict):
        parts = [*value, *value.values()]
    elif isinstance(value, list | tuple):
        parts = value
    else:
        parts = []
    for part in parts:
        yield from texts_of(part)


async def test_key_is_in_no_event_and_in_no_stats(recorder):
    stats = []
    job_ids = [f"job-{number}" for number in range(6)]
    quoting = {"message": f"your key is {KEY}", "metadata": {KEY: [KEY]}}
    echoes = [json.dumps({"job_status": word} | quoting) for word in ("RUNNING", f"RUN {KEY}")]
    record = f'{{"job":{{"job_id":"job-5","status":"FAILED","failure_reason":"{KEY}"}}}}'
    async with FakeSutro(api_key=KEY) as fake:
        for job_id in job_ids:
            fake.add_job(job_id, ["running", "running", "succeeded"])
            for echo in echoes:
                fake.fail_next(status=200, body=echo.encode(), job_id=job_id)
        fake.fail_next(
            status=200,
            body=f'{{"job_status":"FAILED","metadata":{{"failure_reason":"{KEY}"}}}}'.encode(),
            job_id="job-5",
        )
        for status in (500, 429, 503, 200):
            body = f"<title>{KEY}</title> Authorization: Key {KEY}".encode()
            fake.fail_next(8, status=status, body=body, headers={"Retry-After-Ms": "10"})
        fake.fail_next(3, disconnect=True)
        fake.fail_next(status=410, body=f'{{"detail":"{KEY}"}}'.encode())
        fake.fail_next(3, status=200, body=record.encode(), endpoint="jobs")
        async with fake.client(
            retry=FAST_RETRY, poll=FAST_POLL, observer=recorder.append
        ) as client:
            await client.wait_for_jobs(job_ids)
            stats.append(client.stats())
            await asyncio.gather(*map(client.get_job, job_ids), return_exceptions=True)
            stats.append(client.stats())
            await asyncio.gather(*map(client.wait_for_job, job_ids), return_exceptions=True)
        stats.append(client.stats())
    assert {type(event) for event in recorder} == set(all_events())
    for cls in (RequestEnded, PollFailed, StatusChanged):
        texts = [text for event in recorder if type(event) is cls for text in texts_of(event)]
        assert any("[api key]" in text for text in texts), cls
    for each in (*recorder, *stats):
        for text in texts_of(each):
            assert KEY not in text
