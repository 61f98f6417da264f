"""An observer that blocks the event loop, on the real clock: it only delays."""

import asyncio
import time

import pytest

from sutro_async import JobStatus, JobWaitTimeoutError, PollPolicy
from sutro_async.testing import FakeSutro
from tests.conftest import FAST_POLL

JOB_IDS = [f"job-{number}" for number in range(12)]


async def outcomes_with(observer):
    """The results of waits for jobs that fail, succeed, are missing, or time out."""
    async with FakeSutro() as fake:
        for job_id in JOB_IDS[:4]:
            fake.add_job(job_id, ["queued", "running", "succeeded"])
        for job_id in JOB_IDS[4:8]:
            fake.add_job(job_id, ["running", "failed"], failure_reason="no GPU")
        for job_id in JOB_IDS[8:11]:
            fake.add_job(job_id, ["running"])
        fake.fail_next(3, status=500)
        async with fake.client(poll=FAST_POLL, timeout=0.5, observer=observer) as client:
            outcomes = await client.wait_for_jobs(JOB_IDS, timeout=2)
            return {
                each.job_id: each.value.to_dict() if each.ok else type(each.error)
                for each in outcomes.values()
            }


async def test_blocking_observer_changes_no_result():
    calls = 0

    def observer(event):
        nonlocal calls
        calls += 1
        time.sleep(0.01)

    assert await outcomes_with(observer) == await outcomes_with(None)
    assert calls > 60


@pytest.mark.parametrize("timeout", [0.3, 1.0])
async def test_timeouts_are_accurate_with_blocking_observer(fake, timeout):
    fake.add_job("job-1", ["running"])
    async with fake.client(
        poll=PollPolicy(initial=0.1), observer=lambda event: time.sleep(0.01)
    ) as client:
        began_at = time.monotonic()
        with pytest.raises(JobWaitTimeoutError) as raised:
            await client.wait_for_job("job-1", timeout=timeout)
        assert timeout <= time.monotonic() - began_at < timeout + 0.1
        assert raised.value.elapsed == pytest.approx(timeout, abs=0.1)


async def test_slow_first_observer_call_changes_no_result(fake):
    is_loaded = False

    def observer(event):
        nonlocal is_loaded
        if not is_loaded:
            time.sleep(0.5)  # as an import takes
            is_loaded = True

    fake.add_job("job-1", ["running", "succeeded"])
    async with fake.client(poll=FAST_POLL, timeout=0.4, observer=observer) as client:
        report = await client.wait_for_job("job-1", timeout=5)
        await asyncio.sleep(0)
    assert report.status is JobStatus.SUCCEEDED
    assert is_loaded
    assert len(fake.requests) == 2
