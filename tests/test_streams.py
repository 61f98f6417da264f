"""`Stream`: each continues after a cancelled step, is for one task, and can be closed."""

import asyncio
import contextlib
import gc
import heapq
import inspect
import math
import threading

import attrs
import pytest

from sutro_async import (
    AuthenticationError,
    ClientStateError,
    JobMonitor,
    JobOutcome,
    JobWaitTimeoutError,
    PollPolicy,
    RetryPolicy,
    ServerError,
    Stream,
)
from sutro_async.testing import FakeSutro
from tests.conftest import FAST_POLL, assert_no_leaks, now, served

pytestmark = pytest.mark.usefixtures("fast_clock")

WORDS = ["queued", "running", "succeeded"]


@contextlib.asynccontextmanager
async def opened(name, client, job_ids, **options):
    """Open one of the streams."""
    if name in {"watch_jobs", "as_completed"}:
        yield getattr(client, name)(job_ids, **options)
    elif name == "watch_job":
        yield client.watch_job(*job_ids, **options)
    else:
        async with JobMonitor(client) as monitor:
            if name == "monitor.watch":
                yield monitor.watch(*job_ids, **options)
            else:
                yield monitor.watch_jobs(job_ids, **options)


ALL = ["watch_job", "watch_jobs", "as_completed", "monitor.watch", "monitor.watch_jobs"]
MANY = ["watch_jobs", "as_completed", "monitor.watch_jobs"]
every_stream = pytest.mark.parametrize("name", ALL)


def report_of(item):
    return item.result() if isinstance(item, JobOutcome) else item


async def rest_of(stream):
    return [report_of(item) async for item in stream]


def test_every_stream_has_public_type(fake, client):
    monitor = JobMonitor(client)
    for stream in (
        client.watch_job("job-1"),
        client.watch_jobs(["job-1"]),
        client.as_completed(["job-1"]),
        client.list_jobs(),
        monitor.watch("job-1"),
        monitor.watch_jobs(["job-1"]),
    ):
        assert type(stream) is Stream
        step = stream.__anext__()
        assert inspect.isawaitable(step)
        step.close()


# ---- steps


MOMENTS = {
    "before it runs": {},
    "in flight": {},
    "in back-off": {},
    "between two polls": {"poll": PollPolicy(initial=0.2, maximum=0.2)},
    "queueing for a slot": {"max_concurrency": 1},
    "queueing by rate": {"max_rate": 5},
    "in a pause": {},
    "reading the record": {},
}


async def run_until(moment, fake, client):
    """Keep the next step at that point for 0.2 seconds; return what runs beside it."""
    if moment == "in flight":
        fake.fail_next(1, job_id="job-1", delay=0.3)
    elif moment == "in back-off":
        fake.fail_next(1, job_id="job-1", status=500, headers={"Retry-After": "0.3"})
    elif moment == "queueing for a slot":
        fake.fail_next(1, job_id="other", delay=0.3)
        beside = asyncio.create_task(client.get_job_statuses(["other"]))
        while not fake.in_flight:
            await asyncio.sleep(0.001)
        return beside
    elif moment == "queueing by rate":
        await client.get_job_statuses(["other", "another"])
    elif moment == "in a pause":
        fake.fail_next(1, job_id="other", status=503, headers={"Retry-After": "0.3"})
        with pytest.raises(ServerError):
            await client.get_job_status("other")
    elif moment == "reading the record":
        fake.fail_next(1, job_id="job-1", body='{"job_status": "failed"}')
        fake.fail_next(1, job_id="job-1", delay=0.3)
    return None


@every_stream
@pytest.mark.parametrize("moment", MOMENTS)
async def test_cancelled_step_loses_no_report(fake, name, moment):
    fake.add_job("job-1", WORDS)
    fake.add_job("other")
    options = {"poll": FAST_POLL, "retry": RetryPolicy(attempts=1), **MOMENTS[moment]}
    async with fake.client(**options) as client, opened(name, client, ["job-1"]) as stream:
        beside = await run_until(moment, fake, client)
        if moment == "between two polls" and name != "as_completed":
            await anext(stream)
        step = asyncio.create_task(anext(stream))
        if moment != "before it runs":
            await asyncio.sleep(0.1)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        async with asyncio.timeout(5):
            last = (await rest_of(stream))[-1]
        assert last.status == ("failed" if moment == "reading the record" else "succeeded")
        if beside is not None:
            await beside


@every_stream
async def test_step_cancelled_in_any_loop_iteration_loses_no_report(fake, client, name):
    for iterations in range(30):  # a poll takes about half of them
        job_id = f"job-{iterations}"
        fake.add_job(job_id, ["queued"])
        async with opened(name, client, [job_id]) as stream, asyncio.timeout(5):
            for word in WORDS:
                fake.set_status(job_id, word)
                step = asyncio.create_task(anext(stream))
                for _ in range(iterations):
                    await asyncio.sleep(0)
                step.cancel()
                await asyncio.wait({step})
                if step.cancelled() and (name != "as_completed" or word == "succeeded"):
                    step = asyncio.create_task(anext(stream))
                    await asyncio.wait({step})
                if not step.cancelled():
                    assert report_of(step.result()).status == word
            assert await rest_of(stream) == []


@every_stream
async def test_heartbeat_around_steps_loses_no_report(fake, name):
    fake.add_job("job-1", [word for word in WORDS for _ in range(4)])
    received = []
    async with fake.client(poll=FAST_POLL) as client, opened(name, client, ["job-1"]) as stream:
        while True:
            try:
                received.append(report_of(await asyncio.wait_for(anext(stream), 0.01)).status)
            except TimeoutError:
                continue
            except StopAsyncIteration:
                break
    assert received == (["succeeded"] if name == "as_completed" else WORDS)


@every_stream
async def test_concurrent_steps_are_rejected(fake, client, name):
    fake.add_job("job-1", ["running"])
    fake.fail_next(1, delay=0.1)
    async with opened(name, client, ["job-1"]) as stream:
        steps = [asyncio.create_task(anext(stream)) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        errors = await asyncio.gather(*steps[1:], return_exceptions=True)
        assert [type(error) for error in errors] == [ClientStateError] * 2
        assert "give each task a stream of its own" in str(errors[0])
        fake.set_status("job-1", "succeeded")
        async with asyncio.timeout(5):
            await steps[0]


@every_stream
async def test_exhausted_stream_stays_exhausted(fake, client, name):
    fake.add_job("job-1")
    async with opened(name, client, ["job-1"]) as stream:
        await rest_of(stream)
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


@every_stream
async def test_stream_is_exhausted_after_error(fake, client, name):
    fake.fail_next(1, job_id="job-1", status=401)
    async with opened(name, client, ["job-1"]) as stream:
        with pytest.raises(AuthenticationError):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@every_stream
@pytest.mark.parametrize("use", ["step", "aclose"])
def test_another_event_loop_is_rejected(fake_in_a_thread, name, use):
    loops = [asyncio.new_event_loop() for _ in range(2)]

    async def begin():
        client = fake_in_a_thread.client(poll=FAST_POLL)
        monitor = JobMonitor(client)
        await monitor.__aenter__()
        owner = monitor if name.startswith("monitor") else client
        method = getattr(owner, name.rpartition(".")[2])
        stream = method("endless" if name.endswith("watch") or name == "watch_job" else ["endless"])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.1)
        return client, stream

    async def use_elsewhere(stream):
        async with asyncio.timeout(1):
            await (anext(stream) if use == "step" else stream.aclose())

    async def finish(client, stream):
        await stream.aclose()
        await client.aclose()

    client, stream = loops[0].run_until_complete(begin())
    with pytest.raises(ClientStateError, match="this is another: make it in the event loop"):
        loops[1].run_until_complete(use_elsewhere(stream))
    loops[0].run_until_complete(finish(client, stream))
    for loop in loops:
        loop.close()


# ---- closing


@every_stream
async def test_aclose_ends_step_of_another_task(fake, client, name):
    fake.fail_next(1, delay=math.inf)
    async with assert_no_leaks(client, fake):
        async with opened(name, client, ["job-1"]) as stream:
            step = asyncio.create_task(anext(stream))
            while not fake.in_flight:
                await asyncio.sleep(0.001)
            async with asyncio.timeout(1):
                await asyncio.gather(stream.aclose(), stream.aclose())
                with pytest.raises(StopAsyncIteration):
                    await step


@every_stream
async def test_exit_releases_all_resources(fake, client, name):
    fake.add_job("job-1", ["running"])
    fake.add_job("job-2")
    async with assert_no_leaks(client, fake), opened(name, client, ["job-1"]) as stream:
        async with stream as entered:
            assert entered is stream
            if name != "as_completed":
                await anext(stream)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(anext(stream), 0.05)
        requests = len(fake.requests)
        await asyncio.sleep(0.05)
        assert len(fake.requests) == requests
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@every_stream
async def test_aclose_before_first_step(fake, client, name):
    async with opened(name, client, ["job-1"]) as stream:
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert not fake.requests


IN_BACKGROUND = [name for name in ALL if name != "watch_job"]  # it polls within its steps alone
polls_in_background = pytest.mark.parametrize("name", IN_BACKGROUND)


def step_once(loop, fake, name):
    """Step a stream in an event loop that is stopped afterwards."""

    async def step():
        client = fake.client(poll=FAST_POLL)
        owner = await JobMonitor(client).__aenter__() if name.startswith("monitor") else client
        method = getattr(owner, name.rpartition(".")[2])
        stream = method("endless" if name == "monitor.watch" else ["done", "endless"])
        await anext(stream)
        return client, stream

    return loop.run_until_complete(step())


@pytest.fixture
def fake_in_a_thread():
    fake = FakeSutro()
    fake.add_job("done")
    fake.add_job("endless", ["running"])
    with served(fake):
        yield fake


@polls_in_background
def test_garbage_collection_in_another_thread_stops_polling_silently(fake_in_a_thread, name):
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    client, stream = step_once(loop, fake_in_a_thread, name)
    box = [stream]
    del stream
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()

    async def finish():
        await asyncio.sleep(0.01)
        requests = len(fake_in_a_thread.requests)
        await asyncio.sleep(0.1)
        assert len(fake_in_a_thread.requests) == requests
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await client.aclose()

    loop.run_until_complete(finish())
    loop.close()


@polls_in_background
def test_garbage_collection_after_loop_was_closed_is_silent(fake_in_a_thread, name):
    loop = asyncio.new_event_loop()
    client, stream = step_once(loop, fake_in_a_thread, name)
    box = [stream]
    del stream

    async def finish():
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client._manager.transport.close()

    loop.run_until_complete(finish())
    loop.close()
    box.clear()
    gc.collect()  # an unraisable exception would fail the test


@polls_in_background
async def test_breaking_out_of_wrapping_generator_stops_polling(fake, client, name):
    fake.add_job("done")
    fake.add_job("endless", ["running"])

    async def generate():
        ids = ["endless"] if name == "monitor.watch" else ["done", "endless"]
        async with opened(name, client, ids) as stream:
            async for item in stream:
                yield item

    async with assert_no_leaks(client, fake):
        async for _ in generate():
            break
        gc.collect()
        await asyncio.sleep(0.05)
        requests = len(fake.requests)
        await asyncio.sleep(0.05)
        assert len(fake.requests) == requests


@pytest.mark.parametrize("is_async", [False, True])
async def test_on_change_can_drop_stream(fake, client, is_async):
    fake.add_job("done")
    fake.add_job("endless", ["queued", "queued", "queued", "running"])
    box = []

    def drop(report):
        if report.status == "running":
            box.clear()

    async def drop_later(report):
        drop(report)

    async with assert_no_leaks(client, fake):
        box.append(
            client.as_completed(["done", "endless"], on_change=drop_later if is_async else drop)
        )
        assert (await anext(box[0])).job_id == "done"
        while box:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.01)
        requests = len(fake.requests)
        await asyncio.sleep(0.05)
        assert len(fake.requests) == requests


async def test_stream_can_be_garbage_collected_at_any_point(fake, monkeypatch):
    """Garbage-collected between reading the next poll and removing it."""
    for job_id in ("a", "b"):
        fake.add_job(job_id, ["running", "running", "succeeded"])
    dropped = []
    heappop = heapq.heappop

    def drop_and_pop(heap):
        if heap is due:
            dropped.clear()
        return heappop(heap)

    policy = PollPolicy(initial=0.05, maximum=0.05, jitter=0)
    async with fake.client(poll=policy) as client, JobMonitor(client) as monitor:
        streams = {job_id: monitor.watch(job_id) for job_id in ("a", "b")}
        for stream in streams.values():
            await anext(stream)
        stream = streams["b"]
        dropped.append(streams.pop("a"))
        due = monitor._polls._schedule._due
        monkeypatch.setattr(heapq, "heappop", drop_and_pop)
        async with asyncio.timeout(5):
            assert [report.status async for report in stream] == ["succeeded"]
    assert not dropped


async def test_job_without_watchers_is_not_polled(fake):
    for job_id in ("a", "b"):
        fake.add_job(job_id, ["running"])
    policy = PollPolicy(initial=0.05, factor=1, jitter=0)
    async with fake.client(poll=policy) as client, JobMonitor(client) as monitor:
        streams = {job_id: monitor.watch(job_id) for job_id in ("a", "b")}
        for stream in streams.values():
            await anext(stream)
        await streams["b"].aclose()
        assert len(monitor) == 1
        await asyncio.sleep(0.2)
        polled = [request.path.rpartition("/")[2] for request in fake.requests]
        assert polled.count("b") == 1
        assert polled.count("a") >= 3
        await streams["a"].aclose()
        assert len(monitor) == 0


# ---- many jobs


@pytest.mark.parametrize("name", ["watch_jobs", "monitor.watch_jobs"])
async def test_watch_jobs_yields_each_change_of_each_job(fake, client, name):
    fake.add_job("a", WORDS)
    fake.add_job("b", ["running", "failed"], failure_reason="no GPU")
    received = {}
    async with opened(name, client, ["a", "b", "a", "missing"]) as outcomes:
        async for outcome in outcomes:
            received.setdefault(outcome.job_id, []).append(outcome)
    assert [each.value.status for each in received["a"]] == WORDS
    assert [each.value.status for each in received["b"]] == ["running", "failed"]
    assert [type(each.error).__name__ for each in received["missing"]] == ["JobNotFoundError"]


@pytest.mark.parametrize("name", ["watch_jobs", "monitor.watch_jobs"])
async def test_slow_reader_gets_newest_report_without_backlog(fake, client, name):
    words = [f"step-{number}" for number in range(20)]
    for job_id in ("a", "b"):
        fake.add_job(job_id, [*words, "succeeded"], allow_unknown=True)
    async with opened(name, client, ["a", "b"]) as outcomes:
        await anext(outcomes)
        while sum("job-status" in each.path for each in fake.requests) < 2 * (len(words) + 1):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        rest = await rest_of(outcomes)
    assert [report.status for report in rest[-2:]] == ["succeeded"] * 2
    assert len(rest) <= 4


@pytest.mark.parametrize("name", ["watch_jobs", "monitor.watch_jobs"])
async def test_timeout_yields_error_for_each_unfinished_job(fake, client, name):
    fake.add_job("done")
    for job_id in ("a", "b"):
        fake.add_job(job_id, ["running"])
    received = {}
    async with opened(name, client, ["done", "a", "b"], timeout=0.2) as outcomes:
        async for outcome in outcomes:
            received[outcome.job_id] = outcome
    assert received["done"].ok
    for job_id in ("a", "b"):
        assert isinstance(received[job_id].error, JobWaitTimeoutError)
        assert received[job_id].error.last_report.status == "running"
        assert 0.2 <= round(received[job_id].error.elapsed, 6) < 0.4


@pytest.mark.parametrize("name", ["watch_jobs", "monitor.watch_jobs"])
async def test_zero_timeout_polls_each_job_once(fake, client, name):
    fake.add_job("done")
    fake.add_job("endless", ["running"])
    async with opened(name, client, ["done", "endless"], timeout=0) as outcomes:
        items = [outcome async for outcome in outcomes]
    by_job = {
        job_id: [each for each in items if each.job_id == job_id] for job_id in ("done", "endless")
    }
    assert [each.value.status for each in by_job["done"]] == ["succeeded"]
    assert by_job["endless"][0].value.status == "running"
    assert isinstance(by_job["endless"][1].error, JobWaitTimeoutError)
    assert len(fake.requests) == 2


async def test_no_jobs_yield_nothing(client):
    for name in MANY:
        async with opened(name, client, []) as stream:
            assert await rest_of(stream) == []


# ---- ids that come later


async def submit(fake, count, *, seconds=0.01):
    for number in range(count):
        await asyncio.sleep(seconds)
        fake.add_job(f"job-{number}", [("running", 0.05), "succeeded"])
        yield f"job-{number}"
        yield f"job-{number}"  # a duplicate is waited for once


class Iterator:
    """An asynchronous iterator without `aclose`, unlike a generator."""

    def __init__(self, ids):
        self._ids = ids

    def __aiter__(self):
        return self

    async def __anext__(self):
        return await anext(self._ids)


@pytest.mark.parametrize("name", ["watch_jobs", "as_completed"])
@pytest.mark.parametrize("make", [lambda ids: ids, Iterator], ids=["generator", "iterator"])
async def test_jobs_can_be_added_while_waiting(fake, client, name, make):
    finished = []
    async with opened(name, client, make(submit(fake, 20))) as stream:
        async for item in stream:
            if item.value.is_terminal:
                finished.append(item.job_id)
    assert sorted(finished) == sorted(f"job-{number}" for number in range(20))


@pytest.mark.parametrize("name", ["watch_jobs", "as_completed"])
async def test_error_of_async_ids_is_raised_after_cleanup(fake, client, name):
    is_closed = False

    async def broken():
        nonlocal is_closed
        try:
            async for job_id in submit(fake, 3):
                yield job_id
            raise LookupError("the database is gone")
        finally:
            is_closed = True

    async with assert_no_leaks(client, fake), opened(name, client, broken()) as stream:
        with pytest.raises(LookupError, match="the database is gone"):
            await rest_of(stream)
    assert is_closed


@pytest.mark.parametrize("bad", ["..", 5])
async def test_invalid_id_added_later_ends_stream(fake, client, bad):
    is_closed = False

    async def source():
        nonlocal is_closed
        try:
            yield bad
            await asyncio.sleep(60)
        finally:
            is_closed = True

    with pytest.raises((TypeError, ValueError), match="job id"):
        await rest_of(client.as_completed(source()))
    assert is_closed


@pytest.mark.parametrize("ending", ["aclose", "timeout", "close the client", "drop"])
async def test_ids_are_not_read_after_end_of_stream(fake, client, ending):
    is_closed = False

    async def source():
        nonlocal is_closed
        try:
            async for job_id in submit(fake, 2):
                yield job_id
            await asyncio.sleep(60)
        finally:
            is_closed = True

    timeout = 0.2 if ending == "timeout" else None
    stream = client.as_completed(source(), timeout=timeout)
    assert (await anext(stream)).ok
    assert (await anext(stream)).ok
    if ending == "aclose":
        await stream.aclose()
    elif ending == "timeout":
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    elif ending == "close the client":
        await client.aclose()
        with pytest.raises(ClientStateError):
            await anext(stream)
    else:
        del stream
    async with asyncio.timeout(1):
        while not is_closed:
            await asyncio.sleep(0)


async def test_externally_cancelled_reading_task_ends_stream(fake, client):
    async def source():
        yield "job-1"
        await asyncio.sleep(60)

    fake.add_job("job-1")
    stream = client.as_completed(source())
    assert (await anext(stream)).ok
    (feeder,) = [each for each in asyncio.all_tasks() if "WaitBatch._feed" in repr(each)]
    feeder.cancel()
    with pytest.raises(ClientStateError, match="the task that reads the job ids was cancelled"):
        await anext(stream)


@pytest.mark.parametrize(
    "call", ["get_jobs", "get_job_statuses", "wait_for_jobs", "monitor.watch_jobs"]
)
async def test_async_iterable_is_rejected_where_unsupported(fake, client, call):
    ids = submit(fake, 1)
    with pytest.raises(TypeError, match="as_completed and watch_jobs take an asynchronous one"):
        if call == "monitor.watch_jobs":
            JobMonitor(client).watch_jobs(ids)
        else:
            await getattr(client, call)(ids)
    await ids.aclose()


async def test_last_polls_of_jobs_added_later_are_spread(fake, monkeypatch):
    monkeypatch.setattr("random.uniform", lambda lower, upper: upper)
    fake.add_job("job-399", ["running"])

    async def source():
        for number in range(400):
            yield f"job-{number}"

    policy = attrs.evolve(FAST_POLL, initial=60, maximum=60, not_found_grace=0)
    began = now()
    async with fake.client(poll=policy) as client:
        outcomes = [each async for each in client.as_completed(source(), timeout=3)]
    assert len(outcomes) == 400
    polls = [each.time - began for each in fake.requests if each.path.endswith("/job-399")]
    # Half a second for the 255 jobs that were known by then, and 0.1 s before the timeout; more
    # if the first poll had to wait for a worker.
    assert 1 < polls[1] < 2.7
