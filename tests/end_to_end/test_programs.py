"""What whole programs import and print, from start to exit."""

import json
import subprocess
import sys

import pytest

from sutro_async.testing import FakeSutro
from tests.conftest import served


def test_import_loads_no_extra_and_no_server():
    code = "import sys, json, sutro_async; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    loaded = set(json.loads(result.stdout))
    unwanted = {"fastapi", "starlette", "click", "rich", "pytest", "argparse"}
    assert not loaded & unwanted
    assert not {name for name in loaded if name.startswith("sutro_async.testing")}


def test_logging_without_handler_prints_nothing():
    code = "import logging, sutro_async;logging.getLogger('sutro_async').error('a failure')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stderr == b""


def test_fake_does_not_need_pytest():
    code = "import sys, sutro_async.testing; sys.exit('pytest' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_closing_fake_is_silent_in_development_mode():
    code = """
import asyncio, math
from sutro_async.testing import FakeSutro

async def main():
    asyncio.get_running_loop().slow_callback_duration = 10  # This machine may be busy.
    async with FakeSutro() as fake:
        fake.fail_next(delay=math.inf)
        fake.fail_next(body=b"x" * 16_000_000)
        for _ in range(2):
            address = fake.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET /jobs/a HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
            while not fake.in_flight:
                await asyncio.sleep(0)
            writer.transport.pause_reading()
            writers.append(writer)
        while fake.in_flight < 2:
            await asyncio.sleep(0)
    for writer in writers:
        writer.transport.abort()

writers = []
asyncio.run(main())
"""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("is_closed", [False, True])
def test_program_with_open_streams_exits_silently(is_closed):
    program = """
import asyncio, sys
from sutro_async import JobMonitor, PollPolicy, SutroClient

streams = []

async def step():
    poll = PollPolicy(initial=0.01, maximum=0.01)
    client = SutroClient(sys.argv[1], base_url=sys.argv[2], poll=poll)
    monitor = await JobMonitor(client).__aenter__()
    for owner, name in (client, "as_completed"), (client, "watch_jobs"), (monitor, "watch_jobs"):
        streams.append(getattr(owner, name)(["done", "endless"]))
        await anext(streams[-1])
    await client._manager.transport.close()

loop = asyncio.new_event_loop()
loop.run_until_complete(step())
for task in asyncio.all_tasks(loop):
    task.cancel()
loop.run_until_complete(asyncio.sleep(0.01))
if len(sys.argv) > 3:
    loop.close()
"""
    fake = FakeSutro()
    fake.add_job("done")
    fake.add_job("endless", ["running"])
    with served(fake):
        arguments = [fake.api_key, fake.url, *["close"][: int(is_closed)]]
        command = [sys.executable, "-c", program, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert result.stderr == ""
