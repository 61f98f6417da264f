"""`list_jobs`: pages, duplicate ids, cursors, failures, and every way to close it."""

import asyncio
import json
import logging
import math
import re

import pytest

from sutro_async import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    ClientStateError,
    GoneError,
    InvalidResponseError,
    Job,
    PermissionDeniedError,
    RateLimitError,
    RetryPolicy,
    ServerError,
    Stream,
    SutroClient,
)
from sutro_async._http import Priority, status_page
from sutro_async.testing import FakeSutro
from tests.conftest import FAST_RETRY, assert_no_leaks

pytestmark = pytest.mark.usefixtures("fast_clock")

PAGE = 2


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr("sutro_async._http._listing._PAGE_SIZE", PAGE)


def add_jobs(fake, count):
    """Add jobs, and return their ids in the order of the list."""
    for number in range(count):
        fake.add_job(f"job-{number}", ["running"])
    return [f"job-{number}" for number in reversed(range(count))]


def entry(job_id, status="RUNNING", **fields):
    return {"job_id": job_id, "status": status, **fields}


def serve(fake, *entries, **fields):
    """Respond to the next request for a page with these entries."""
    body = json.dumps({"jobs": entries, **fields})
    fake.fail_next(body=body, endpoint="list-jobs")


async def ids_of(stream):
    return [job.job_id async for job in stream]


def warnings_of(caplog):
    return [each.message for each in caplog.records if each.levelno == logging.WARNING]


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


# ---- pages


@pytest.mark.parametrize(
    ("count", "requests"), [(0, 1), (1, 1), (99, 1), (100, 1), (101, 2), (250, 3)]
)
async def test_list_jobs_yields_all_jobs_newest_first_in_pages_of_100(
    fake, client, count, requests
):
    expected = add_jobs(fake, count)
    stream = client.list_jobs()
    assert type(stream) is Stream
    assert await ids_of(stream) == expected
    assert len(fake.requests) == requests
    assert fake.requests[0].path == "/v1/list-jobs?limit=100"
    for request in fake.requests[1:]:
        assert re.fullmatch(r"/v1/list-jobs\?limit=100&cursor=(\w|%2B|%2F|%3D)+", request.path)


async def test_item_is_record(fake, client):
    fake.add_job("job-1", ["failed"], failure_reason="no GPU", run_type="FULL", num_rows="15")
    (job,) = [job async for job in client.list_jobs()]
    assert type(job) is Job
    assert job == await client.get_job("job-1")


async def test_nothing_is_requested_before_it_is_awaited(fake, client):
    stream = client.list_jobs()
    await asyncio.sleep(0.02)
    assert not fake.requests
    await stream.aclose()
    assert not fake.requests


@pytest.mark.usefixtures("small_pages")
async def test_page_is_requested_when_its_first_job_is_awaited(fake, client):
    add_jobs(fake, 5)
    requests = []
    async with client.list_jobs() as jobs:
        async for _ in jobs:
            await asyncio.sleep(0.01)
            requests.append(len(fake.requests))
    assert requests == [1, 1, 2, 2, 3]


async def test_break_requests_no_further_page(fake, client):
    expected = add_jobs(fake, 250)
    async with assert_no_leaks(client, fake):
        async with client.list_jobs() as jobs:
            async for job in jobs:
                assert job.job_id == expected[0]
                break
        with pytest.raises(StopAsyncIteration):
            await anext(jobs)
    assert len(fake.requests) == 1


@pytest.mark.usefixtures("small_pages")
async def test_each_job_is_yielded_once_if_jobs_are_added_between_pages(fake, client):
    expected = add_jobs(fake, 7)
    received = []
    async for job in client.list_jobs():
        received.append(job.job_id)
        if len(received) in {2, 3, 5}:
            fake.add_job(f"new-{len(received)}")
    assert received == expected


async def test_duplicate_id_on_page_is_yielded_once(fake, client):
    serve(fake, entry("a", "failed"), entry("b"), entry("a", "running"), next_cursor="c")
    serve(fake, entry("b", "failed"), entry("c"), next_cursor=None)
    jobs = [(job.job_id, job.status) async for job in client.list_jobs()]
    assert jobs == [("a", "failed"), ("b", "running"), ("c", "running")]


async def test_server_that_ignores_limit_returns_one_page(fake, client):
    serve(fake, *(entry(f"job-{n}") for n in range(250)), message="Jobs retrieved successfully.")
    assert await ids_of(client.list_jobs()) == [f"job-{n}" for n in range(250)]
    assert len(fake.requests) == 1


async def test_empty_page_with_cursor_is_not_last(fake, client):
    serve(fake, next_cursor="a")
    serve(fake, 5, next_cursor="b")
    serve(fake, entry("job-1"), next_cursor="")
    assert await ids_of(client.list_jobs()) == ["job-1"]
    assert [request.path.partition("=100")[2] for request in fake.requests] == [
        "",
        "&cursor=a",
        "&cursor=b",
    ]


@pytest.mark.parametrize("cursors", [["a", "a"], ["a", "b", "a"], ["a", "b", "b"]])
async def test_repeated_cursor_is_error_after_jobs_of_its_page(fake, client, cursors):
    for number, cursor in enumerate(cursors):
        serve(fake, entry(f"job-{number}"), next_cursor=cursor)
    stream, received = client.list_jobs(), []
    with pytest.raises(InvalidResponseError) as caught:
        async for job in stream:
            received.append(job.job_id)
    assert received == [f"job-{number}" for number in range(len(cursors))]
    assert (caught.value.job_id, caught.value.path) == (None, "$.next_cursor")
    assert str(caught.value).startswith("list-jobs: invalid response: $.next_cursor: the cursor of")
    assert len(fake.requests) == len(cursors)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_lagging_list_is_accepted():
    async with FakeSutro(list_lag=60) as fake, fake.client() as client:
        fake.add_job("job-1", ["running"])
        fake.set_status("job-1", "succeeded")
        (job,) = [job async for job in client.list_jobs()]
        assert job.status == "running"
        assert (await client.get_job_status("job-1")).status == "succeeded"


# ---- what is logged


async def test_each_skipped_entry_is_logged_as_warning(fake, client, caplog):
    broken = [5, {"status": "running"}, entry("job-2", 5)]
    for cursor in ("c", None):
        serve(fake, *broken, entry(f"job-{cursor}"), next_cursor=cursor)
    assert await ids_of(client.list_jobs()) == ["job-c", "job-None"]
    problems = [
        "$.jobs[0]: expected an object, got 5",
        "$.jobs[1].job_id: expected a job id, got null",
        "$.jobs[2].status: expected a status of job 'job-2', got 5",
    ]
    expected = [f"list-jobs: {problem}; the entry is skipped" for problem in problems]
    assert warnings_of(caplog) == 2 * expected


async def test_warnings_about_skipped_entries_are_limited(fake, client, caplog):
    serve(fake, *[5] * 2000)
    assert await ids_of(client.list_jobs()) == []
    warnings = warnings_of(caplog)
    assert len(warnings) == 101
    assert warnings[-1] == "list-jobs: 1900 more entries of the page are skipped"


async def test_wrong_type_is_logged_once_per_field(fake, client, caplog):
    serve(fake, *(entry(f"job-{n}", num_rows="3.7") for n in range(3)))
    jobs = [job async for job in client.list_jobs()]
    assert [job.extra for job in jobs] == [{"num_rows": "3.7"}] * 3
    (warning,) = warnings_of(caplog)
    assert warning.startswith("list-jobs: $.jobs[*].num_rows: expected an integer, got '3.7'; the")


async def test_status_only_page_logs_no_warning(fake, client, caplog):
    add_jobs(fake, 3)
    first = await client._manager.request(status_page(None, 2), None, client._options)
    assert first.statuses == (("job-2", "RUNNING"), ("job-1", "RUNNING"))
    endpoint = status_page(first.next_cursor, 2)
    last = await client._manager.request(endpoint, None, client._options)
    assert (last.statuses, last.next_cursor) == ((("job-0", "RUNNING"),), None)
    serve(fake, 5, entry("a", "Paused", num_rows="3.7"), entry("b", 5), next_cursor=5)
    page = await client._manager.request(status_page(None, 2), None, client._options)
    assert (page.statuses, page.next_cursor) == ((("a", "Paused"),), None)
    assert not warnings_of(caplog)


async def test_unrecognised_status_is_logged_once(fake, client, caplog):
    serve(fake, entry("a", "Paused"), entry("b", "PAUSED"), entry("c", "unknown"))
    jobs = [(job.status, job.raw_status) async for job in client.list_jobs()]
    assert jobs == [("unknown", "Paused"), ("unknown", "PAUSED"), ("unknown", "unknown")]
    (warning,) = warnings_of(caplog)
    assert warning.startswith("job 'a': unrecognised status 'Paused'")


async def test_key_is_not_in_warnings_or_errors(caplog):
    async with FakeSutro(api_key="sk_a_secret") as fake, fake.client() as client:
        serve(fake, ["sk_a_secret"], entry("a", num_rows="sk_a_secret"))
        assert await ids_of(client.list_jobs()) == ["a"]
        serve(fake, next_cursor=["sk_a_secret"])
        with pytest.raises(InvalidResponseError, match=r"got \['\[api key\]'\]"):
            await ids_of(client.list_jobs())
    assert len(warnings_of(caplog)) == 2
    assert "sk_a_secret" not in caplog.text


# ---- failures


@pytest.mark.usefixtures("small_pages")
async def test_each_page_is_retried_separately(fake, client):
    expected = add_jobs(fake, 5)
    fake.fail_next(2, status=503, endpoint="list-jobs")
    stream = client.list_jobs()
    received = [(await anext(stream)).job_id for _ in range(2)]
    fake.fail_next(truncate=True, endpoint="list-jobs")
    fake.fail_next(status=429, headers={"Retry-After": "0.01"}, endpoint="list-jobs")
    received += await ids_of(stream)
    assert received == expected
    paths = [request.path for request in fake.requests]
    assert [paths.count(path) for path in dict.fromkeys(paths)] == [3, 3, 1]


@pytest.mark.parametrize(
    ("status", "error", "requests"),
    [
        (401, AuthenticationError, 1),
        (403, PermissionDeniedError, 1),
        (404, APIStatusError, 1),
        (410, GoneError, 1),
        (422, APIStatusError, 1),
        (429, RateLimitError, 2),
        (500, ServerError, 2),
    ],
)
async def test_error_status_is_raised(fake, status, error, requests):
    fake.fail_next(2, status=status)
    async with fake.client(retry=RetryPolicy(attempts=2, initial=0.001)) as client:
        stream = client.list_jobs()
        with pytest.raises(error) as caught:
            await anext(stream)
        assert type(caught.value) is error
        assert (caught.value.job_id, caught.value.status_code) == (None, status)
        assert str(caught.value).startswith(f"list-jobs: HTTP {status}: ")
        assert len(fake.requests) == requests
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_connection_errors_and_timeouts_name_list_jobs(fake):
    retry = RetryPolicy(attempts=1)
    async with fake.client(timeout=0.05, retry=retry) as client:
        fake.fail_next(delay=math.inf)
        with pytest.raises(APITimeoutError, match=r"^list-jobs: no response from http") as caught:
            await ids_of(client.list_jobs())
        assert caught.value.job_id is None
        fake.fail_next(disconnect=True)
        with pytest.raises(
            APIConnectionError, match=r"^list-jobs: no response from http"
        ) as caught:
            await ids_of(client.list_jobs())
        assert caught.value.job_id is None


@pytest.mark.parametrize(
    ("body", "path", "reason"),
    [
        (b"<html><title>Login</title>", "$", "not JSON: Login"),
        (b'{"jobs": {}}', "$.jobs", "expected a list, got {}"),
        (b'{"jobs": [], "next_cursor": 5}', "$.next_cursor", "expected a string or null, got 5"),
        (b" " * 2**24 + b'{"jobs": []}', "$", "larger than 16 MiB"),
    ],
    ids=["HTML", "no list", "a number for a cursor", "too large"],
)
async def test_malformed_page_is_raised_at_once(fake, client, body, path, reason):
    fake.fail_next(body=body)
    with pytest.raises(InvalidResponseError) as caught:
        await ids_of(client.list_jobs())
    assert (caught.value.job_id, caught.value.path, caught.value.reason) == (None, path, reason)
    assert len(fake.requests) == 1


@pytest.mark.parametrize(("failed_pages", "is_unavailable"), [(5, False), (4, True)])
async def test_list_counts_as_another_job_for_outage_gate(fake, failed_pages, is_unavailable):
    fake.fail_next(5, status=500)
    async with fake.client(retry=RetryPolicy(attempts=1)) as client:
        for _ in range(failed_pages):
            with pytest.raises(ServerError):
                await ids_of(client.list_jobs())
        for number in range(5 - failed_pages):
            with pytest.raises(ServerError):
                await client.get_job(f"job-{number}")
        assert client._manager.throttle.service_is_unavailable is is_unavailable
        add_jobs(fake, 3)
        assert len(await ids_of(client.list_jobs())) == 3  # a single call passes a closed gate
        assert not client._manager.throttle.service_is_unavailable


async def test_clone_options_apply(fake, client):
    fake.fail_next(status=500)
    clone = client.with_options(retry=RetryPolicy(attempts=1))
    with pytest.raises(ServerError):
        await ids_of(clone.list_jobs())
    assert len(fake.requests) == 1


# ---- steps that are cancelled


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("moment", ["before it runs", "in the queue", "in flight", "in back-off"])
@pytest.mark.parametrize("steps_before", [0, 1, 2, 4])
async def test_cancelled_step_loses_and_repeats_no_job(fake, moment, steps_before):
    expected = add_jobs(fake, 5)
    async with fake.client(max_concurrency=1, retry=FAST_RETRY) as client:
        stream = client.list_jobs()
        received = [(await anext(stream)).job_id for _ in range(steps_before)]
        throttle, permit = client._manager.throttle, None
        if moment == "in the queue":
            permit = await throttle.acquire(Priority.CALL)
        elif moment == "in flight":
            fake.fail_next(delay=math.inf)
        elif moment == "in back-off":
            fake.fail_next(status=500, headers={"Retry-After": "30"})
        async with assert_no_leaks(client, fake):
            step = asyncio.create_task(anext(stream))
            if moment != "before it runs":
                await asyncio.sleep(0.05)
            step.cancel()
            await asyncio.wait({step})
        if permit is not None:
            throttle.release(permit)
        fake.clear_faults()
        # Where there was a job left of the page before, the step had ended already.
        if not step.cancelled():
            received.append(step.result().job_id)
        assert step.cancelled() is (steps_before % PAGE == 0 or moment == "before it runs")
        assert received + await ids_of(stream) == expected


@pytest.mark.usefixtures("small_pages")
async def test_step_can_be_cancelled_at_any_point(fake, client):
    expected = add_jobs(fake, 5)
    cancelled = set()
    for ticks in range(40):
        stream, received, is_over = client.list_jobs(), [], False
        while not is_over:
            for is_hasty in (True, False):
                step = asyncio.create_task(anext(stream))
                if is_hasty:
                    for _ in range(ticks):
                        await asyncio.sleep(0)
                    step.cancel()
                await asyncio.wait({step})
                if step.cancelled():
                    cancelled.add(ticks)
                elif isinstance(step.exception(), StopAsyncIteration):
                    is_over = True
                    break
                else:
                    received.append(step.result().job_id)
        assert received == expected
    assert {0, 1, 2, 3, 4, 5} <= cancelled


@pytest.mark.usefixtures("small_pages")
async def test_heartbeat_around_steps_loses_no_job(fake, client):
    expected = add_jobs(fake, 5)
    received, beats = [], 0
    stream = client.list_jobs()
    for _ in range(3):
        fake.fail_next(delay=0.05)
    while True:
        try:
            received.append((await asyncio.wait_for(anext(stream), 0.03)).job_id)
        except TimeoutError:
            beats += 1
        except StopAsyncIteration:
            break
    assert received == expected
    assert beats >= 3


async def test_concurrent_steps_are_rejected(fake, client):
    add_jobs(fake, 2)
    stream = client.list_jobs()
    first, second = await asyncio.gather(anext(stream), anext(stream), return_exceptions=True)
    assert first.job_id == "job-1"
    assert isinstance(second, ClientStateError)
    assert await ids_of(stream) == ["job-0"]


# ---- closing


@pytest.mark.parametrize("moment", ["in the queue", "in flight", "in back-off"])
@pytest.mark.parametrize("ending", ["the stream", "the client"])
async def test_aclose_ends_step_of_another_task(fake, ending, moment):
    client = fake.client(max_concurrency=1, retry=RetryPolicy(initial=60, maximum=60))
    async with client:
        throttle = client._manager.throttle
        permit = await throttle.acquire(Priority.CALL) if moment == "in the queue" else None
        if moment == "in flight":
            fake.fail_next(delay=math.inf)
        elif moment == "in back-off":
            fake.fail_next(status=500, headers={"Retry-After": "30"})
        async with assert_no_leaks(client, fake):
            stream = client.list_jobs()
            step = asyncio.create_task(anext(stream))
            await asyncio.sleep(0.05)
            closing = stream if ending == "the stream" else client
            async with asyncio.timeout(1):
                await asyncio.gather(closing.aclose(), closing.aclose())
                error = StopAsyncIteration if ending == "the stream" else ClientStateError
                with pytest.raises(error):
                    await step
            assert step.cancelling() == 0
        if permit is not None:
            throttle.release(permit)


async def test_aclose_waits_for_running_step(fake, client):
    fake.fail_next(delay=math.inf)
    stream = client.list_jobs()
    step = asyncio.create_task(anext(stream))
    await until(lambda: fake.in_flight)
    await stream.aclose()
    assert not client._manager.lifecycle.running
    assert client._manager.throttle.in_flight == 0
    with pytest.raises(StopAsyncIteration):
        await step


async def test_closing_client_ends_listing_within_page(fake):
    add_jobs(fake, 3)
    client = fake.client()
    stream = client.list_jobs()
    await anext(stream)
    await client.aclose()
    with pytest.raises(ClientStateError, match="closed"):
        await anext(stream)
    with pytest.raises(ClientStateError, match="closed"):
        await anext(client.list_jobs())


async def test_cancellation_takes_precedence_over_close(fake, client):
    fake.fail_next(delay=math.inf)
    stream = client.list_jobs()
    step = asyncio.create_task(anext(stream))
    await until(lambda: fake.in_flight)
    step.cancel()
    await stream.aclose()
    await asyncio.wait({step})
    assert step.cancelled()


def test_another_event_loop_is_rejected():
    client = SutroClient("key", base_url="http://localhost:1", retry=RetryPolicy(attempts=1))

    async def step():
        try:
            await anext(client.list_jobs())
        finally:
            await client._manager.transport.close()

    with pytest.raises(APIConnectionError):
        asyncio.run(step())
    with pytest.raises(ClientStateError, match="event loop"):
        asyncio.run(step())
