"""Each fault alone, in a status call, a record call and a wait, and the request after it."""

import asyncio

import pytest

from sutro_async import APIError, APITimeoutError, InvalidResponseError, JobStatus, RetryPolicy
from tests.chaos._hostile import FAULTS, HostileServer, Promise
from tests.chaos.conftest import assert_no_leaks, make_client

ONCE = RetryPolicy(attempts=1)
# Seconds.
SHORT_TIMEOUT = 0.2
LONG_TIMEOUT = 20

every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


class Script:
    """Breaks a number of responses, then none."""

    def __init__(self, fault, times):
        self.fault = fault
        self.times = times

    def __call__(self, job_id):
        if self.times == 0:
            return None
        self.times -= 1
        return self.fault


def timeout_for(fault):
    """A short timeout if the fault causes one, else a long one for busy machines."""
    return SHORT_TIMEOUT if fault.error is APITimeoutError else LONG_TIMEOUT


def server_with(script):
    timeout = timeout_for(script.fault)
    return HostileServer(lambda _: "succeeded", script, client_timeout=timeout)


async def let_pending_data_arrive():
    """Let data after a response arrive, in more than one iteration of the event loop."""
    for _ in range(3):
        await asyncio.sleep(0.01)


async def assert_error(fault, call, job_id="job-1"):
    with pytest.raises(APIError) as caught:
        await call
    error = caught.value
    assert type(error) is fault.error
    assert error.job_id == job_id
    assert getattr(error, "status_code", None) == fault.status_code
    assert error.retryable is (fault.promise in {Promise.RETRIED, Promise.NEXT_RETRIED})
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 1000


@every_fault
@pytest.mark.parametrize("method", ["get_job_status", "get_job"])
async def test_call(fault, method):
    script = Script(fault, -1)
    async with assert_no_leaks(), server_with(script) as server:
        async with make_client(server, retry=ONCE, timeout=timeout_for(fault)) as client:
            send = getattr(client, method)
            if fault.promise in {Promise.UNNOTICED, Promise.NEXT_RETRIED}:
                assert (await send("job-1")).status is JobStatus.SUCCEEDED
            else:
                await assert_error(fault, send("job-1"))
            assert not client._manager.transport._session.connector._acquired
            # Data that the fault left on its connection is not used as a response.
            script.times = 0
            await let_pending_data_arrive()
            if fault.promise is Promise.NEXT_RETRIED:
                await assert_error(fault, send("job-2"), "job-2")
            for _ in range(3):
                assert (await send("job-2")).status is JobStatus.SUCCEEDED


@every_fault
async def test_call_with_retries(fault):
    script = Script(fault, 1)
    async with assert_no_leaks(), server_with(script) as server:
        async with make_client(server, timeout=timeout_for(fault)) as client:
            if fault.promise not in {Promise.SURVIVED, Promise.FINAL}:
                report = await client.get_job_status("job-1")
                assert report.status is JobStatus.SUCCEEDED
            else:
                await assert_error(fault, client.get_job_status("job-1"))
                assert len(server.requests) == 1


@every_fault
async def test_wait(fault):
    script = Script(fault, 2)
    async with assert_no_leaks(), server_with(script) as server:
        async with make_client(server, timeout=timeout_for(fault)) as client:
            wait = client.wait_for_job("job-1", timeout=30)
            if fault.promise is Promise.FINAL:
                await assert_error(fault, wait)
                assert len(server.requests) == 1
            else:
                assert (await wait).status is JobStatus.SUCCEEDED


@every_fault
async def test_wait_after_good_report(fault):
    """The fault occurs on a reused connection."""
    statuses = iter(["running"])
    script = Script(fault, 0)

    def status_of(job_id):
        script.times = 1
        return next(statuses, "succeeded")

    async with assert_no_leaks():
        async with HostileServer(status_of, script, client_timeout=timeout_for(fault)) as server:
            async with make_client(server, timeout=timeout_for(fault)) as client:
                wait = client.wait_for_job("job-1", timeout=30)
                if fault.promise is Promise.FINAL:
                    with pytest.raises(fault.error) as caught:
                        await wait
                    assert caught.value.last_report.status is JobStatus.RUNNING
                else:
                    assert (await wait).status is JobStatus.SUCCEEDED


def test_wrong_bodies_are_valid():
    """The wrong bodies are valid, so a test fails if the client accepts one."""
    from sutro_async._wire import parse_job, parse_report
    from tests.chaos._hostile import Exchange

    for is_record, parse in ((False, parse_report), (True, parse_job)):
        exchange = Exchange(server=None, connection=None, job_id="job-1", is_record=is_record)
        assert parse("job-1", exchange.wrong_body()).status is JobStatus.CANCELLED
        with pytest.raises(InvalidResponseError):
            parse("job-2", exchange.body("cancelled", job_id="another"))
