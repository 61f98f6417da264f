import asyncio
import contextlib
import gc
import inspect
import json
import math
import random
import socket
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

import sutro_async.testing
from sutro_async import JobNotFoundError
from sutro_async.testing import FakeSutro, RecordedRequest

# More than the buffers of a connection hold.
LARGE = b"x" * 16_000_000

KEY = {"Authorization": "Key sk_test"}
RECORD_FIELDS = {
    "job_id",
    "status",
    "model",
    "system_prompt",
    "job_priority",
    "datetime_created",
    "datetime_started",
    "datetime_completed",
    "json_schema",
    "sampling_params",
    "name",
    "description",
    "dataset_id",
    "input_tokens",
    "output_tokens",
    "job_cost",
    "num_rows",
    "failure_reason",
    "cost_estimate",
}


class Clock:
    """Replaces time.monotonic."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Caller:
    """A bare HTTP client of a fake."""

    def __init__(self, fake, session):
        self.fake = fake
        self.session = session

    def request(self, path, *, method="GET", headers=KEY):
        url = URL(self.fake.url + path, encoded=True)
        return self.session.request(method, url, headers=headers)

    async def json(self, path, **options):
        async with self.request(path, **options) as response:
            return response.status, await response.json()

    async def status_body(self, job_id="job-1"):
        status, body = await self.json(f"/job-status/{job_id}")
        assert status == 200
        return body

    async def word(self, job_id="job-1"):
        return (await self.status_body(job_id))["job_status"][job_id]

    async def record(self, job_id="job-1"):
        status, body = await self.json(f"/jobs/{job_id}")
        assert status == 200
        assert list(body) == ["job"]
        return body["job"]


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def fake():
    async with FakeSutro() as fake:
        yield fake


@pytest.fixture
def caller(fake, session):
    return Caller(fake, session)


@pytest.fixture
async def flat_caller(session):
    async with FakeSutro(dialect="flat") as fake:
        yield Caller(fake, session)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("sutro_async.testing._server.monotonic", clock)
    return clock


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def raw_exchange(fake, path="/job-status/job-1"):
    """Return the head, the body, and how the connection ended."""
    loop = asyncio.get_running_loop()
    url = URL(fake.url)
    received = b""
    with socket.socket() as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, (url.host, url.port))
        request = f"GET {path} HTTP/1.1\r\nHost: fake\r\nAuthorization: Key sk_test\r\n\r\n"
        await loop.sock_sendall(connection, request.encode())
        ending = "closed"
        try:
            async with asyncio.timeout(5):
                while chunk := await loop.sock_recv(connection, 65536):
                    received += chunk
        except ConnectionResetError:
            ending = "reset"
    head, _, body = received.partition(b"\r\n\r\n")
    return head, body, ending


def free_port():
    """Find one that the system gives to nobody by itself, such as a test that runs beside."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


async def assert_all_closed(port):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    gc.collect()  # pytest reports sockets and transports that are found unclosed


def test_exports():
    assert sutro_async.testing.__all__ == ["FakeSutro", "RecordedRequest"]


# Timelines


async def test_each_status_request_advances_timeline_until_last_step(fake, caller):
    fake.add_job("job-1", ["queued", "running", "running", "succeeded"])
    words = [await caller.word() for _ in range(6)]
    assert words == ["QUEUED", "RUNNING", "RUNNING", "SUCCEEDED", "SUCCEEDED", "SUCCEEDED"]


async def test_jobs_advance_independently(fake, caller):
    fake.add_job("job-1", ["queued", "running"])
    fake.add_job("job-2", ["queued", "running"])
    assert await caller.word("job-1") == "QUEUED"
    assert await caller.word("job-1") == "RUNNING"
    assert await caller.word("job-2") == "QUEUED"


async def test_job_succeeds_by_default(fake, caller):
    fake.add_job("job-1")
    assert await caller.word() == "SUCCEEDED"


async def test_record_request_does_not_advance_timeline(fake, caller):
    fake.add_job("job-1", ["queued", "running", "succeeded"])
    seen = [(await caller.record())["status"] for _ in range(3)]
    for _ in range(3):
        seen += [await caller.word(), (await caller.record())["status"]]
    assert seen == ["QUEUED"] * 5 + ["RUNNING"] * 2 + ["SUCCEEDED"] * 2


async def test_timed_steps_follow_clock(fake, caller, clock):
    fake.add_job("job-1", [("queued", 2.0), ("running", 3), "succeeded"])
    words = {}
    for elapsed in (0.0, 1.9, 2.0, 4.9, 5.0, 99.0):
        clock.now = 1000.0 + elapsed
        words[elapsed] = await caller.word()
    assert words == {
        0.0: "QUEUED",
        1.9: "QUEUED",
        2.0: "RUNNING",
        4.9: "RUNNING",
        5.0: "SUCCEEDED",
        99.0: "SUCCEEDED",
    }


async def test_timed_steps_use_real_seconds(fake, caller):
    loop = asyncio.get_running_loop()
    start = loop.time()
    fake.add_job("job-1", [("running", 0.05), "succeeded"])
    async with asyncio.timeout(5):
        while await caller.word() != "SUCCEEDED":
            pass
    assert loop.time() - start >= 0.05


async def test_set_status_drops_remaining_steps(fake, caller):
    fake.add_job("job-1", ["queued", "running", "succeeded"])
    await caller.word()
    fake.set_status("job-1", "cancelling")
    assert (await caller.record())["status"] == "CANCELLING"
    assert [await caller.word() for _ in range(3)] == ["CANCELLING"] * 3


async def test_set_status_drops_remaining_timed_steps(fake, caller, clock):
    fake.add_job("job-1", [("running", 2.0), "succeeded"])
    clock.now += 1.0
    fake.set_status("job-1", "failed")
    clock.now += 10.0
    assert await caller.word() == "FAILED"
    record = await caller.record()
    created = datetime.fromisoformat(record["datetime_created"])
    completed = datetime.fromisoformat(record["datetime_completed"])
    assert completed - created == timedelta(seconds=1)


# Bodies

# What was given; in each dialect, the metadata of the status and the reason in the record.
FAILURES = [
    pytest.param({}, (None, None), ({}, None), id="no reason"),
    pytest.param(
        {"failure_reason": "no GPU"},
        ({"failure_reason": {"message": "no GPU"}}, {"message": "no GPU"}),
        ({"failure_reason": "no GPU"}, "no GPU"),
        id="text",
    ),
    pytest.param(
        {"failure_reason": "no GPU", "additional_context": "busy"},
        (
            {"failure_reason": {"message": "no GPU", "additional_context": "busy"}},
            {"message": "no GPU", "additional_context": "busy"},
        ),
        ({"failure_reason": "no GPU", "additional_context": "busy"}, "no GPU"),
        id="text with context",
    ),
    pytest.param(
        {"failure_reason": {"message": "no GPU", "code": 7}},
        (
            {"failure_reason": {"message": "no GPU", "code": 7}},
            {"message": "no GPU", "code": 7},
        ),
        (
            {"failure_reason": {"message": "no GPU", "code": 7}},
            {"message": "no GPU", "code": 7},
        ),
        id="object",
    ),
    pytest.param(
        {"failure_reason": {"message": "no GPU"}, "additional_context": "busy"},
        (
            {"failure_reason": {"message": "no GPU", "additional_context": "busy"}},
            {"message": "no GPU", "additional_context": "busy"},
        ),
        (
            {"failure_reason": {"message": "no GPU"}, "additional_context": "busy"},
            {"message": "no GPU"},
        ),
        id="object with context",
    ),
]


async def test_mapping_dialect(fake, caller):
    fake.add_job("job-1", ["running"], failure_reason="not yet")
    assert await caller.status_body() == {
        "message": "Job status with job_id job-1 retrieved.",
        "job_status": {"job-1": "RUNNING"},
        "metadata": None,
    }
    assert (await caller.record())["status"] == "RUNNING"


async def test_flat_dialect(flat_caller):
    flat_caller.fake.add_job("job-1", ["RUNNING", "succeeded"], failure_reason="not yet")
    running = await flat_caller.status_body()
    assert running == {
        "message": "The job is running",
        "job_status": "running",
        "metadata": {},
    }
    assert (await flat_caller.record())["status"] == "running"
    assert (await flat_caller.status_body())["message"] == "The job has completed"


@pytest.mark.parametrize(("given", "mapping", "flat"), FAILURES)
async def test_failed_job_has_reason_in_both_dialects(caller, flat_caller, given, mapping, flat):
    for each, (metadata, reason) in ((caller, mapping), (flat_caller, flat)):
        each.fake.add_job("job-1", ["failed"], **given)
        assert (await each.status_body())["metadata"] == metadata
        assert (await each.record())["failure_reason"] == reason


async def test_reason_is_absent_until_job_has_failed(fake, caller):
    fake.add_job("job-1", ["running", "failed"], failure_reason="no GPU")
    await caller.word()
    assert (await caller.record())["failure_reason"] is None
    await caller.word()
    assert (await caller.record())["failure_reason"] == {"message": "no GPU"}


async def test_unrecognised_status_is_sent(fake, caller):
    fake.add_job("job-1", ["Paused"], allow_unknown=True)
    assert await caller.word() == "PAUSED"
    assert (await caller.record())["datetime_started"] is None


async def test_record_has_every_documented_field(fake, caller):
    fake.add_job("job-1", ["running", "succeeded"])
    record = await caller.record()
    assert set(record) == RECORD_FIELDS
    assert record["job_id"] == "job-1"
    assert record["cost_estimate"] > 0
    for field in ("input_tokens", "output_tokens", "job_cost", "datetime_completed"):
        assert record[field] is None


async def test_record_of_succeeded_job_has_tokens_and_cost(fake, caller):
    fake.add_job("job-1")
    record = await caller.record()
    assert type(record["input_tokens"]) is int
    assert type(record["output_tokens"]) is int
    assert record["job_cost"] > 0
    assert record["failure_reason"] is None


@pytest.mark.parametrize(
    ("status", "started", "completed"),
    [
        ("pending", False, False),
        ("submitted", False, False),
        ("queued", False, False),
        ("starting", True, False),
        ("running", True, False),
        ("cancelling", False, False),
        ("unknown", False, False),
        ("succeeded", True, True),
        ("failed", True, True),
        ("cancelled", False, True),
        ("canceled", False, True),
    ],
)
async def test_record_times_by_status(fake, caller, status, started, completed):
    fake.add_job("job-1", [status])
    record = await caller.record()
    assert (record["datetime_started"] is not None) is started
    assert (record["datetime_completed"] is not None) is completed


async def test_restarted_job_is_not_completed(fake, caller):
    fake.add_job("job-1", ["failed"], failure_reason="no GPU")
    assert (await caller.record())["datetime_completed"] is not None
    fake.set_status("job-1", "running")
    record = await caller.record()
    assert record["datetime_completed"] is None
    assert record["failure_reason"] is None


async def test_step_times_are_those_of_first_response(fake, caller, clock):
    fake.add_job("job-1", ["queued", "running", "running", "succeeded", "succeeded"])
    for _ in range(5):
        await caller.word()
        clock.now += 1.0
    record = await caller.record()
    created = datetime.fromisoformat(record["datetime_created"])
    assert datetime.fromisoformat(record["datetime_started"]) - created == timedelta(seconds=1)
    assert datetime.fromisoformat(record["datetime_completed"]) - created == timedelta(seconds=3)


async def test_timed_step_times_do_not_depend_on_reads(fake, caller, clock):
    before = datetime.now(UTC)
    fake.add_job("job-1", [("queued", 2.0), ("running", 3.5), "cancelled"])
    after = datetime.now(UTC)
    clock.now += 1000.0
    record = await caller.record()
    assert record["datetime_created"].endswith("Z")
    created = datetime.fromisoformat(record["datetime_created"])
    assert before <= created <= after
    assert datetime.fromisoformat(record["datetime_started"]) - created == timedelta(seconds=2)
    assert datetime.fromisoformat(record["datetime_completed"]) - created == timedelta(seconds=5.5)


async def test_fields_override_and_extend_record(fake, caller):
    params = {"seed": 1}
    fake.add_job(
        "job-1", ["running"], name="x", num_rows=None, run_type="b", sampling_params=params
    )
    params["seed"] = 2
    record = await caller.record()
    assert set(record) == RECORD_FIELDS | {"run_type"}
    assert record["name"] == "x"
    assert record["num_rows"] is None
    assert record["run_type"] == "b"
    assert record["sampling_params"] == {"seed": 1}


# Routes and keys


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize(
    "job_id", ["job-1", "a/b", "a b", "grün ☃", "50%", "50%25", "a?b#c", "{x}"]
)
async def test_any_id_with_both_prefixes(fake, caller, prefix, job_id):
    fake.add_job(job_id, ["running"])
    segment = quote(job_id, safe="")
    status, body = await caller.json(f"{prefix}/job-status/{segment}")
    assert (status, body["job_status"]) == (200, {job_id: "RUNNING"})
    status, body = await caller.json(f"{prefix}/jobs/{segment}?verbose=1")
    assert (status, body["job"]["job_id"]) == (200, job_id)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Key sk_other"},
        {"Authorization": "Bearer sk_test"},
        {"Authorization": "sk_test"},
    ],
)
@pytest.mark.parametrize("path", ["/job-status/job-1", "/v1/jobs/job-1", "/jobs/unknown"])
async def test_missing_key_gets_401(fake, caller, headers, path):
    fake.add_job("job-1", ["queued", "running"])
    assert await caller.json(path, headers=headers) == (401, {"detail": "Invalid API key"})
    assert await caller.word() == "QUEUED"


async def test_custom_key(session):
    async with FakeSutro(api_key="sk_mine") as fake:
        fake.add_job("job-1")
        headers = {"Authorization": "Key sk_mine"}
        status, _ = await Caller(fake, session).json("/jobs/job-1", headers=headers)
        assert status == 200


@pytest.mark.parametrize("path", ["/job-status/n%2Fo%20one", "/v1/jobs/n%2Fo%20one"])
async def test_unknown_job_gets_404(caller, path):
    assert await caller.json(path) == (404, {"message": "No job found with ID n/o one"})


@pytest.mark.parametrize("path", ["/", "/jobs", "/jobs/", "/jobs/a/b", "/v2/jobs/a", "/v1/job/a"])
async def test_unknown_path_gets_404(fake, caller, path):
    fake.add_job("a")
    assert await caller.json(path) == (404, {"detail": "Not Found"})


async def test_other_method_gets_405(fake, caller):
    fake.add_job("job-1", ["queued", "running"])
    for path in ("/job-status/job-1", "/jobs/job-1"):
        reply = await caller.json(path, method="POST")
        assert reply == (405, {"detail": "Method Not Allowed"})
    assert await caller.word() == "QUEUED"


# Recorded requests


async def test_requests_are_recorded_as_sent(fake, caller):
    before = asyncio.get_running_loop().time()
    await caller.json("/v1/jobs/a%2Fb?x=1", headers=KEY | {"X-Trace": "t1"})
    await caller.json("/elsewhere", method="POST")
    after = asyncio.get_running_loop().time()
    first, second = fake.requests
    assert isinstance(first, RecordedRequest)
    assert (first.method, first.path) == ("GET", "/v1/jobs/a%2Fb?x=1")
    assert (second.method, second.path) == ("POST", "/elsewhere")
    assert first.headers["x-trace"] == "t1"
    assert "X-TRACE" not in second.headers
    assert before <= first.time <= second.time <= after
    assert len({first, second}) == 2


@pytest.mark.parametrize(
    ("sent", "recorded"),
    [
        ("Key sk_test", "Key [redacted]"),
        ("Key sk_somebody_elses really", "Key [redacted]"),
        ("sk_test", "[redacted]"),
        ("Bearer sk_test", "[redacted]"),
    ],
)
async def test_key_is_not_recorded(fake, caller, sent, recorded):
    await caller.json("/jobs/a", headers={"authorization": sent, "X-Echo": "is sk_test it?"})
    (request,) = fake.requests
    assert request.headers["Authorization"] == recorded
    assert request.headers["X-Echo"] == "is [redacted] it?"
    assert "sk_" not in repr(request)


async def test_requests_in_flight_are_counted(fake, caller):
    fake.add_job("job-1")
    fake.fail_next(3, delay=0.05)
    tasks = [asyncio.create_task(caller.word()) for _ in range(3)]
    await until(lambda: fake.in_flight == 3)
    await asyncio.gather(*tasks)
    assert fake.in_flight == 0
    await caller.word()
    assert fake.max_in_flight == 3


async def test_unread_response_is_in_flight(fake, caller):
    fake.fail_next(body=LARGE)
    async with caller.request("/jobs/a") as response:
        assert fake.in_flight == 1
        await response.read()
    assert fake.in_flight == 0


async def test_disconnected_client_is_not_in_flight(fake, caller):
    fake.add_job("job-1", ["queued", "running"])
    fake.fail_next(delay=math.inf)
    task = asyncio.create_task(caller.word())
    await until(lambda: fake.in_flight == 1)
    task.cancel()
    await until(lambda: fake.in_flight == 0)
    assert await caller.word() == "QUEUED"


async def test_disconnect_during_response_is_not_an_error(fake, caller, caplog):
    fake.fail_next(body=LARGE)
    async with caller.request("/jobs/a") as response:
        response.close()
    await until(lambda: fake.in_flight == 0)
    assert caplog.records == []


# Faults


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, {"detail": "Invalid API key"}),
        (403, {"detail": "Forbidden"}),
        (404, {"message": "No job found with ID job-1"}),
        (410, {"detail": "Gone"}),
        (
            429,
            {"detail": "Rate limit exceeded", "code": "rate_limited", "request_id": "req-fake"},
        ),
    ],
)
async def test_fault_with_status_has_service_body(fake, caller, status, body):
    fake.add_job("job-1", ["queued", "running"])
    fake.fail_next(status=status)
    assert await caller.json("/job-status/job-1") == (status, body)
    assert await caller.word() == "QUEUED"


@pytest.mark.parametrize("status", [500, 503, 524])
async def test_server_error_fault_has_proxy_page(fake, caller, status):
    fake.fail_next(status=status)
    async with caller.request("/job-status/job-1") as response:
        assert response.status == status
        assert response.content_type == "text/html"
        assert str(status) in await response.text()


async def test_fault_headers_are_sent(fake, caller):
    headers = {"Retry-After": "1", "content-type": "text/plain"}
    fake.fail_next(status=503, headers=headers)
    headers["Retry-After"] = "2"
    async with caller.request("/jobs/a") as response:
        assert response.headers["Retry-After"] == "1"
        assert response.headers.getall("Content-Type") == ["text/plain"]


async def test_fault_with_headers_only_keeps_response(fake, caller):
    fake.add_job("job-1", ["queued", "running"])
    fake.fail_next(headers={"X-Extra": "1"})
    async with caller.request("/job-status/job-1") as response:
        assert response.headers["X-Extra"] == "1"
        assert response.content_type == "application/json"
        assert (await response.json())["job_status"] == {"job-1": "QUEUED"}
    assert await caller.word() == "RUNNING"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"body": b"\xff{"}, (200, b"\xff{", "application/json")),
        ({"body": "schön"}, (200, "schön".encode(), "application/json")),
        ({"body": b""}, (200, b"", "application/json")),
        ({"body": "<html>", "status": 502}, (502, b"<html>", "text/html")),
    ],
)
async def test_fault_body_replaces_response(fake, caller, options, expected):
    fake.add_job("job-1", ["queued", "running"])
    fake.fail_next(**options)
    async with caller.request("/job-status/job-1") as response:
        assert (response.status, await response.read(), response.content_type) == expected
    assert await caller.word() == "QUEUED"


async def test_faults_are_used_in_order_and_counted(fake, caller):
    fake.add_job("job-1")
    fake.fail_next(2, status=503)
    fake.fail_next(status=429)
    left, statuses = [], []
    for _ in range(4):
        left.append(fake.faults_left)
        async with caller.request("/job-status/job-1") as response:
            statuses.append(response.status)
    assert statuses == [503, 503, 429, 200]
    assert left == [3, 2, 1, 0]


async def test_job_fault_does_not_affect_other_jobs(fake, caller):
    fake.add_job("a/b")
    fake.add_job("c")
    fake.fail_next(status=503, job_id="a/b")
    fake.fail_next(status=429)
    statuses = []
    for path in ("/jobs/c", "/elsewhere", "/jobs/a%2Fb", "/v1/job-status/a%2Fb"):
        async with caller.request(path) as response:
            statuses.append(response.status)
    assert statuses == [429, 404, 503, 200]


async def test_clear_faults(fake, caller):
    fake.add_job("job-1")
    fake.fail_next(5, status=503)
    fake.clear_faults()
    assert fake.faults_left == 0
    assert await caller.word() == "SUCCEEDED"


async def test_fault_with_delay_only_delays_response(fake, caller):
    loop = asyncio.get_running_loop()
    fake.add_job("job-1", ["queued", "running"])
    fake.fail_next(delay=0.05)
    start = loop.time()
    assert await caller.word() == "QUEUED"
    assert loop.time() - start >= 0.05
    assert await caller.word() == "RUNNING"


async def test_delayed_response_is_computed_after_delay(fake, caller):
    fake.add_job("job-1", ["queued"])
    fake.fail_next(delay=0.05)
    task = asyncio.create_task(caller.word())
    await until(lambda: fake.in_flight)
    fake.set_status("job-1", "running")
    assert await task == "RUNNING"


async def test_disconnect_sends_nothing(fake, caller):
    fake.add_job("job-1", ["queued", "running"])
    fake.fail_next(disconnect=True)
    assert await raw_exchange(fake) == (b"", b"", "closed")
    assert await caller.word() == "QUEUED"


async def test_disconnect_after_delay(fake):
    loop = asyncio.get_running_loop()
    fake.fail_next(disconnect=True, delay=0.05)
    start = loop.time()
    assert await raw_exchange(fake) == (b"", b"", "closed")
    assert loop.time() - start >= 0.05


async def test_truncate_sends_half_of_correct_response(fake, caller):
    fake.add_job("job-1", ["queued", "running"])
    fake.fail_next(truncate=True)
    head, half, ending = await raw_exchange(fake)
    assert ending == "closed"
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    whole = json.dumps(await caller.status_body()).encode()
    assert f"Content-Length: {len(whole)}".encode() in head
    assert half == whole[: len(whole) // 2]
    assert b"QUEUED" in whole


async def test_truncate_sends_half_of_given_response(fake):
    fake.fail_next(truncate=True, status=500, body=b"123456")
    fake.fail_next(truncate=True, body=b"1")
    head, half, ending = await raw_exchange(fake)
    assert head.startswith(b"HTTP/1.1 500 ")
    assert (half, ending) == (b"123", "closed")
    head, half, ending = await raw_exchange(fake)
    assert b"Content-Length: 1" in head
    assert (half, ending) == (b"", "closed")


async def test_reset_sends_half_and_resets_connection(fake, caller):
    fake.add_job("job-1", ["queued", "running"])
    fake.fail_next(reset=True)
    head, half, ending = await raw_exchange(fake)
    assert ending == "reset"
    whole = json.dumps(await caller.status_body()).encode()
    assert f"Content-Length: {len(whole)}".encode() in head
    assert half == whole[: len(whole) // 2]
    assert b"QUEUED" in whole


@pytest.mark.parametrize("fault", ["disconnect", "truncate", "reset"])
async def test_closed_connection_is_error_for_client(fake, caller, fault):
    fake.add_job("job-1")
    # aiohttp's client sends a GET once more if it got no response at all.
    fake.fail_next(2 if fault == "disconnect" else 1, **{fault: True})
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError)):
        await caller.word()
    assert await caller.word() == "SUCCEEDED"
    assert fake.in_flight == 0


# Life cycle


async def test_url_is_available_only_while_running(session):
    fake = FakeSutro()
    with pytest.raises(RuntimeError, match="async with"):
        _ = fake.url
    async with fake:
        url = URL(fake.url)
        assert (url.scheme, url.host, url.path) == ("http", "127.0.0.1", "/")
        assert url.port
    with pytest.raises(RuntimeError, match="async with"):
        _ = fake.url
    with pytest.raises(aiohttp.ClientConnectorError):
        await session.get(url)


async def test_custom_host_and_port(session):
    port = free_port()
    async with FakeSutro(host="localhost", port=port) as fake:
        assert URL(fake.url).port == port


async def test_ipv6_address_in_url(session):
    fake = FakeSutro(host="::1")
    fake.add_job("job-1")
    try:
        async with fake:
            assert fake.url.startswith("http://[::1]:")
            assert await Caller(fake, session).word() == "SUCCEEDED"
    except OSError:  # pragma: no cover
        pytest.skip("no IPv6 here")


async def test_jobs_and_faults_survive_restart(session):
    fake = FakeSutro()
    fake.add_job("job-1", ["queued", "running"])
    async with fake:
        assert await Caller(fake, session).word() == "QUEUED"
    async with fake:
        assert await Caller(fake, session).word() == "RUNNING"


@pytest.mark.parametrize("iterations", range(6))
async def test_connection_made_during_shutdown_is_closed(iterations):
    async with FakeSutro() as fake:
        url = URL(fake.url)
        connection = socket.create_connection((url.host, url.port))
        for _ in range(iterations):
            await asyncio.sleep(0)
    with connection:
        connection.settimeout(5)
        # Either end of a connection that is refused or closed; it would be a timeout if left open.
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    gc.collect()  # pytest reports sockets and transports that are found unclosed


async def test_entering_twice_is_rejected(fake, caller):
    fake.add_job("job-1")
    with pytest.raises(RuntimeError, match="is already running"):
        await fake.__aenter__()
    assert await caller.word() == "SUCCEEDED"


async def test_second_concurrent_start_is_rejected(session):
    fake = FakeSutro()
    fake.add_job("job-1")
    first, second = await asyncio.gather(
        fake.__aenter__(), fake.__aenter__(), return_exceptions=True
    )
    assert first is fake
    assert isinstance(second, RuntimeError)
    assert "is already running" in str(second)
    port = URL(fake.url).port
    assert await Caller(fake, session).word() == "SUCCEEDED"
    await fake.__aexit__(None, None, None)
    await assert_all_closed(port)


@pytest.mark.parametrize("turns", range(8))
async def test_cancelled_start_closes_everything(session, turns):
    fake = FakeSutro(port=free_port())
    fake.add_job("job-1")

    async def run():
        async with fake:
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await assert_all_closed(fake._port)
    async with fake:
        assert await Caller(fake, session).word() == "SUCCEEDED"


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("times", [1, 99], ids=["once", "repeatedly"])
@pytest.mark.parametrize("delay", [0.0, math.inf], ids=["idle", "request in progress"])
async def test_cancelled_stop_closes_everything(delay, times, turns):
    loop = asyncio.get_running_loop()
    fake = FakeSutro(port=free_port())
    fake.add_job("job-1")
    started, stop = asyncio.Event(), asyncio.Event()

    async def run():
        async with fake:
            started.set()
            await stop.wait()

    task = asyncio.create_task(run())
    await started.wait()
    with socket.create_connection(("127.0.0.1", fake._port)) as connection:
        connection.setblocking(False)
        if delay:
            fake.fail_next(delay=delay)
        request = b"GET /job-status/job-1 HTTP/1.1\r\nHost: fake\r\n\r\n"
        await loop.sock_sendall(connection, request)
        if delay:
            await until(lambda: fake.in_flight)
        else:
            assert b" 401 " in await loop.sock_recv(connection, 65536)
        stop.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([task])
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert await loop.sock_recv(connection, 1) == b""
    await assert_all_closed(fake._port)
    assert fake.in_flight == 0
    async with fake:
        assert URL(fake.url).port == fake._port


async def test_port_in_use_raises_oserror_and_leaks_nothing(fake):
    other = FakeSutro(port=URL(fake.url).port)
    with pytest.raises(OSError, match="in use"):
        await other.__aenter__()
    with pytest.raises(RuntimeError, match="is not running"):
        _ = other.url
    await other.__aexit__(None, None, None)


async def test_exit_cancels_running_handlers(session):
    loop = asyncio.get_running_loop()
    async with FakeSutro() as fake:
        fake.add_job("job-1")
        caller = Caller(fake, session)
        await caller.word()
        fake.fail_next(2, delay=math.inf)
        fake.fail_next(body=LARGE)
        tasks = [asyncio.create_task(caller.word()) for _ in range(2)]
        await until(lambda: fake.in_flight == 2)
        unread = await caller.request("/jobs/a")
        start = loop.time()
    assert loop.time() - start < 0.2
    assert fake.in_flight == 0
    unread.close()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, aiohttp.ClientConnectionError)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


# Invalid arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dialect": "nested"}, ValueError, "'mapping' or 'flat', got 'nested'"),
        ({"api_key": " "}, ValueError, "api_key must not be empty"),
        ({"api_key": None}, TypeError, "api_key must be a string"),
    ],
)
def test_invalid_constructor_arguments_are_rejected(options, error, message):
    with pytest.raises(error, match=message):
        FakeSutro(**options)


@pytest.mark.parametrize(
    ("timeline", "error", "message"),
    [
        ([], ValueError, "at least one status"),
        ("running", TypeError, r"write \['running'\]"),
        (["running", " "], ValueError, "status must not be empty"),
        (["running", None], TypeError, "status must be a string"),
        ([("running", 1), ("failed", 1)], TypeError, "'failed', without seconds"),
        ([("running", 1), "queued", "failed"], ValueError, "positive seconds.*got 'queued'"),
        ([("running", 0), "failed"], ValueError, "positive seconds"),
        ([("running", -1.0), "failed"], ValueError, "positive seconds"),
        ([("running", math.nan), "failed"], ValueError, "positive seconds"),
        ([("running", math.inf), "failed"], ValueError, "positive seconds"),
        ([("running", "1"), "failed"], ValueError, "positive seconds"),
        ([("running",), "failed"], ValueError, "positive seconds"),
        ([(" ", 1), "failed"], ValueError, "status must not be empty"),
    ],
)
def test_invalid_timeline_is_rejected(timeline, error, message):
    fake = FakeSutro()
    with pytest.raises(error, match=message):
        fake.add_job("job-1", timeline)
    fake.add_job("job-1")


@pytest.mark.parametrize(
    ("job_id", "options", "error", "message"),
    [
        ("", {}, ValueError, "job id must not be empty"),
        (7, {}, TypeError, "job id must be a string"),
        ("..", {}, ValueError, "one segment"),
        ("a", {"status": "running"}, ValueError, r"timeline=\['running'\]"),
        ("a", {"additional_context": "x"}, ValueError, "failure_reason"),
        ("a", {"failure_reason": " "}, ValueError, "failure_reason must not be empty"),
        (
            "a",
            {"failure_reason": "x", "additional_context": ""},
            ValueError,
            "additional_context must not be empty",
        ),
        ("a", {"message": object()}, TypeError, "JSON"),
        ("a", {"metadata": {"at": datetime.now(UTC)}}, TypeError, "JSON"),
        ("a", {"job_costs": 5}, ValueError, "'job_costs': did you mean 'job_cost'"),
        ("a", {"xyz": 5}, ValueError, "unknown field of a record 'xyz': known are "),
        ("a", {"failure_reason": {"at": datetime.now(UTC)}}, TypeError, "JSON"),
        ("a", {"name": object()}, TypeError, "JSON"),
    ],
)
def test_invalid_job_is_rejected(job_id, options, error, message):
    with pytest.raises(error, match=message):
        FakeSutro().add_job(job_id, **options)


def test_duplicate_job_is_rejected():
    fake = FakeSutro()
    fake.add_job("job-1")
    with pytest.raises(ValueError, match="set_status"):
        fake.add_job("job-1", ["running"])


def test_invalid_set_status_is_rejected():
    fake = FakeSutro()
    with pytest.raises(ValueError, match="add_job"):
        fake.set_status("job-1", "running")
    fake.add_job("job-1")
    with pytest.raises(ValueError, match="status must not be empty"):
        fake.set_status("job-1", "")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "pass what goes wrong"),
        ({"times": 2, "headers": {}, "job_id": "a"}, ValueError, "pass what goes wrong"),
        ({"times": 0, "status": 500}, ValueError, "'times' must be >= 1"),
        ({"times": 1.5, "status": 500}, TypeError, "'times'"),
        ({"status": 101}, ValueError, "'status' must be >= 200"),
        ({"status": 600}, ValueError, "'status' must be <= 599"),
        ({"status": "500"}, TypeError, "'status'"),
        ({"delay": -1}, ValueError, "'delay' must be >= 0"),
        ({"delay": math.nan}, ValueError, "'delay' must be >= 0"),
        ({"headers": {"Retry-After": 1}}, TypeError, "'headers'"),
        ({"body": {"a": 1}}, TypeError, "'body'"),
        ({"truncate": True, "reset": True}, ValueError, "choose one of reset, truncate"),
        ({"disconnect": True, "status": 500}, ValueError, "disconnect sends no response"),
        ({"disconnect": True, "body": b""}, ValueError, "disconnect sends no response"),
        ({"truncate": True, "body": b""}, ValueError, "truncate cuts the body"),
        ({"reset": True, "body": ""}, ValueError, "reset cuts the body"),
    ],
)
def test_invalid_fault_is_rejected(options, error, message):
    fake = FakeSutro()
    with pytest.raises(error, match=message):
        fake.fail_next(**options)
    assert fake.faults_left == 0


# ---- unknown statuses and fields


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("suceeded", "succeeded"),
        ("SUCEEDED", "succeeded"),
        ("canceld", "canceled"),
        ("runing", "running"),
        ("faild", "failed"),
    ],
)
def test_misspelt_status_is_rejected_with_suggestion(word, nearest):
    fake = FakeSutro()
    expected = rf"status '(?i:{word})': did you mean '{nearest}'\? Pass allow_unknown=True"
    for timeline in ([word], ["running", word], [("running", 1.0), word], [(word, 1.0), "failed"]):
        with pytest.raises(ValueError, match=expected):
            fake.add_job("job-1", timeline)
    fake.add_job("job-1")
    with pytest.raises(ValueError, match=expected):
        fake.set_status("job-1", word)
    fake.set_status("job-1", word, allow_unknown=True)
    fake.add_job("job-2", [word], allow_unknown=True)


@pytest.mark.parametrize(
    "word",
    [
        *("pending", "submitted", "queued", "starting", "running", "cancelling", "canceling"),
        *("succeeded", "failed", "cancelled", "canceled", "unknown", "RUNNING", "Unknown"),
    ],
)
def test_every_known_status_is_accepted_in_any_case(word):
    fake = FakeSutro()
    fake.add_job("job-1", [word])
    fake.set_status("job-1", word)


async def test_undocumented_service_fields_are_accepted(fake, client):
    fake.add_job("job-1", run_type="FULL", datetime_added="2026-01-15")
    assert (await client.get_job("job-1")).extra == {
        "run_type": "FULL",
        "datetime_added": "2026-01-15",
    }


# ---- responses of a deployment


@pytest.mark.parametrize("dialect", ["mapping", "flat"])
async def test_reason_can_be_in_record_only(dialect):
    async with FakeSutro(dialect=dialect) as fake, fake.client() as client:
        fake.add_job("job-1", ["failed"], failure_reason="no GPU", status_reason=False)
        report = await client.get_job_status("job-1")
        job = await client.get_job("job-1")
    assert (report.status, report.metadata, report.failure) == ("failed", {}, None)
    assert str(job.failure_reason) == "no GPU"


@pytest.mark.parametrize("dialect", ["mapping", "flat"])
@pytest.mark.parametrize("value", [None, 5, "done", [], ["a"], {"row": 7}], ids=str)
async def test_message_and_metadata_are_sent_as_given(dialect, value):
    async with FakeSutro(dialect=dialect) as fake, aiohttp.ClientSession() as session:
        fake.add_job("job-1", ["failed"], failure_reason="x", message=value, metadata=value)
        url = f"{fake.url}/job-status/job-1"
        async with session.get(url, headers={"Authorization": "Key sk_test"}) as response:
            body = await response.json()
    assert (body["message"], body["metadata"]) == (value, value)


@pytest.mark.parametrize("dialect", ["mapping", "flat"])
@pytest.mark.parametrize(
    "reason", [5, ["bad row"], {"message": 5, "additional_context": {"row": 7}}], ids=str
)
async def test_reason_can_be_any_json(dialect, reason):
    async with FakeSutro(dialect=dialect) as fake, aiohttp.ClientSession() as session:
        fake.add_job("job-1", ["failed"], failure_reason=reason)
        for path, place in (("job-status", "metadata"), ("jobs", "job")):
            url = f"{fake.url}/{path}/job-1"
            async with session.get(url, headers={"Authorization": "Key sk_test"}) as response:
                assert (await response.json())[place]["failure_reason"] == reason


async def test_any_mapping_can_be_reason(fake, client):
    reason = MappingProxyType({"message": "no GPU"})
    fake.add_job("job-1", ["failed"], failure_reason=reason)
    assert str((await client.get_job_status("job-1")).failure) == "no GPU"


# ---- fixtures


async def test_fixture_client_fails_on_missing_job_at_once(sutro_client):
    began = asyncio.get_running_loop().time()
    with pytest.raises(JobNotFoundError):
        await sutro_client.wait_for_job("missing")
    assert asyncio.get_running_loop().time() - began < 0.1


def test_unset_argument_has_short_repr():
    assert "message: object = UNSET" in str(inspect.signature(FakeSutro.add_job))
