"""Shared by the tests with faults: fast polling, and leak checks."""

import asyncio
import gc
import logging
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sutro_async import PollPolicy, RetryPolicy, SutroClient
from tests.chaos._hostile import HostileServer
from tests.conftest import is_ours

KEY = "sk_very_secret_key"

# Seconds; longer than any delay of a busy machine, since some promises depend on it.
TIMEOUT = 1.5
# Ten tries take longer than the 20 ms for which one fault refuses connections.
FAST_RETRY = RetryPolicy(attempts=10, initial=0.001, maximum=0.1)
FAST_POLL = PollPolicy(initial=0.002, maximum=0.01, max_outage=60, not_found_grace=0)


def make_client(server: HostileServer, **options) -> SutroClient:
    options = {"timeout": TIMEOUT, "retry": FAST_RETRY, "poll": FAST_POLL, **options}
    return SutroClient(KEY, base_url=server.url, **options)


def open_files() -> int:
    """The number of open file descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@asynccontextmanager
async def assert_no_leaks():
    """Check that the block leaks no task, no timer and no file descriptor."""
    loop = asyncio.get_running_loop()
    tasks, timers, files = asyncio.all_tasks(), set(loop._scheduled), open_files()
    yield
    gc.collect()
    async with asyncio.timeout(5):
        # A closed socket is released one or two iterations of the event loop later.
        while asyncio.all_tasks() - tasks - {asyncio.current_task()} or open_files() > files:
            await asyncio.sleep(0.001)
    left = [t for t in set(loop._scheduled) - timers if not t.cancelled() and is_ours(t._callback)]
    assert not left


@pytest.fixture(autouse=True, scope="session")
def quick_garbage_collection():
    """Exclude the objects of the imports from the collections that look for leaks."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def quiet():
    """Suppress thousands of expected warnings, which pytest would capture."""
    logger = logging.getLogger("sutro_async")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)
