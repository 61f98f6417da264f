"""The client as a whole: its life cycle, options and clones."""

import asyncio
import copy
import enum
import pickle
from collections import UserString
from pathlib import Path

import aiohttp
import pytest

from sutro_async import (
    ClientStateError,
    ConfigurationError,
    JobMonitor,
    JobStatus,
    PollPolicy,
    RateLimitError,
    RetryPolicy,
    ServerError,
    SutroClient,
)
from tests.conftest import TIMER_RESOLUTION, assert_no_leaks

KEY = "sk_very_secret"


# ---- construction


async def test_client_works_with_both_dialects_and_prefixes(fake):
    fake.add_job("job-1")
    for base_url in (fake.url, f"{fake.url}/v1", f"{fake.url}/v1/"):
        async with SutroClient("sk_test", base_url=base_url) as client:
            assert (await client.get_job_status("job-1")).status is JobStatus.SUCCEEDED
            assert (await client.get_job("job-1")).status is JobStatus.SUCCEEDED
            assert client.base_url == f"{fake.url}/v1"


async def test_key_and_url_come_from_environment(fake, monkeypatch):
    monkeypatch.setenv("SUTRO_API_KEY", fake.api_key)
    monkeypatch.setenv("SUTRO_API_URL", fake.url)
    fake.add_job("job-1")
    async with SutroClient() as client:
        assert (await client.get_job("job-1")).job_id == "job-1"


def test_key_is_not_in_repr_and_not_copied():
    client = SutroClient(KEY)
    assert repr(client) == "<SutroClient https://api.sutro.sh>"
    assert KEY not in str(client)
    for copier in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            copier(client)


@pytest.mark.parametrize("session", ["x", 5, aiohttp.TCPConnector])
def test_invalid_session_is_rejected(session):
    with pytest.raises(ConfigurationError, match=r"must be an aiohttp\.ClientSession"):
        SutroClient(KEY, session=session)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), "30", True, None, 10**400])
def test_invalid_timeout_is_rejected(timeout):
    with pytest.raises(ConfigurationError, match="timeout must be"):
        SutroClient(KEY, timeout=timeout)


@pytest.mark.parametrize("option", [{"retry": 3}, {"poll": 1.0}, {"retry": PollPolicy()}])
def test_policy_of_wrong_type_is_rejected(option):
    with pytest.raises(ConfigurationError, match=r"must be a (Retry|Poll)Policy"):
        SutroClient(KEY, **option)
    with pytest.raises(ConfigurationError, match=r"must be a (Retry|Poll)Policy"):
        SutroClient(KEY).with_options(**option)


@pytest.mark.parametrize(
    ("job_id", "error"),
    [
        *((job_id, ValueError) for job_id in ("", ".", "..", "a\nb", "a\0", "\ud800")),
        *((job_id, TypeError) for job_id in (7, None, b"job", ["job-1"], True)),
    ],
    ids=repr,
)
async def test_invalid_id_is_rejected_by_every_call_before_any_request(fake, client, job_id, error):
    async with JobMonitor(client) as monitor:
        for call in (client.get_job_status, client.get_job, client.wait_for_job, monitor.wait):
            with pytest.raises(error, match="job id"):
                await call(job_id)
        for watch in (client.watch_job, monitor.watch):
            with pytest.raises(error, match="job id"):
                watch(job_id)
        for collect in (client.get_job_statuses, client.get_jobs, client.wait_for_jobs):
            with pytest.raises(error, match="job id"):
                await collect(["job-1", job_id])
        with pytest.raises(error, match="job id"):
            client.as_completed(["job-1", job_id])
    assert not fake.requests


# ---- life cycle


def test_client_can_be_created_without_event_loop():
    client = SutroClient(KEY)
    asyncio.run(client.aclose())


async def test_after_closing_every_use_raises(fake):
    async with fake.client() as client:
        pass
    for use in (
        lambda: client.get_job_status("job-1"),
        lambda: client.get_job("job-1"),
        lambda: client.wait_for_job("job-1"),
        lambda: anext(client.watch_job("job-1")),
        client.__aenter__,
        lambda: client.with_options().get_job("job-1"),
    ):
        with pytest.raises(ClientStateError, match="closed"):
            await use()
    assert not fake.requests


async def test_closing_is_idempotent(fake):
    client = fake.client()
    fake.add_job("job-1")
    await client.get_job("job-1")
    await client.aclose()
    await client.aclose()
    async with fake.client() as other:
        await other.aclose()


async def test_closing_closes_connections(fake):
    fake.add_job("job-1")
    client = fake.client()
    await client.get_job("job-1")
    session = client._manager.transport._session
    async with assert_no_leaks(client, fake):
        await client.aclose()
    assert session.closed


async def test_cancelled_close_still_closes_connections(fake):
    fake.add_job("job-1")
    client = fake.client()
    await client.get_job("job-1")

    async def ignore_cancellation():
        with client._manager.lifecycle.operation():
            for _ in range(3):
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    continue

    stubborn = asyncio.create_task(ignore_cancellation())
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await client.aclose()
    assert client._manager.transport._session.closed
    await stubborn


def test_use_from_another_event_loop_raises():
    client = SutroClient(KEY, base_url="http://127.0.0.1:1", retry=RetryPolicy(attempts=1))

    async def use():
        with pytest.raises(ConnectionError):
            await client.get_job("job-1")

    async def use_client():
        await use()
        await client.aclose()
        await client.aclose()

    async def use_elsewhere():
        for call in (client.get_job, client.get_job_status, client.wait_for_job):
            with pytest.raises(ClientStateError, match="event loop"):
                await call("job-1")
        for call in (client.__aenter__, client.aclose):
            with pytest.raises(ClientStateError, match="event loop"):
                await call()

    with asyncio.Runner() as runner:
        runner.run(use())
        asyncio.run(use_elsewhere())
        # The failed attempts had no effect.
        runner.run(use_client())
        asyncio.run(client.aclose())


async def test_passed_in_session_stays_open(fake):
    fake.add_job("job-1")
    async with aiohttp.ClientSession() as session:
        async with fake.client(session=session) as client:
            await client.get_job("job-1")
        async with fake.client(session=session) as client:
            await client.get_job("job-1")


async def test_passed_in_session_is_traced(fake):
    fake.add_job("job-1")
    seen = []

    async def on_end(session, context, params):
        seen.append(params.response.status)

    config = aiohttp.TraceConfig()
    config.on_request_end.append(on_end)
    async with aiohttp.ClientSession(trace_configs=[config]) as session:
        async with fake.client(session=session) as client:
            await client.get_job("job-1")
    assert seen == [200]


# ---- clones


async def test_clone_shares_connections_limits_and_key(fake):
    fake.add_job("job-1")
    fake.fail_next(6, delay=0.02)
    async with fake.client(max_concurrency=2) as client:
        clones = [client, client.with_options(timeout=5), client.with_options().with_options()]
        await asyncio.gather(*(clone.get_job("job-1") for clone in clones for _ in range(2)))
    assert fake.max_in_flight == 2


async def test_clone_shares_pause_and_another_client_does_not(fake):
    fake.add_job("job-1")
    fake.fail_next(1, status=429, headers={"Retry-After": "0.2"})
    once = RetryPolicy(attempts=1)
    async with fake.client(retry=once) as client, fake.client() as other:
        with pytest.raises(RateLimitError):
            await client.get_job("job-1")
        await other.get_job("job-1")
        await client.with_options(timeout=5).get_job("job-1")
    first, others, clones = (request.time for request in fake.requests)
    assert others - first < 0.1
    assert clones - first >= 0.2 - TIMER_RESOLUTION


async def test_closing_clone_keeps_connections_open(fake):
    fake.add_job("job-1")
    async with fake.client() as client:
        async with client.with_options() as clone:
            await clone.get_job("job-1")
        await client.get_job("job-1")
        await clone.get_job("job-1")


async def test_clone_overrides_given_options_only(fake):
    fake.fail_next(9, status=500)
    async with fake.client(retry=RetryPolicy(attempts=1)) as client:
        clone = client.with_options(retry=RetryPolicy(attempts=3, initial=0))
        with pytest.raises(ServerError):
            await clone.get_job("job-1")
        assert len(fake.requests) == 3
        with pytest.raises(ServerError):
            await clone.with_options(timeout=1).get_job("job-1")
        assert len(fake.requests) == 6
        with pytest.raises(ServerError):
            await client.get_job("job-1")
        assert len(fake.requests) == 7


def test_clone_with_invalid_option_is_rejected():
    with pytest.raises(ConfigurationError, match="timeout must be"):
        SutroClient(KEY).with_options(timeout=0)


async def test_clone_keeps_class_and_state(fake):
    class Client(SutroClient):
        colour = "blue"

    client = Client(KEY)
    client.colour = "red"
    clone = client.with_options(timeout=1)
    assert type(clone) is Client
    assert clone.colour == "red"


async def test_packaged_fixtures(fake_sutro, sutro_client):
    fake_sutro.add_job("job-1", ["running", "succeeded"])
    async with asyncio.timeout(1):
        assert (await sutro_client.wait_for_job("job-1")).is_terminal


class Jobs(str, enum.Enum):  # noqa: UP042 - unlike a StrEnum, its text is not its value
    NIGHTLY = "nightly"


class StrJobs(enum.StrEnum):
    NIGHTLY = "nightly"


class Masked(str):
    """A str whose `str()` hides its characters, and which equals no other."""

    __slots__ = ()

    def __str__(self):
        return "***"

    __repr__ = __str__

    def __format__(self, spec):
        return "***"

    def __eq__(self, other):
        return self is other

    __hash__ = object.__hash__


@pytest.mark.parametrize("job_id", [Jobs.NIGHTLY, StrJobs.NIGHTLY, Masked("nightly")], ids=type)
async def test_str_subclass_as_job_id_is_used_by_its_characters(fake, job_id):
    fake.add_job("nightly")
    async with fake.client() as client, JobMonitor(client) as monitor:
        reports = [
            await client.get_job_status(job_id),
            await client.wait_for_job(job_id),
            await monitor.wait(job_id),
            monitor.latest(job_id),
            *[report async for report in client.watch_job(job_id)],
            *[report async for report in monitor.watch(job_id)],
        ]
        for stream in (
            client.as_completed([job_id]),
            client.watch_jobs([job_id]),
            monitor.watch_jobs([job_id]),
        ):
            reports += [each.result() async for each in stream]
        assert {(report.job_id, type(report.job_id)) for report in reports} == {("nightly", str)}
        assert (await client.get_job(job_id)).job_id == "nightly"
        for outcomes in (
            await client.get_jobs([job_id, "nightly"]),
            await client.get_job_statuses([job_id, "nightly"]),
            await client.wait_for_jobs([job_id, "nightly"]),
        ):
            assert list(outcomes) == ["nightly"]
            assert type(next(iter(outcomes))) is str
    assert {request.path.rpartition("/")[2] for request in fake.requests} == {"nightly"}


def text_enum(text):
    return enum.Enum("Text", {"TEXT": text}, type=str).TEXT


@pytest.mark.parametrize("make", [text_enum, Masked])
async def test_str_subclass_as_key_and_url_is_used_by_its_characters(fake, make):
    fake.add_job("job-1")
    async with SutroClient(make(fake.api_key), base_url=make(fake.url)) as client:
        assert client.base_url == f"{fake.url}/v1"
        assert (await client.get_job("job-1")).job_id == "job-1"


@pytest.mark.parametrize(
    "job_id", [b"job-1", bytearray(b"job-1"), Path("job-1"), UserString("job-1"), 5, None]
)
async def test_job_id_of_another_type_raises_type_error(fake, job_id):
    async with fake.client() as client, JobMonitor(client) as monitor:
        for call in (
            *(client.get_job_status, client.get_job, client.wait_for_job),
            *(client.watch_job, monitor.wait, monitor.watch, monitor.latest),
        ):
            with pytest.raises(TypeError, match="a job id must be a string"):
                await call(job_id)
        for call in (
            *(client.get_jobs, client.get_job_statuses, client.wait_for_jobs),
            *(client.as_completed, client.watch_jobs, monitor.watch_jobs),
        ):
            with pytest.raises(TypeError, match="a job id must be a string"):
                await call([job_id])
    assert not fake.requests
