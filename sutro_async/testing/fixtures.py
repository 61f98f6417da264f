"""Pytest fixtures: a running fake service, and a client of it.

Opt in from a `conftest.py`: `pytest_plugins = ["sutro_async.testing.fixtures"]`. They need
pytest-asyncio.
"""

from collections.abc import AsyncIterator

import pytest_asyncio

from sutro_async import PollPolicy, RetryPolicy, SutroClient
from sutro_async.testing import FakeSutro


@pytest_asyncio.fixture
async def fake_sutro() -> AsyncIterator[FakeSutro]:
    """Run a fake service without jobs, in the dialect of the deployed one."""
    async with FakeSutro() as fake:
        yield fake


@pytest_asyncio.fixture
async def sutro_client(fake_sutro: FakeSutro) -> AsyncIterator[SutroClient]:
    """Make a client of `fake_sutro` that retries, polls and gives up within milliseconds."""
    async with fake_sutro.client(
        retry=RetryPolicy(initial=0.01, maximum=0.05),
        poll=PollPolicy(initial=0.01, maximum=0.05, not_found_grace=0.02),
    ) as client:
        yield client
