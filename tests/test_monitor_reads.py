"""Reads by a monitor: concurrent callers share one request, a finished job needs none."""

import asyncio
import contextlib
import math

import pytest

from sutro_async import (
    ClientStateError,
    JobMonitor,
    JobNotFoundError,
    ServerError,
)
from tests.conftest import assert_no_leaks

pytestmark = pytest.mark.usefixtures("fast_clock")


@pytest.fixture
async def monitor(client):
    async with JobMonitor(client) as opened:
        yield opened


@pytest.fixture(params=[JobMonitor.get_job, JobMonitor.get_job_status], ids=["job", "status"])
def read(request):
    return request.param


async def until(condition):
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.001)


def hang(fake):
    """Let the next request run until it is cancelled."""
    fake.fail_next(1, delay=math.inf)


def requests_for_reads():
    return [each for each in asyncio.all_tasks() if "coro=<fetch()" in repr(each)]


# ---- one request for all


async def test_500_concurrent_callers_share_one_request(fake, monitor, read):
    fake.add_job("job-1", ["running"])
    found = await asyncio.gather(*(read(monitor, "job-1") for _ in range(500)))
    assert {each.status for each in found} == {"running"}
    assert len(fake.requests) == 1


async def test_caller_during_request_shares_it(fake, monitor, read):
    fake.add_job("job-1", ["running"])
    fake.fail_next(1, delay=0.2)
    first = asyncio.create_task(read(monitor, "job-1"))
    await until(lambda: fake.in_flight)
    await asyncio.gather(first, read(monitor, "job-1"))
    assert len(fake.requests) == 1


async def test_status_of_running_job_is_requested_each_time(fake, monitor, read):
    fake.add_job("job-1", ["running"])
    for number in (1, 2, 3):
        assert (await read(monitor, "job-1")).status == "running"
        assert len(fake.requests) == number


async def test_status_record_and_each_job_are_separate_requests(fake, monitor):
    fake.add_job("a", ["running"])
    fake.add_job("b", ["running"])
    found = await asyncio.gather(
        *(
            read(monitor, job_id)
            for read in (JobMonitor.get_job, JobMonitor.get_job_status)
            for job_id in "ab"
        )
    )
    assert [each.job_id for each in found] == list("abab")
    assert [type(each).__name__ for each in found] == ["Job"] * 2 + ["JobStatusReport"] * 2
    assert len(fake.requests) == 4


async def test_timeout_and_retries_are_those_of_client(fake, client, read):
    fake.add_job("job-1")
    fake.fail_next(3, status=500)
    async with JobMonitor(client.with_options(timeout=0.1)) as monitor:
        assert (await read(monitor, "job-1")).is_terminal
        assert len(fake.requests) == 4
        fake.fail_next(4, delay=math.inf)
        with pytest.raises(TimeoutError):
            await read(monitor, "job-2")
    assert len(fake.requests) == 8


# ---- finished jobs


async def test_finished_job_needs_one_request(fake, monitor, read):
    fake.add_job("job-1")
    first = await read(monitor, "job-1")
    assert await read(monitor, "job-1") is first
    assert len(fake.requests) == 1


async def test_waits_and_reads_share_finished_reports(fake, monitor):
    fake.add_job("waited", ["running", "succeeded"])
    fake.add_job("read")
    end = await monitor.wait("waited")
    assert await monitor.get_job_status("waited") is end
    end = await monitor.get_job_status("read")
    assert await monitor.wait("read") is end
    assert monitor.latest("read") is end
    assert len(fake.requests) == 3


async def test_read_does_not_use_report_of_running_poll(fake, monitor):
    fake.add_job("job-1", ["queued"])
    async with monitor.watch("job-1") as reports:
        assert (await anext(reports)).status == "queued"
        fake.set_status("job-1", "running")
        assert (await monitor.get_job_status("job-1")).status == "running"


async def test_wait_reads_failure_reason_after_status_read(fake, monitor):
    fake.add_job("job-1", ["failed"], failure_reason="no GPU", status_reason=False)
    unexplained = await monitor.get_job_status("job-1")
    assert unexplained.failure is None
    assert await monitor.get_job_status("job-1") is unexplained
    assert monitor.latest("job-1") is unexplained
    assert len(fake.requests) == 1
    end = await monitor.wait("job-1")
    assert end.failure.message == "no GPU"
    assert len(fake.requests) == 3
    assert await monitor.get_job_status("job-1") is end
    assert len(fake.requests) == 3


async def test_least_recently_used_are_evicted_first(fake, client, read):
    for job_id in "abc":
        fake.add_job(job_id)
    async with JobMonitor(client, keep_finished=2) as monitor:
        for job_id in "abac":
            await read(monitor, job_id)
        assert len(fake.requests) == 3
        await read(monitor, "a")
        assert len(fake.requests) == 3
        await read(monitor, "b")
        assert len(fake.requests) == 4


async def test_keep_finished_0_still_shares_requests(fake, client, read):
    fake.add_job("job-1")
    async with JobMonitor(client, keep_finished=0) as monitor:
        await asyncio.gather(read(monitor, "job-1"), read(monitor, "job-1"))
        assert len(fake.requests) == 1
        await read(monitor, "job-1")
        assert len(fake.requests) == 2


# ---- errors


async def test_each_caller_gets_its_own_copy_of_error_which_is_not_cached(fake, monitor, read):
    calls = [read(monitor, "job-1") for _ in range(20)]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in errors} == {JobNotFoundError}
    assert len({id(error) for error in errors}) == 20
    assert {(error.job_id, error.status_code) for error in errors} == {("job-1", 404)}
    assert len(fake.requests) == 1
    fake.add_job("job-1")
    assert (await read(monitor, "job-1")).is_terminal


async def test_cause_of_error_is_kept(fake, client, read):
    async with JobMonitor(client.with_options(timeout=0.05)) as monitor:
        fake.fail_next(9, delay=math.inf)
        with pytest.raises(TimeoutError) as caught:
            await read(monitor, "job-1")
    assert isinstance(caught.value.__cause__, TimeoutError)


async def test_foreign_error_is_raised_unchanged(client, monitor, read, monkeypatch):
    error = LookupError("no luck")

    async def fail(path, **options):
        raise error

    monkeypatch.setattr(client._manager.transport, "get", fail)
    calls = [read(monitor, "job-1"), read(monitor, "job-1")]
    raised = await asyncio.gather(*calls, return_exceptions=True)
    assert [each is error for each in raised] == [True, True]


@pytest.mark.parametrize("job_id", ["", "..", "a\x00"])
async def test_invalid_id_is_rejected_before_any_request(fake, monitor, read, job_id):
    with pytest.raises(ValueError, match="job id"):
        await read(monitor, job_id)
    with pytest.raises(TypeError, match="job id"):
        await read(monitor, 7)
    assert not fake.requests


# ---- callers that are cancelled


async def test_cancelled_caller_does_not_affect_others(fake, monitor, read):
    fake.add_job("job-1", ["running"])
    fake.fail_next(1, delay=0.3)
    leaves, times_out, stays = (asyncio.create_task(read(monitor, "job-1")) for _ in range(3))
    await until(lambda: fake.in_flight)
    leaves.cancel()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await times_out
    assert (await stays).status == "running"
    assert (leaves.cancelled(), times_out.cancelled()) == (True, True)
    assert len(fake.requests) == 1


async def test_last_cancelled_caller_cancels_request(fake, client, monitor, read):
    hang(fake)
    async with assert_no_leaks(client, fake):
        calls = [asyncio.create_task(read(monitor, "job-1")) for _ in range(3)]
        await until(lambda: fake.in_flight)
        for call in calls[:2]:
            call.cancel()
        await asyncio.sleep(0.05)
        assert fake.in_flight == 1
        calls[2].cancel()
        await asyncio.wait(calls)
        assert not requests_for_reads()
        await until(lambda: not fake.in_flight)
    assert all(call.cancelled() for call in calls)


async def test_all_callers_can_be_cancelled_together(fake, client, monitor, read):
    hang(fake)
    async with assert_no_leaks(client, fake):
        calls = [asyncio.create_task(read(monitor, "job-1")) for _ in range(500)]
        await until(lambda: fake.in_flight)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
    assert not requests_for_reads()


async def test_caller_joining_as_last_one_leaves_gets_new_request(fake, monitor, read):
    fake.add_job("job-1")
    hang(fake)
    leaves = asyncio.create_task(read(monitor, "job-1"))
    await until(lambda: fake.in_flight)
    leaves.cancel()
    comes = asyncio.create_task(read(monitor, "job-1"))
    assert (await comes).is_terminal
    assert leaves.cancelled()
    assert len(fake.requests) == 2


async def test_caller_joining_as_error_arrives_gets_new_request(fake, monitor, read):
    first = asyncio.create_task(read(monitor, "job-1"))
    await asyncio.sleep(0)
    (request,) = requests_for_reads()
    second = []

    def call_again(_):
        fake.add_job("job-1")
        second.append(asyncio.create_task(read(monitor, "job-1")))

    # Called after the end of the request, and before what follows from it.
    request.add_done_callback(call_again)
    await asyncio.wait({first})
    assert isinstance(first.exception(), JobNotFoundError)
    assert (await second[0]).is_terminal


async def test_externally_cancelled_request_ends_calls(fake, monitor, read):
    hang(fake)
    call = asyncio.create_task(read(monitor, "job-1"))
    await until(lambda: fake.in_flight)
    (request,) = requests_for_reads()
    request.cancel()
    with pytest.raises(ClientStateError, match="shared request was cancelled"):
        await call
    assert not call.cancelling()


# ---- opening and closing


async def test_closing_wakes_all_callers(fake, client, read):
    hang(fake)
    async with assert_no_leaks(client, fake):
        async with JobMonitor(client) as monitor:
            calls = [asyncio.create_task(read(monitor, "job-1")) for _ in range(5)]
            await until(lambda: fake.in_flight)
        assert not requests_for_reads()
        errors = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in errors} == {ClientStateError}
    assert len({id(error) for error in errors}) == 5
    assert "monitor was closed" in str(errors[0])
    async with monitor:
        fake.add_job("job-1")
        assert (await read(monitor, "job-1")).is_terminal


async def test_cancellation_is_raised_even_if_monitor_is_closed_at_same_time(fake, client, read):
    hang(fake)
    async with JobMonitor(client) as monitor:
        call = asyncio.create_task(read(monitor, "job-1"))
        await until(lambda: fake.in_flight)
        call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_closing_client_ends_calls(fake, client, monitor, read):
    hang(fake)
    call = asyncio.create_task(read(monitor, "job-1"))
    await until(lambda: fake.in_flight)
    await client.aclose()
    with pytest.raises(ClientStateError, match="client was closed"):
        await call


async def test_monitor_requires_async_with(client, read):
    monitor = JobMonitor(client)
    with pytest.raises(ClientStateError, match="not open"):
        await read(monitor, "job-1")
    async with monitor:
        pass
    with pytest.raises(ClientStateError, match="not open"):
        await read(monitor, "job-1")


# ---- BaseException


class Crash(BaseException):
    """What `pytest.fail` raises is of this kind."""


@pytest.fixture
def crash_at_end(client, monkeypatch):
    """Let requests raise a `Crash` shortly after they have been cancelled."""
    released = asyncio.Event()

    async def fail(path, **options):
        try:
            await asyncio.Event().wait()
        finally:
            while not released.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await released.wait()
            raise Crash

    monkeypatch.setattr(client._manager.transport, "get", fail)
    return released


async def test_base_exception_reaches_each_caller(client, monitor, read, monkeypatch):
    async def fail(path, **options):
        raise Crash

    monkeypatch.setattr(client._manager.transport, "get", fail)
    calls = [asyncio.create_task(read(monitor, "job-1")) for _ in range(2)]
    await asyncio.wait(calls)
    assert [type(call.exception()) for call in calls] == [Crash] * 2


async def test_base_exception_reaches_last_cancelled_caller(monitor, read, crash_at_end):
    call = asyncio.create_task(read(monitor, "job-1"))
    await until(requests_for_reads)
    await asyncio.sleep(0.01)
    call.cancel()
    crash_at_end.set()
    await asyncio.wait({call})
    assert isinstance(call.exception(), Crash)


async def test_base_exception_after_last_caller_is_raised_by_close(client, read, crash_at_end):
    monitor = await JobMonitor(client).__aenter__()
    call = asyncio.create_task(read(monitor, "job-1"))
    await until(requests_for_reads)
    await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.sleep(0.01)
    call.cancel()  # it does not wait for the request any more
    await asyncio.wait({call})
    assert call.cancelled()
    closing = asyncio.create_task(monitor.__aexit__(None, None, None))
    await asyncio.sleep(0.01)
    assert not closing.done()
    crash_at_end.set()
    await asyncio.wait({closing})
    assert isinstance(closing.exception(), Crash)


async def test_server_error_is_that_of_last_attempt(fake, monitor, read):
    fake.fail_next(4, status=503)
    with pytest.raises(ServerError):
        await read(monitor, "job-1")
    assert len(fake.requests) == 4
