"""The router in a process of its own, as in production, and signals that stop it."""

import asyncio
import contextlib
import re
import signal
import sys
import time

import httpx
import pytest


@pytest.fixture
def program(fake, tmp_path):
    """A program that serves jobs of the fake, as in production."""
    path = tmp_path / "program.py"
    path.write_text(
        "import sys\n"
        "import uvicorn\n"
        "from fastapi import FastAPI\n"
        "from starlette.middleware.base import BaseHTTPMiddleware\n"
        "from sutro_async import PollPolicy, SutroClient\n"
        "from sutro_async.fastapi import jobs_router, sutro_lifespan\n"
        "def client():\n"
        f"    return SutroClient('sk_test', base_url={fake.url!r}, poll=PollPolicy(initial=0.05))\n"
        "async def pass_on(request, call_next):\n"
        "    return await call_next(request)\n"
        "app = FastAPI(lifespan=sutro_lifespan(client))\n"
        "app.include_router(jobs_router())\n"
        "if 'middleware' in sys.argv:\n"
        "    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)\n"
        "uvicorn.run(app, port=0)\n"
    )
    return path


@contextlib.asynccontextmanager
async def running(program, *arguments):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", program, *arguments),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    log = []
    try:
        while not (log and "Uvicorn running" in log[-1]):
            log.append((await process.stderr.readline()).decode())
            assert log[-1], log
        yield process, log, re.search(r"http://127.0.0.1:(\d+)", log[-1])[0]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_signal_ends_streams_and_long_polls_at_once(fake, program):
    fake.add_job("job-1", ["running"])
    # Side by side, since most of the time goes into starting the processes.
    await asyncio.gather(
        check_immediate_shutdown(fake, program, signal.SIGTERM, "middleware"),
        check_immediate_shutdown(fake, program, signal.SIGINT),
    )


async def check_immediate_shutdown(fake, program, number, *arguments):
    missing = f"missing-{number}"
    async with (
        running(program, *arguments) as (process, log, url),
        httpx.AsyncClient(base_url=url, timeout=10) as browser,
        browser.stream("GET", "/jobs/job-1/events") as stream,
    ):
        lines = stream.aiter_lines()
        while not (await anext(lines)).startswith("data:"):
            pass
        waiting = asyncio.create_task(browser.get("/jobs/job-1/wait?timeout=60"))
        unseen = asyncio.create_task(browser.get(f"/jobs/{missing}/wait?timeout=60"))
        async with asyncio.timeout(5):
            while not any(missing in request.path for request in fake.requests):
                await asyncio.sleep(0.005)
        began = time.monotonic()
        process.send_signal(number)
        rest = [line async for line in lines]
        assert (await waiting).status_code == 202
        assert (await unseen).status_code == 503
        assert (await unseen).headers["retry-after"] == "1"
        _, errors = await process.communicate()
        assert time.monotonic() - began < 2
    assert "event: problem" in rest
    assert "id: end" not in rest
    log.append(errors.decode())
    assert "Finished server process" in log[-1]
    assert not re.search("Traceback|ERROR|Warning", "".join(log)), "".join(log)
