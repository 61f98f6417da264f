"""Shared by all tests: a clean environment, fast policies, servers, and leak checks."""

import asyncio
import gc
import inspect
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from unittest import mock

import aiohttp
import attrs
import hypothesis
import pytest
from aioresponses import aioresponses, core

from sutro_async import PollPolicy, RetryPolicy, SutroClient, cli
from sutro_async._waits import _pace
from sutro_async._waits._bulk import Sweeper
from sutro_async.testing import FakeSutro
from tests.fast_loop import FastLoop

# Importing the tests creates hardly any garbage, and collecting it takes a second or two.
gc.disable()

pytest_plugins = ["sutro_async.testing.fixtures"]

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=200)
hypothesis.settings.register_profile("local", deadline=None, max_examples=25)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

FAST_RETRY = RetryPolicy(initial=0.005, maximum=0.02)
FAST_POLL = PollPolicy(initial=0.01, maximum=0.02, max_outage=5, not_found_grace=0.1)

# uvloop counts whole milliseconds, so that a timer may seem to expire this many seconds early.
TIMER_RESOLUTION = 0.001


def pytest_addoption(parser):
    parser.addoption(
        "--loop",
        choices=["plain", "eager", "uvloop"],
        default="plain",
        help="the event loop of all tests; with eager tasks: Python 3.12 or later",
    )
    parser.addoption(
        "--bulk", action="store_true", help="read list-jobs in all batches and monitors"
    )


# Tests must not depend on these variables of the developer.
ENVIRONMENT = (
    *("SUTRO_API_KEY", "SUTRO_API_URL", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)


def pytest_configure(config):
    """Set environment and event loop of all tests, including those that start loops or threads."""
    # Once, not in a fixture for each of thousands of tests.
    environment = pytest.MonkeyPatch()
    config.add_cleanup(environment.undo)
    for name in ENVIRONMENT:
        environment.delenv(name, raising=False)
    # Tests that store something there set it to a directory of their own.
    environment.setenv("HOME", "/nonexistent")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
    kind = config.getoption("loop")
    if kind == "uvloop":
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    elif kind == "eager":

        class EagerPolicy(asyncio.DefaultEventLoopPolicy):
            def new_event_loop(self):
                loop = super().new_event_loop()
                loop.set_task_factory(asyncio.eager_task_factory)
                return loop

        asyncio.set_event_loop_policy(EagerPolicy())
    if config.getoption("bulk"):
        sweep_always()


def sweep_always():
    """Let batches and monitors of all sizes read list-jobs."""
    init = Sweeper.__init__

    def init_with_bulk(self, manager, options, schedule, pollers):
        poll = attrs.evolve(options.poll, bulk_from=options.poll.bulk_from or 1)
        init(self, manager, attrs.evolve(options, poll=poll), schedule, pollers)

    Sweeper.__init__ = init_with_bulk
    # The jobs of a fake may advance with each poll.
    _pace._LONGEST_COVER = 0.05


def pytest_asyncio_loop_factories(config, item):
    # The clock of uvloop cannot be set: there the tests run in real time.
    if "fast_clock" not in item.fixturenames or config.getoption("loop") == "uvloop":
        return {"plain": asyncio.new_event_loop}
    return {"fast": eager_fast_loop if config.getoption("loop") == "eager" else FastLoop}


def eager_fast_loop():
    loop = FastLoop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


def pytest_collection_modifyitems(config, items):
    if config.getoption("bulk"):
        skip = pytest.mark.skip(reason="its assertions are about single polls alone")
        for item in items:
            if item.get_closest_marker("single_polls"):
                item.add_marker(skip)


def pytest_collection_finish():
    """Exclude loaded modules from garbage collection, whose pauses disturb timing tests."""
    gc.collect()
    gc.freeze()
    gc.enable()


def now() -> float:
    """The time of the running event loop, in seconds."""
    return asyncio.get_running_loop().time()


@pytest.fixture
async def fast_clock(monkeypatch):
    """Run a test in an event loop that advances its clock instead of sleeping."""
    # Timelines of fake jobs use the same clock.
    monkeypatch.setattr("sutro_async.testing._server.monotonic", asyncio.get_running_loop().time)


@pytest.fixture
async def fake() -> AsyncIterator[FakeSutro]:
    async with FakeSutro() as running:
        yield running


@pytest.fixture
async def client(fake) -> AsyncIterator[SutroClient]:
    async with fake.client(retry=FAST_RETRY, poll=FAST_POLL) as opened:
        yield opened


@contextmanager
def served(fake: FakeSutro) -> Iterator[FakeSutro]:
    """Run a server in a thread, for code that runs its own event loop."""
    is_up = threading.Event()
    stop: asyncio.Event | None = None
    loop: asyncio.AbstractEventLoop | None = None

    async def serve():
        nonlocal stop, loop
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with fake:
            is_up.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    is_up.wait()
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@pytest.fixture
def service(monkeypatch) -> Iterator[FakeSutro]:
    """A server in a thread, configured in the environment."""
    with served(FakeSutro(api_key="sk_secret")) as fake:
        monkeypatch.setenv("SUTRO_API_URL", fake.url)
        monkeypatch.setenv("SUTRO_API_KEY", fake.api_key)
        yield fake


@pytest.fixture
def fast_command(monkeypatch):
    """Let the command poll every few milliseconds instead of with the default policy."""
    from sutro_async.cli import _options

    class Client(_options.SutroClient):
        def __init__(self, *args, poll, **options):
            super().__init__(*args, poll=FAST_POLL if poll == PollPolicy() else poll, **options)

    monkeypatch.setattr(_options, "SutroClient", Client)


@pytest.fixture
def run(capsys):
    """Run the command in this process; return its exit status, output and errors."""

    def run(*arguments):
        status = cli.main(arguments)
        output, errors = capsys.readouterr()
        assert "sk_secret" not in output + errors
        assert "sk_wrong" not in output + errors
        return status, output, errors

    return run


@pytest.fixture
def run_json(run):
    """Run the command in this process; return its exit status, JSON objects and errors."""

    def run_json(*arguments):
        status, output, errors = run(*arguments, "--json")
        return status, [json.loads(line) for line in output.splitlines()], errors

    return run_json


class _ClientResponse(aiohttp.ClientResponse):
    """Adds the argument that aiohttp needs since 3.14 and aioresponses 0.7.9 does not pass."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, stream_writer=mock.Mock(), **kwargs)


@pytest.fixture
def mocked(monkeypatch) -> Iterator[aioresponses]:
    """Responds to requests inside aiohttp, without a socket."""
    if "stream_writer" in inspect.signature(aiohttp.ClientResponse.__init__).parameters:
        monkeypatch.setattr(core, "ClientResponse", _ClientResponse)
    with aioresponses() as mocks:
        yield mocks


@asynccontextmanager
async def assert_no_leaks(client: SutroClient, fake: FakeSutro):
    """Check that the block leaks no task, no connection in use and no timer."""
    tasks = asyncio.all_tasks()
    timers = scheduled_timers()
    yield
    # The server shares the loop, and cancels its timers when it notices the disconnect.
    async with asyncio.timeout(1):
        while fake.in_flight:
            await asyncio.sleep(0)
    new_tasks = {task for task in asyncio.all_tasks() - tasks if not is_servers(task)}
    assert not new_tasks
    session = client._manager.transport._session
    if session is not None and session.connector is not None:
        assert not session.connector._acquired
    new_timers = [
        timer
        for timer in scheduled_timers() - timers
        if not timer.cancelled() and is_ours(timer._callback)
    ]
    assert not new_timers


def scheduled_timers() -> set[asyncio.TimerHandle]:
    """The timers of the running event loop; those of uvloop cannot be listed."""
    return set(getattr(asyncio.get_running_loop(), "_scheduled", ()))


def is_servers(task: asyncio.Task) -> bool:
    """Whether a task belongs to the server, which runs in the same loop."""
    return "RequestHandler" in repr(task.get_coro())


def is_ours(callback: object) -> bool:
    """Whether a timer may be one of the library; keep-alive timers of connections are not."""
    module = getattr(callback, "__module__", None) or ""
    # Those of `asyncio.timeout` and `asyncio.sleep`.
    is_asyncios = module in {"asyncio.timeouts", "asyncio.futures"}
    is_fakes = module.startswith("sutro_async.testing")
    return is_asyncios or (module.startswith("sutro_async") and not is_fakes)
