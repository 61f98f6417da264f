"""The examples of `docs/examples/` that scaling.md describes."""

import asyncio
import importlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import arq
import pytest
from arq.connections import RedisSettings

from sutro_async import PollPolicy

DIRECTORY = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def example(monkeypatch):
    """Imports a module of an example, and unloads it afterwards."""

    def import_example(path):
        module = DIRECTORY / path
        monkeypatch.syspath_prepend(module.parent)
        monkeypatch.delitem(sys.modules, module.stem, raising=False)
        return importlib.import_module(module.stem)

    return import_example


# ---- arq_worker

with_arq = pytest.mark.filterwarnings(
    "ignore:Call to deprecated close:DeprecationWarning"
)  # its own


@pytest.fixture
def redis_url(tmp_path):
    program = shutil.which("redis-server")
    if program is None and not os.environ.get("CI"):
        pytest.skip("no redis-server is installed here")
    assert program, "no redis-server is installed"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert any("Ready to accept connections" in line for line in server.stdout)
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.fixture
async def queue(redis_url, monkeypatch, fake):
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("SUTRO_API_URL", fake.url)
    monkeypatch.setenv("SUTRO_API_KEY", fake.api_key)
    opened = await arq.create_pool(RedisSettings.from_dsn(redis_url))
    yield opened
    await opened.aclose(close_connection_pool=True)


def make_worker(module, **options):
    settings = {k: v for k, v in vars(module.WorkerSettings).items() if not k.startswith("_")}
    quick = {"handle_signals": False, "poll_delay": 0.05, "burst": True}
    return arq.Worker(**settings | quick | options)


async def run(worker):
    await worker.main()
    await worker.close()


@with_arq
async def test_waits_run_through_queue(example, queue, fake, capsys, monkeypatch):
    worker, enqueue = example("arq_worker/worker.py"), example("arq_worker/enqueue.py")
    quick = PollPolicy(initial=0.01, maximum=0.02, not_found_grace=0)
    monkeypatch.setattr(worker, "SutroClient", lambda: fake.client(poll=quick))
    fake.add_job("job-1", timeline=["queued", "running", "succeeded"])
    fake.add_job("job-2", timeline=["running", "failed"], failure_reason="no GPU")
    enqueuing = asyncio.create_task(enqueue.main(["job-1", "job-2", "nope"]))
    while await queue.zcard(arq.constants.default_queue_name) < 3:
        await asyncio.sleep(0.01)
    await run(make_worker(worker))
    await enqueuing
    assert capsys.readouterr().out.splitlines() == [
        "job-1 succeeded ",
        "job-2 failed no GPU",
        "job 'nope': HTTP 404: No job found with ID nope",
    ]


@with_arq
async def test_long_wait_is_split_into_slices(example, queue, fake, monkeypatch):
    worker = example("arq_worker/worker.py")
    monkeypatch.setattr(worker, "SLICE", 0.1)
    fake.add_job("job-1", timeline=[("running", 0.5), "succeeded"])
    job = await queue.enqueue_job("wait_for_job", "job-1")
    await run(make_worker(worker))
    assert (await job.result()).status == "succeeded"
    assert (await job.result_info()).job_try > 1


@with_arq
async def test_wait_continues_in_another_worker(example, queue, fake):
    worker = example("arq_worker/worker.py")
    fake.add_job("job-1", timeline=["running"])
    job = await queue.enqueue_job("wait_for_job", "job-1")
    first = make_worker(worker)
    running = asyncio.create_task(first.main())
    while not fake.requests:
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await first.close()
    assert await job.result_info() is None
    fake.set_status("job-1", "succeeded")
    await run(make_worker(worker))
    assert (await job.result()).status == "succeeded"
