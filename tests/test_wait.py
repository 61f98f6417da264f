"""One wait: polling intervals, transient failures, timeouts, cancellation and leak checks."""

import asyncio
import contextlib
import email.utils
import itertools
import logging
import math
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from sutro_async import (
    APIConnectionError,
    APIStatusError,
    ClientStateError,
    InvalidResponseError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobStatus,
    JobWaitTimeoutError,
    PermissionDeniedError,
    PollPolicy,
    RateLimitError,
    RetryPolicy,
    ServerError,
)
from sutro_async._http import Priority
from sutro_async._numbers import timeout_seconds
from sutro_async.testing import FakeSutro
from tests.conftest import FAST_POLL, TIMER_RESOLUTION, assert_no_leaks, now
from tests.raw_server import SUCCEEDED, raw_response, raw_server

pytestmark = pytest.mark.usefixtures("fast_clock")

ENDLESS = ["running"]


def polls(fake, job_id="job-1"):
    """Return the times of the status requests for the job, in seconds after the first."""
    times = [r.time for r in fake.requests if r.path.endswith(f"/job-status/{job_id}")]
    return [time - times[0] for time in times]


def gaps(fake):
    times = polls(fake)
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@contextlib.contextmanager
def takes(seconds, tolerance=0.1):
    """Check how long the block takes."""
    began = now()
    yield
    elapsed = now() - began
    assert seconds - TIMER_RESOLUTION <= elapsed <= seconds + tolerance


# ---- completion


@pytest.mark.parametrize("dialect", ["mapping", "flat"])
@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
async def test_terminal_report_is_returned(dialect, end):
    async with FakeSutro(dialect=dialect) as fake, fake.client(poll=FAST_POLL) as client:
        fake.add_job("job-1", ["queued", "running", "running", end], failure_reason="no GPU")
        report = await client.wait_for_job("job-1")
    assert report.status == end
    assert report.is_terminal
    assert len(fake.requests) == 4
    assert str(report.failure or "") == ("no GPU" if end == "failed" else "")


@pytest.mark.parametrize("word", ["cancelling", "new-status", "pending"])
async def test_only_terminal_status_ends_wait(fake, client, word):
    fake.add_job("job-1", [word, word, "succeeded"], allow_unknown=True)
    assert (await client.wait_for_job("job-1")).status is JobStatus.SUCCEEDED
    assert len(fake.requests) == 3


@pytest.mark.parametrize(
    ("end", "error"), [("failed", JobFailedError), ("cancelled", JobCancelledError)]
)
async def test_raise_on_failure(fake, client, end, error):
    fake.add_job("job-1", ["running", end], failure_reason="no GPU")
    with pytest.raises(error) as caught:
        await client.wait_for_job("job-1", raise_on_failure=True)
    assert caught.value.report.status == end


async def test_raise_on_failure_returns_successful_report(fake, client):
    fake.add_job("job-1")
    assert (await client.wait_for_job("job-1", raise_on_failure=True)).status == "succeeded"


# ---- polling intervals


@pytest.fixture
def slept(monkeypatch):
    """Record the delays, in seconds, without sleeping."""
    delays = []
    sleep = asyncio.sleep

    async def note(seconds, *args):
        if seconds:
            delays.append(round(seconds, 1))
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    return delays


async def test_interval_grows_and_is_reset_by_change(fake, slept):
    fake.add_job("job-1", ["queued"] * 4 + ["running"] * 3 + ["succeeded"])
    policy = PollPolicy(initial=2, factor=2, maximum=6, jitter=0)
    async with fake.client(poll=policy) as client:
        await client.wait_for_job("job-1")
    assert slept == [2, 4, 6, 6, 2, 4, 6]


async def test_interval_jitter_bounds(fake, slept, monkeypatch):
    drawn = iter([0.5, 1.5, 1.0])
    bounds = []

    def draw(lower, upper):
        bounds.append((lower, upper))
        return next(drawn)

    monkeypatch.setattr("random.uniform", draw)
    fake.add_job("job-1", ["running", "running", "succeeded"])
    policy = PollPolicy(initial=4, factor=1, jitter=0.5)
    async with fake.client(poll=policy) as client:
        await client.wait_for_job("job-1")
    assert set(bounds) == {(0.5, 1.5)}
    assert slept == [2, 6]


async def test_default_intervals_follow_policy(fake, slept, monkeypatch):
    monkeypatch.setattr("random.uniform", lambda lower, upper: upper)
    fake.add_job("job-1", ["running"] * 9 + ["succeeded"])
    async with fake.client() as client:
        await client.wait_for_job("job-1")
    expected = [1.1, 1.65, 2.475, 3.71, 5.57, 8.35, 12.53, 16.5, 16.5]
    assert slept == pytest.approx(expected, abs=0.15)


async def test_very_long_wait_does_not_overflow(fake):
    fake.add_job("job-1", [*["running"] * 30, "succeeded"])
    policy = PollPolicy(initial=0.001, factor=1e300, maximum=0.002)
    async with fake.client() as client:
        assert (await client.wait_for_job("job-1", poll=policy)).is_terminal


async def test_custom_policy_is_used(fake):
    fake.add_job("job-1", ["running", "succeeded"])
    async with fake.client(poll=PollPolicy(initial=60, maximum=60)) as client:
        async with asyncio.timeout(5):
            await client.wait_for_job("job-1", poll=FAST_POLL)
            async for _ in client.watch_job("job-1", poll=FAST_POLL):
                pass


# ---- transient failures


def http_date(seconds):
    return email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


FAULTS = {
    "disconnect": {"disconnect": True},
    "reset in the middle of the body": {"reset": True},
    "body cut short": {"truncate": True},
    "502 with HTML": {"status": 502},
    "200 with HTML": {"body": b"<html>maintenance</html>"},
    "200 with another job": {"body": b'{"job_status": {"job-2": "SUCCEEDED"}}'},
    "429 with seconds": {"status": 429, "headers": {"Retry-After": "0.05"}},
    "429 with a date": {"status": 429, "headers": {"Retry-After": http_date(0)}},
    "429 without": {"status": 429},
    "524": {"status": 524},
    "never responds": {"delay": math.inf},
}


@pytest.mark.parametrize("when", [0, 1], ids=["from the start", "after a report"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_wait_survives_transient_failure(fake, fault, when):
    fake.add_job("job-1", ["running"] * when + ["succeeded"])
    async with fake.client(poll=FAST_POLL, timeout=0.1) as client:
        reports = client.watch_job("job-1", timeout=10)
        for _ in range(when):
            assert (await anext(reports)).status == "running"
        fake.fail_next(4, **fault)
        assert (await anext(reports)).status == "succeeded"
    assert fake.faults_left == 0


async def test_wait_survives_refused_connections(unused_tcp_port):
    async with FakeSutro(port=unused_tcp_port) as fake:
        client = fake.client(poll=FAST_POLL)
        wait = asyncio.create_task(client.wait_for_job("job-1"))
    fake = FakeSutro(port=unused_tcp_port)
    fake.add_job("job-1")
    await asyncio.sleep(0.1)
    assert not wait.done()
    async with fake, asyncio.timeout(5):
        assert (await wait).is_terminal
        await client.aclose()


async def test_wait_survives_any_mix_of_failures_for_nearly_max_outage(fake):
    fake.add_job("job-1", ["running", "succeeded"])
    policy = PollPolicy(initial=0.01, maximum=0.06, max_outage=4)
    async with fake.client(poll=policy, timeout=0.05) as client:
        reports = client.watch_job("job-1")
        await anext(reports)
        for repeat in (1, 2, 1):
            for fault in FAULTS.values():
                fake.fail_next(repeat, **fault)
        with takes(1, tolerance=3):
            assert (await anext(reports)).status == "succeeded"
    assert fake.faults_left == 0


async def test_retries_are_not_nested(fake):
    fake.add_job("job-1")
    fake.fail_next(3, status=500)
    policy = PollPolicy(initial=0.02, factor=1, jitter=0)
    async with fake.client(retry=RetryPolicy(initial=0.001), poll=policy) as client:
        await client.wait_for_job("job-1")
    assert len(fake.requests) == 4
    assert min(gaps(fake)) >= 0.01


async def test_backoff_starts_small_for_any_interval(fake, slept, monkeypatch):
    monkeypatch.setattr("random.uniform", lambda _, upper: upper)
    fake.add_job("job-1", ["running", "running", "succeeded"])
    policy = PollPolicy(initial=2, factor=10, maximum=15, jitter=0)
    async with fake.client(poll=policy) as client:
        reports = client.watch_job("job-1")
        await anext(reports)
        fake.fail_next(7, status=500)
        await anext(reports)
    # The first poll of the step, seven failures, and then the pace continues where it was.
    assert slept == [2, 0.5, 1, 2, 4, 8, 15, 15, 15]


async def test_retry_after_is_not_added_to_backoff(fake, slept, monkeypatch):
    monkeypatch.setattr("random.uniform", lambda _, upper: upper)
    fake.add_job("job-1")
    fake.fail_next(1, status=500, headers={"Retry-After": "7"})
    fake.fail_next(1, status=500, headers={"Retry-After": "0.1"})
    async with fake.client() as client:
        await client.wait_for_job("job-1")
    assert slept == [7, 1]


async def test_failure_shortens_long_interval(fake):
    fake.add_job("job-1", ["succeeded"])
    fake.fail_next(1, status=500)
    async with fake.client(poll=PollPolicy(initial=60, maximum=600)) as client:
        async with asyncio.timeout(5):
            await client.wait_for_job("job-1")
    assert 0.25 <= gaps(fake)[0] <= 0.6


async def test_good_poll_resets_backoff(fake, monkeypatch):
    bounds = []

    def draw(lower, upper):
        bounds.append((lower, upper))
        return 0.001

    fake.add_job("job-1", ["a", "b", "succeeded"], allow_unknown=True)
    monkeypatch.setattr("random.uniform", draw)
    async with fake.client(poll=PollPolicy(initial=0.01, jitter=0)) as client:
        for _ in range(2):
            fake.fail_next(3, status=500)
            reports = client.watch_job("job-1")
            await anext(reports)
    drawn = [each for each in bounds if each != (1, 1)]  # without the jitter
    assert drawn == [(0.005, 0.01), (0.01, 0.02), (0.02, 0.04)] * 2


async def test_retry_after_postpones_next_poll(fake):
    fake.add_job("job-1")
    fake.fail_next(1, status=500, headers={"Retry-After": "0.2"})
    async with fake.client(poll=FAST_POLL) as client:
        await client.wait_for_job("job-1")
    assert 0.2 - TIMER_RESOLUTION <= gaps(fake)[0] < 0.3


@pytest.mark.parametrize("status", [400, 401, 410, 422, 501, 505])
async def test_final_status_ends_wait_at_once(fake, client, status):
    fake.add_job("job-1", ENDLESS)
    reports = client.watch_job("job-1")
    received = await anext(reports)
    fake.fail_next(1, status=status)
    with pytest.raises(APIStatusError) as caught:
        await anext(reports)
    assert caught.value.status_code == status
    assert caught.value.last_report is received
    assert len(fake.requests) == 2
    with pytest.raises(StopAsyncIteration):
        await anext(reports)


async def test_redirect_ends_wait_at_once():
    data = raw_response(b"", status=307, headers="Location: https://evil.test/\r\n")
    async with raw_server(data) as server, fake_client(server.url) as client:
        with pytest.raises(APIStatusError, match=r"evil\.test"):
            await client.wait_for_job("job-1")


def fake_client(url):
    from sutro_async import SutroClient

    return SutroClient("sk_test", base_url=url, poll=FAST_POLL)


# ---- outages that last


async def test_wait_gives_up_after_max_outage_with_one_last_poll(fake):
    fake.add_job("job-1", ENDLESS)
    policy = attrs.evolve(FAST_POLL, max_outage=0.3, maximum=0.2)
    async with fake.client(poll=policy) as client:
        reports = client.watch_job("job-1")
        received = await anext(reports)
        fake.fail_next(1, body=b"<html>")
        fake.fail_next(100, status=503)
        with takes(0.3, tolerance=0.12), pytest.raises(ServerError) as caught:
            await anext(reports)
    assert caught.value.last_report == received
    assert polls(fake)[-1] - polls(fake)[1] == pytest.approx(0.3, abs=0.05)


async def test_last_error_is_raised(fake):
    fake.fail_next(1, status=500)
    fake.fail_next(50, body=b"<html>")
    policy = attrs.evolve(FAST_POLL, max_outage=0.1)
    async with fake.client(poll=policy) as client:
        with pytest.raises(InvalidResponseError, match="not JSON") as caught:
            await client.wait_for_job("job-1")
    assert caught.value.last_report is None


async def test_good_poll_ends_outage(fake):
    fake.add_job("job-1", ["a", "b", "c", "d", "succeeded"], allow_unknown=True)
    policy = attrs.evolve(FAST_POLL, max_outage=0.3)
    with takes(0.6, tolerance=2):
        async with fake.client(poll=policy, timeout=0.05) as client:
            async for _ in client.watch_job("job-1"):
                fake.fail_next(3, delay=math.inf)


async def test_consumer_time_does_not_count_towards_outage(fake):
    fake.add_job("job-1", ["a", "succeeded"], allow_unknown=True)
    policy = attrs.evolve(FAST_POLL, max_outage=0.1)
    async with fake.client(poll=policy) as client:
        reports = client.watch_job("job-1")
        await anext(reports)
        await asyncio.sleep(0.2)
        fake.fail_next(1, status=500)
        assert (await anext(reports)).is_terminal


async def test_max_outage_0_raises_first_failure(fake):
    fake.fail_next(1, status=500)
    async with fake.client(poll=attrs.evolve(FAST_POLL, max_outage=0)) as client:
        with pytest.raises(ServerError):
            await client.wait_for_job("job-1")
    assert len(fake.requests) == 1


async def test_retry_after_is_bounded_by_max_outage(fake):
    fake.fail_next(9, status=503, headers={"Retry-After": "60"})
    async with fake.client(poll=attrs.evolve(FAST_POLL, max_outage=0.2)) as client:
        with takes(0.2), pytest.raises(ServerError):
            await client.wait_for_job("job-1")
    assert polls(fake) == [0, pytest.approx(0.2, abs=0.05)]


async def test_last_poll_before_giving_up_can_return_terminal_report(fake):
    fake.add_job("job-1")
    fake.fail_next(1, status=429, headers={"Retry-After": "60"})
    async with fake.client(poll=attrs.evolve(FAST_POLL, max_outage=0.1)) as client:
        with takes(0.1):
            assert (await client.wait_for_job("job-1")).is_terminal


# ---- unknown statuses


async def test_unknown_status_does_not_end_wait(fake):
    fake.add_job("job-1", ["running", *["unknown"] * 20, "running", "succeeded"])
    async with fake.client(poll=attrs.evolve(FAST_POLL, max_outage=0.05)) as client:
        received = [report.status async for report in client.watch_job("job-1")]
    assert received == ["running", "unknown", "running", "succeeded"]


@pytest.mark.parametrize("word", ["unknown", "UNKNOWN", "hibernating"])
async def test_wait_for_unknown_status_ends_only_with_timeout(fake, word):
    fake.add_job("job-1", [word], allow_unknown=True)
    async with fake.client(poll=attrs.evolve(FAST_POLL, maximum=0.2, max_outage=0.5)) as client:
        with takes(5), pytest.raises(JobWaitTimeoutError) as caught:
            await client.wait_for_job("job-1", timeout=5)
    assert caught.value.last_report.status == "unknown"
    assert caught.value.__cause__ is None


async def test_unrecognised_status_counts_as_report(fake):
    fake.add_job("job-1", ["running", *["hibernating"] * 20, "succeeded"], allow_unknown=True)
    async with fake.client(poll=attrs.evolve(FAST_POLL, max_outage=0.05)) as client:
        received = [report async for report in client.watch_job("job-1")]
    assert [report.status for report in received] == ["running", "unknown", "succeeded"]
    assert received[1].raw_status == "HIBERNATING"


# ---- not found


async def test_new_job_can_be_missing_at_first(fake):
    fake.add_job("job-1")
    fake.fail_next(3, status=404, job_id="job-1")
    async with fake.client(poll=attrs.evolve(FAST_POLL, not_found_grace=5)) as client:
        assert (await client.wait_for_job("job-1")).is_terminal
    assert len(fake.requests) == 4


async def test_not_found_grace_counts_from_first_404(fake):
    fake.fail_next(1, status=503, delay=0.15)
    policy = attrs.evolve(FAST_POLL, not_found_grace=0.1)
    async with fake.client(poll=policy) as client:
        asyncio.get_running_loop().call_later(0.2, fake.add_job, "job-1")
        assert (await client.wait_for_job("job-1")).is_terminal


async def test_not_found_is_raised_after_grace(fake):
    policy = attrs.evolve(FAST_POLL, not_found_grace=0.2, maximum=0.15)
    async with fake.client(poll=policy) as client:
        with takes(0.2), pytest.raises(JobNotFoundError) as caught:
            await client.wait_for_job("job-1")
    assert caught.value.last_report is None
    assert polls(fake)[-1] == pytest.approx(0.2, abs=0.05)


async def test_not_found_grace_0_raises_at_once(fake):
    async with fake.client(poll=attrs.evolve(FAST_POLL, not_found_grace=0)) as client:
        with pytest.raises(JobNotFoundError):
            await client.wait_for_job("job-1")
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("status", "error"), [(403, PermissionDeniedError), (404, JobNotFoundError)]
)
@pytest.mark.parametrize("is_seen", [False, True])
async def test_lasting_refusal_ends_wait(fake, status, error, is_seen):
    fake.add_job("job-1", ENDLESS)
    policy = attrs.evolve(FAST_POLL, not_found_grace=0.3)
    async with fake.client(poll=policy) as client:
        reports = client.watch_job("job-1")
        received = await anext(reports) if is_seen else None
        fake.fail_next(999, status=status)
        with takes(0.3, tolerance=0.3), pytest.raises(error) as caught:
            await anext(reports)
        assert caught.value.last_report is received


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("is_seen", [False, True])
async def test_transient_refusal_does_not_end_wait(fake, client, status, is_seen):
    fake.add_job("job-1", ["running", "succeeded"])
    reports = client.watch_job("job-1")
    if is_seen:
        await anext(reports)
    fake.fail_next(3, status=status, body=b"<html>deploying</html>")
    assert [report.status async for report in reports][-1] == "succeeded"


async def test_404_is_not_an_outage(fake):
    policy = attrs.evolve(FAST_POLL, max_outage=0.1, not_found_grace=60)
    async with fake.client(poll=policy) as client:
        asyncio.get_running_loop().call_later(0.25, fake.add_job, "job-1")
        assert (await client.wait_for_job("job-1")).is_terminal


# ---- the timeout


@pytest.mark.parametrize("timeout", [0.3, timedelta(seconds=0.3)], ids=["seconds", "timedelta"])
async def test_timeout_expires_during_sleep(fake, timeout):
    fake.add_job("job-1", ENDLESS)
    async with fake.client(poll=PollPolicy(initial=60, maximum=60)) as client:
        with takes(0.3), pytest.raises(JobWaitTimeoutError) as caught:
            await client.wait_for_job("job-1", timeout=timeout)
    error = caught.value
    assert (error.job_id, error.timeout) == ("job-1", 0.3)
    assert error.elapsed == pytest.approx(0.3, abs=0.1)
    assert error.last_report.status == "running"
    assert "wait_for_job('job-1')" in str(error)
    # Not the next poll of the pace, but one last, early enough to finish.
    assert len(fake.requests) == 2
    assert 0.1 < polls(fake)[-1] < 0.3


async def test_timeout_expires_during_request(fake):
    fake.fail_next(9, delay=math.inf)
    async with fake.client() as client:
        async with assert_no_leaks(client, fake):
            with takes(0.3), pytest.raises(JobWaitTimeoutError) as caught:
                await client.wait_for_job("job-1", timeout=0.3)
    assert caught.value.last_report is None


async def test_timeout_expires_in_queue(fake):
    fake.add_job("job-1", ENDLESS)
    fake.fail_next(1, delay=math.inf)
    async with fake.client(max_concurrency=1) as client:
        blocker = asyncio.create_task(client.get_job("job-1"))
        await asyncio.sleep(0.02)
        with takes(0.3), pytest.raises(JobWaitTimeoutError):
            await client.wait_for_job("job-1", timeout=0.3)
        assert len(fake.requests) == 1
        blocker.cancel()
        await asyncio.gather(blocker, return_exceptions=True)


async def test_timeout_expires_during_pause(fake):
    fake.add_job("job-1", ENDLESS)
    fake.fail_next(1, status=429, headers={"Retry-After": "30"})
    async with fake.client(retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(RateLimitError):
            await client.get_job("job-1")
        with takes(0.3), pytest.raises(JobWaitTimeoutError) as caught:
            await client.wait_for_job("job-1", timeout=0.3)
    # It paused the wait until the last poll.
    assert len(fake.requests) == 2
    assert fake.requests[1].time - fake.requests[0].time >= 0.15
    assert caught.value.last_report.status == "running"


async def test_wait_without_timeout_starts_after_pause(fake):
    fake.add_job("job-1")
    fake.fail_next(1, status=429, headers={"Retry-After": "5"})
    async with fake.client(retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(RateLimitError):
            await client.get_job("job-1")
        assert (await client.wait_for_job("job-1")).is_terminal
    assert fake.requests[1].time - fake.requests[0].time >= 5


async def test_pause_before_next_poll_keeps_last_poll(fake):
    fake.add_job("job-1", [("running", 0.3), "succeeded"])
    async with fake.client(retry=RetryPolicy(attempts=1)) as client:
        policy = PollPolicy(initial=0.2, maximum=0.2)
        wait = asyncio.create_task(client.wait_for_job("job-1", timeout=0.6, poll=policy))
        await asyncio.sleep(0.1)
        fake.fail_next(1, status=429, headers={"Retry-After": "30"}, job_id="job-2")
        with pytest.raises(RateLimitError):
            await client.get_job("job-2")
        assert (await wait).is_terminal
    assert len(polls(fake)) == 2


async def test_429_counts_as_outage_while_service_is_unavailable(fake):
    """Good responses from before the outage do not show that the service is available."""
    ids = [f"job-{number}" for number in range(7)]
    for job_id in ids:
        fake.add_job(job_id, timeline=["running"])
    policy = PollPolicy(initial=2, maximum=2, max_outage=8)
    async with fake.client(poll=policy) as client:
        task = asyncio.create_task(client.wait_for_jobs(ids))
        await asyncio.sleep(1)
        fake.fail_next(9999, status=429)
        with takes(policy.max_outage, tolerance=5):
            outcomes = await task
    assert {type(outcome.error) for outcome in outcomes.values()} == {RateLimitError}


async def test_outage_ends_during_pause(fake):
    fake.fail_next(99, status=500, job_id="job-1")
    fake.fail_next(1, status=503, headers={"Retry-After": "30"}, job_id="job-2")
    policy = attrs.evolve(FAST_POLL, max_outage=0.2)
    async with fake.client(retry=RetryPolicy(attempts=1), poll=policy) as client:
        wait = asyncio.create_task(client.wait_for_job("job-1"))
        await asyncio.sleep(0.05)
        with pytest.raises(ServerError):
            await client.get_job("job-2")
        # The time in the queue does not count, so it takes longer than `max_outage`.
        with takes(0.1, tolerance=1.5), pytest.raises(ServerError):
            await wait


async def test_last_poll_that_was_faster_than_expected_is_followed_by_another(fake):
    fake.add_job("job-1", [("running", 1.0), "succeeded"])
    fake.fail_next(1, delay=0.4)
    async with fake.client(poll=PollPolicy(initial=60, maximum=60)) as client:
        # The first response takes so long that the last poll is made at half time, and gets
        # its response at once.
        assert (await client.wait_for_job("job-1", timeout=1.5)).is_terminal
    assert 0.8 < polls(fake)[1] < 1


async def test_timeout_expires_during_outage(fake):
    fake.fail_next(99, status=502)
    async with fake.client(poll=FAST_POLL) as client:
        with (
            takes(0.3),
            pytest.raises(JobWaitTimeoutError, match=r"last poll failed.*502") as caught,
        ):
            await client.wait_for_job("job-1", timeout=0.3)
    assert isinstance(caught.value.__cause__, ServerError)
    assert caught.value.last_report is None


async def test_retry_after_is_bounded_by_timeout(fake):
    fake.add_job("job-1", ENDLESS)
    fake.fail_next(1, status=429, headers={"Retry-After": "60"})
    async with fake.client(poll=FAST_POLL) as client:
        with takes(0.4), pytest.raises(JobWaitTimeoutError) as caught:
            await client.wait_for_job("job-1", timeout=0.4)
    # The last poll was made during the pause, and its report used.
    assert caught.value.last_report.status == "running"
    assert len(fake.requests) == 2
    assert 0.15 < polls(fake)[1] < 0.4


async def test_last_poll_can_return_terminal_report(fake):
    fake.add_job("job-1", [("running", 0.15), "succeeded"])
    async with fake.client(poll=PollPolicy(initial=60, maximum=60)) as client:
        assert (await client.wait_for_job("job-1", timeout=0.5)).is_terminal


async def test_last_poll_allows_for_slow_service(fake):
    fake.add_job("job-1", [("running", 1), "succeeded"])
    fake.fail_next(2, delay=0.2)
    async with fake.client(poll=PollPolicy(initial=60, maximum=60)) as client:
        with takes(1.6, tolerance=0.3):
            assert (await client.wait_for_job("job-1", timeout=2)).is_terminal
    # Half as much again as the first one took, and a tenth of a second.
    assert polls(fake)[1] == pytest.approx(1.6, abs=0.08)


async def test_last_poll_of_short_timeout_is_at_half_time(fake):
    fake.add_job("job-1", ENDLESS)
    async with fake.client(poll=PollPolicy(initial=60, maximum=60)) as client:
        with pytest.raises(JobWaitTimeoutError):
            await client.wait_for_job("job-1", timeout=0.19)
    assert polls(fake) == [0, pytest.approx(0.095, abs=0.05)]


async def test_pause_delays_short_wait_by_half_of_its_timeout(fake):
    fake.add_job("job-1", ENDLESS)
    fake.fail_next(1, status=429, headers={"Retry-After": "30"})
    async with fake.client(retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(RateLimitError):
            await client.get_job("job-1")
        began = now()
        with pytest.raises(JobWaitTimeoutError):
            await client.wait_for_job("job-1", timeout=0.19)
    assert 0.09 <= fake.requests[1].time - began < 0.12


async def test_last_polls_of_batch_are_spread_before_timeout(fake, monkeypatch):
    monkeypatch.setattr("random.uniform", lambda lower, upper: upper)
    fake.add_job("job-1", ENDLESS)
    async with fake.client(poll=PollPolicy(initial=60, maximum=60)) as client:
        await client.wait_for_jobs(["job-1", *(f"other-{n}" for n in range(99))], timeout=2)
    # Two milliseconds for each of a hundred, before the tenth of a second that one has.
    assert len(polls(fake)) == 2
    assert 1 < polls(fake)[1] < 1.75


async def test_slow_first_poll_does_not_count_as_last(fake):
    fake.add_job("job-1", [("running", 0.35), "succeeded"])
    fake.fail_next(1, delay=0.3)
    async with fake.client(poll=FAST_POLL) as client:
        assert (await client.wait_for_job("job-1", timeout=0.5)).is_terminal


async def test_not_found_by_last_poll_is_raised(fake):
    async with fake.client(poll=attrs.evolve(FAST_POLL, not_found_grace=60)) as client:
        with pytest.raises(JobNotFoundError):
            await client.wait_for_job("job-1", timeout=0.3)


async def test_watch_timeout_starts_at_first_step(fake, client):
    fake.add_job("job-1", ENDLESS)
    reports = client.watch_job("job-1", timeout=0.2)
    await asyncio.sleep(0.1)
    with takes(0.2), pytest.raises(JobWaitTimeoutError):
        async for _ in reports:
            pass


@pytest.mark.parametrize("timeout", [None, math.inf, 1e300, 10**400])
async def test_no_timeout(fake, client, timeout):
    fake.add_job("job-1", ["running", "succeeded"])
    assert (await client.wait_for_job("job-1", timeout=timeout)).is_terminal


def test_very_long_timeout_is_no_timeout():
    assert timeout_seconds(10**9) == 1e9
    assert timeout_seconds(10**9 + 1) is None


@pytest.mark.parametrize("timeout", [-1, math.nan, "5", True, timedelta(seconds=-1)])
async def test_invalid_timeout_text_is_rejected(client, timeout):
    with pytest.raises(ValueError, match="timeout must be"):
        await client.wait_for_job("job-1", timeout=timeout)
    with pytest.raises(ValueError, match="timeout must be"):
        client.watch_job("job-1", timeout=timeout)


# ---- a timeout of zero


async def test_zero_timeout_polls_once(fake, client):
    fake.add_job("job-1", ENDLESS)
    with takes(0), pytest.raises(JobWaitTimeoutError) as caught:
        await client.wait_for_job("job-1", timeout=0)
    assert caught.value.last_report.status == "running"
    assert caught.value.timeout == 0
    assert len(fake.requests) == 1


async def test_zero_timeout_returns_terminal_report(fake, client):
    fake.add_job("job-1")
    assert (await client.wait_for_job("job-1", timeout=0)).is_terminal


async def test_zero_timeout_does_not_limit_request(fake, client):
    fake.add_job("job-1")
    fake.fail_next(1, delay=0.1)
    assert (await client.wait_for_job("job-1", timeout=timedelta(0))).is_terminal


async def test_zero_timeout_yields_first_report(fake, client):
    fake.add_job("job-1", ENDLESS)
    received = []
    with pytest.raises(JobWaitTimeoutError):
        async for report in client.watch_job("job-1", timeout=0):
            received.append(report.status)
    assert received == ["running"]


async def test_zero_timeout_does_not_retry(fake, client):
    fake.fail_next(1, status=503)
    with pytest.raises(JobWaitTimeoutError) as caught:
        await client.wait_for_job("job-1", timeout=0)
    assert isinstance(caught.value.__cause__, ServerError)
    assert len(fake.requests) == 1


async def test_zero_timeout_raises_not_found_at_once(fake, client):
    with pytest.raises(JobNotFoundError):
        await client.wait_for_job("job-1", timeout=0)
    assert len(fake.requests) == 1


# ---- on_change and watch_job


async def test_watch_yields_first_report_and_each_change(fake, client):
    fake.add_job("job-1", ["queued", "queued", "running", "running", "running", "failed"])
    received = [report.status async for report in client.watch_job("job-1")]
    assert received == ["queued", "running", "failed"]


@pytest.mark.parametrize("message", ["short", "long" * 1000])
async def test_return_to_an_earlier_status_is_a_change(fake, client, message):
    statuses = ["running", "running", "queued", "queued", "running", "running", "succeeded"]
    fake.add_job("job-1", statuses, message=message)
    fake.fail_next(1, body="broken")
    reports = [report async for report in client.watch_job("job-1")]
    assert [report.status for report in reports] == ["running", "queued", "running", "succeeded"]
    assert {report.message for report in reports} == {message}
    assert len(fake.requests) == 8


@pytest.mark.parametrize("message", ["short", "long" * 1000])
async def test_empty_responses_after_good_one_are_failures(fake, message):
    fake.add_job("job-1", ["running"], message=message)
    async with fake.client(poll=attrs.evolve(FAST_POLL, max_outage=0.5)) as client:
        async with client.watch_job("job-1", timeout=5) as reports:
            await anext(reports)
            fake.fail_next(10_000, status=200, body=b"")
            with takes(0.5, tolerance=0.2), pytest.raises(InvalidResponseError):
                await anext(reports)


async def test_change_of_message_is_reported():
    def report(message):
        return raw_response(b'{"job_status": "running", "message": "%s"}' % message)

    script = [report(b"1 of 3"), report(b"1 of 3"), report(b"2 of 3"), raw_response(SUCCEEDED)]
    async with raw_server(*script) as server, fake_client(server.url) as client:
        received = [report.message async for report in client.watch_job("job-1")]
    assert received == ["1 of 3", "2 of 3", ""]


async def test_watch_polls_only_during_steps(fake, client):
    fake.add_job("job-1", ["a", "b", "succeeded"], allow_unknown=True)
    async for _ in client.watch_job("job-1"):
        before = len(fake.requests)
        await asyncio.sleep(0.05)
        assert len(fake.requests) == before


async def test_plain_on_change_receives_each_change(fake, client):
    fake.add_job("job-1", ["queued", "queued", "running", "succeeded"])
    received = []
    end = await client.wait_for_job("job-1", on_change=received.append)
    assert [report.status for report in received] == ["queued", "running", "succeeded"]
    assert received[-1] is end


async def test_async_on_change_is_awaited(fake, client):
    fake.add_job("job-1", ["queued", "running", "succeeded"])
    received = []

    async def note(report):
        await asyncio.sleep(0.01)
        received.append(report.status)

    await client.wait_for_job("job-1", on_change=note)
    assert received == ["queued", "running", "succeeded"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_on_change_exception_is_logged_and_does_not_end_wait(fake, client, caplog, is_async):
    fake.add_job("job-1", ["queued", "succeeded"])

    def fail(report):
        raise LookupError("oops")

    async def fail_later(report):
        fail(report)

    end = await client.wait_for_job("job-1", on_change=fail_later if is_async else fail)
    assert end.is_terminal
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.message for record in records] == [
        "job 'job-1': on_change failed; the wait continues"
    ] * 2
    assert records[0].exc_info[0] is LookupError


async def test_hanging_on_change_does_not_delay_timeout(fake, client, caplog):
    fake.add_job("job-1", ENDLESS)
    with takes(0.2), pytest.raises(JobWaitTimeoutError):
        await client.wait_for_job("job-1", timeout=0.2, on_change=lambda _: asyncio.sleep(60))
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "job 'job-1': the timeout of the wait cancelled on_change"
    ]


async def test_terminal_report_is_kept_if_on_change_hangs(fake, client):
    fake.add_job("job-1")
    with takes(0.2):
        end = await client.wait_for_job("job-1", timeout=0.2, on_change=lambda _: asyncio.sleep(60))
    assert end.is_terminal


@pytest.mark.parametrize("on_change", [5, "print", [print]])
async def test_non_callable_on_change_is_rejected(fake, client, on_change):
    with pytest.raises(TypeError, match="on_change must be callable"):
        await client.wait_for_job("job-1", on_change=on_change)
    with pytest.raises(TypeError, match="on_change must be callable"):
        client.as_completed(["job-1"], on_change=on_change)
    assert not fake.requests


async def test_cancellation_within_on_change_does_not_end_wait(fake, client, caplog):
    fake.add_job("job-1", ["queued", "succeeded"])

    async def await_cancelled(report):
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    assert (await client.wait_for_job("job-1", on_change=await_cancelled)).is_terminal
    assert caplog.text.count("on_change failed; the wait continues") == 2


async def test_on_change_can_cancel_wait(fake, client):
    fake.add_job("job-1", ENDLESS)
    async with assert_no_leaks(client, fake):
        wait = asyncio.create_task(
            client.wait_for_job("job-1", on_change=lambda _: asyncio.current_task().cancel())
        )
        with pytest.raises(asyncio.CancelledError):
            await wait
    assert len(fake.requests) == 1


async def fail_in_a_task_group(_):
    async def fail():
        raise LookupError("oops")

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())


async def test_failed_task_group_in_on_change_does_not_end_wait(fake, client, caplog):
    fake.add_job("job-1", ["queued", "succeeded"])
    wait = asyncio.create_task(client.wait_for_job("job-1", on_change=fail_in_a_task_group))
    assert (await wait).is_terminal
    assert wait.cancelling() == 0
    assert caplog.text.count("on_change failed; the wait continues") == 2


async def suppress_cancellation(_):
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(60)


async def test_on_change_suppressing_cancellation_does_not_delay_wait(fake, client):
    fake.add_job("job-1", ENDLESS)
    wait = asyncio.create_task(client.wait_for_job("job-1", on_change=suppress_cancellation))
    await asyncio.sleep(0.05)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    with takes(0.2), pytest.raises(JobWaitTimeoutError):
        await client.wait_for_job("job-1", timeout=0.2, on_change=suppress_cancellation)
    closing = asyncio.create_task(client.wait_for_job("job-1", on_change=suppress_cancellation))
    await asyncio.sleep(0.05)
    await client.aclose()
    with pytest.raises(ClientStateError):
        await closing


async def test_cancelling_during_on_change_cancels_wait(fake, client):
    fake.add_job("job-1", ENDLESS)
    async with assert_no_leaks(client, fake):
        wait = asyncio.create_task(
            client.wait_for_job("job-1", on_change=lambda _: asyncio.sleep(60))
        )
        await asyncio.sleep(0.05)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait


@pytest.mark.parametrize("status", ["running", "succeeded"])
async def test_closing_client_during_on_change_ends_wait(fake, client, status):
    fake.add_job("job-1", [status])
    async with assert_no_leaks(client, fake):
        wait = asyncio.create_task(
            client.wait_for_job("job-1", timeout=30, on_change=lambda _: asyncio.sleep(60))
        )
        await asyncio.sleep(0.05)
        async with asyncio.timeout(1):
            await client.aclose()
        with pytest.raises(ClientStateError):
            await wait


@pytest.mark.parametrize("method", ["wait_for_job", "wait_for_jobs"])
@pytest.mark.parametrize("as_task", [False, True])
async def test_closing_client_in_on_change_does_not_deadlock(fake, client, method, as_task):
    def close(_):
        return asyncio.create_task(client.aclose()) if as_task else client.aclose()

    fake.add_job("job-1", ENDLESS)
    job = "job-1" if method == "wait_for_job" else ["job-1"]
    async with assert_no_leaks(client, fake), asyncio.timeout(1):
        with pytest.raises(ClientStateError):
            await getattr(client, method)(job, on_change=close)


# ---- cancelling and closing


MOMENTS = ["in flight", "sleeping", "in back-off", "queued", "in a pause"]


async def waiting_task(fake, client, moment):
    """Start a wait and run it up to the given state."""
    fake.add_job("job-1", ENDLESS)
    if moment == "in flight":
        fake.fail_next(1, delay=math.inf)
    elif moment == "in back-off":
        fake.fail_next(1, status=500, headers={"Retry-After": "30"})
    elif moment == "queued":
        await client._manager.throttle.acquire(Priority.CALL)
    elif moment == "in a pause":
        fake.fail_next(1, status=429, headers={"Retry-After": "30"}, job_id="job-2")
        with pytest.raises(RateLimitError):
            await client.with_options(retry=RetryPolicy(attempts=1)).get_job("job-2")
    task = asyncio.create_task(client.wait_for_job("job-1", timeout=30))
    await asyncio.sleep(0.5)
    return task


@pytest.mark.parametrize("moment", MOMENTS)
async def test_cancelling_wait_leaks_nothing(fake, moment):
    async with fake.client(max_concurrency=1, poll=PollPolicy(initial=60, maximum=60)) as client:
        async with assert_no_leaks(client, fake):
            task = await waiting_task(fake, client, moment)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


@pytest.mark.parametrize("moment", MOMENTS)
async def test_closing_client_ends_wait_and_leaks_nothing(fake, moment):
    client = fake.client(max_concurrency=1, poll=PollPolicy(initial=60, maximum=60))
    async with assert_no_leaks(client, fake):
        task = await waiting_task(fake, client, moment)
        async with asyncio.timeout(1):
            await client.aclose()
        with pytest.raises(ClientStateError, match="closed"):
            await task
    requests = len(fake.requests)
    await asyncio.sleep(0.03)
    assert len(fake.requests) == requests


async def test_break_out_of_watch_leaks_nothing(fake, client):
    fake.add_job("job-1", ENDLESS)
    async with assert_no_leaks(client, fake):
        async for _ in client.watch_job("job-1", timeout=30):
            break
        tasks = asyncio.all_tasks()
        assert not client._manager.lifecycle.running
    assert len([task for task in tasks if "RequestHandler" not in repr(task)]) == 1


async def test_watch_continues_after_cancelled_step(fake, client):
    fake.add_job("job-1", ["queued", "running", "succeeded"])
    reports = client.watch_job("job-1")
    assert (await anext(reports)).status == "queued"
    fake.fail_next(1, delay=math.inf)
    step = asyncio.create_task(anext(reports))
    while not fake.in_flight:
        await asyncio.sleep(0.001)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert [report.status async for report in reports] == ["running", "succeeded"]


async def test_concurrent_steps_of_watch_are_rejected(fake, client):
    fake.add_job("job-1", ["running", "running", "succeeded"])
    reports = client.watch_job("job-1")
    first = asyncio.create_task(anext(reports))
    await asyncio.sleep(0)
    with pytest.raises(ClientStateError) as caught:
        await anext(reports)
    assert str(caught.value) == (
        "another task is waiting for the next item of this stream:"
        " give each task a stream of its own"
    )
    assert (await first).status == "running"
    assert [report.status async for report in reports] == ["succeeded"]


async def test_watch_is_finished_after_aclose(fake, client):
    fake.add_job("job-1", ENDLESS)
    async with contextlib.aclosing(client.watch_job("job-1")) as reports:
        await anext(reports)
    with pytest.raises(StopAsyncIteration):
        await anext(reports)


async def test_watch_of_closed_client_raises(fake, client):
    fake.add_job("job-1", ENDLESS)
    reports = client.watch_job("job-1")
    await anext(reports)
    await client.aclose()
    with pytest.raises(ClientStateError):
        await anext(reports)


async def test_invalid_id_is_rejected_before_any_request(fake, client):
    with pytest.raises(ValueError, match="job id"):
        client.watch_job("..")
    with pytest.raises(ValueError, match="job id"):
        await client.wait_for_job("")
    assert not fake.requests


# ---- the log


async def test_changes_and_transient_failures_are_logged(fake, client, caplog):
    caplog.set_level(logging.INFO, "sutro_async")
    fake.add_job("job-1", ["queued", "queued", "succeeded"])
    fake.fail_next(1, status=502)
    await client.wait_for_job("job-1")
    lines = [(record.levelname, record.message) for record in caplog.records]
    assert lines[0][0] == "WARNING"
    assert lines[0][1].startswith("job 'job-1': HTTP 502")
    assert "polling again in 0.0" in lines[0][1]
    assert lines[1:] == [("INFO", "job 'job-1': QUEUED"), ("INFO", "job 'job-1': SUCCEEDED")]


async def test_each_poll_is_logged_with_its_number(fake, client, caplog):
    caplog.set_level(logging.DEBUG, "sutro_async")
    fake.add_job("job-1", ["running", "running", "succeeded"])
    await client.wait_for_job("job-1")
    requests = [r.message for r in caplog.records if r.levelname == "DEBUG"]
    assert [message.rpartition(", ")[2] for message in requests] == [
        "attempt 1",
        "attempt 2",
        "attempt 3",
    ]


async def test_log_cannot_be_forged_by_status(fake, client, caplog):
    caplog.set_level(logging.INFO, "sutro_async")
    fake.add_job("job-1", ["\nINFO forged\x1b[31m" + "x" * 1000, "succeeded"], allow_unknown=True)
    await client.wait_for_job("job-1")
    for record in caplog.records:
        assert record.message.isprintable()
        assert len(record.message) < 200


async def test_failed_last_poll_is_logged_as_such(fake, caplog):
    caplog.set_level(logging.DEBUG, "sutro_async")
    fake.fail_next(99, status=500)
    async with fake.client(poll=FAST_POLL) as client:
        with pytest.raises(JobWaitTimeoutError):
            await client.wait_for_job("job-1", timeout=0.2)
    assert caplog.records[-1].message.endswith("; no time for another")
    assert "inf" not in caplog.text


async def test_only_first_failure_of_outage_is_warning(fake, client, caplog):
    caplog.set_level(logging.DEBUG, "sutro_async")
    fake.add_job("job-1", ["running", "running", "running", "succeeded"])
    reports = client.watch_job("job-1")
    for _ in range(2):
        fake.fail_next(4, status=503)
        await anext(reports)
    failures = [r.levelname for r in caplog.records if "polling again" in r.message]
    assert failures == ["WARNING", "DEBUG", "DEBUG", "DEBUG"] * 2


async def test_unrecognised_status_is_logged_once_as_warning(fake, client, caplog):
    fake.add_job(
        "job-1", ["unknown", "dreaming", "sleeping", "dreaming", "succeeded"], allow_unknown=True
    )
    fake.add_job("job-2", ["Dreaming", "succeeded"], allow_unknown=True)
    fake.add_job("job-3", ["napping"], allow_unknown=True)
    await client.wait_for_job("job-1")
    await client.with_options().wait_for_job("job-2")
    await client.get_job("job-3")
    warned = [record.message for record in caplog.records if "unrecognised" in record.message]
    words = ["DREAMING", "SLEEPING", "NAPPING"]
    assert [word in message for word, message in zip(words, warned, strict=True)] == [True] * 3
    assert warned[0] == (
        "job 'job-1': unrecognised status 'DREAMING' is read as unknown;"
        " a newer version of sutro-async may know it"
    )


async def test_log_truncates_long_status(fake, client, caplog):
    caplog.set_level(logging.INFO, "sutro_async")
    fake.add_job("job-1", ["x" * 1000, "succeeded"], allow_unknown=True)
    await client.wait_for_job("job-1")
    shown = "X" * 39 + "…"
    assert f"unrecognised status {shown!r} is read" in caplog.records[0].message
    assert caplog.records[1].message == f"job 'job-1': {shown}"


async def test_warnings_about_unrecognised_statuses_are_limited_to_100(fake, client, caplog):
    fake.add_job("job-1", [f"word-{number}" for number in range(150)], allow_unknown=True)
    for _ in range(150):
        await client.get_job_status("job-1")
    assert len([r for r in caplog.records if "unrecognised" in r.message]) == 100


async def test_key_is_not_in_log_records(fake, caplog):
    caplog.set_level(logging.DEBUG)
    fake.api_key = "sk_in_no_record"
    fake.add_job("job-1", ["running", "odd", "succeeded"], allow_unknown=True)
    async with fake.client(poll=FAST_POLL, timeout=0.1) as client:
        for fault in FAULTS.values():
            fake.fail_next(1, **fault)
        await client.wait_for_job("job-1", on_change=lambda _: 1 / 0)
    assert caplog.records
    assert "sk_in_no_record" not in caplog.text
    assert all("sk_in_no_record" not in repr(vars(record)) for record in caplog.records)


async def test_connection_error_is_raised_after_max_outage(unused_tcp_port):
    policy = attrs.evolve(FAST_POLL, max_outage=0.05)
    async with fake_client(f"http://127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(APIConnectionError):
            await client.wait_for_job("job-1", poll=policy)
