"""One poll loop for any number of watchers."""

import asyncio
import contextlib
import inspect
import math

import pytest

from sutro_async import (
    APITimeoutError,
    ClientStateError,
    ConfigurationError,
    GoneError,
    JobMonitor,
    JobNotFoundError,
    JobWaitTimeoutError,
    PollPolicy,
    RateLimitError,
    ServerError,
)
from tests.conftest import FAST_POLL, assert_no_leaks, now

pytestmark = pytest.mark.usefixtures("fast_clock")


@pytest.fixture
async def monitor(client):
    async with JobMonitor(client) as opened:
        yield opened


def polls(fake, job_id="job-1"):
    return sum(request.path.endswith(f"/job-status/{job_id}") for request in fake.requests)


async def until(condition):
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.001)


# ---- one loop for all


async def test_500_waiters_share_one_poll_loop(fake, monitor):
    fake.add_job("job-1", ["queued", "running", "succeeded"])
    reports = await asyncio.gather(*(monitor.wait("job-1") for _ in range(500)))
    assert {report.status for report in reports} == {"succeeded"}
    assert polls(fake) == 3
    assert len(monitor) == 0


async def test_each_job_has_its_own_poll_loop(fake, monitor):
    for job_id in ("a", "b"):
        fake.add_job(job_id, [("running", 0.1), "succeeded"])
    waits = [asyncio.create_task(monitor.wait(job_id)) for job_id in "aabb"]
    await until(lambda: len(fake.requests) >= 2)
    assert len(monitor) == 2
    assert [report.job_id for report in await asyncio.gather(*waits)] == list("aabb")


async def test_watch_yields_each_change(fake, monitor):
    fake.add_job("job-1", ["queued", "queued", "running", "failed"])
    received = [report.status async for report in monitor.watch("job-1")]
    assert received == ["queued", "running", "failed"]


async def test_later_watcher_gets_newest_report_at_once(fake, monitor):
    fake.add_job("job-1", [("running", 0.3), "succeeded"])
    first = asyncio.create_task(monitor.wait("job-1"))
    await until(lambda: monitor.latest("job-1"))
    before = polls(fake)
    report = await anext(monitor.watch("job-1"))
    assert report.status == "running"
    assert polls(fake) == before
    await first


async def test_slow_watcher_gets_newest_report_without_backlog(fake, monitor):
    fake.add_job("job-1", ["a", "b", "c", "d", "succeeded"], allow_unknown=True)
    received = []
    async for report in monitor.watch("job-1"):
        received.append(report.raw_status)
        await until(lambda: polls(fake) == 5)
        await asyncio.sleep(0.01)
    assert received == ["A", "SUCCEEDED"]


async def test_poll_policy_is_that_of_client_or_monitor(fake):
    fake.add_job("job-1", ["running", "succeeded"])
    slow = PollPolicy(initial=60, maximum=60)
    async with fake.client(poll=slow) as client, JobMonitor(client, poll=FAST_POLL) as monitor:
        async with asyncio.timeout(2):
            await monitor.wait("job-1")


async def test_max_retry_after_of_monitor_applies_to_single_requests(fake, client):
    fake.fail_next(2, status=500)
    async with JobMonitor(client) as monitor:
        with pytest.raises(JobWaitTimeoutError):
            await monitor.wait("job-1", timeout=0)
    async with JobMonitor(client, poll=PollPolicy(max_outage=0)) as monitor:
        with pytest.raises(ServerError):
            await monitor.wait("job-1", timeout=0)


# ---- watchers that leave


async def test_last_watcher_stops_poll_loop(fake, client, monitor):
    fake.add_job("job-1", ["running"])
    waits = [asyncio.create_task(monitor.wait("job-1")) for _ in range(3)]
    await until(lambda: polls(fake) > 2)
    for wait in waits[:2]:
        wait.cancel()
    await asyncio.sleep(0.02)
    assert len(monitor) == 1
    async with assert_no_leaks(client, fake):
        waits[2].cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        assert len(monitor) == 0
        await asyncio.sleep(0.01)
    before = polls(fake)
    await asyncio.sleep(0.05)
    assert polls(fake) == before


async def test_break_out_of_watch_leaks_nothing(fake, client, monitor):
    fake.add_job("job-1", ["running"])
    async with assert_no_leaks(client, fake):
        async for _ in monitor.watch("job-1", timeout=30):
            break
        await until(lambda: len(monitor) == 0)
        await asyncio.sleep(0.01)


async def test_leaving_watcher_does_not_affect_others(fake, monitor):
    fake.add_job("job-1", [("running", 0.15), "succeeded"])
    stays = asyncio.create_task(monitor.wait("job-1"))
    leaving = asyncio.create_task(monitor.wait("job-1"))
    times_out = asyncio.create_task(monitor.wait("job-1", timeout=0.05))
    await until(lambda: polls(fake) > 1)
    leaving.cancel()
    with pytest.raises(JobWaitTimeoutError):
        await times_out
    assert (await stays).is_terminal
    assert leaving.cancelled()


async def test_watcher_joining_as_last_one_leaves_gets_new_poll_loop(fake, monitor):
    fake.add_job("job-1", [("running", 0.05), "succeeded"])
    first = asyncio.create_task(monitor.wait("job-1"))
    await until(lambda: polls(fake) > 0)
    first.cancel()
    second = asyncio.create_task(monitor.wait("job-1"))
    assert (await second).is_terminal


async def test_watchers_joining_and_leaving_at_any_time_get_terminal_report(fake, monitor):
    fake.add_job("job-1", [("running", 0.3), "succeeded"])

    async def join_and_leave(number):
        await asyncio.sleep(number * 0.005)
        with contextlib.suppress(JobWaitTimeoutError):
            return await monitor.wait("job-1", timeout=0.02 if number % 3 else None)

    reports = await asyncio.gather(*(join_and_leave(number) for number in range(80)))
    assert all(report and report.is_terminal for report in reports[::3])
    assert all(report and report.is_terminal for report in reports[65:])
    assert len(monitor) == 0


# ---- timeouts


async def test_each_watcher_has_its_own_timeout(fake, monitor):
    fake.add_job("job-1", ["running"])
    began = now()

    async def elapsed(timeout):
        with pytest.raises(JobWaitTimeoutError) as caught:
            await monitor.wait("job-1", timeout=timeout)
        assert (caught.value.job_id, caught.value.timeout) == ("job-1", timeout)
        assert caught.value.last_report.status == "running"
        assert caught.value.elapsed == pytest.approx(timeout, abs=0.1)
        return now() - began

    times = await asyncio.gather(*(elapsed(timeout) for timeout in (0.1, 0.2, 0.3)))
    assert times == [pytest.approx(expected, abs=0.08) for expected in (0.1, 0.2, 0.3)]


async def test_timeout_expires_while_service_hangs(fake, monitor):
    fake.fail_next(1, job_id="job-1", delay=math.inf)
    with pytest.raises(JobWaitTimeoutError) as caught:
        await monitor.wait("job-1", timeout=0.1)
    assert caught.value.last_report is None
    assert caught.value.__cause__ is None


async def test_timeout_error_names_failure_of_latest_poll(fake, monitor):
    fake.fail_next(1000, status=429)
    with pytest.raises(JobWaitTimeoutError, match="the last poll failed") as caught:
        await monitor.wait("job-1", timeout=0.1)
    assert isinstance(caught.value.__cause__, RateLimitError)


async def test_consumer_time_counts_towards_timeout(fake, monitor):
    fake.add_job("job-1", ["running"])
    with pytest.raises(JobWaitTimeoutError):
        async for _ in monitor.watch("job-1", timeout=0.1):
            await asyncio.sleep(0.15)


async def test_zero_timeout_polls_once(fake, monitor):
    fake.add_job("job-1", ["running", "succeeded"])
    received = []
    with pytest.raises(JobWaitTimeoutError):
        async for report in monitor.watch("job-1", timeout=0):
            received.append(report.status)
    assert received == ["running"]
    assert (await monitor.wait("job-1", timeout=0)).is_terminal
    assert (await monitor.wait("job-1", timeout=0)).is_terminal
    assert polls(fake) == 2


async def test_zero_timeout_is_interrupted_by_close_or_cancellation(fake, client):
    fake.fail_next(2, delay=math.inf)
    async with JobMonitor(client) as monitor:
        cancelled = asyncio.create_task(monitor.wait("job-1", timeout=0))
        waiting = asyncio.create_task(monitor.wait("job-1", timeout=0))
        await until(lambda: fake.in_flight == 2)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    async with asyncio.timeout(1):
        with pytest.raises(ClientStateError, match="monitor was closed"):
            await waiting


@pytest.mark.parametrize("timeout", [None, 0, 5])
async def test_cancellation_is_raised_even_if_monitor_is_closed_at_same_time(fake, client, timeout):
    fake.fail_next(1, delay=math.inf)
    async with JobMonitor(client) as monitor:
        wait = asyncio.create_task(monitor.wait("job-1", timeout=timeout))
        await until(lambda: fake.in_flight)
        wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait


async def test_completion_as_timeout_expires_is_not_lost(fake, client, monitor):
    fake.add_job("job-1", ["running"])
    fake.add_job("job-2")
    end = await client.get_job_status("job-2")
    wait = asyncio.create_task(monitor.wait("job-1", timeout=0.5))
    await until(lambda: monitor.latest("job-1"))

    def succeed_at_timeout():
        ends_at = now() + 0.2
        while now() < ends_at:
            pass
        poller = monitor._polls.pollers["job-1"]
        asyncio.get_running_loop().call_soon(monitor._polls.on_end, poller, end)

    asyncio.get_running_loop().call_later(0.35, succeed_at_timeout)
    assert await wait is end


@pytest.mark.parametrize("timeout", [-1, "5", math.nan])
async def test_invalid_timeout_text_is_rejected(monitor, timeout):
    with pytest.raises(ValueError, match="timeout must be"):
        monitor.watch("job-1", timeout=timeout)


# ---- finished jobs


async def test_finished_job_needs_no_request(fake, monitor):
    fake.add_job("job-1", ["running", "succeeded"])
    end = await monitor.wait("job-1")
    before = polls(fake)
    assert await monitor.wait("job-1") is end
    assert [report async for report in monitor.watch("job-1")] == [end]
    assert monitor.latest("job-1") is end
    assert polls(fake) == before


async def test_watcher_that_arrives_as_job_finishes_gets_its_report(fake, client):
    async with JobMonitor(client, keep_finished=0) as monitor:
        fake.add_job("job-1", ["running", "succeeded"])
        late = []

        async for report in monitor.watch("job-1"):
            if report.is_terminal:
                late.append(asyncio.create_task(monitor.wait("job-1")))
        assert (await late[0]).is_terminal


async def test_least_recently_used_are_evicted_first(fake, client):
    for job_id in "abc":
        fake.add_job(job_id)
    async with JobMonitor(client, keep_finished=2) as monitor:
        await monitor.wait("a")
        await monitor.wait("b")
        assert monitor.latest("a")
        await monitor.wait("c")
        assert monitor.latest("b") is None
        assert monitor.latest("a")
        assert monitor.latest("c")


async def test_keep_finished_0_keeps_no_report(fake, client):
    fake.add_job("job-1")
    async with JobMonitor(client, keep_finished=0) as monitor:
        await monitor.wait("job-1")
        await monitor.wait("job-1")
        assert monitor.latest("job-1") is None
    assert polls(fake) == 2


async def test_latest_report_of_job_without_watchers(monitor):
    assert monitor.latest("job-1") is None


def test_ten_thousand_reports_are_kept_by_default():
    assert inspect.signature(JobMonitor).parameters["keep_finished"].default == 10_000


@pytest.mark.parametrize("keep", [-1, 1.5, "3", None, True])
async def test_invalid_keep_finished_is_rejected(client, keep):
    with pytest.raises(ConfigurationError, match="keep_finished"):
        JobMonitor(client, keep_finished=keep)


# ---- errors


async def test_each_watcher_gets_its_own_copy_of_error(fake, monitor):
    waits = [monitor.wait("job-1") for _ in range(3)]
    errors = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(error) for error in errors} == {JobNotFoundError}
    assert len({id(error) for error in errors}) == 3
    assert errors[0].status_code == 404
    assert len(monitor) == 0


async def test_cause_and_last_report_of_error_are_kept(fake):
    fake.add_job("job-1", ["running"])
    policy = PollPolicy(initial=0.01, max_outage=0.05)
    async with fake.client(timeout=0.03, poll=policy) as client, JobMonitor(client) as monitor:
        reports = monitor.watch("job-1", timeout=30)
        received = await anext(reports)
        fake.fail_next(99, delay=math.inf)
        with pytest.raises(APITimeoutError) as caught:
            await anext(reports)
    assert caught.value.last_report is received
    assert isinstance(caught.value.__cause__, TimeoutError)


async def test_job_can_be_watched_again_after_error(fake, monitor):
    fake.add_job("job-1")
    fake.fail_next(1, job_id="job-1", status=410)
    with pytest.raises(GoneError):
        await monitor.wait("job-1")
    assert (await monitor.wait("job-1")).is_terminal


@pytest.mark.parametrize("timeout", [None, 0])
async def test_invalid_id_is_rejected_before_first_step(fake, monitor, timeout):
    with pytest.raises(ValueError, match="job id"):
        monitor.watch("..", timeout=timeout)
    with pytest.raises(ValueError, match="job id"):
        await monitor.wait("..", timeout=timeout)
    assert len(monitor) == 0
    assert not fake.requests


# ---- opening and closing


async def test_closing_wakes_all_waiters(fake, client):
    fake.add_job("job-1", ["running"])
    async with assert_no_leaks(client, fake):
        async with JobMonitor(client) as monitor:
            waits = [asyncio.create_task(monitor.wait("job-1")) for _ in range(5)]
            reports = monitor.watch("job-1")
            await anext(reports)
        errors = await asyncio.gather(*waits, return_exceptions=True)
        with pytest.raises(ClientStateError, match="monitor was closed"):
            await anext(reports)
    assert all(isinstance(error, ClientStateError) for error in errors)
    assert len(monitor) == 0
    assert (await client.get_job("job-1")).job_id == "job-1"


async def test_exit_waits_for_all_tasks(fake, client):
    fake.fail_next(2, job_id="job-1", delay=math.inf)
    async with JobMonitor(client) as monitor:
        waits = [asyncio.create_task(monitor.wait("job-1", timeout=each)) for each in (None, 0)]
        await until(lambda: fake.in_flight == 2)
        tasks = [each for each in asyncio.all_tasks() if "Schedule._work" in repr(each)]
    assert [task.done() for task in tasks] == [True, True]
    await asyncio.gather(*waits, return_exceptions=True)


async def test_externally_cancelled_poll_does_not_hang_watchers(fake, monitor):
    fake.fail_next(1, job_id="job-1", delay=math.inf)
    wait = asyncio.create_task(monitor.wait("job-1"))
    await until(lambda: fake.in_flight)
    (worker,) = [each for each in asyncio.all_tasks() if "Schedule._work" in repr(each)]
    worker.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(ClientStateError, match="the polling task was cancelled"):
            await wait
    assert len(monitor) == 0


class ForeignError(Exception):
    """An error of another library, which cannot be copied: its constructor takes two arguments."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


async def test_foreign_error_is_raised_unchanged(client, monitor, monkeypatch):
    error = ForeignError("no", "luck")

    async def fail(path, **options):
        raise error

    monkeypatch.setattr(client._manager.transport, "get", fail)
    waits = [monitor.wait("job-1"), anext(monitor.watch_jobs(["job-1"]))]
    raised = await asyncio.gather(*waits, return_exceptions=True)
    assert [each is error for each in raised] == [True, True]
    assert len(monitor) == 0


async def test_closing_client_ends_waits(fake, client, monitor):
    fake.add_job("job-1", ["running"])
    wait = asyncio.create_task(monitor.wait("job-1"))
    await until(lambda: polls(fake))
    await client.aclose()
    with pytest.raises(ClientStateError, match="client was closed"):
        await wait


async def test_monitor_requires_async_with(fake, client):
    monitor = JobMonitor(client)
    not_open = r"^the monitor is not open: use it inside `async with`$"
    for timeout in (None, 0):
        with pytest.raises(ClientStateError, match=not_open):
            await monitor.wait("job-1", timeout=timeout)
    async with monitor:
        with pytest.raises(
            ClientStateError, match=r"^this JobMonitor is open already: enter it once$"
        ):
            await monitor.__aenter__()
    with pytest.raises(ClientStateError, match=not_open):
        await monitor.wait("job-1")


async def test_idle_monitor_is_truthy(monitor):
    assert len(monitor) == 0
    assert bool(monitor) is True


async def test_repr_shows_number_of_polled_jobs(fake, client):
    fake.add_job("done")
    fake.add_job("endless", ["running"])
    async with JobMonitor(client) as monitor:
        await monitor.wait("done")
        wait = asyncio.create_task(monitor.wait("endless"))
        await until(lambda: len(monitor) == 1)
        assert repr(monitor) == f"<JobMonitor of {client!r}: 1 polled, 1 finished>"
        wait.cancel()
