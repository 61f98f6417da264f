"""Every status that a server can respond with, in every kind of call."""

import asyncio

import pytest

from sutro_async import (
    APIStatusError,
    InvalidResponseError,
    JobMonitor,
    RetryPolicy,
    ServerError,
    SutroError,
)
from tests.conftest import FAST_POLL

pytestmark = pytest.mark.usefixtures("fast_clock")

TRANSIENT = [408, 425, 429, *(each for each in range(500, 600) if each not in {501, 505})]
# 401 is batch-fatal, and 403 and 404 have to last.
FINAL = [each for each in range(300, 500) if each not in {401, 403, 404, 408, 425, 429}]
FINAL += [501, 505]
# What a proxy might respond in place of the service.
NOT_200 = range(201, 300)


def job_of(status):
    return f"job-{status}"


async def outcome_of(awaitable):
    try:
        return await awaitable
    except SutroError as error:
        return error


async def get_job_status(client, job_ids):
    return [await outcome_of(client.get_job_status(job_id)) for job_id in job_ids]


async def get_job_statuses(client, job_ids):
    return results((await client.get_job_statuses(job_ids)).values())


async def wait_for_job(client, job_ids):
    return [await outcome_of(client.wait_for_job(job_id)) for job_id in job_ids]


async def wait_for_jobs(client, job_ids):
    return results((await client.wait_for_jobs(job_ids)).values())


async def monitor_wait(client, job_ids):
    async with JobMonitor(client) as monitor:
        return await asyncio.gather(*(outcome_of(monitor.wait(job_id)) for job_id in job_ids))


def results(outcomes):
    return [outcome.value or outcome.error for outcome in outcomes]


WAITS = [wait_for_job, wait_for_jobs, monitor_wait]


def every_call(statuses):
    """One call is tested with all statuses; the others, which share the code, with every ninth."""
    some = [*statuses[:3], *statuses[3:-2:9], *statuses[-2:]]
    others = [get_job_status, get_job_statuses, wait_for_job, monitor_wait]
    return pytest.mark.parametrize(
        ("call", "statuses"),
        [
            pytest.param(wait_for_jobs, statuses, id="wait_for_jobs"),
            *(pytest.param(call, some, id=call.__name__) for call in others),
        ],
    )


async def call_with(fake, call, statuses):
    """Call for a job for each status, which is its first response; return what comes of each.

    Between them are good responses, so that the service does not look unavailable.
    """
    job_ids = []
    for status in statuses:
        fake.add_job(job_of(status))
        fake.fail_next(1, job_id=job_of(status), status=status, body=f"this is {status}")
        fake.add_job(f"good-{status}")
        job_ids += [job_of(status), f"good-{status}"]
    retry = RetryPolicy(initial=0.001, maximum=0.001)
    async with fake.client(poll=FAST_POLL, retry=retry) as client:
        found = await call(client, job_ids)
    assert len(found) == len(job_ids)
    assert {report.status for report in found[1::2]} == {"succeeded"}
    return dict(zip(statuses, found[::2], strict=True))


def requests_about(fake, status):
    return [each for each in fake.requests if each.path.endswith(f"/{job_of(status)}")]


def test_every_status_has_one_kind():
    kinds = [*TRANSIENT, *FINAL, *NOT_200, 401, 403, 404]
    assert sorted(kinds) == list(range(201, 600))


@every_call(TRANSIENT)
async def test_transient_status_is_retried(fake, call, statuses):
    found = await call_with(fake, call, statuses)
    assert {status for status, end in found.items() if isinstance(end, SutroError)} == set()
    for status in statuses:
        assert len(requests_about(fake, status)) == 2


@every_call(FINAL)
async def test_final_status_is_raised_at_once(fake, call, statuses):
    found = await call_with(fake, call, statuses)
    for status, error in found.items():
        assert isinstance(error, ServerError if 500 <= status < 600 else APIStatusError)
        assert (error.status_code, error.retryable) == (status, False)
        assert len(requests_about(fake, status)) == 1


@every_call(NOT_200)
async def test_other_success_status_is_invalid_response(fake, call, statuses):
    found = await call_with(fake, call, statuses)
    for status, end in found.items():
        if call in WAITS:
            assert end.status == "succeeded"
        else:
            assert isinstance(end, InvalidResponseError)
            assert end.reason == f"expected HTTP status 200, got {status}"
