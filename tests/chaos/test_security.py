"""The key is sent only to its own service, and appears nowhere else."""

import asyncio
import copy
import json
import logging
import pickle
import re
import socket
import traceback
from urllib.parse import unquote, urlsplit

import aiohttp
import pytest
import yarl
from aiohttp.abc import AbstractResolver
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sutro_async import (
    APIConnectionError,
    APIStatusError,
    ConfigurationError,
    JobMonitor,
    RetryPolicy,
    SutroClient,
    SutroError,
)
from tests.chaos._hostile import FAULTS, Fault, HostileServer, Promise
from tests.chaos.conftest import KEY, make_client

ONCE = RetryPolicy(attempts=1)


def correct_server():
    return HostileServer(lambda _: "succeeded")


# ---- other hosts and ports: redirects

TARGETS = (
    "http://127.0.0.1:{port}/v1/job-status/job-1",
    "//127.0.0.1:{port}/",
    "http://user:password@127.0.0.1:{port}/",
    r"/\127.0.0.1:{port}/",
    "http:127.0.0.1:{port}",
    "HTTP://127.0.0.1:{port}",
)


@pytest.mark.parametrize("method", ["get_job_status", "get_job", "wait_for_job"])
@pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
async def test_redirect_does_not_send_key(status, method):
    async with correct_server() as evil:
        for target in TARGETS:
            headers = [
                f"{name}: {target.format(port=evil.port)}"
                for name in ("Location", "Content-Location", "Refresh", "Link", "Alt-Svc")
            ]

            async def inject(x, headers=headers):
                x.send(x.correct_body(), *headers, status=status)

            fault = Fault(
                name="redirect",
                does="",
                promise=Promise.FINAL,
                error=APIStatusError,
                status_code=status,
                inject=inject,
            )
            server = HostileServer(lambda _: "succeeded", lambda _, fault=fault: fault)
            async with server, make_client(server) as client:
                with pytest.raises(APIStatusError) as caught:
                    await getattr(client, method)("job-1")
            assert caught.value.status_code == status
            assert len(server.requests) == 1
        assert evil.accepted == 0


# ---- other hosts and ports: base URLs


class Resolver(AbstractResolver):
    """Records the names to resolve, and fails for each."""

    def __init__(self):
        self.names = []

    async def resolve(self, host, port=0, family=socket.AF_INET):
        self.names.append((host, port))
        raise OSError("no such name")

    async def close(self):
        pass


async def connect(base_url):
    """Return the names and ports that a client with this URL resolves."""
    resolver = Resolver()
    connector = aiohttp.TCPConnector(resolver=resolver)
    async with aiohttp.ClientSession(connector=connector) as session:
        client = SutroClient(KEY, base_url=base_url, session=session, retry=ONCE)
        with pytest.raises(APIConnectionError):
            await client.get_job_status("job-1")
    return resolver.names


@pytest.mark.parametrize(
    "base_url",
    [
        "https://api.sutro.sh@evil.test",
        "https://api.sutro.sh:443@evil.test/",
        "https://api.sutro.sh%40evil.test",
        "https://evil.test#@api.sutro.sh",
        "https://evil.test#.api.sutro.sh",
        "https://evil.test?.api.sutro.sh",
        "https://evil.test\\@api.sutro.sh",
        "https://api.sutro.sh\\.evil.test",
        "https:\\\\evil.test",
        "https://api.sutro.sh\t.evil.test",
        "https://api.sutro.sh\r\nHost: evil.test",
        "https://api.sutro.sh\u3002evil.test",
        "https://api.sutro.sh\uff0fevil.test",
        "https://api.sutro.sh\u2100.evil.test",
        "https://\u0430pi.sutro.sh",
        "https://api.sutro.s\u212a",
        "https://api.sutro.sh..",
        "https://.api.sutro.sh",
        "https://api.sutro.sh:443:80",
        "https://api.sutro.sh:99999",
        "https://[api.sutro.sh]",
        "https://[::ffff:127.0.0.1%25evil]",
        "http://api.sutro.sh",
        "http://127.0.0.1.evil.test",
        "http://localhost.evil.test",
        "http://2130706433",
        "http://0x7f.1",
        "file:///etc/passwd",
        "ftp://api.sutro.sh",
        "//api.sutro.sh",
        "api.sutro.sh",
        "https://api.sutro.sh/v1/../../evil",
        "https://api.sutro.sh/%2e%2e/evil",
        "https://api.sutro.sh//evil.test",
    ],
)
def test_ambiguous_url_is_rejected(base_url):
    with pytest.raises(ConfigurationError) as caught:
        SutroClient(KEY, base_url=base_url)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("base_url", "host", "port"),
    [
        ("https://api.sutro.sh.", "api.sutro.sh", 443),
        ("https://API.Sutro.SH", "api.sutro.sh", 443),
        ("https://api.sutro.sh:8443", "api.sutro.sh", 8443),
        ("https://xn--pi-7kc.sutro.sh", "xn--pi-7kc.sutro.sh", 443),
        ("https://api.sutro.sh.evil.test", "api.sutro.sh.evil.test", 443),
        ("http://localhost.:8000", "localhost", 8000),
    ],
)
async def test_unambiguous_url_is_resolved_as_written(base_url, host, port):
    assert await connect(base_url) == [(host, port)]


CONFUSING = st.lists(
    st.sampled_from(
        [
            *("https://", "http://", "api.sutro.sh", "evil.test", "localhost", "127.0.0.1"),
            *("@", ":", "/", "\\", "?", "#", "%", ".", "[", "]", "::1", "443", "80", "-", "_"),
            *("%2f", "%40", "%2e", " ", "\t", "\r\n", "\0", ";", ",", "xn--", "v1", "..", "~"),
            *("\u3002", "\uff0f", "\u0430", "\u212a", "\xad", "\u200b"),
        ]
    ),
    min_size=1,
    max_size=7,
).map("".join)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(CONFUSING | CONFUSING.map("https://".__add__))
def test_accepted_url_is_parsed_alike_by_all_parsers(base_url):
    try:
        client = SutroClient(KEY, base_url=base_url)
    except ConfigurationError:
        return
    given, ours = urlsplit(base_url), yarl.URL(f"{client.base_url}/x", encoded=True)
    assert ours.raw_host == given.hostname.rstrip(".")
    assert ours.port == (given.port or {"https": 443, "http": 80}[given.scheme])
    assert ours.scheme == given.scheme
    assert (ours.user, ours.password) == (None, None)
    assert ours.scheme == "https" or ours.host in {"localhost", "127.0.0.1", "::1"}


async def test_environment_key_is_not_sent_to_another_url(monkeypatch):
    async with correct_server() as own, correct_server() as other:
        monkeypatch.setenv("SUTRO_API_KEY", KEY)
        monkeypatch.setenv("SUTRO_API_URL", own.url)
        with pytest.raises(ConfigurationError):
            SutroClient(base_url=other.url)
        async with SutroClient() as client:
            await client.get_job("job-1")
    assert len(own.requests) == 1
    assert other.accepted == 0


# ---- ids

HOSTILE_IDS = (
    *("a/b", "/", "//evil.test/", "../../admin", "..%2f..", "%2e%2e", "%2f", "a?b=c", "a#b"),
    *("a\\b", "@evil.test", ":80", "a;b", "a b", "a%0d%0ab", "%", "%zz", "é", "\u3002", "a+b", "~"),
    *("..", ".", "", "a\r\nX-Evil: 1", "a\nb", "a\0b", "a\tb", "\x7f", "\u2028", "\ud800", "a\x85"),
)


def test_id_is_one_path_segment_or_rejected():
    """It never changes the host, the rest of the path, or the headers."""
    with asyncio.Runner() as runner:
        server = runner.run(correct_server().__aenter__())
        client = make_client(server)
        head = re.compile(
            rb"GET /v1/(?:job-status|jobs)/([A-Za-z0-9._~%%-]+) HTTP/1\.1\r\n"
            rb"Host: 127\.0\.0\.1:%d\r\n" % server.port
        )

        async def check(job_id):
            server.requests.clear()
            for call in (client.get_job_status, client.get_job, client.wait_for_job):
                try:
                    await call(job_id)
                except ValueError:
                    assert not server.requests
                    assert job_id in {"", ".", ".."} or not job_id.isprintable()
            for request in server.requests:
                (segment,) = head.match(request).groups()
                assert unquote(segment.decode()) == job_id
                assert segment not in {b".", b".."}
                assert request.count(b"\r\n") == 7  # five headers, and no more
                assert request.count(b"Authorization: Key " + KEY.encode()) == 1

        @settings(derandomize=True, max_examples=300, deadline=None)
        @given(
            st.text(max_size=20) | st.lists(st.sampled_from(HOSTILE_IDS), max_size=4).map("".join)
        )
        def check_many(job_id):
            runner.run(check(job_id))

        for job_id in HOSTILE_IDS:
            check_many = example(job_id)(check_many)
        check_many()
        runner.run(client.aclose())
        runner.run(server.__aexit__())


# ---- logs, reprs, errors, pickles


def echoes():
    """Responses that contain the headers of the request, with the key."""
    head = f"Authorization: Key {KEY}"
    return {
        "echo_body": lambda x: x.send(json.dumps({"detail": head}).encode(), status=401),
        "echo_text": lambda x: x.send(head.encode(), status=500),
        "echo_report": lambda x: x.send(json.dumps({"job_status": [head]}).encode()),
        "echo_name": lambda x: x.send(json.dumps({head: 1}).encode(), status=400),
        "echo_header": lambda x: x.send(b"", f"X-Request-Id: {KEY}", status=403),
        "echo_location": lambda x: x.send(b"", f"Location: https://{KEY}.test", status=302),
        "echo_reason": lambda x: x.write(f"HTTP/1.1 {KEY}\r\n\r\n".encode()),
        "echo_bad_header": lambda x: x.write(f"HTTP/1.1 200 OK\r\n{KEY}\r\n\r\n".encode()),
        "echo_chunk": lambda x: x.write(
            f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n".encode()
        ),
    }


def with_echoes():
    faults = dict(FAULTS)
    for name, send in echoes().items():

        async def inject(x, send=send):
            send(x)
            x.close()

        faults[name] = Fault(
            name=name, does="", promise=Promise.FINAL, error=None, status_code=None, inject=inject
        )
    return faults


async def request_with_every_fault(method):
    """Request with each fault once, and return the client, the monitor and all results."""
    faults = with_echoes()
    async with HostileServer(lambda _: "succeeded", faults.get) as server:
        options = {"max_concurrency": 20, "retry": RetryPolicy(attempts=2, initial=0)}
        async with make_client(server, **options) as client, JobMonitor(client) as monitor:
            call = {
                "get_job": client.get_job,
                "get_job_status": client.get_job_status,
                "wait_for_job": lambda job_id: client.wait_for_job(job_id, timeout=0),
                "wait": lambda job_id: monitor.wait(job_id, timeout=0),
            }[method]
            results = await asyncio.gather(*map(call, faults), return_exceptions=True)
            values = [client, monitor, client.with_options(timeout=1), *results]
    return values


@pytest.mark.parametrize("method", ["get_job_status", "get_job", "wait_for_job", "wait"])
async def test_key_is_in_no_log_repr_error_or_pickle(caplog, method):
    logging.getLogger("sutro_async").setLevel(1)
    logging.getLogger("aiohttp").setLevel(1)
    caplog.set_level(1)
    asyncio.get_running_loop().set_debug(True)
    values = await request_with_every_fault(method)
    assert sum(isinstance(value, SutroError) for value in values) > 50
    assert len(caplog.records) > 100
    for record in caplog.records:
        assert KEY not in f"{record.getMessage()} {record.args} {record.exc_text}"
    for value in values:
        assert KEY not in f"{value} {value!r}"
        if isinstance(value, SutroError):
            assert_error_has_no_key(value)
        elif not isinstance(value, SutroClient | JobMonitor):
            assert KEY.encode() not in pickle.dumps(value)


def assert_error_has_no_key(error):
    assert KEY not in "".join(traceback.format_exception(error))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert KEY.encode() not in pickle.dumps(error, protocol)
    link = error
    while link is not None:
        assert KEY not in f"{link} {link!r} {vars(link)} {link.args}"
        link = link.__cause__ or link.__context__


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
async def test_client_cannot_be_pickled_or_copied(take):
    client = SutroClient(KEY)
    with pytest.raises(TypeError, match="cannot be pickled"):
        take(client)
