"""Proxies: which one is used, what is sent to it, and what errors and logs say about it."""

import asyncio
import logging
import ssl
import traceback
from contextlib import asynccontextmanager

import aiohttp
import pytest
import trustme

from sutro_async import (
    APIConnectionError,
    APITimeoutError,
    ConfigurationError,
    JobStatus,
    PollPolicy,
    RetryPolicy,
    SutroClient,
)
from sutro_async._config import resolve_settings
from tests.forward_proxy import forward_proxy
from tests.raw_server import SUCCEEDED, raw_response, raw_server

pytestmark = pytest.mark.usefixtures("fast_clock")

KEY = "sk_very_secret"
PASSWORD = "p@ss word/%secret"
ENCODED_PASSWORD = "p%40ss%20word%2F%25secret"
URL = "https://sutro.test"
ONCE = RetryPolicy(attempts=1)


def proxy_of(base_url=URL, *, proxy=None, **environ):
    proxy = resolve_settings(KEY, base_url, proxy, environ=environ).proxy
    return None if proxy is None else proxy.url


# ---- which proxy


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://a.test:3128"}, "http://a.test:3128"),
        ({"https_proxy": "http://a.test:3128"}, "http://a.test:3128"),
        ({"https_proxy": "http://a.test", "HTTPS_PROXY": "http://b.test"}, "http://a.test:80"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://b.test"}, None),
        ({"HTTPS_PROXY": " http://a.test:3128\n"}, "http://a.test:3128"),
        ({"HTTPS_PROXY": "a.test:3128"}, "http://a.test:3128"),
        ({"HTTPS_PROXY": "https://a.test"}, "https://a.test:443"),
        ({"HTTPS_PROXY": "http://[2001:DB8::1]:3128/"}, "http://[2001:db8::1]:3128"),
        ({"HTTPS_PROXY": "http://user:secret@a.test:3128"}, "http://a.test:3128"),
        ({"ALL_PROXY": "http://a.test"}, "http://a.test:80"),
        ({"all_proxy": "http://a.test", "HTTPS_PROXY": "http://b.test"}, "http://b.test:80"),
        ({"HTTP_PROXY": "http://a.test"}, None),
        ({"HTTPS_PROXY": " "}, None),
    ],
)
def test_proxy_from_environment(environ, expected):
    assert proxy_of(**environ) == expected


@pytest.mark.parametrize(
    ("base_url", "excluded", "is_used"),
    [
        (URL, "sutro.test", False),
        (URL, "SUTRO.test", False),
        (URL, ".sutro.test", False),
        (URL, "test", False),
        (URL, "*.test", False),
        (URL, "*", False),
        (URL, " a.test , sutro.test ", False),
        (URL, "sutro.test:443", False),
        (URL, "sutro.test:444", True),
        (URL, "ro.test", True),
        (URL, "a.sutro.test", True),
        (URL, "", True),
        (URL, ",", True),
        ("https://sutro.test:8443", "sutro.test:8443", False),
        ("https://10.1.2.3", "10.0.0.0/8", False),
        ("https://10.1.2.3", "10.1.2.3", False),
        ("https://11.1.2.3", "10.0.0.0/8", True),
        ("https://[2001:db8::1]", "2001:db8::/32", False),
        ("https://sutro.test", "10.0.0.0/8", True),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_accepts_hosts_domains_and_networks(base_url, excluded, is_used, name):
    environ = {"HTTPS_PROXY": "http://a.test", name: excluded}
    assert proxy_of(base_url, **environ) == ("http://a.test:80" if is_used else None)
    # The argument takes precedence over the environment.
    assert proxy_of(base_url, proxy="http://b.test", **environ) == "http://b.test:80"


@pytest.mark.parametrize(
    "base_url",
    ["https://localhost:8443", "https://127.0.0.1", "https://127.9.9.9", "https://[::1]"],
)
def test_loopback_bypasses_environment_proxy(base_url):
    assert proxy_of(base_url, HTTPS_PROXY="http://a.test", ALL_PROXY="http://a.test") is None
    assert proxy_of(base_url, proxy="http://b.test") == "http://b.test:80"


def test_plain_http_bypasses_proxy():
    environ = {"HTTPS_PROXY": "http://a.test", "HTTP_PROXY": "http://a.test"}
    assert proxy_of("http://127.0.0.1:8000", proxy="http://b.test", **environ) is None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://bob:secret@a.test:99999", "is not the URL of a proxy"),
        ("http://bob:secret@a.test:port", "is not the URL of a proxy"),
        ("http://bob:secret@", "is not the URL of a proxy"),
        ("http://bob:secret@a b.test", "is not the URL of a proxy"),
        ("http://bob:secret@a.test\n.evil", "is not the URL of a proxy"),
        ("http://bob:secret@[::1", "is not the URL of a proxy"),
        ("socks5://bob:secret@a.test", "socks5 proxies are not supported"),
        ("ftp://bob:secret@a.test", "ftp proxies are not supported"),
    ],
)
def test_invalid_proxy_is_rejected_without_showing_password(url, message):
    with pytest.raises(ConfigurationError, match=rf"^proxy .*{message}") as caught:
        proxy_of(proxy=url)
    with pytest.raises(ConfigurationError, match=rf"^HTTPS_PROXY .*{message}") as caught_too:
        proxy_of(HTTPS_PROXY=url)
    for error in (caught.value, caught_too.value):
        assert "secret" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("proxy", ["", " ", 5, b"http://a.test", ["a.test"]], ids=repr)
def test_proxy_argument_must_be_url(proxy):
    with pytest.raises(ConfigurationError, match="proxy must be the URL of a proxy"):
        proxy_of(proxy=proxy)


def test_credentials_are_not_in_repr():
    settings = resolve_settings(KEY, URL, f"http://bob:{ENCODED_PASSWORD}@a.test", environ={})
    assert settings.proxy.credentials == ("bob", PASSWORD)
    assert "bob" not in repr(settings)
    assert "secret" not in repr(settings)


async def test_proxy_and_session_are_mutually_exclusive(monkeypatch):
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ConfigurationError, match="set the proxy on the session"):
            SutroClient(KEY, proxy="http://a.test", session=session)
        monkeypatch.setenv("HTTPS_PROXY", "http://a.test")
        client = SutroClient(KEY, base_url=URL, session=session)
        assert client._manager.transport._proxy is None
        # Such as that of a session whose connector speaks SOCKS.
        monkeypatch.setenv("HTTPS_PROXY", "socks5://a.test")
        SutroClient(KEY, base_url=URL, session=session)


# ---- through a real one


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def trusted(authority, monkeypatch, tmp_path):
    """Lets every client of this test trust the authority, through SSL_CERT_FILE."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))


@asynccontextmanager
async def tls_server(authority, *script, name="sutro.test"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    async with raw_server(*(script or (raw_response(SUCCEEDED),)), ssl_context=context) as server:
        yield server


@pytest.mark.parametrize("how", ["argument", "environment"])
@pytest.mark.parametrize("credentials", [None, f"bob:{PASSWORD}"], ids=["open", "credentials"])
async def test_https_goes_through_proxy(authority, trusted, monkeypatch, how, credentials):
    user = "" if credentials is None else f"bob:{ENCODED_PASSWORD}@"
    async with (
        tls_server(authority) as server,
        forward_proxy(server.port, credentials=credentials) as proxy,
    ):
        url = f"http://{user}127.0.0.1:{proxy.port}"
        options = {"proxy": url} if how == "argument" else {}
        if how == "environment":
            monkeypatch.setenv("HTTPS_PROXY", url)
        async with SutroClient(KEY, base_url=URL, retry=ONCE, **options) as client:
            assert (await client.get_job_status("job-1")).status is JobStatus.SUCCEEDED
            assert (await client.wait_for_job("job-1")).is_terminal
    assert proxy.connects == ["sutro.test:443"]  # one tunnel is kept
    assert f"Authorization: Key {KEY}".encode() in server.requests[0]
    # The key is for the service alone, and the password for the proxy alone.
    assert KEY.encode() not in b"".join(proxy.heads) + proxy.tunnelled
    assert b"Proxy-Authorization" not in server.requests[0]


async def test_no_proxy_is_honoured(authority, trusted, monkeypatch):
    async with tls_server(authority, name="127.0.0.1") as server, forward_proxy(1) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        async with SutroClient(KEY, base_url=server.url, retry=ONCE) as client:
            assert (await client.get_job_status("job-1")).status is JobStatus.SUCCEEDED
    assert not proxy.heads


async def test_passed_in_session_is_not_changed(authority, monkeypatch):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with tls_server(authority, name="127.0.0.1") as server, forward_proxy(1) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.port}")
        connector = aiohttp.TCPConnector(ssl=context)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            SutroClient(KEY, base_url=server.url, session=session) as client,
        ):
            assert (await client.get_job_status("job-1")).status is JobStatus.SUCCEEDED
    assert not proxy.heads


REFUSALS = [401, 403, 407]


@pytest.mark.parametrize("status", [*REFUSALS, 404, 502, 503, 504])
async def test_refusing_proxy_is_named(status):
    async with forward_proxy(1, status=status) as proxy:
        url = f"http://bob:{ENCODED_PASSWORD}@127.0.0.1:{proxy.port}"
        retry = RetryPolicy(attempts=3, initial=0)
        async with SutroClient(KEY, base_url=URL, proxy=url, retry=retry) as client:
            with pytest.raises(APIConnectionError) as caught:
                await client.get_job_status("job-1")
    assert (
        str(caught.value)
        == f"job 'job-1': the proxy 127.0.0.1:{proxy.port} responded with {status}"
    )
    assert caught.value.retryable is (status not in REFUSALS)
    assert len(proxy.heads) == (1 if status in REFUSALS else 3)


@pytest.mark.parametrize("status", REFUSALS)
async def test_refusing_proxy_ends_wait(status):
    async with forward_proxy(1, status=status) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        async with SutroClient(KEY, base_url=URL, proxy=url) as client:
            with pytest.raises(APIConnectionError, match=f"responded with {status}"):
                await client.wait_for_job("job-1")
    assert len(proxy.heads) == 1


@pytest.mark.parametrize("status", REFUSALS)
async def test_refusal_by_proxy_of_session_is_not_retried(status):
    async with forward_proxy(1, status=status) as proxy:
        async with (
            aiohttp.ClientSession(proxy=f"http://127.0.0.1:{proxy.port}") as session,
            SutroClient(KEY, base_url=URL, session=session) as client,
        ):
            with pytest.raises(APIConnectionError) as caught:
                await client.get_job_status("job-1")
    assert not caught.value.retryable
    assert len(proxy.heads) == 1


def texts_of(error):
    """Return all texts of an error and its causes."""
    yield "".join(traceback.format_exception(error))
    while error is not None:
        yield f"{error} {error!r} {vars(error)} {error.args}"
        error = error.__cause__ or error.__context__


async def connect_to_nothing(reader, writer):
    writer.close()


@pytest.mark.parametrize(
    "failure", ["refused", "407", "502", "closed", "timeout", "no TLS at target", "untrusted"]
)
async def test_credentials_are_not_in_errors_or_logs(authority, failure, unused_tcp_port, caplog):
    caplog.set_level(logging.DEBUG)
    secrets = (PASSWORD, ENCODED_PASSWORD, "Ym9iOnBAc3Mgd29yZC8lc2VjcmV0", KEY)
    status = int(failure) if failure.isdigit() else 200

    async def hang(reader, writer):
        await asyncio.sleep(60)

    script = {"timeout": hang, "closed": connect_to_nothing}.get(failure, raw_response(SUCCEEDED))
    async with raw_server(script) as plain, tls_server(authority) as tls:
        target = tls.port if failure == "untrusted" else plain.port
        async with forward_proxy(target, status=status) as proxy:
            port = unused_tcp_port if failure == "refused" else proxy.port
            url = f"http://bob:{ENCODED_PASSWORD}@127.0.0.1:{port}"
            poll = PollPolicy(initial=0.01, max_outage=0.05)
            options = {"proxy": url, "retry": ONCE, "poll": poll, "timeout": 0.2}
            async with SutroClient(KEY, base_url=URL, **options) as client:
                for call in (client.get_job_status, client.wait_for_job):
                    with pytest.raises(APIConnectionError) as caught:
                        await call("job-1")
                    assert f"proxy 127.0.0.1:{port}" in str(caught.value)
                    logging.getLogger("sutro_async").error("failed", exc_info=caught.value)
                    for text in (*texts_of(caught.value), caplog.text):
                        assert not any(secret in text for secret in secrets)
    if failure == "timeout":
        assert isinstance(caught.value, APITimeoutError)


# ---- certificates


async def test_ssl_cert_file_is_trusted(authority, trusted):
    async with tls_server(authority, name="127.0.0.1") as server:
        async with SutroClient(KEY, base_url=server.url, retry=ONCE) as client:
            assert (await client.get_job_status("job-1")).status is JobStatus.SUCCEEDED


async def test_ssl_cert_dir_is_honoured(authority, monkeypatch, tmp_path):
    monkeypatch.setenv(
        "SSL_CERT_DIR", str(tmp_path)
    )  # without the hashed names, no certificate is trusted
    async with tls_server(authority, name="127.0.0.1") as server:
        async with SutroClient(KEY, base_url=server.url, retry=ONCE) as client:
            with pytest.raises(APIConnectionError, match="certificate"):
                await client.get_job_status("job-1")


async def test_authority_is_not_trusted_without_ssl_cert_file(authority):
    async with tls_server(authority, name="127.0.0.1") as server:
        async with SutroClient(KEY, base_url=server.url, retry=ONCE) as client:
            with pytest.raises(APIConnectionError, match="certificate"):
                await client.get_job_status("job-1")
    assert not server.requests


@pytest.mark.parametrize("content", [None, b"", b"no certificate"], ids=str)
def test_unreadable_ssl_cert_file_is_named(monkeypatch, tmp_path, content):
    path = tmp_path / "authority.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(ConfigurationError, match=r"SSL_CERT_FILE cannot be read: .*authority\.pem"):
        SutroClient(KEY)


def test_ssl_cert_file_is_ignored_for_plain_http(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    SutroClient(KEY, base_url="http://127.0.0.1:8000")


async def test_passed_in_session_uses_its_own_certificates(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    async with aiohttp.ClientSession() as session:
        SutroClient(KEY, session=session)


# ---- the hint


HINT = "SUTRO_API_URL is not set, so https://api.sutro.sh was requested"


@pytest.mark.parametrize("status", [401, 403, 404, 410, 400, 422, 429, 500, 503])
@pytest.mark.parametrize("method", ["get_job_status", "get_job"])
async def test_errors_of_wrong_deployment_hint_at_unset_url(mocked, status, method):
    path = "job-status" if method == "get_job_status" else "jobs"
    mocked.get(f"https://api.sutro.sh/{path}/job-1", status=status, payload={"detail": "no"})
    async with SutroClient(KEY, retry=ONCE) as client:
        with pytest.raises(Exception, match=f"HTTP {status}: no") as caught:
            await getattr(client, method)("job-1")
    assert (HINT in str(caught.value)) is (status in {401, 403, 404, 410})
    assert (HINT in caught.value.message) is (status in {401, 403, 404, 410})
    assert str(caught.value).endswith("its URL") is (status in {401, 403, 404, 410})


async def test_response_without_job_hints_at_unset_url(mocked):
    mocked.get("https://api.sutro.sh/jobs/job-1", payload={"job": None})
    async with SutroClient(KEY, retry=ONCE) as client:
        with pytest.raises(Exception, match=HINT):
            await client.get_job("job-1")


async def test_connection_error_hints_at_unset_url(mocked):
    mocked.get("https://api.sutro.sh/job-status/job-1", exception=ConnectionResetError("reset"))
    async with SutroClient(KEY, retry=ONCE) as client:
        with pytest.raises(APIConnectionError, match=HINT):
            await client.get_job_status("job-1")


@pytest.mark.parametrize("body", [b"<html>", b"{}"])
async def test_malformed_response_gets_no_hint(mocked, body):
    mocked.get("https://api.sutro.sh/job-status/job-1", body=body)
    async with SutroClient(KEY, retry=ONCE) as client:
        with pytest.raises(Exception, match="invalid response") as caught:
            await client.get_job_status("job-1")
    assert HINT not in str(caught.value)


@pytest.mark.parametrize("how", ["argument", "environment"])
async def test_set_url_gets_no_hint(mocked, monkeypatch, how):
    url = "https://api.sutro.sh"
    mocked.get(f"{url}/job-status/job-1", status=401, payload={"detail": "no"})
    if how == "environment":
        monkeypatch.setenv("SUTRO_API_URL", url)
    options = {"base_url": url} if how == "argument" else {}
    async with SutroClient(KEY, retry=ONCE, **options) as client:
        with pytest.raises(Exception, match=r"HTTP 401: no$"):
            await client.get_job_status("job-1")


# ---- the command


@pytest.mark.parametrize("has_option", [False, True])
def test_command_uses_proxy(monkeypatch, capsys, has_option):
    from sutro_async import cli

    async def refuse():
        async with forward_proxy(1, status=407) as proxy:
            url = f"http://user:{ENCODED_PASSWORD}@127.0.0.1:{proxy.port}"
            if not has_option:
                monkeypatch.setenv("HTTPS_PROXY", url)
            monkeypatch.setenv("SUTRO_API_KEY", KEY)
            monkeypatch.setenv("SUTRO_API_URL", URL)
            options = ["--proxy", url] if has_option else []
            status = await asyncio.to_thread(cli.main, ["status", "job-1", *options])
            return status, proxy

    status, proxy = asyncio.run(refuse())
    assert (status, proxy.connects) == (3, ["sutro.test:443"])
    errors = capsys.readouterr().err
    assert f"the proxy 127.0.0.1:{proxy.port} responded with 407" in errors
    assert not any(secret in errors for secret in (KEY, PASSWORD, ENCODED_PASSWORD))
