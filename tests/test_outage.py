"""An outage of the service: calls, waits and batches of one client."""

import asyncio
import itertools
import logging
import re

import attrs
import pytest

from sutro_async import (
    APITimeoutError,
    ClientStateError,
    JobMonitor,
    JobWaitTimeoutError,
    PollPolicy,
    RetryPolicy,
    ServerError,
)
from sutro_async._http._pacer import Permit
from tests.conftest import FAST_POLL, FAST_RETRY, assert_no_leaks, now

pytestmark = pytest.mark.usefixtures("fast_clock")

IDS = [f"job-{number}" for number in range(6)]
ENDLESS = [("running", 60), "succeeded"]
FAR_MORE = 10_000


@pytest.fixture(autouse=True)
def short_delays(monkeypatch):
    """Shorten the delays of probes, and of held-back polls and calls."""
    monkeypatch.setattr("sutro_async._http._outage_gate._FIRST_DELAY", 0.02)
    monkeypatch.setattr("sutro_async._http._outage_gate._LONGEST_DELAY", 0.1)
    monkeypatch.setattr("sutro_async._http._outage_gate._LONGEST_DELAY_OF_RELAPSE", 0.1)
    monkeypatch.setattr("sutro_async._http._fetch._HELD_BACK_SECONDS", 0.02)
    monkeypatch.setattr("sutro_async._http._fetch._LASTING_OUTAGE_DELAY", 0.05)


@pytest.fixture
def short_outages(monkeypatch):
    """Let an outage count as lasting after 0.3 s."""
    monkeypatch.setattr("sutro_async._http._fetch._LASTING_OUTAGE_SECONDS", 0.3)


@pytest.fixture
def no_probes(monkeypatch):
    """Let the first probe be a minute away."""
    monkeypatch.setattr("sutro_async._http._outage_gate._FIRST_DELAY", 60)
    monkeypatch.setattr("sutro_async._http._outage_gate._LONGEST_DELAY", 60)
    monkeypatch.setattr("sutro_async._http._outage_gate._LONGEST_DELAY_OF_RELAPSE", 60)


def make_client(fake, **options):
    return fake.client(**{"max_concurrency": 5, "retry": FAST_RETRY, "poll": FAST_POLL} | options)


def add_jobs(fake, timeline=("running", "running", "succeeded")):
    for job_id in IDS:
        fake.add_job(job_id, timeline)


def close_gate(client, failures=5):
    """Close the gate by failures; within a minute of an outage that takes ten."""
    now = asyncio.get_running_loop().time()
    for job_id in itertools.islice(itertools.cycle(["other-1", "other-2"]), failures):
        error = APITimeoutError("no response", job_id=job_id)
        permit = Permit(now, 0)
        client._manager.throttle.note_error(now, error, permit, max_pause=60)
    assert client._manager.throttle.service_is_unavailable


# ---- waits


async def test_polls_probe_one_at_a_time_until_service_is_available(fake):
    add_jobs(fake)
    fake.fail_next(10, status=503)
    poll = PollPolicy(initial=0.2, maximum=0.2)  # no second poll before five have failed
    async with make_client(fake, poll=poll) as client:
        outcomes = await client.wait_for_jobs(IDS[:5])
    assert all(outcome.ok for outcome in outcomes.values())
    times = [request.time for request in fake.requests]
    # Five were in flight together; each probe follows the one before after a delay.
    delays = [later - earlier for earlier, later in itertools.pairwise(times)]
    for delay, bound in zip(delays[4:9], (0.02, 0.04, 0.08, 0.1, 0.1), strict=True):
        assert delay >= 0.75 * bound
    assert len(fake.requests) == 10 + 3 * 5


async def test_outage_is_logged_once_and_not_for_each_wait(fake, caplog):
    caplog.set_level(logging.INFO, "sutro_async")
    add_jobs(fake)
    fake.fail_next(12, status=503, body="<html><title>Down for maintenance</title></html>")
    async with make_client(fake) as client:
        await client.wait_for_jobs(IDS)
    records = [record for record in caplog.records if not record.message.startswith("job ")]
    assert [record.levelno for record in records] == [logging.WARNING, logging.INFO]
    assert records[0].message.startswith("the service is unavailable, polls are held back: job ")
    assert records[0].message.endswith(": HTTP 503: Down for maintenance")
    # The failures before the gate closed.
    of_jobs = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(of_jobs) == 4 + 1


async def test_failures_of_one_job_do_not_delay_others(fake, caplog):
    add_jobs(fake, [*["running"] * 20, "succeeded"])
    fake.fail_next(FAR_MORE, status=500, job_id="job-0")
    poll = attrs.evolve(FAST_POLL, max_outage=0.2)
    async with make_client(fake, poll=poll) as client:
        outcomes = await client.wait_for_jobs(IDS)
    assert [outcome.ok for outcome in outcomes.values()] == [False, True, True, True, True, True]
    assert isinstance(outcomes["job-0"].error, ServerError)
    assert "unavailable" not in caplog.text


@pytest.mark.usefixtures("no_probes")
async def test_max_outage_ends_held_back_wait_with_its_own_error(fake):
    add_jobs(fake, ENDLESS)
    fake.fail_next(FAR_MORE, status=503)
    async with make_client(fake, poll=attrs.evolve(FAST_POLL, max_outage=0.3)) as client:
        close_gate(client)
        began = now()
        outcomes = await client.wait_for_jobs(IDS)
        assert 0.3 <= now() - began < 0.6
    errors = [outcome.error for outcome in outcomes.values()]
    assert all(isinstance(error, ServerError) for error in errors)
    assert [error.job_id for error in errors] == IDS
    # Each wait fails only after a poll has been sent and has failed.
    assert len(fake.requests) == len(IDS)


@pytest.mark.usefixtures("no_probes")
async def test_held_back_wait_is_polled_once_before_its_timeout(fake):
    fake.add_job("job-1", ENDLESS)
    async with make_client(fake) as client:
        close_gate(client)
        began = now()
        with pytest.raises(JobWaitTimeoutError) as caught:
            await client.wait_for_job("job-1", timeout=0.4)
        assert 0.4 <= now() - began < 0.5
    assert caught.value.last_report.status == "running"
    # The last poll found the service available, so that a further one was made, if any.
    assert 0.25 <= fake.requests[0].time - began <= 0.4


@pytest.mark.usefixtures("no_probes")
async def test_zero_timeout_polls_once_in_outage(fake):
    add_jobs(fake, ["succeeded"])
    async with make_client(fake) as client:
        close_gate(client)
        assert (await client.wait_for_job("job-1", timeout=0)).is_terminal
        close_gate(client, failures=10)
        outcomes = await client.wait_for_jobs(IDS, timeout=0)
    assert all(outcome.ok for outcome in outcomes.values())
    assert len(fake.requests) == 1 + len(IDS)


@pytest.mark.usefixtures("no_probes")
async def test_queued_polls_are_held_back_when_service_becomes_unavailable(fake):
    """One slot: while a poll is in flight, the gate closes for those that are queued."""
    add_jobs(fake, ENDLESS)
    fake.fail_next(1, delay=0.3)
    async with make_client(fake, max_concurrency=1) as client:
        waits = [asyncio.create_task(client.wait_for_job(job_id)) for job_id in IDS]
        await asyncio.sleep(0.05)
        assert len(client._manager.throttle._polls) == len(IDS) - 1
        close_gate(client)
        await asyncio.sleep(0.01)
        assert not client._manager.throttle._polls
        assert len(fake.requests) == 1
        async with asyncio.timeout(2):
            while len({request.path for request in fake.requests}) < len(IDS):
                await asyncio.sleep(0.01)
        assert not client._manager.throttle.service_is_unavailable
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


@pytest.mark.parametrize("kind", ["wait", "watch", "batch", "monitor"])
async def test_every_kind_of_wait_survives_outage(fake, kind):
    add_jobs(fake, ["running", "running", "succeeded"])
    fake.fail_next(9, disconnect=True)
    async with make_client(fake) as client:
        close_gate(client)
        async with asyncio.timeout(5):
            if kind == "wait":
                report = await client.wait_for_job("job-1")
            elif kind == "watch":
                reports = [each async for each in client.watch_job("job-1")]
                report = reports[-1]
            elif kind == "batch":
                outcomes = await client.wait_for_jobs(IDS)
                report = outcomes["job-5"].result()
            else:
                async with JobMonitor(client, poll=FAST_POLL) as monitor:
                    report = await monitor.wait("job-1")
    assert report.is_terminal


@pytest.mark.usefixtures("no_probes")
@pytest.mark.parametrize("ending", ["cancel", "close", "timeout"])
@pytest.mark.parametrize("kind", ["wait", "batch", "statuses"])
async def test_held_back_requests_end_at_once_and_leak_nothing(fake, kind, ending, monkeypatch):
    monkeypatch.setattr("sutro_async._http._fetch._HELD_BACK_SECONDS", 60)
    add_jobs(fake, ENDLESS)
    async with make_client(fake, retry=RetryPolicy(maximum=60)) as client:
        close_gate(client)
        calls = {
            "wait": lambda: client.wait_for_job("job-1"),
            "batch": lambda: client.wait_for_jobs(IDS),
            "statuses": lambda: client.get_job_statuses(IDS),
        }
        async with assert_no_leaks(client, fake):
            task = asyncio.create_task(calls[kind]())
            await asyncio.sleep(0.1)
            assert not task.done()
            began = now()
            if ending == "close":
                await client.aclose()
                with pytest.raises(ClientStateError):
                    await task
            elif ending == "cancel":
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await task
            assert now() - began < 0.1
        throttle = client._manager.throttle
        assert throttle.in_flight == 0
        assert not throttle._has_waiters()
    assert not fake.requests


# ---- calls


@pytest.mark.usefixtures("no_probes")
@pytest.mark.parametrize("method", ["get_job_status", "get_job"])
async def test_call_passes_closed_gate_and_opens_it(fake, caplog, method):
    caplog.set_level(logging.INFO, "sutro_async")
    add_jobs(fake, ENDLESS)
    async with make_client(fake) as client:
        close_gate(client)
        waits = asyncio.create_task(client.wait_for_jobs(IDS, timeout=30))
        await asyncio.sleep(0.1)
        assert not fake.requests
        async with asyncio.timeout(1):
            await getattr(client, method)("job-1")
        assert re.search(r"INFO .* available again after [0-9]\.[0-9] s\n", caplog.text)
        async with asyncio.timeout(1):
            while len({request.path for request in fake.requests}) < len(IDS):
                await asyncio.sleep(0.01)
        waits.cancel()
        await asyncio.wait([waits])


async def test_call_gets_response_while_hundreds_of_polls_are_queued(fake):
    ids = [f"job-{number}" for number in range(400)]
    for job_id in ids:
        fake.add_job(job_id, ENDLESS)
    fake.fail_next(FAR_MORE, delay=0.02)
    async with make_client(fake, max_concurrency=2) as client:
        waits = [asyncio.create_task(client.wait_for_job(job_id)) for job_id in ids]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(0.5):
            await client.get_job_status("job-1")
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


# ---- batches of requests


@pytest.mark.usefixtures("no_probes", "short_outages")
@pytest.mark.parametrize("method", ["get_job_statuses", "get_jobs"])
@pytest.mark.parametrize("attempts", [1, 3])
async def test_batch_in_lasting_outage_returns_error_for_each_job(fake, method, attempts):
    fake.fail_next(FAR_MORE, status=503)
    retry = RetryPolicy(attempts=attempts, initial=0.01, maximum=0.2)
    async with make_client(fake, retry=retry) as client:
        close_gate(client)
        began = now()
        outcomes = await getattr(client, method)(IDS)
    errors = [outcome.error for outcome in outcomes.values()]
    assert all(isinstance(error, ServerError) for error in errors)
    assert [error.job_id for error in errors] == IDS
    # Held back until the outage is lasting, and a little longer; then sent once.
    assert min(request.time for request in fake.requests) >= began + 0.3 + 0.05
    assert len(fake.requests) == len(IDS)
    assert client._manager.throttle.in_flight == 0


@pytest.mark.usefixtures("no_probes", "short_outages")
async def test_batch_started_in_lasting_outage_is_sent_after_delay(fake):
    fake.fail_next(FAR_MORE, status=503)
    async with make_client(fake, max_concurrency=1) as client:
        close_gate(client)
        await asyncio.sleep(0.3)
        began = now()
        outcomes = await client.get_job_statuses(IDS)
    assert not any(outcome.ok for outcome in outcomes.values())
    assert fake.requests[0].time >= began + 0.05
    assert len(fake.requests) == len(IDS)


@pytest.mark.usefixtures("no_probes", "short_outages")
async def test_batch_that_runs_into_lasting_outage_makes_one_more_attempt(fake):
    fake.fail_next(FAR_MORE, status=503)
    retry = RetryPolicy(attempts=10, initial=0.01, maximum=0.01)
    async with make_client(fake, retry=retry) as client:
        outcomes = await client.get_job_statuses(IDS)
    assert [type(outcome.error) for outcome in outcomes.values()] == [ServerError] * len(IDS)
    # Five that close the gate, and then each job once.
    assert len(fake.requests) == 5 + len(IDS)


@pytest.mark.usefixtures("no_probes", "short_outages")
async def test_batch_in_lasting_outage_detects_recovery(fake):
    add_jobs(fake, ["succeeded"])
    async with make_client(fake) as client:
        close_gate(client)
        outcomes = await client.get_job_statuses(IDS)
        assert not client._manager.throttle.service_is_unavailable
    assert all(outcome.ok for outcome in outcomes.values())
    assert len(fake.requests) == len(IDS)


async def test_batch_continues_after_outage(fake):
    add_jobs(fake, ["succeeded"])
    fake.fail_next(7, status=503)  # five that close the gate, and two probes
    async with make_client(fake, retry=RetryPolicy(initial=0.005, maximum=5)) as client:
        outcomes = await client.get_job_statuses(IDS)
    assert all(outcome.ok for outcome in outcomes.values())
    assert len(fake.requests) == 7 + len(IDS)
