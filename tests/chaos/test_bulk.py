"""Bulk polling with an invalid, lagging or failing list: all reports and outcomes are the same."""

import logging

import attrs
import pytest

from sutro_async import PollPolicy
from sutro_async.testing import FakeSutro
from tests.conftest import now
from tests.test_bulk import (
    BULK,
    EVERY_BATCH,
    IDS,
    add_jobs,
    by_wait_for_jobs,
    check_that_failing_list_is_not_retried_at_once,
    check_that_invalid_list_changes_no_outcome,
    entry,
    outcomes_of,
    polls_of,
    serve,
    sweeps_of,
)

pytestmark = pytest.mark.usefixtures("fast_clock")

PAGES = {
    "empty": [],
    "of foreign jobs": [entry("foreign-1"), entry("foreign-2")],
    "of our jobs between foreign ones": [
        entry(each) for job_id in IDS for each in (f"foreign-{job_id}", job_id)
    ],
    "with an id twice": [entry("job-0"), entry("job-0", "SUCCEEDED"), *map(entry, IDS)],
    "with invalid entries": [
        *(None, 5, [], {}, {"job_id": "job-1"}, {"status": "running"}),
        *({"job_id": 5, "status": "running"}, {"job_id": "job-2", "status": 5}),
        *map(entry, IDS[:6]),
    ],
    "with unknown statuses": [entry(job_id, "hibernating") for job_id in IDS],
    "of succeeded jobs": [entry(job_id, "SUCCEEDED") for job_id in IDS],
    "of failed jobs": [entry(job_id, "FAILED") for job_id in IDS],
}

FAILURES = {
    **{str(status): {"status": status} for status in (400, 401, 403, 404, 410, 422, 500, 503)},
    "HTML": {"body": b"<html><title>Down</title></html>"},
    "no list": {"body": b'{"jobs": {}}'},
    "truncated": {"truncate": True},
    "lost connection": {"disconnect": True},
    "timeout": {"delay": 60},
}


@EVERY_BATCH
@pytest.mark.parametrize("entries", PAGES.values(), ids=PAGES)
async def test_invalid_list_changes_no_outcome(fake, wait, entries, monkeypatch):
    monkeypatch.setattr("sutro_async._waits._pace._LONGEST_COVER", 20.0)
    await check_that_invalid_list_changes_no_outcome(fake, wait, entries)


@EVERY_BATCH
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_failing_list_is_logged_once_and_not_retried_at_once(fake, wait, failure, caplog):
    await check_that_failing_list_is_not_retried_at_once(fake, wait, failure, caplog)


@EVERY_BATCH
async def test_list_lag_of_30_seconds_delays_completions_but_loses_none(wait):
    async with FakeSutro(list_lag=30) as fake:
        add_jobs(fake, seconds=40.0)
        began_at = now()
        outcomes = await outcomes_of(fake, wait, poll=PollPolicy(bulk_from=3))
    assert all(outcome.ok for outcome in outcomes.values())
    assert now() - began_at < 80


@pytest.mark.parametrize("next_cursor", ["again", "", 5, None])
async def test_repeated_cursor_ends_sweep(fake, next_cursor):
    ids = [f"job-{number}" for number in range(20)]
    add_jobs(fake, ids, seconds=2.0)
    serve(fake, *map(entry, ids[:12]), next_cursor=next_cursor)
    async with fake.client(poll=attrs.evolve(BULK, bulk_from=20)) as client:
        outcomes = await client.wait_for_jobs(ids)
    assert all(outcome.ok for outcome in outcomes.values())
    cursors = ["cursor=" in request.path for request in sweeps_of(fake)]
    # The first page, and if it has a cursor, the next one.
    assert cursors == ([False, True] if next_cursor == "again" else [False]) * (
        len(cursors) // (2 if next_cursor == "again" else 1)
    )


async def test_server_that_ignores_limit_returns_one_page(fake):
    others = [f"other-{number}" for number in range(3000)]
    add_jobs(fake, seconds=3.0)
    serve(fake, *map(entry, others), *map(entry, IDS), message="Jobs retrieved successfully.")
    async with fake.client(poll=BULK) as client:
        outcomes = await client.wait_for_jobs(IDS, timeout=20)
    assert all(outcome.ok for outcome in outcomes.values())
    assert all("cursor" not in sweep.path for sweep in sweeps_of(fake))
    assert sum(polls_of(fake).values()) <= 4 * len(IDS)


async def test_page_of_20_mib_is_rejected(fake, caplog):
    add_jobs(fake, seconds=2.0)
    serve(fake, *map(entry, IDS), padding="x" * 20 * 2**20)
    with caplog.at_level(logging.WARNING, "sutro_async"):
        outcomes = await outcomes_of(fake, by_wait_for_jobs)
    assert all(outcome.ok for outcome in outcomes.values())
    assert len(sweeps_of(fake)) == 1
    (message,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert "MiB" in message


async def test_oldest_of_thousands_of_jobs_are_polled_individually(fake):
    ids = [f"job-{number}" for number in range(40)]
    add_jobs(fake, ids, seconds=4.0)
    for number in range(50_000):
        fake.add_job(f"newer-{number}", ["running"])
    async with fake.client(poll=attrs.evolve(BULK, bulk_from=20)) as client:
        outcomes = await client.wait_for_jobs(ids)
    assert all(outcome.ok for outcome in outcomes.values())
    assert len(sweeps_of(fake)) == 4
    # Listed jobs get 3.5 at most. The clock runs on while the fake makes its long pages.
    assert sum(polls_of(fake).values()) > 4 * len(ids)
