"""Why a job failed: from its status, or else from its record, in every kind of wait."""

import asyncio
import json
import logging
import math

import attrs
import pytest

from sutro_async import JobFailedError, JobMonitor, JobStatus, JobWaitTimeoutError
from sutro_async.testing import FakeSutro
from tests.cases import in_turn
from tests.conftest import FAST_POLL, assert_no_leaks, now

pytestmark = pytest.mark.usefixtures("fast_clock")

DIALECTS = pytest.mark.parametrize("dialect", ["mapping", "flat"])
REASON = {"message": "Out of memory", "additional_context": "row 41"}


async def by_wait(client, job_id, **options):
    return await client.wait_for_job(job_id, **options)


async def by_watch(client, job_id, **options):
    return [report async for report in client.watch_job(job_id, **options)][-1]


async def by_as_completed(client, job_id, **options):
    outcomes = [outcome async for outcome in client.as_completed([job_id], **options)]
    return outcomes[0].result()


async def by_wait_for_jobs(client, job_id, **options):
    return (await client.wait_for_jobs([job_id], **options))[job_id].result()


async def by_monitor(client, job_id, **options):
    async with JobMonitor(client) as monitor:
        return await monitor.wait(job_id, **options)


async def by_monitor_watch(client, job_id, **options):
    async with JobMonitor(client) as monitor:
        return [report async for report in monitor.watch(job_id, **options)][-1]


WAITS = {
    wait.__name__: wait
    for wait in (
        *(by_wait, by_watch, by_as_completed, by_wait_for_jobs),
        *(by_monitor, by_monitor_watch),
    )
}
EVERY_WAIT = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)


def records_read(fake, job_id="job-1"):
    return sum(r.path.endswith(f"/jobs/{job_id}") for r in fake.requests)


@EVERY_WAIT
@DIALECTS
async def test_wait_reads_reason_from_record(wait, dialect):
    async with FakeSutro(dialect=dialect) as fake, fake.client(poll=FAST_POLL) as client:
        fake.add_job("job-1", ["running", "failed"], failure_reason=REASON, status_reason=False)
        report = await wait(client, "job-1")
    assert (report.status, str(report.failure)) == (JobStatus.FAILED, "Out of memory (row 41)")
    assert records_read(fake) == 1
    with pytest.raises(JobFailedError, match=r"failed: Out of memory \(row 41\)$"):
        report.raise_for_failure()


@EVERY_WAIT
@DIALECTS
async def test_reason_in_status_needs_no_further_request(wait, dialect):
    async with FakeSutro(dialect=dialect) as fake, fake.client(poll=FAST_POLL) as client:
        fake.add_job("job-1", ["running", "failed"], failure_reason=REASON)
        report = await wait(client, "job-1")
    assert str(report.failure) == "Out of memory (row 41)"
    assert records_read(fake) == 0


@EVERY_WAIT
@pytest.mark.parametrize("reason", ["", {}, {"message": " "}, {"message": None}], ids=str)
async def test_blank_reason_is_ignored(fake, client, wait, reason):
    fake.add_job(
        "job-1",
        ["failed"],
        metadata={"failure_reason": reason},
        failure_reason=REASON,
        status_reason=False,
    )
    assert str((await wait(client, "job-1")).failure) == "Out of memory (row 41)"


@EVERY_WAIT
@pytest.mark.parametrize("end", ["succeeded", "cancelled"])
async def test_other_terminal_statuses_do_not_read_record(fake, client, wait, end):
    fake.add_job("job-1", ["running", end])
    assert (await wait(client, "job-1")).status == end
    assert records_read(fake) == 0


async def test_get_job_status_makes_one_request(fake, client):
    fake.add_job("job-1", ["failed"], failure_reason=REASON, status_reason=False)
    assert (await client.get_job_status("job-1")).failure is None
    assert (await client.get_job_statuses(["job-1"]))["job-1"].result().failure is None
    assert records_read(fake) == 0


async def test_500_monitor_waiters_read_record_once(fake, client):
    fake.add_job("job-1", ["running", "failed"], failure_reason=REASON, status_reason=False)
    async with JobMonitor(client) as monitor:
        reports = await asyncio.gather(*(monitor.wait("job-1") for _ in range(500)))
        again = await monitor.wait("job-1")
    assert {str(report.failure) for report in [*reports, again]} == {"Out of memory (row 41)"}
    assert records_read(fake) == 1


async def test_on_change_receives_reason(fake, client):
    fake.add_job("job-1", ["running", "failed"], failure_reason=REASON, status_reason=False)
    received = []
    end = await client.wait_for_job("job-1", on_change=received.append)
    assert [report.status for report in received] == ["running", "failed"]
    assert received[-1] is end


# ---- best effort


BROKEN = {
    "500": {"status": 500},
    "401": {"status": 401},
    "403": {"status": 403},
    "404": {"status": 404},
    "429": {"status": 429, "headers": {"Retry-After": "0.01"}},
    "html": {"body": b"<html>"},
    "truncated": {"truncate": True},
    "of another job": {"body": b'{"job": {"job_id": "job-2", "status": "FAILED"}}'},
    "of another status": {
        "body": json.dumps(
            {"job": {"job_id": "job-1", "status": "RUNNING", "failure_reason": "old"}}
        ).encode()
    },
    "without a reason": {"body": b'{"job": {"job_id": "job-1", "status": "FAILED"}}'},
    "without a job": {"body": b'{"job": null}'},
}


@pytest.mark.parametrize(("fault", "wait"), in_turn(BROKEN, WAITS))
async def test_unusable_record_is_only_logged(fake, client, caplog, wait, fault):
    fake.add_job("job-1", ["failed"], failure_reason=REASON, status_reason=False)
    fake.fail_next(1, endpoint="jobs", **fault)
    with caplog.at_level(logging.WARNING, "sutro_async"):
        report = await wait(client, "job-1")
    assert (report.status, report.failure) == (JobStatus.FAILED, None)
    assert records_read(fake) == 1
    messages = [record.getMessage() for record in caplog.records]
    assert [
        message for message in messages if "the reason of the failure is unknown" in message
    ] == [message for message in messages if message.startswith("job 'job-1'")]
    assert len(messages) == 1
    with pytest.raises(JobFailedError, match=r"^job 'job-1' failed: the service gave no reason$"):
        report.raise_for_failure()


@EVERY_WAIT
async def test_slow_record_is_bounded_by_remaining_timeout(fake, client, wait):
    fake.add_job("job-1", ["failed"], failure_reason=REASON, status_reason=False)
    hang_record_requests(fake)
    began = now()
    async with assert_no_leaks(client, fake):
        report = await wait(client, "job-1", timeout=0.3)
    assert 0.29 <= now() - began < 0.45
    assert (report.status, report.failure) == (JobStatus.FAILED, None)


@EVERY_WAIT
async def test_slow_record_is_bounded_by_request_timeout(fake, wait):
    fake.add_job("job-1", ["failed"], failure_reason=REASON, status_reason=False)
    hang_record_requests(fake)
    async with fake.client(poll=FAST_POLL, timeout=0.2) as client:
        began = now()
        report = await wait(client, "job-1")
    assert 0.19 <= now() - began < 0.4
    assert report.failure is None
    assert records_read(fake) == 1


@pytest.mark.parametrize("wait", [by_wait, by_as_completed, by_wait_for_jobs, by_monitor])
async def test_zero_timeout_does_not_read_record(fake, client, wait):
    fake.add_job("job-1", ["failed"], failure_reason=REASON, status_reason=False)
    report = await wait(client, "job-1", timeout=0)
    assert (report.status, report.failure) == (JobStatus.FAILED, None)
    assert records_read(fake) == 0


async def test_watchers_of_monitor_keep_their_own_timeouts(fake, client):
    fake.add_job("job-1", ["failed"], failure_reason=REASON, status_reason=False)
    hang_record_requests(fake)
    async with JobMonitor(client) as monitor:
        patient = asyncio.create_task(monitor.wait("job-1"))
        report = await monitor.wait("job-1", timeout=0.2)
        assert (report.status, report.failure) == (JobStatus.FAILED, None)
        assert not patient.done()
        patient.cancel()
        await asyncio.gather(patient, return_exceptions=True)


async def test_cancelling_while_record_is_read_releases_all_resources(fake, client):
    fake.add_job("job-1", ["failed"], failure_reason=REASON, status_reason=False)
    hang_record_requests(fake)
    async with assert_no_leaks(client, fake):
        wait = asyncio.create_task(client.wait_for_job("job-1"))
        while not records_read(fake):
            await asyncio.sleep(0.001)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait


async def test_watch_continues_after_cancellation_during_record_request(fake, client):
    fake.add_job("job-1", ["failed"], failure_reason=REASON, status_reason=False)
    hang_record_requests(fake)
    reports = client.watch_job("job-1")
    step = asyncio.create_task(anext(reports))
    while not records_read(fake):
        await asyncio.sleep(0.001)
    step.cancel()
    await asyncio.gather(step, return_exceptions=True)
    fake.clear_faults()
    assert str((await anext(reports)).failure) == "Out of memory (row 41)"


def hang_record_requests(fake):
    """Let requests for records hang."""
    fake.fail_next(1000, endpoint="jobs", delay=math.inf)


# ---- mismatches in the log


async def test_mismatch_is_logged_once_per_path_and_client(fake, caplog):
    mismatching = {"failure_reason": {"message": "bad row", "additional_context": {"row": 7}}}
    for number in range(3):
        fake.add_job(f"job-{number}", ["failed"], message=5, metadata=mismatching, num_rows="3.7")
    expected = {
        "$.message: expected a string, got 5",
        "$.metadata.failure_reason.additional_context: expected a string, got {'row': 7}",
        "$.job.num_rows: expected an integer, got '3.7'",
    }
    for _ in range(2):
        caplog.clear()
        async with fake.client(poll=FAST_POLL) as client:
            await client.wait_for_jobs([f"job-{number}" for number in range(3)])
            await client.get_job_status("job-1")
            await client.get_job_statuses(["job-1", "job-2"])
            for _ in range(2):
                await client.with_options(timeout=5).get_job("job-1")
        warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert len(warnings) == len(expected)
        for text in expected:
            assert any(text in warning for warning in warnings)


INVALID_METADATA = {
    "list": [],
    "text": "done",
    "number": 5,
    "object": {"failure_reason": {"message": {"a": 1}}},
}


@DIALECTS
@pytest.mark.parametrize(("wait", "metadata"), in_turn(WAITS, INVALID_METADATA))
async def test_invalid_values_do_not_hide_status_in_any_wait(dialect, wait, metadata):
    async with FakeSutro(dialect=dialect) as fake, fake.client(poll=FAST_POLL) as client:
        fake.add_job("job-1", ["failed"], message=[5], metadata=metadata)
        report = await wait(client, "job-1")
    assert (report.status, report.message) == (JobStatus.FAILED, "[5]")
    assert len([r for r in fake.requests if "/job-status/" in r.path]) == 1
    assert report.metadata == (metadata if isinstance(metadata, dict) else {})


async def test_unknown_status_is_polled_until_timeout(fake, client):
    fake.add_job("job-1", ["unknown"])
    poll = attrs.evolve(FAST_POLL, max_outage=0.05)
    for wait in (by_wait, by_wait_for_jobs):
        with pytest.raises(JobWaitTimeoutError):
            await wait(client, "job-1", timeout=0.3, poll=poll)
