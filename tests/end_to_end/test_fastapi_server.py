"""The router on a real server: streams, visitors who disconnect, and graceful shutdown."""

import asyncio
import math
import socket
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi import sse as fastapi_sse
from fastapi.responses import JSONResponse
from starlette.middleware.base import BaseHTTPMiddleware

from sutro_async import PollPolicy, SutroError
from sutro_async.fastapi import install_error_handlers, jobs_router, sutro_lifespan
from sutro_async.fastapi._workarounds import UVICORN_CANCELLATION, is_cancelled_by_server
from tests.asgi_server import EventStream, serve
from tests.conftest import FAST_POLL, FAST_RETRY

pytestmark = pytest.mark.usefixtures("fast_clock")


def make_app(fake, *, middleware=False, poll=FAST_POLL):
    app = FastAPI(lifespan=sutro_lifespan(lambda: fake.client(retry=FAST_RETRY, poll=poll)))
    install_error_handlers(app)
    app.include_router(jobs_router())
    if middleware:
        app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    return app


async def pass_on(request: Request, call_next):
    return await call_next(request)


@pytest.fixture
def app(request, fake):
    return make_app(fake, middleware=getattr(request, "param", False))


@pytest.fixture(autouse=True)
def no_tracebacks(caplog):
    """Check that the server has logged no traceback until it stopped."""
    yield
    records = caplog.get_records("call") + caplog.get_records("teardown")
    assert not [record.exc_info for record in records if record.exc_info]


with_and_without_middleware = pytest.mark.parametrize(
    "app", [False, True], ids=["plain", "behind BaseHTTPMiddleware"], indirect=True
)


@pytest.fixture
async def server(app):
    async with serve(app) as running:
        yield running


async def until(condition, seconds=1.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


# ---- event streams


async def test_stream_sends_each_change_and_ends_with_job(fake, server):
    fake.add_job("job-1", ["queued", "queued", "running", "failed"], failure_reason="no GPU")
    stream = await EventStream.open(server, "/jobs/job-1/events")
    assert b"content-type: text/event-stream" in stream.head
    assert await stream.next_block() == "retry: 3000\n\n"
    events = await stream.events()
    assert [event["event"] for event in events] == ["status"] * 3
    assert [event["data"]["status"] for event in events] == ["queued", "running", "failed"]
    assert events[-1]["data"]["failure"]["message"] == "no GPU"
    assert ["id" in event for event in events] == [False, False, True]
    await stream.close()


@with_and_without_middleware
async def test_one_stream_carries_many_jobs(fake, server):
    for job_id in "abc":
        fake.add_job(job_id, ["running", "succeeded"])
    fake.add_job("once", ["running", "cancelled"])
    path = "/job-events?job_id=a&job_id=b&job_id=c&job_id=missing&job_id=once&job_id=once"
    stream = await EventStream.open(server, path)
    events = await stream.events()
    seen = [(event["data"]["job_id"], event["data"]["status"]) for event in events]
    assert sorted(map(str, seen)) == sorted(
        map(
            str,
            [(job_id, status) for job_id in "abc" for status in ("running", "succeeded")]
            + [("missing", 404), ("once", "running"), ("once", "cancelled")],
        )
    )
    assert events[-1]["id"] == "end"
    await stream.close()


async def test_reconnect_after_end_gets_204(fake, server):
    fake.add_job("job-1")
    for path in ("/jobs/job-1/events", "/job-events?job_id=job-1"):
        stream = await EventStream.open(server, path, "Last-Event-ID: end\r\n")
        assert stream.head.startswith(b"HTTP/1.1 204 ")
        await stream.close()
    assert not fake.requests


async def test_missing_job_ends_stream_with_id_end(fake, server):
    stream = await EventStream.open(server, "/jobs/job-1/events")
    [event] = await stream.events()
    assert event["event"] == "problem"
    assert event["id"] == "end"
    assert event["data"]["status"] == 404
    assert event["data"]["job_id"] == "job-1"
    await stream.close()


async def test_transient_failure_ends_stream_that_can_be_reopened(fake):
    fake.fail_next(1000, status=500, body=b"secret inner thoughts")
    app = make_app(fake, poll=PollPolicy(initial=0.01, max_outage=0.02))
    async with serve(app) as server:
        stream = await EventStream.open(server, "/jobs/job-1/events")
        [event] = await stream.events()
        assert event["event"] == "problem"
        assert "id" not in event
        assert event["data"]["status"] == 502
        assert "secret" not in str(event)
        await stream.close()


async def test_idle_stream_is_kept_alive(fake, server, monkeypatch):
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.05)
    assert fastapi_sse.KEEPALIVE_COMMENT == b": ping\n\n"
    fake.add_job("job-1", ["running"])
    stream = await EventStream.open(server, "/jobs/job-1/events")
    blocks = [await stream.next_block() for _ in range(4)]
    assert blocks[2:] == [": ping\n\n"] * 2
    await stream.close()


# ---- visitors who disconnect


@with_and_without_middleware
async def test_100_visitors_of_10_jobs_share_10_poll_loops_and_leak_none(fake, app, server):
    job_ids = [f"job-{number}" for number in range(10)]
    for job_id in job_ids:
        fake.add_job(job_id, ["running"])
    monitor = app.state.sutro_monitor
    streams = await asyncio.gather(
        *(EventStream.open(server, f"/jobs/{job_ids[n % 10]}/events") for n in range(100))
    )
    first = await asyncio.gather(*(stream.next_event() for stream in streams))
    assert {event["data"]["status"] for event in first} == {"running"}
    assert len(monitor) == 10
    assert fake.max_in_flight <= 10
    half = len(streams) // 2
    await asyncio.gather(
        *(stream.close() for stream in streams[:half]),
        *(stream.reset() for stream in streams[half:]),
    )
    await until(lambda: len(monitor) == 0, seconds=5)


@with_and_without_middleware
async def test_disconnect_in_any_way_stops_polling(fake, app, server):
    for job_id in ("job-1", "job-2"):
        fake.add_job(job_id, ["running"])
    monitor = app.state.sutro_monitor
    for leave in (EventStream.close, EventStream.reset):
        for path, jobs in (
            ("/jobs/job-1/events", 1),
            ("/job-events?job_id=job-1&job_id=job-2", 2),
            ("/jobs/job-1/wait", 1),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await until(lambda: len(monitor) == jobs)  # noqa: B023 - called at once
            await leave(EventStream(reader, writer))
            await until(lambda: len(monitor) == 0)


@with_and_without_middleware
async def test_client_timeout_stops_polling(fake, app, server):
    fake.add_job("job-1", ["running"])
    async with httpx.AsyncClient(base_url=server.url, timeout=0.2) as browser:
        for path in ("/jobs/job-1/events", "/jobs/job-1/wait"):
            with pytest.raises(httpx.ReadTimeout):
                await browser.get(path)
            await until(lambda: len(app.state.sutro_monitor) == 0)


@with_and_without_middleware
@pytest.mark.parametrize("path", ["/jobs/job-1", "/jobs/job-1/status"])
async def test_disconnect_does_not_affect_other_visitors(fake, server, path):
    fake.add_job("job-1", ["running"])
    fake.fail_next(1, delay=0.3)
    leaving = []
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        leaving.append(EventStream(reader, writer))
    await until(lambda: fake.in_flight)
    async with httpx.AsyncClient(base_url=server.url) as browser:
        staying = [asyncio.create_task(browser.get(path)) for _ in range(20)]
        await asyncio.sleep(0.1)
        await leaving[0].close()
        await leaving[1].reset()
        responses = await asyncio.gather(*staying)
    assert {response.json()["status"] for response in responses} == {"running"}
    assert len(fake.requests) == 1


@with_and_without_middleware
async def test_disconnect_of_visitor_who_never_reads_stops_polling(fake, app, server):
    # Small buffers, inherited by its connections: a few events fill all of them.
    server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**14)
    words = [f"step {number} {'x' * 200_000}" for number in range(50)]
    fake.add_job("job-1", words, allow_unknown=True)
    connections = server.server_state.connections
    for leave in (EventStream.close, EventStream.reset):
        stream = await EventStream.open(server, "/jobs/job-1/events")
        await until(lambda: any(each.flow.write_paused for each in connections), seconds=10)
        requests_before = len(fake.requests)
        await until(lambda: len(fake.requests) > requests_before + 3)  # noqa: B023 - an event waits
        await leave(stream)
        await until(lambda: len(app.state.sutro_monitor) == 0)


# ---- graceful shutdown


async def test_server_without_signal_ends_streams_after_graceful_timeout(fake, caplog):
    fake.add_job("job-1", ["running"])
    app = make_app(fake)
    async with asyncio.timeout(4):
        async with serve(app, timeout_graceful_shutdown=1) as server:
            stream = await EventStream.open(server, "/jobs/job-1/events")
            browser = httpx.AsyncClient(base_url=server.url)
            waiting = asyncio.create_task(browser.get("/jobs/job-1/wait?timeout=60"))
            await until(lambda: len(app.state.sutro_monitor) == 1)
            await stream.next_event()
        assert await stream.next_event() is None
        assert (await waiting).status_code == 503
        await browser.aclose()
        await stream.close()
    assert not [record for record in caplog.records if "without" in record.getMessage()]


async def test_server_cancellation_message_matches_router():
    """If this fails with a new uvicorn, see `sutro_async/fastapi/_workarounds.py`."""
    messages = []
    is_open = asyncio.Event()

    async def hang(scope, receive, send):
        assert scope["type"] == "http"
        is_open.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as cancellation:
            messages.append(cancellation)
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    async with serve(hang, lifespan="off") as server, httpx.AsyncClient() as browser:
        requesting = asyncio.create_task(browser.get(server.url, timeout=10))
        await is_open.wait()
        server.should_exit = True
        assert (await requesting).status_code == 204
    [cancellation] = messages
    assert str(cancellation) == f"Task cancelled, {UVICORN_CANCELLATION}"
    assert is_cancelled_by_server(cancellation)
    assert not is_cancelled_by_server(asyncio.CancelledError("a timeout of the app"))


async def test_without_problem_details_app_handles_server_cancellation(fake):
    fake.fail_next(9, delay=math.inf)
    app = FastAPI(lifespan=sutro_lifespan(lambda: fake.client(poll=FAST_POLL)))
    app.include_router(jobs_router(problem_details=False))

    @app.exception_handler(SutroError)
    async def handle(request: Request, error: SutroError):
        return JSONResponse(error.to_dict(), 503)

    async with serve(app) as server, httpx.AsyncClient(base_url=server.url) as browser:
        waiting = asyncio.create_task(browser.get("/jobs/job-1", timeout=10))
        await until(lambda: fake.in_flight)
        server.should_exit = True
        response = await waiting
    assert response.status_code == 503
    assert response.json() == {
        "type": "ClientStateError",
        "message": "the server has cancelled the request",
    }


async def test_stopped_app_leaks_no_task(fake):
    fake.add_job("job-1", ["running"])
    before = asyncio.all_tasks()
    async with serve(make_app(fake)) as server:
        stream = await EventStream.open(server, "/jobs/job-1/events")
        await stream.next_event()
        await stream.close()
    left = {task for task in asyncio.all_tasks() - before if "RequestHandler" not in repr(task)}
    assert not left


# ---- a service that does not respond

OUTAGES = {
    "refuses": {"status": 503, "body": b"secret inner thoughts"},
    "hangs": {"delay": 3600},
    "disconnects": {"disconnect": True},
    "limits": {"status": 429, "headers": {"Retry-After": "5"}},
}
DETAILS = {
    "refuses": "The service sent no usable response.",
    "hangs": "The service did not respond in time.",
    "disconnects": "The service sent no usable response.",
    "limits": "The service rate-limits this server.",
}


@pytest.mark.parametrize("kind", OUTAGES)
async def test_stream_reports_begin_and_end_of_outage(fake, kind):
    loop = asyncio.get_running_loop()
    for job_id in "abcdef":
        fake.add_job(job_id, ["running"])
    path = "/job-events?" + "&".join(f"job_id={job_id}" for job_id in "abcdef")
    async with serve(make_app(fake, poll=PollPolicy(maximum=5))) as server:
        stream = await EventStream.open(server, path)
        first = [await stream.next_event() for _ in "abcdef"]
        assert {event["event"] for event in first} == {"status"}
        await asyncio.sleep(3)
        fell_silent_at, silent_from = loop.time(), datetime.now(UTC)
        fake.fail_next(10_000, **OUTAGES[kind])
        trouble = await stream.next_event()
        assert trouble["event"] == "trouble"
        assert 10 <= loop.time() - fell_silent_at < 15
        assert trouble["data"].keys() == {"since", "detail"}
        assert trouble["data"]["detail"] == DETAILS[kind]
        since = datetime.fromisoformat(trouble["data"]["since"])
        assert since.utcoffset() == timedelta(0)
        # The clock of the loop runs fast, so the time is as measured by it.
        since_it_fell_silent = loop.time() - fell_silent_at
        assert silent_from - timedelta(seconds=since_it_fell_silent) <= since
        # Only once, however long the outage lasts.
        waiting = asyncio.ensure_future(stream.next_event())
        await asyncio.sleep(20)
        assert not waiting.done()
        back_at = loop.time()
        fake.clear_faults()
        event = await waiting
        assert event["event"] == "status"
        assert event["data"]["status"] == "running"
        assert event["data"]["job_id"] in "abcdef"
        longest = 30 if kind == "hangs" else 5  # those in flight still hang
        assert loop.time() - back_at < longest + 5
        if kind != "hangs":  # where requests that still hang hold up the others until they end
            waiting = asyncio.ensure_future(stream.next_event())
            await asyncio.sleep(20)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.wait({waiting})
        await stream.close()


async def test_outage_before_first_report_ends_with_report(fake):
    fake.add_job("job-1", ["running", "succeeded"])
    fake.fail_next(10_000, status=503)
    async with serve(make_app(fake, poll=PollPolicy(maximum=5))) as server:
        stream = await EventStream.open(server, "/jobs/job-1/events")
        assert (await stream.next_event())["event"] == "trouble"
        fake.clear_faults()
        statuses = [event["data"]["status"] for event in await stream.events()]
        assert statuses == ["running", "succeeded"]
        await stream.close()


async def test_single_slow_or_failed_request_is_not_an_outage(fake):
    fake.add_job("job-1", [("running", 60), "succeeded"])
    async with serve(make_app(fake, poll=PollPolicy(maximum=5))) as server:
        stream = await EventStream.open(server, "/jobs/job-1/events")
        waiting = asyncio.ensure_future(stream.events())
        for fault in ({"status": 503}, {"status": 200, "delay": 5}, {"status": 404}):
            await asyncio.sleep(10)
            fake.fail_next(**fault)
        events = await waiting
        assert [event["event"] for event in events] == ["status", "status"]
        await stream.close()
