"""One request: with aioresponses to check the request, over sockets to check bytes."""

import asyncio
import gzip
import itertools
import json
import logging
import pickle
import socket
import ssl
import struct
import traceback

import aiohttp
import pytest
from yarl import URL

from sutro_async import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    ClientStateError,
    ConfigurationError,
    InvalidResponseError,
    JobFailedError,
    RateLimitError,
    RetryPolicy,
    ServerError,
    SutroClient,
)
from sutro_async.testing import FakeSutro
from tests.conftest import FAST_POLL, now
from tests.raw_server import REPORT, SUCCEEDED, raw_response, raw_server

pytestmark = pytest.mark.usefixtures("fast_clock")

URL_ = "https://api.sutro.sh/job-status/job-1"
RUNNING = {"message": "", "job_status": "running", "metadata": {}}
ONCE = RetryPolicy(attempts=1)
KEY = "sk_very_secret"


def make_client(base_url=None, **options):
    return SutroClient(KEY, base_url=base_url, retry=ONCE, **options)


# ---- the request


async def test_request_has_key_and_follows_no_redirects(mocked):
    mocked.get(URL_, payload=RUNNING)
    async with make_client() as client:
        await client.get_job_status("job-1")
        headers = client._manager.transport._session.headers
    ((method, url), (call,)) = mocked.requests.popitem()
    assert (method, str(url)) == ("GET", URL_)
    assert call.kwargs["allow_redirects"] is False
    assert headers["Authorization"] == f"Key {KEY}"
    assert headers["Accept"] == "application/json"
    assert headers["User-Agent"].startswith("sutro-async/")


async def test_passed_in_session_keeps_headers_and_stays_open(mocked):
    mocked.get(URL_, payload=RUNNING)
    async with aiohttp.ClientSession(headers={"X-Own": "1", "User-Agent": "mine"}) as session:
        async with make_client(session=session) as client:
            await client.get_job_status("job-1")
        assert not session.closed
        assert dict(session.headers) == {"X-Own": "1", "User-Agent": "mine"}
    (call,) = mocked.requests["GET", URL(URL_)]
    assert call.kwargs["headers"]["Authorization"] == f"Key {KEY}"
    assert call.kwargs["headers"]["User-Agent"] == "mine"


async def test_passed_in_session_that_raises_for_status_does_not_change_errors(fake):
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        async with fake.client(session=session, retry=ONCE) as client:
            fake.fail_next(1, status=503)
            with pytest.raises(ServerError):
                await client.get_job_status("job-1")


async def test_id_arrives_as_one_path_segment(fake):
    job_id = "a/b ?c#d%2f..é"
    fake.add_job(job_id)
    async with fake.client() as client:
        assert (await client.get_job_status(job_id)).job_id == job_id
    assert fake.requests[0].path == "/v1/job-status/a%2Fb%20%3Fc%23d%252f..%C3%A9"


async def test_cookies_of_service_are_not_sent_back():
    cookie = raw_response(REPORT, headers="Set-Cookie: session=1\r\n")
    # aiohttp's own cookie jar ignores cookies from IP addresses.
    async with (
        raw_server(cookie) as server,
        make_client(server.url.replace("127.0.0.1", "localhost")) as client,
    ):
        await client.get_job_status("job-1")
        await client.get_job_status("job-1")
    assert b"cookie" not in server.requests[1].lower()


async def test_environment_proxies_are_not_used(fake, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    fake.add_job("job-1")
    async with fake.client() as client:
        assert (await client.get_job_status("job-1")).is_terminal


async def test_sequential_requests_reuse_connection(fake):
    fake.add_job("job-1", ["running"])
    async with fake.client() as client:
        for _ in range(3):
            await client.get_job_status("job-1")
        assert len(client._manager.transport._session.connector._conns) == 1
    ports = {request.headers["Host"] for request in fake.requests}
    assert len(ports) == 1


# ---- no usable response


async def test_connection_error_has_aiohttp_cause(unused_tcp_port):
    async with make_client(f"http://127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(APIConnectionError, match="job 'job-1': no response from") as caught:
            await client.get_job_status("job-1")
    assert caught.value.retryable
    assert isinstance(caught.value.__cause__, aiohttp.ClientConnectorError)


async def hang(reader, writer):
    await asyncio.sleep(60)


async def test_unresponsive_server_times_out():
    async with raw_server(hang) as server, make_client(server.url, timeout=0.05) as client:
        with pytest.raises(APITimeoutError, match=r"within 0.05 s") as caught:
            await client.get_job_status("job-1")
    assert caught.value.retryable
    assert isinstance(caught.value, TimeoutError)


async def drip(reader, writer):
    for byte in raw_response(REPORT):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.005)


async def test_timeout_bounds_whole_request_with_slow_body():
    async with raw_server(drip) as server, make_client(server.url, timeout=0.1) as client:
        with pytest.raises(APITimeoutError):
            await client.get_job_status("job-1")


async def test_request_timeout_is_not_rounded_up(mocked):
    loop = asyncio.get_running_loop()
    timers = []

    def note_timers(url, **options):
        timers.extend(t.when() - loop.time() for t in loop._scheduled if not t.cancelled())

    mocked.get(URL_, payload=RUNNING, callback=note_timers)
    async with make_client(timeout=7.25) as client:
        await client.get_job_status("job-1")
    assert timers == [pytest.approx(7.25, abs=0.1)]


@pytest.mark.parametrize("seconds", [None, 0.01, 60], ids=["none", "shorter", "longer"])
async def test_timeouts_of_passed_in_session_are_ignored(seconds):
    async def respond_late(reader, writer):
        await asyncio.sleep(0.05)
        writer.write(raw_response(REPORT))

    timeout = aiohttp.ClientTimeout(total=seconds, sock_read=seconds)
    async with (
        raw_server(respond_late, hang) as server,
        aiohttp.ClientSession(timeout=timeout) as session,
        make_client(server.url, session=session, timeout=0.3) as client,
    ):
        assert (await client.get_job_status("job-1")).status == "running"
        with pytest.raises(APITimeoutError, match=r"within 0.3 s"):
            await client.get_job_status("job-1")


async def send_in_pieces(reader, writer):
    for piece in (
        raw_response(REPORT)[:20],
        raw_response(REPORT)[20:-20],
        raw_response(REPORT)[-20:],
    ):
        writer.write(piece)
        for _ in range(3):
            await asyncio.sleep(0)


@pytest.mark.parametrize("cause", ["timeout", "cancellation", "close"])
async def test_interruption_at_any_await_releases_all_resources(cause):
    loop = asyncio.get_running_loop()
    async with raw_server(send_in_pieces) as server:
        for iterations in itertools.count(1):
            async with make_client(server.url) as client:
                transport = client._manager.transport
                task = asyncio.create_task(client.get_job_status("job-1"))
                for _ in range(iterations):
                    await asyncio.sleep(0)
                if task.done():
                    assert task.result().status == "running"
                    break
                (timeout,) = transport.timer.in_flight
                connector = transport._session.connector
                if cause == "timeout":
                    timeout.interrupt(TimeoutError)
                elif cause == "cancellation":
                    task.cancel()
                else:
                    await client.aclose()
                await asyncio.wait({task})
                if cause == "close":
                    assert isinstance(task.exception(), ClientStateError)
                    assert task.cancelling() == 0
                elif cause == "timeout":
                    assert isinstance(task.exception(), APITimeoutError)
                    assert isinstance(task.exception().__cause__, TimeoutError)
                    assert task.cancelling() == 0
                else:
                    assert task.cancelled()
                assert not transport.timer.in_flight
                assert not connector._acquired
                assert not [t for t in loop._scheduled if "RequestTimer" in repr(t)]
    assert iterations > 5


async def test_queue_time_does_not_count_towards_timeout(fake):
    fake.add_job("job-1")
    fake.fail_next(6, delay=0.05)
    async with fake.client(timeout=0.15, max_concurrency=1, retry=ONCE) as client:
        await asyncio.gather(*(client.get_job_status("job-1") for _ in range(6)))


async def test_time_between_queue_and_request_does_not_count_towards_timeout(fake):
    fake.add_job("job-1")
    async with fake.client(timeout=0.1, max_concurrency=1, retry=ONCE) as client:

        async def block_loop_after_call():
            await client.get_job_status("job-1")
            end = now() + 0.2  # the next request has its slot already
            while now() < end:
                pass

        await asyncio.gather(block_loop_after_call(), client.get_job_status("job-1"))


async def test_closed_client_within_session_is_error_of_session(fake):
    other = fake.client()
    await other.aclose()

    async def use_other(request, handler):
        return await other.get_job("job-1")

    async with aiohttp.ClientSession(middlewares=[use_other]) as session:
        async with fake.client(session=session) as client:
            with pytest.raises(ClientStateError, match="the session cannot be used"):
                await client.get_job("job-1")


async def test_unsolicited_response_is_not_used_for_next_request():
    async def respond_twice(reader, writer):
        writer.write(raw_response(REPORT))
        await asyncio.sleep(0.001)  # or else they arrive as one, which aiohttp itself notices
        writer.write(raw_response(SUCCEEDED))

    async with (
        raw_server(respond_twice, raw_response(REPORT)) as server,
        make_client(server.url) as client,
    ):
        assert (await client.get_job_status("job-1")).status == "running"
        ((connection, _),) = next(
            iter(client._manager.transport._session.connector._conns.values())
        )
        async with asyncio.timeout(1):
            while not connection.should_close:
                await asyncio.sleep(0.001)
        assert (await client.get_job_status("job-2")).status == "running"


async def test_connections_with_unsolicited_response_are_replaced():
    async def respond_twice(reader, writer):
        writer.write(raw_response(REPORT))
        await asyncio.sleep(0.02)
        writer.write(raw_response(SUCCEEDED))

    script = [*[respond_twice] * 3, raw_response(REPORT)]
    async with raw_server(*script) as server, make_client(server.url) as client:
        await asyncio.gather(*(client.get_job_status(f"job-{number}") for number in range(3)))
        (connections,) = client._manager.transport._session.connector._conns.values()
        assert len(connections) == 3
        async with asyncio.timeout(1):
            while not all(connection.should_close for connection, _ in connections):
                await asyncio.sleep(0.001)
        assert (await client.get_job_status("job-4")).status == "running"
        assert not client._manager.transport._session.connector._acquired
    assert len(server.requests) == 4


# ---- lost connections


async def reset(reader, writer):
    linger_for_no_time = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, linger_for_no_time
    )
    writer.close()


async def disconnect(reader, writer):
    writer.close()


LOST = [(reset, aiohttp.ClientOSError), (disconnect, aiohttp.ServerDisconnectedError)]
each_loss = pytest.mark.parametrize(("lose", "cause"), LOST, ids=["reset", "disconnect"])


@each_loss
@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("before", [0, 1], ids=["new connection", "kept connection"])
async def test_lost_connection_is_not_retried_within_attempt(lose, cause, attempts, before):
    retry = RetryPolicy(attempts=attempts, initial=0.001)
    async with (
        raw_server(*[raw_response(REPORT)] * before, lose) as server,
        SutroClient(KEY, base_url=server.url, retry=retry) as client,
    ):
        for _ in range(before):
            await client.get_job_status("job-1")
        with pytest.raises(APIConnectionError, match="no response from http://127") as caught:
            await client.get_job_status("job-1")
        assert not client._manager.transport._session.connector._acquired
    assert len(server.requests) == before + attempts
    assert caught.value.retryable
    assert not isinstance(caught.value, APITimeoutError)
    # The error of aiohttp itself.
    assert type(caught.value.__cause__) is cause
    assert KEY not in repr(caught.value.__cause__) + str(vars(caught.value.__cause__))


@each_loss
async def test_aiohttp_repeats_request_on_passed_in_session(lose, cause):
    async with (
        raw_server(lose) as server,
        aiohttp.ClientSession() as session,
        make_client(server.url, session=session) as client,
    ):
        with pytest.raises(APIConnectionError) as caught:
            await client.get_job_status("job-1")
    assert len(server.requests) == 2
    assert type(caught.value.__cause__) is cause


async def test_polls_continue_when_kept_connection_is_lost():
    async with (
        raw_server(raw_response(REPORT), disconnect, raw_response(SUCCEEDED)) as server,
        SutroClient(KEY, base_url=server.url, poll=FAST_POLL) as client,
    ):
        assert (await client.wait_for_job("job-1")).status == "succeeded"
    assert len(server.requests) == 3


async def test_refused_connection():
    async with raw_server(raw_response(REPORT)) as server:
        pass
    async with make_client(server.url) as client:
        with pytest.raises(APIConnectionError) as caught:
            await client.get_job_status("job-1")
    assert type(caught.value.__cause__) is aiohttp.ClientConnectorError
    assert caught.value.retryable


@pytest.mark.parametrize("fault", ["disconnect", "reset", "truncate"])
async def test_truncated_response(fake, fault):
    fake.add_job("job-1")
    fake.fail_next(4, **{fault: True})
    async with fake.client(retry=ONCE) as client:
        with pytest.raises(APIConnectionError) as caught:
            await client.get_job_status("job-1")
    assert caught.value.retryable
    assert not isinstance(caught.value, APITimeoutError)


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/9.9 what\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        raw_response(b"not gzip at all", headers="Content-Encoding: gzip\r\n"),
    ],
    ids=["version", "binary", "length", "long header", "broken gzip"],
)
async def test_invalid_http(garbage):
    async def send(reader, writer):
        writer.write(garbage)
        writer.close()

    async with raw_server(send) as server, make_client(server.url) as client:
        with pytest.raises(APIConnectionError) as caught:
            await client.get_job_status("job-1")
    seen = repr(caught.value) + repr(caught.value.__cause__) + str(vars(caught.value.__cause__))
    assert KEY not in seen
    assert KEY.encode() not in pickle.dumps(caught.value)


async def test_certificate_error_is_not_retried(mocked):
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    key = aiohttp.client_reqrep.ConnectionKey("api.sutro.sh", 443, True, True, None, None, None)
    mocked.get(URL_, exception=aiohttp.ClientConnectorCertificateError(key, error), repeat=True)
    async with SutroClient(KEY) as client:
        with pytest.raises(APIConnectionError, match="certificate verify failed") as caught:
            await client.get_job_status("job-1")
    assert not caught.value.retryable
    assert len(mocked.requests["GET", URL(URL_)]) == 1


# ---- bodies


async def test_other_tls_failures_are_retried(mocked):
    key = aiohttp.client_reqrep.ConnectionKey("api.sutro.sh", 443, True, True, None, None, None)
    error = aiohttp.ClientConnectorSSLError(key, ssl.SSLError(1, "handshake failure"))
    mocked.get(URL_, exception=error)
    async with make_client() as client:
        with pytest.raises(APIConnectionError) as caught:
            await client.get_job_status("job-1")
    assert caught.value.retryable


async def test_concurrency_can_exceed_aiohttp_default_limit(fake):
    ids = [f"job-{number}" for number in range(120)]
    for job_id in ids:
        fake.add_job(job_id)
    fake.fail_next(120, delay=0.3)
    async with fake.client(max_concurrency=120) as client:
        await client.get_jobs(ids)
    assert fake.max_in_flight == 120


async def test_body_is_decompressed_with_session_that_does_not_decompress():
    zipped = raw_response(gzip.compress(REPORT), headers="Content-Encoding: gzip\r\n")
    async with (
        raw_server(zipped) as server,
        aiohttp.ClientSession(auto_decompress=False) as session,
        make_client(server.url, session=session) as client,
    ):
        assert (await client.get_job_status("job-1")).status == "running"


async def test_compressed_body_is_read():
    zipped = raw_response(gzip.compress(REPORT), headers="Content-Encoding: gzip\r\n")
    async with raw_server(zipped) as server, make_client(server.url) as client:
        assert (await client.get_job_status("job-1")).status == "running"


@pytest.mark.parametrize("is_bomb", [False, True], ids=["plain", "compressed"])
async def test_reading_stops_at_16_mib(is_bomb):
    body = b" " * (17 * 2**20) + REPORT
    data = raw_response(body)
    if is_bomb:
        data = raw_response(gzip.compress(body), headers="Content-Encoding: gzip\r\n")
    async with raw_server(data) as server, make_client(server.url) as client:
        with pytest.raises(InvalidResponseError, match="larger than 16 MiB"):
            await client.get_job_status("job-1")
        assert not client._manager.transport._session.connector._acquired


async def test_body_of_16_mib_is_accepted_and_one_byte_more_rejected():
    body = REPORT + b" " * (16 * 2**20 - len(REPORT))
    script = [raw_response(body), raw_response(body + b" ")]
    async with raw_server(*script) as server, make_client(server.url) as client:
        assert (await client.get_job_status("job-1")).status == "running"
        with pytest.raises(InvalidResponseError, match="larger than 16 MiB"):
            await client.get_job_status("job-1")


async def test_error_status_is_kept_with_long_body():
    data = raw_response(b"<html>" + b" " * (17 * 2**20), status=502)
    async with raw_server(data) as server, make_client(server.url) as client:
        with pytest.raises(ServerError) as caught:
            await client.get_job_status("job-1")
    assert len(caught.value.body) == 10_000


async def test_at_most_1_mib_of_error_body_is_read():
    body = b'{"detail": "an essay", "essay": "' + b"a" * (2 * 2**20) + b'"}'
    async with (
        raw_server(raw_response(body, status=502)) as server,
        make_client(server.url) as client,
    ):
        with pytest.raises(ServerError) as caught:
            await client.get_job_status("job-1")
    assert caught.value.body == body[:10_000].decode()


async def test_error_status_is_kept_with_truncated_body():
    async def send(reader, writer):
        writer.write(raw_response(b'{"detail": "no"', status=401, length=1000))
        writer.close()

    async with raw_server(send) as server, make_client(server.url) as client:
        with pytest.raises(AuthenticationError):
            await client.get_job_status("job-1")


async def test_endless_error_body_is_timeout():
    async def send(reader, writer):
        writer.write(raw_response(b'{"detail": "no"', status=401, length=1000))
        await asyncio.sleep(60)

    async with raw_server(send) as server, make_client(server.url, timeout=0.05) as client:
        with pytest.raises(APITimeoutError):
            await client.get_job_status("job-1")


ECHOES = {
    "message": raw_response(b'{"detail": "the key sk_very_secret is wrong"}', status=401),
    "request id": raw_response(b"{}", status=401, headers=f"X-Request-Id: {KEY}\r\n"),
    "escaped": raw_response(
        b'{"detail": ["\\u0073k_very_secret", {"a": "sk_very_secret"}]}', status=401
    ),
    "name": raw_response(b'{"sk_very_secret": 1}', status=500),
    "no JSON": raw_response(b"<html>sk_very_secret"),
    "wrong type": raw_response(b'{"job_status": ["sk_very_secret"]}'),
    "status line": b"HTTP/1.1 sk_very_secret\r\n\r\n",
    "header": b"HTTP/1.1 200 OK\r\nsk_very_secret\r\n\r\n",
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
async def test_echoed_key_is_not_in_errors(echo):
    async def send(reader, writer):
        writer.write(echo)
        writer.close()

    async with raw_server(send) as server, make_client(server.url) as client:
        with pytest.raises(APIError) as caught:
            await client.get_job_status("job-1")
    error = caught.value
    assert error.job_id == "job-1"
    assert KEY not in "".join(traceback.format_exception(error))
    assert KEY.encode() not in pickle.dumps(error)
    while error is not None:
        assert KEY not in f"{error} {error!r} {vars(error)}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("shown", range(len(KEY) + 2))
async def test_truncated_text_has_no_part_of_echoed_key(mocked, shown):
    limits = {"message": 300, "body": 10_000, "request": 100}
    before = {name: "x" * (limit - shown) for name, limit in limits.items()}
    mocked.get(
        URL_,
        status=403,
        body=f"{before['message']}{KEY}{'x' * 9700}"[: 10_000 - shown] + f"{KEY} more",
        headers={"X-Request-Id": f"{before['request']}{KEY} more"},
    )
    async with make_client() as client:
        with pytest.raises(APIError) as caught:
            await client.get_job_status("job-1")
    error = caught.value
    for text in (str(error), error.message, error.request_id, error.body):
        assert KEY[:6] not in text


@pytest.mark.parametrize("length", range(6, len(KEY)))
async def test_truncated_response_has_no_part_of_echoed_key(length):
    async def send(reader, writer):
        writer.write(raw_response(f"the key {KEY[:length]}".encode(), status=401, length=1000))
        writer.close()

    async with raw_server(send) as server, make_client(server.url) as client:
        with pytest.raises(AuthenticationError) as caught:
            await client.get_job_status("job-1")
    assert caught.value.body == "the key "


@pytest.mark.parametrize("key", ["sk_very_secret", 'sk_"quoted"/and\\more', "sk_[a](b)*+?{9}^$|."])
@pytest.mark.parametrize("status", [200, 500])
async def test_key_is_redacted_in_any_json_escaping(status, key):
    spellings = [
        json.dumps(key)[1:-1],
        json.dumps(key)[1:-1].replace("/", "\\/"),
        "".join(f"\\u{ord(char):04x}" for char in key),
        "".join(f"\\u{ord(char):04X}" for char in key),
        f"\\u{ord(key[0]):04x}" + json.dumps(key[1:])[1:-1],
    ]
    body = f'{{"job_status": "failed", "message": "{", ".join(spellings)}"}}'
    assert json.loads(body)["message"] == ", ".join([key] * 5)
    async with raw_server(raw_response(body.encode(), status=status)) as server:
        async with SutroClient(key, base_url=server.url, retry=ONCE) as client:
            try:
                message = (await client.get_job_status("job-1")).message
            except APIError as error:
                message = error.message
    assert message == ", ".join(["[api key]"] * 5)


def longest_text_of_frames(error):
    """The length of the longest text, or list of bytes, in the frames that an error keeps."""
    lengths = [0]
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            for value in frame.f_locals.values():
                if isinstance(value, str | bytes | bytearray):
                    lengths.append(len(value))
                elif isinstance(value, list):
                    lengths.append(sum(len(each) for each in value if isinstance(each, bytes)))
        error = error.__cause__ or error.__context__
    return max(lengths)


@pytest.mark.parametrize("ending", ["broken off", "stopped", "too large"])
async def test_error_does_not_keep_beginning_of_body_alive(ending):
    async def send(reader, writer):
        size = 17 * 2**20 if ending == "too large" else 2 * 2**20
        writer.write(raw_response(b"x" * size, length=20 * 2**20))
        await writer.drain()
        if ending == "stopped":
            await asyncio.sleep(60)
        writer.close()

    async with raw_server(send) as server, make_client(server.url, timeout=0.3) as client:
        with pytest.raises(APIError) as caught:
            await client.get_job_status("job-1")
    caught.value.__traceback__ = caught.value.__traceback__.tb_next
    assert longest_text_of_frames(caught.value) < 2**18


@pytest.mark.parametrize("attempts", [1, 2])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"no JSON" * 20_000),
        (200, b'{"job_status": ["' + b"x" * 150_000 + b'"]}'),
        (500, b"<html>" * 20_000),
    ],
    ids=["malformed", "wrong-type", "status"],
)
async def test_error_does_not_keep_body_alive(status, body, attempts):
    policy = RetryPolicy(attempts=attempts, initial=0)
    async with raw_server(*[raw_response(body, status=status)] * attempts) as server:
        async with SutroClient(KEY, base_url=server.url, retry=policy) as client:
            with pytest.raises(APIError) as caught:
                await client.get_job_status("job-1")
    del body
    frames = traceback.walk_tb(caught.value.__traceback__)
    assert [frame.f_code.co_name for frame, _ in frames][-1] in {"_read", "get"}
    caught.value.__traceback__ = caught.value.__traceback__.tb_next  # that of the test itself
    assert longest_text_of_frames(caught.value) < 100_000


@pytest.mark.parametrize("status", ["running", "succeeded", "pending"])
async def test_key_in_good_response_is_not_redacted(mocked, status):
    fields = {"message": f"{KEY} is fine", "metadata": {KEY: [KEY]}}
    mocked.get(URL_, payload={"job_status": status, **fields})
    record = {"job_id": "job-1", "status": "failed", "name": KEY, "system_prompt": f"say {KEY}"}
    mocked.get(URL_.replace("job-status", "jobs"), payload={"job": record})
    async with make_client() as client:
        report = await client.get_job_status("job-1")
        job = await client.get_job("job-1")
    assert (report.message, report.metadata) == (fields["message"], fields["metadata"])
    assert (job.name, job.system_prompt) == (KEY, f"say {KEY}")


@pytest.mark.parametrize("status", ["failed", "cancelled", f"paused {KEY}"])
async def test_report_in_error_has_no_key(mocked, status, caplog):
    reason = {"message": f"the key {KEY} has no GPU", "additional_context": {"key": KEY}}
    body = {"job_status": status, "message": KEY, "metadata": {"failure_reason": reason}}
    mocked.get(URL_, payload=body)
    async with make_client() as client:
        report = await client.get_job_status("job-1")
    assert str(report.failure) == 'the key [api key] has no GPU ({"key":"[api key]"})'
    assert KEY not in f"{report!r} {JobFailedError(report)} {caplog.text}"


async def test_reason_from_record_has_no_key(fake):
    fake.add_job("job-1", ["failed"], failure_reason=f"{fake.api_key} ran out", status_reason=False)
    async with fake.client() as client:
        report = await client.wait_for_job("job-1")
    assert str(report.failure) == "[api key] ran out"


async def test_logged_mismatch_has_no_part_of_key(mocked, caplog):
    for shown in range(len(KEY)):
        mocked.get(URL_, payload=RUNNING | {"message": ["x" * (58 - shown) + KEY + "x" * 100]})
        caplog.clear()
        async with make_client() as client:
            await client.get_job_status("job-1")
        assert "$.message: expected a string, got" in caplog.text
        assert not any(KEY[:length] in caplog.text for length in range(4, len(KEY)))


async def test_redaction_does_not_turn_error_into_success(mocked):
    url = "https://api.sutro.sh/job-status/%5Bapi%20key%5D"
    mocked.get(URL(url, encoded=True), payload={"job_status": {KEY: "RUNNING"}})
    async with make_client() as client:
        with pytest.raises(InvalidResponseError, match="expected a status, got null"):
            await client.get_job_status("[api key]")


async def test_mismatch_is_logged_unchanged_if_key_is_not_secret(mocked, caplog):
    mocked.get(URL_, payload=RUNNING | {"message": ["job"]})
    async with SutroClient("job", retry=ONCE) as client:
        await client.get_job_status("job-1")
    assert "expected a string, got ['job']" in caplog.text


async def test_short_key_is_not_redacted(mocked):
    mocked.get(URL_, status=401, payload={"detail": "the key job is wrong"})
    async with SutroClient("job", retry=ONCE) as client:
        with pytest.raises(AuthenticationError, match="job 'job-1': HTTP 401: the key job is"):
            await client.get_job_status("job-1")


@pytest.mark.parametrize("key", ["s", "job", "test", "running"])
async def test_key_within_good_response_is_unchanged(key):
    async with FakeSutro(api_key=key) as fake, fake.client() as client:
        fake.add_job("my running test-job", ["running"], name=f"a {key} b")
        assert (await client.get_job_status("my running test-job")).status == "running"
        assert (await client.get_job("my running test-job")).name == f"a {key} b"


async def test_redirects_are_not_followed():
    data = raw_response(b"", status=302, headers="Location: https://evil.test/steal?me\r\n")
    async with raw_server(data) as server, make_client(server.url) as client:
        with pytest.raises(APIStatusError, match=r"redirect to evil\.test") as caught:
            await client.get_job_status("job-1")
    assert caught.value.status_code == 302
    assert len(server.requests) == 1


# ---- the common pause


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_pauses_all_requests(fake, status):
    fake.add_job("job-1")
    async with fake.client(retry=ONCE) as client:
        fake.fail_next(1, status=status, headers={"Retry-After": "0.1"})
        with pytest.raises(APIStatusError):
            await client.get_job_status("job-1")
        await client.get_job("job-1")
    assert fake.requests[1].time - fake.requests[0].time >= 0.1


@pytest.mark.parametrize(("status", "header"), [(500, "5"), (502, "5"), (429, None), (404, "5")])
async def test_other_errors_do_not_pause_requests(fake, status, header):
    fake.add_job("job-1")
    async with fake.client(retry=ONCE) as client:
        fake.fail_next(1, status=status, headers={"Retry-After": header} if header else {})
        with pytest.raises(APIStatusError):
            await client.get_job_status("job-1")
        async with asyncio.timeout(1):
            await client.get_job("job-1")


async def test_pause_is_bounded_by_policy(fake):
    fake.add_job("job-1")
    policy = RetryPolicy(attempts=1, max_retry_after=0.05)
    async with fake.client(retry=policy) as client:
        fake.fail_next(1, status=429, headers={"Retry-After": "3600"})
        with pytest.raises(RateLimitError) as caught:
            await client.get_job_status("job-1")
        async with asyncio.timeout(1):
            await client.get_job("job-1")
    assert caught.value.retry_after == 3600
    assert fake.requests[1].time - fake.requests[0].time >= 0.05


# ---- sessions that cannot be used


async def test_closed_session_is_reported(fake):
    session = aiohttp.ClientSession()
    await session.close()
    async with fake.client(session=session) as client:
        with pytest.raises(ClientStateError, match="Session is closed"):
            await client.get_job_status("job-1")


def test_session_of_another_event_loop_is_rejected_and_unchanged():
    async def request_with(session):
        client = SutroClient(KEY, base_url=server.url, session=session, retry=ONCE)
        with pytest.raises(ClientStateError, match="the session cannot be used"):
            await client.get_job_status("job-1")
        await client.aclose()

    async def request_directly():
        async with session.get(server.url) as response:
            return response.status

    with asyncio.Runner() as owner:
        opening = raw_server(raw_response(REPORT))
        server = owner.run(opening.__aenter__())
        session = owner.run(open_session())
        assert owner.run(request_directly()) == 200  # and leaves a connection in the pool
        asyncio.run(request_with(session))
        assert owner.run(request_directly()) == 200
        owner.run(session.close())
        owner.run(opening.__aexit__(None, None, None))
    assert len(server.requests) == 2


async def open_session():
    return aiohttp.ClientSession()


async def test_session_with_own_credentials_is_rejected(fake, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with (
        aiohttp.ClientSession(trust_env=True) as session,
        fake.client(session=session) as client,
    ):
        with pytest.raises(ConfigurationError, match="session cannot be used: Cannot combine"):
            await client.get_job_status("job-1")
    assert not fake.requests


# ---- the log


async def test_each_request_is_logged_with_status_and_time(fake, caplog):
    fake.add_job("job-1")
    fake.fail_next(1, status=500)
    caplog.set_level(logging.DEBUG, "sutro_async")
    async with fake.client(retry=RetryPolicy(initial=0.001)) as client:
        await client.get_job_status("job-1")
    debug = [record.message for record in caplog.records if record.levelno == logging.DEBUG]
    assert len(debug) == 2
    assert debug[0].startswith("GET /job-status/job-1: 500 after ")
    assert debug[0].endswith("ms, attempt 1")
    assert debug[1].startswith("GET /job-status/job-1: 200 after ")
    assert debug[1].endswith("ms, attempt 2")


async def test_request_without_response_is_logged(caplog, unused_tcp_port):
    caplog.set_level(logging.DEBUG, "sutro_async")
    async with make_client(f"http://127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(APIConnectionError):
            await client.get_job_status("job-1")
    assert "GET /job-status/job-1: no response after" in caplog.text
    assert KEY not in caplog.text
