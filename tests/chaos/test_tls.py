"""No key is sent to a server without a valid certificate."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest

from sutro_async import APIConnectionError, JobStatus, RetryPolicy, SutroClient
from tests.chaos._hostile import HostileServer
from tests.chaos._tls import TLS_FAULTS, client_context, good_certificate, server_context
from tests.chaos.conftest import KEY, make_client

TWICE = RetryPolicy(attempts=2, initial=0)


@asynccontextmanager
async def client_of(server):
    """Make a client that trusts the certificate authority of the tests."""
    connector = aiohttp.TCPConnector(ssl=client_context())
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        make_client(server, session=session) as client,
    ):
        yield client


def tls_server(certificate):
    return HostileServer(lambda _: "succeeded", ssl_context=server_context(certificate))


async def test_valid_certificate_is_accepted():
    """Shows that the failures below are caused by the certificates."""
    async with tls_server(good_certificate()) as server, client_of(server) as client:
        assert (await client.get_job_status("job-1")).status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("method", ["get_job_status", "get_job", "wait_for_job"])
@pytest.mark.parametrize("fault", TLS_FAULTS.values(), ids=TLS_FAULTS.keys())
async def test_invalid_certificate_is_rejected(fault, method):
    async with tls_server(fault.issue()) as server, client_of(server) as client:
        with pytest.raises(APIConnectionError, match="certificate") as caught:
            await getattr(client, method)("job-1")
    assert not caught.value.retryable
    assert server.accepted == 1
    assert not server.requests


async def test_own_session_rejects_untrusted_certificates():
    async with tls_server(good_certificate()) as server, make_client(server) as client:
        with pytest.raises(APIConnectionError, match="certificate") as caught:
            await client.get_job_status("job-1")
    assert not caught.value.retryable
    assert server.accepted == 1
    assert not server.requests


@pytest.mark.parametrize("speaks_tls", [True, False], ids=["https to http", "http to https"])
async def test_tls_on_one_side_only_is_connection_error(speaks_tls):
    context = None if speaks_tls else server_context(good_certificate())
    async with HostileServer(lambda _: "succeeded", ssl_context=context) as server:
        scheme = "https" if speaks_tls else "http"
        url = f"{scheme}://127.0.0.1:{server.port}"
        async with SutroClient(KEY, base_url=url, retry=TWICE, timeout=0.2) as client:
            with pytest.raises(APIConnectionError) as caught:
                await client.get_job_status("job-1")
        assert caught.value.retryable  # a proxy in front of the service may be starting up
        assert server.accepted >= 2
        assert not server.requests


async def test_wait_survives_aborted_handshake():
    context = server_context(good_certificate())
    async with HostileServer(lambda _: "succeeded", ssl_context=context) as server:
        opened, open_ = [], server._open

        async def open_third_connection(sock):
            opened.append(sock)
            if len(opened) < 3:
                sock.close()
            else:
                await open_(sock)

        server._open = open_third_connection
        async with client_of(server) as client:
            async with asyncio.timeout(10):
                report = await client.wait_for_job("job-1")
        assert report.status is JobStatus.SUCCEEDED
        assert server.accepted == 3
