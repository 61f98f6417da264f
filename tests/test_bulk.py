"""Bulk polling: list-jobs hints which jobs have changed; all outcomes stay the same."""

import asyncio
import json
import logging
from collections import Counter
from urllib.parse import parse_qs, urlsplit

import attrs
import pytest

from sutro_async import (
    JobMonitor,
    JobNotFoundError,
    JobStatus,
    JobStatusReport,
    JobWaitTimeoutError,
    PollPolicy,
)
from sutro_async._waits._bulk import Hint, hint
from sutro_async.testing import FakeSutro
from tests.cases import in_turn
from tests.conftest import assert_no_leaks, now

pytestmark = pytest.mark.usefixtures("fast_clock")

IDS = [f"job-{number}" for number in range(12)]

# Without the list, each job would be polled some ten times in these tests.
POLL = PollPolicy(initial=0.5, factor=1, maximum=0.5)
BULK = attrs.evolve(POLL, bulk_from=3)


def add_jobs(fake, ids=IDS, seconds=4.0):
    """Add jobs that run for a while, each a little longer than the one before."""
    for number, job_id in enumerate(ids):
        fake.add_job(job_id, [("running", seconds + number / 10), "succeeded"])


def polls_of(fake):
    paths = [request.path.partition("/job-status/")[2] for request in fake.requests]
    return Counter(filter(None, paths))


def sweeps_of(fake):
    return [request for request in fake.requests if "/list-jobs" in request.path]


def serve(fake, *entries, times=1000, **fields):
    """Respond to requests for the list with these entries."""
    body = json.dumps({"jobs": entries, **fields})
    fake.fail_next(times, body=body, endpoint="list-jobs")


def entry(job_id, status="RUNNING"):
    return {"job_id": job_id, "status": status}


async def by_wait_for_jobs(client, monitor):
    return await client.wait_for_jobs(IDS)


async def by_as_completed(client, monitor):
    return {outcome.job_id: outcome async for outcome in client.as_completed(IDS)}


async def by_watch_jobs(client, monitor):
    return {outcome.job_id: outcome async for outcome in client.watch_jobs(IDS)}


async def by_monitor(client, monitor):
    return {outcome.job_id: outcome async for outcome in monitor.watch_jobs(IDS)}


# All of them share the sweeps.
WAITS = {
    wait.__name__: wait for wait in (by_wait_for_jobs, by_as_completed, by_watch_jobs, by_monitor)
}
EVERY_BATCH = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)


async def outcomes_of(fake, wait, poll=BULK, **options):
    async with fake.client(poll=poll, **options) as client, JobMonitor(client) as monitor:
        async with assert_no_leaks(client, fake):
            outcomes = await wait(client, monitor)
            await asyncio.sleep(0)
    assert sorted(outcomes) == sorted(IDS)
    return outcomes


# ---- hints


def report(status):
    return JobStatusReport(
        job_id="a", status=JobStatus.RUNNING, raw_status=status, message="", metadata={}
    )


@pytest.mark.parametrize(
    ("seen", "status", "before", "expected"),
    [
        ("RUNNING", "running", None, Hint.UNCHANGED),
        ("cancelling", "CANCELING", None, Hint.UNCHANGED),
        ("hibernating", "Hibernating", "queued", Hint.UNCHANGED),
        ("running", "succeeded", None, Hint.CHANGED),
        ("running", "succeeded", "running", Hint.CHANGED),
        ("hibernating", "sleeping", "hibernating", Hint.CHANGED),
        # Its entry has not changed since the job was polled, so the list lags.
        ("running", "queued", "queued", Hint.STALE),
    ],
)
def test_list_status_is_compared_with_newest_report(seen, status, before, expected):
    assert hint(report(seen), status, before) is expected


# ---- when the list is read


@EVERY_BATCH
async def test_unchanged_job_is_not_polled(fake, wait):
    add_jobs(fake)
    outcomes = await outcomes_of(fake, wait)
    assert all(outcome.result().status == "succeeded" for outcome in outcomes.values())
    # The first poll, the last, and one while the list was not read yet, or not any more.
    assert sum(polls_of(fake).values()) <= 3.5 * len(IDS)
    assert 2 <= len(sweeps_of(fake)) <= 14


@EVERY_BATCH
async def test_without_bulk_from_list_is_never_read(fake, wait):
    add_jobs(fake)
    outcomes = await outcomes_of(fake, wait, poll=POLL)
    assert all(outcome.ok for outcome in outcomes.values())
    assert not sweeps_of(fake)
    assert sum(polls_of(fake).values()) > 6 * len(IDS)


@EVERY_BATCH
async def test_fewer_jobs_than_bulk_from_are_polled_individually(fake, wait):
    add_jobs(fake, seconds=1.0)
    await outcomes_of(fake, wait, poll=attrs.evolve(BULK, bulk_from=len(IDS) + 1))
    assert not sweeps_of(fake)


async def test_jobs_added_later_count_towards_bulk_from(fake):
    add_jobs(fake)

    async def submitted():
        for job_id in IDS:
            await asyncio.sleep(0.1)
            yield job_id

    async with fake.client(poll=BULK) as client:
        assert len([outcome async for outcome in client.as_completed(submitted())]) == len(IDS)
    assert sweeps_of(fake)
    assert sum(polls_of(fake).values()) <= 4 * len(IDS)


async def test_zero_timeout_does_not_read_list(fake):
    add_jobs(fake)
    async with fake.client(poll=BULK) as client:
        outcomes = await client.wait_for_jobs(IDS, timeout=0)
    assert all(isinstance(outcome.error, JobWaitTimeoutError) for outcome in outcomes.values())
    assert not sweeps_of(fake)


async def test_sweep_interval_follows_policy_up_to_five_seconds(fake):
    add_jobs(fake, seconds=40.0)
    poll = PollPolicy(initial=1, factor=2, maximum=15, jitter=0, bulk_from=3)
    async with fake.client(poll=poll) as client:
        await client.wait_for_jobs(IDS, timeout=28)
    times = [request.time - sweeps_of(fake)[0].time for request in sweeps_of(fake)]
    assert times == pytest.approx([0, 1, 3, 7, 12, 17, 22, 27], abs=0.5)


async def test_sweep_stops_after_all_jobs_are_found(fake):
    add_jobs(fake, [f"old-{number}" for number in range(300)])
    add_jobs(fake, IDS)
    async with fake.client(poll=BULK) as client:
        await client.wait_for_jobs(IDS)
    assert all("cursor" not in request.path for request in sweeps_of(fake))


async def test_sweep_reads_at_most_one_page_per_ten_jobs(fake):
    """The jobs are the oldest of the account, so reading the list does not help."""
    ids = [f"job-{number}" for number in range(35)]
    add_jobs(fake, ids, seconds=2.0)
    add_jobs(fake, [f"new-{number}" for number in range(1000)], seconds=100.0)
    async with fake.client(poll=attrs.evolve(BULK, bulk_from=30)) as client:
        outcomes = await client.wait_for_jobs(ids)
    assert all(outcome.ok for outcome in outcomes.values())
    assert len(sweeps_of(fake)) == 3


# ---- contents of the list


@EVERY_BATCH
async def test_changed_job_is_polled_at_once(fake, wait):
    for job_id in IDS:
        fake.add_job(job_id, [("queued", 20.2), ("running", 20), "succeeded"])
    poll = PollPolicy(initial=1, factor=1, maximum=15, bulk_from=1)
    began_at = now()
    outcomes = await outcomes_of(fake, wait, poll=poll)
    assert all(outcome.ok for outcome in outcomes.values())
    assert now() - began_at < 43
    assert sum(polls_of(fake).values()) <= 5 * len(IDS)


# Quick ones; tests/chaos/test_bulk.py has more, in every kind of wait.
PAGES = {
    "with an id twice": [entry("job-0"), entry("job-0", "SUCCEEDED"), *map(entry, IDS)],
    "with rubbish between": [
        *(None, 5, [], {}, {"job_id": "job-1"}, {"status": "running"}),
        *({"job_id": 5, "status": "running"}, {"job_id": "job-2", "status": 5}),
        *map(entry, IDS[:6]),
    ],
    "that claims success": [entry(job_id, "SUCCEEDED") for job_id in IDS],
}


@pytest.mark.parametrize(("entries", "wait"), in_turn(PAGES, WAITS))
async def test_invalid_list_changes_no_outcome(fake, wait, entries, monkeypatch):
    monkeypatch.setattr("sutro_async._waits._pace._LONGEST_COVER", 20.0)
    await check_that_invalid_list_changes_no_outcome(fake, wait, entries)


async def check_that_invalid_list_changes_no_outcome(fake, wait, entries):
    add_jobs(fake, seconds=2.0)
    serve(fake, *entries)
    outcomes = await outcomes_of(fake, wait, poll=attrs.evolve(BULK, bulk_from=12))
    assert {outcome.result().status for outcome in outcomes.values()} == {"succeeded"}
    assert sum(polls_of(fake).values()) <= 12 * len(IDS)


async def test_job_missing_from_list_is_polled_individually(fake):
    add_jobs(fake, seconds=6.0)
    serve(fake, *map(entry, IDS), times=3)
    serve(fake, *map(entry, IDS[1:]))
    async with fake.client(poll=attrs.evolve(BULK, bulk_from=12)) as client:
        await client.wait_for_jobs(IDS, timeout=5)
    polls = polls_of(fake)
    assert polls["job-0"] >= 5
    assert max(polls[job_id] for job_id in IDS[1:]) <= 4


async def test_lagging_list_does_not_stop_polls(fake):
    """The list shows queued forever, while the status is running."""
    add_jobs(fake, seconds=6.0)
    serve(fake, *(entry(job_id, "QUEUED") for job_id in IDS))
    async with fake.client(poll=BULK) as client:
        outcomes = await client.wait_for_jobs(IDS)
    assert all(outcome.ok for outcome in outcomes.values())
    assert sum(polls_of(fake).values()) <= 16 * len(IDS)


async def test_permanently_lagging_list_delays_completion_by_at_most_five_minutes(fake):
    add_jobs(fake, seconds=1.0)
    serve(fake, *map(entry, IDS))
    began_at = now()
    outcomes = await outcomes_of(fake, by_as_completed, poll=PollPolicy(bulk_from=1))
    assert all(outcome.ok for outcome in outcomes.values())
    assert 100 < now() - began_at < 310


async def test_last_poll_before_timeout_ignores_list(fake):
    add_jobs(fake, seconds=1.0)
    serve(fake, *map(entry, IDS))
    async with fake.client(poll=BULK) as client:
        outcomes = await client.wait_for_jobs(IDS, timeout=20)
    assert all(outcome.ok for outcome in outcomes.values())


async def test_list_lag_delays_completions_but_loses_none():
    async with FakeSutro(list_lag=5) as fake:
        add_jobs(fake, seconds=3.0)
        began_at = now()
        async with fake.client(poll=BULK) as client:
            outcomes = await client.wait_for_jobs(IDS)
    assert all(outcome.ok for outcome in outcomes.values())
    assert now() - began_at < 12


async def test_errors_of_jobs_are_the_same_as_without_bulk(fake):
    add_jobs(fake, IDS[1:], seconds=2.0)
    poll = attrs.evolve(BULK, not_found_grace=0.5)
    async with fake.client(poll=poll) as client:
        outcomes = await client.wait_for_jobs(IDS)
    assert isinstance(outcomes["job-0"].error, JobNotFoundError)
    assert all(outcomes[job_id].ok for job_id in IDS[1:])


# ---- a list that fails


FAILURES = {
    "403": {"status": 403},
    "HTML": {"body": b"<html><title>Down</title></html>"},
    "timeout": {"delay": 60},
}


@pytest.mark.parametrize(("wait", "failure"), in_turn(WAITS, FAILURES))
async def test_failing_list_is_logged_once_and_not_retried_at_once(fake, wait, failure, caplog):
    await check_that_failing_list_is_not_retried_at_once(fake, wait, failure, caplog)


async def check_that_failing_list_is_not_retried_at_once(fake, wait, failure, caplog):
    add_jobs(fake, seconds=2.0)
    fake.fail_next(1000, endpoint="list-jobs", **failure)
    with caplog.at_level(logging.WARNING, "sutro_async"):
        outcomes = await outcomes_of(fake, wait, timeout=1)
    assert {outcome.result().status for outcome in outcomes.values()} == {"succeeded"}
    assert len(sweeps_of(fake)) == 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("list-jobs: ")
    assert message.endswith("; jobs are polled one by one for 300 s")


async def test_list_with_too_few_jobs_is_logged_and_not_read_again_at_once(fake, caplog):
    add_jobs(fake, seconds=2.0)
    serve(fake, *map(entry, ["other-1", *IDS[:2]]), times=1000)
    with caplog.at_level(logging.INFO, "sutro_async"):
        await outcomes_of(fake, by_wait_for_jobs)
    assert len(sweeps_of(fake)) == 1
    (message,) = [each for each in caplog.messages if each.startswith("list-jobs")]
    assert message == (
        f"list-jobs: its newest 3 jobs include only 2 of the {len(IDS)} waiting ones;"
        " jobs are polled one by one for 300 s"
    )


async def test_failing_list_is_retried_after_five_minutes(fake):
    add_jobs(fake, ["job-0"], seconds=320.0)
    fake.fail_next(1, status=500, endpoint="list-jobs")
    async with fake.client(poll=PollPolicy(bulk_from=1)) as client:
        await client.wait_for_jobs(["job-0"], timeout=318)
    first, second = sweeps_of(fake)[:2]
    assert 300 <= second.time - first.time <= 310


async def test_fallback_causes_no_burst(fake):
    """Covered jobs are polled again one after another."""
    ids = [f"job-{number}" for number in range(60)]
    add_jobs(fake, ids, seconds=100.0)
    poll = PollPolicy(initial=1, factor=2, maximum=8, bulk_from=3)
    async with fake.client(poll=poll) as client:
        waiting = asyncio.create_task(client.wait_for_jobs(ids, timeout=60))
        await asyncio.sleep(30)
        assert sum(polls_of(fake).values()) <= 2 * len(ids)
        fake.fail_next(1000, status=500, endpoint="list-jobs")
        failed_at = now()
        await waiting
    times = [
        request.time
        for request in fake.requests
        if "/job-status/" in request.path and failed_at < request.time < failed_at + 13
    ]
    seconds = Counter(int(time - times[0]) for time in times)
    assert len(times) >= len(ids)
    assert max(seconds.values()) <= len(ids) / 3


async def test_repeated_cursor_ends_sweep(fake):
    ids = [f"job-{number}" for number in range(20)]
    add_jobs(fake, ids, seconds=2.0)
    serve(fake, *map(entry, ids[:12]), next_cursor="again")
    async with fake.client(poll=attrs.evolve(BULK, bulk_from=20)) as client:
        outcomes = await client.wait_for_jobs(ids)
    assert all(outcome.ok for outcome in outcomes.values())
    # The first page, and the one after it.
    cursors = ["cursor=" in request.path for request in sweeps_of(fake)]
    assert cursors == [False, True] * (len(cursors) // 2)


async def test_cursor_is_sent_unchanged(fake):
    ids = [f"job-{number}" for number in range(20)]
    cursor = "a b&limit=1/\u00e9%2F+#?"
    add_jobs(fake, ids, seconds=2.0)
    serve(fake, *map(entry, ids[:12]), next_cursor=cursor, times=1)
    serve(fake, *map(entry, ids[12:]))
    async with fake.client(poll=attrs.evolve(BULK, bulk_from=20)) as client:
        outcomes = await client.wait_for_jobs(ids)
    assert all(outcome.ok for outcome in outcomes.values())
    first, second = (parse_qs(urlsplit(sweep.path).query) for sweep in sweeps_of(fake)[:2])
    assert first == {"limit": ["100"]}
    assert second == {"limit": ["100"], "cursor": [cursor]}


async def test_retry_after_of_list_pauses_polls(fake):
    add_jobs(fake, seconds=4.0)
    async with fake.client(poll=BULK) as client:
        waiting = asyncio.create_task(client.wait_for_jobs(IDS))
        await asyncio.sleep(1)
        fake.fail_next(1, status=429, headers={"Retry-After": "2"}, endpoint="list-jobs")
        outcomes = await waiting
    assert all(outcome.ok for outcome in outcomes.values())
    times = [request.time for request in fake.requests]
    refused_at = sweeps_of(fake)[-1].time
    assert not [each for each in times if refused_at + 0.05 < each < refused_at + 1.9]


async def test_service_outage_does_not_disable_list(fake):
    add_jobs(fake, seconds=12.0)
    async with fake.client(poll=BULK) as client:
        waiting = asyncio.create_task(client.wait_for_jobs(IDS))
        await asyncio.sleep(2)
        fake.fail_next(10, status=500)
        async with asyncio.timeout(10):
            while not client._manager.throttle.service_is_unavailable:
                await asyncio.sleep(0.1)
        outage_at = now()
        outcomes = await waiting
    assert all(outcome.ok for outcome in outcomes.values())
    assert [sweep for sweep in sweeps_of(fake) if sweep.time > outage_at]


async def test_failure_of_later_page_uncovers_jobs_of_earlier_page(fake):
    """The first sweep fails at its second page, after the first page has covered jobs."""
    ids = [f"job-{number}" for number in range(30)]
    add_jobs(fake, ids, seconds=6.0)
    page = {"jobs": [entry(job_id) for job_id in ids[:-1]], "next_cursor": "more"}
    fake.fail_next(1, delay=2, body=json.dumps(page), endpoint="list-jobs")
    fake.fail_next(1000, status=500, endpoint="list-jobs")
    began_at = now()
    async with fake.client(poll=BULK) as client:
        outcomes = await client.wait_for_jobs(ids)
    assert all(outcome.ok for outcome in outcomes.values())
    assert len(sweeps_of(fake)) == 2
    assert now() - began_at < 15


async def test_change_in_list_during_poll_is_not_lag(fake):
    """The response to the poll is older than the page, so the next sweep has the job polled."""
    for job_id in IDS:
        fake.add_job(job_id, ["succeeded"])
        body = {"message": "", "job_status": {job_id: "RUNNING"}, "metadata": None}
        fake.fail_next(1, delay=3, body=json.dumps(body), job_id=job_id, endpoint="job-status")
    poll = PollPolicy(initial=15, factor=1, maximum=15, bulk_from=3)
    began_at = now()
    async with fake.client(poll=poll) as client:
        outcomes = await client.wait_for_jobs(IDS)
    assert all(outcome.ok for outcome in outcomes.values())
    assert now() - began_at < 7


async def test_watchers_joining_and_leaving_cause_no_extra_sweeps(fake):
    add_jobs(fake, seconds=100.0)
    poll = PollPolicy(initial=1, factor=1, maximum=15, bulk_from=2)
    async with fake.client() as client, JobMonitor(client, poll=poll) as monitor:
        async with monitor.watch("job-0") as steady:
            await anext(steady)
            for _ in range(20):
                async with monitor.watch("job-1") as passing:
                    await anext(passing)
                await asyncio.sleep(0.1)
    assert 1 <= len(sweeps_of(fake)) <= 4


async def test_held_back_sweeps_are_not_list_failures(fake, caplog):
    add_jobs(fake, seconds=8.0)
    serve(fake, *map(entry, IDS[:6]))
    fake.fail_next(60, status=500, endpoint="job-status")
    outcomes = await outcomes_of(fake, by_wait_for_jobs, poll=attrs.evolve(BULK, bulk_from=12))
    assert all(outcome.ok for outcome in outcomes.values())
    messages = [record.getMessage() for record in caplog.records]
    assert any("unavailable" in message for message in messages)
    assert not any("one by one" in message for message in messages)


# ---- cancelling and closing


async def test_cancelling_during_sweep_releases_all_resources(fake):
    add_jobs(fake)
    fake.fail_next(1000, delay=60, endpoint="list-jobs")
    async with fake.client(poll=BULK) as client, assert_no_leaks(client, fake):
        waiting = asyncio.create_task(client.wait_for_jobs(IDS))
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.wait({waiting})


async def test_unexpected_error_in_sweep_ends_batch(fake, monkeypatch):
    def fail(*_):
        raise LookupError("a mistake")

    monkeypatch.setattr("sutro_async._waits._bulk.hint", fail)
    add_jobs(fake)
    async with fake.client(poll=BULK) as client:
        with pytest.raises(LookupError, match="a mistake"):
            await client.wait_for_jobs(IDS)


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True])
def test_invalid_bulk_from_is_rejected(value):
    with pytest.raises(ValueError, match=r"PollPolicy\.bulk_from"):
        PollPolicy(bulk_from=value)
