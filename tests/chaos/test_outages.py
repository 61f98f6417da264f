"""Lasting failures: which of them end a wait, and when."""

import asyncio
import time

import attrs
import pytest

from sutro_async import (
    APITimeoutError,
    JobMonitor,
    JobNotFoundError,
    PermissionDeniedError,
)
from tests.chaos._hostile import FAULTS, HostileServer
from tests.chaos.conftest import FAST_POLL, assert_no_leaks, make_client

# Seconds; the second one is longer than any delay of a busy machine.
GRACE = 0.3
TOLERANCE = 0.4
PAGE = b"<html><title>We are deploying</title></html>"


def refusal(status):
    """The response of a proxy during a deployment; not in the table, since it may be transient."""

    async def inject(x):
        x.send(PAGE, status=status)

    return attrs.evolve(FAULTS["gone"], name=f"refusal_{status}", inject=inject)


async def wait(client, monitor):
    return await client.wait_for_job("job-1")


async def watch(client, monitor):
    return [report async for report in client.watch_job("job-1")][-1]


async def batch(client, monitor):
    return (await client.wait_for_jobs(["job-1"]))["job-1"].result()


async def streamed_batch(client, monitor):
    return [outcome async for outcome in client.as_completed(["job-1"])][-1].result()


async def watched_batch(client, monitor):
    return [outcome async for outcome in client.watch_jobs(["job-1"])][-1].result()


async def monitored_wait(client, monitor):
    return await monitor.wait("job-1")


async def monitored_batch(client, monitor):
    return [outcome async for outcome in monitor.watch_jobs(["job-1"])][-1].result()


every_wait = pytest.mark.parametrize(
    "run_wait",
    [
        *(wait, watch, batch, streamed_batch, watched_batch),
        *(monitored_wait, monitored_batch),
    ],
)
every_refusal = pytest.mark.parametrize(
    ("status", "error"), [(403, PermissionDeniedError), (404, JobNotFoundError)]
)
seen_or_not = pytest.mark.parametrize("is_seen", [False, True], ids=["first", "seen"])


class Refusals:
    """Refuses a number of requests, after a first good response or at once."""

    def __init__(self, status, *, is_seen, times):
        self.began_at = None
        self._fault = refusal(status)
        self._responses = int(is_seen)
        self._times = times

    def __call__(self, job_id):
        if self._responses:
            self._responses -= 1
            return None
        if not self._times:
            return None
        self._times -= 1
        self.began_at = self.began_at or time.monotonic()
        return self._fault


@every_wait
@every_refusal
@seen_or_not
async def test_lasting_403_or_404_ends_wait(run_wait, status, error, is_seen):
    script = Refusals(status, is_seen=is_seen, times=-1)
    poll = attrs.evolve(FAST_POLL, not_found_grace=GRACE)
    async with assert_no_leaks():
        server = HostileServer(lambda _: "running", script)
        async with server, make_client(server, poll=poll) as client:
            async with JobMonitor(client) as monitor:
                with pytest.raises(error) as caught:
                    await run_wait(client, monitor)
                elapsed = time.monotonic() - script.began_at
    assert GRACE <= elapsed < GRACE + TOLERANCE
    assert caught.value.status_code == status
    assert (caught.value.last_report is not None) == is_seen


@every_wait
@every_refusal
@seen_or_not
async def test_transient_403_or_404_does_not_end_wait(run_wait, status, error, is_seen):
    statuses = iter(["running"] if is_seen else [])
    script = Refusals(status, is_seen=is_seen, times=3)
    poll = attrs.evolve(FAST_POLL, not_found_grace=60)
    async with assert_no_leaks():
        server = HostileServer(lambda _: next(statuses, "succeeded"), script)
        async with server, make_client(server, poll=poll) as client:
            async with JobMonitor(client) as monitor:
                assert (await run_wait(client, monitor)).status == "succeeded"
    assert script.began_at is not None


async def test_queue_time_does_not_count_towards_max_outage():
    """Each job fails once, and then queues for the only slot for longer than an outage may last."""
    ids = [f"job-{number}" for number in range(4)]  # with five, the gate would close
    failures = iter([FAULTS["never_respond"]] * len(ids))
    request_timeout, max_outage = 0.1, 0.2
    poll = attrs.evolve(FAST_POLL, max_outage=max_outage)
    async with assert_no_leaks():
        server = HostileServer(lambda _: "succeeded", lambda _: next(failures, None))
        async with server:
            client = make_client(server, poll=poll, timeout=request_timeout, max_concurrency=1)
            async with client:
                began_at = time.monotonic()
                outcomes = await client.wait_for_jobs(ids)
                assert time.monotonic() - began_at > 1.5 * max_outage
                assert [outcome.ok for outcome in outcomes.values()] == [True] * len(ids)


async def test_wait_fails_only_after_second_failed_poll():
    ids = [f"job-{number}" for number in range(5)]
    polls = dict.fromkeys(ids, 0)

    def choose_fault(job_id):
        polls[job_id] += 1
        return FAULTS["never_respond"]

    poll = attrs.evolve(FAST_POLL, max_outage=0.3)
    async with assert_no_leaks():
        async with HostileServer(lambda _: "succeeded", choose_fault) as server:
            client = make_client(server, poll=poll, timeout=0.1, max_concurrency=1)
            async with client, asyncio.timeout(20):
                outcomes = await client.wait_for_jobs(ids)
    assert {type(outcome.error) for outcome in outcomes.values()} == {APITimeoutError}
    assert min(polls.values()) >= 2
