"""The official SDK against `FakeSutro`.

It depends on pandas, polars and pyarrow, so it has an environment of its own, which `.ci/run`
makes.
"""

import asyncio
import threading
from contextlib import contextmanager
from importlib.util import find_spec
from inspect import signature

import pytest

from sutro_async.testing import FakeSutro

pytestmark = pytest.mark.skipif(
    find_spec("sutro") is None, reason="the official SDK is not installed here; .ci/run has it"
)


@contextmanager
def served(fake):
    """Run a server in a thread, since the SDK is synchronous."""
    is_up, is_over = threading.Event(), threading.Event()

    async def serve():
        async with fake:
            is_up.set()
            await asyncio.to_thread(is_over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert is_up.wait(10)
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.fixture
def fake(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # the SDK makes files there
    fake = FakeSutro(api_key="sk_secret")
    with served(fake):
        yield fake


@pytest.fixture
def sdk(fake):
    from sutro import Sutro

    return Sutro(api_key=fake.api_key, api_url=fake.url)


def test_sdk_has_documented_api(sdk):
    signature(sdk.infer).bind(["row"], system_prompt="Classify.", stay_attached=False)
    signature(sdk.await_job_completion).bind("job-1", timeout=7200)
    signature(sdk.get_job_results).bind("job-1")
    signature(sdk.cancel_job).bind("job-1")


def test_sdk_lists_jobs_of_fake(fake, sdk):
    for number in range(120):
        fake.add_job(f"job-{number}", ["running"])
    fake.add_job("newest", ["failed"], failure_reason="no GPU")
    jobs = sdk.list_jobs()
    assert [job["job_id"] for job in jobs] == ["newest", *(f"job-{n}" for n in range(119, -1, -1))]
    assert [job["status"] for job in jobs[:2]] == ["FAILED", "RUNNING"]
    assert jobs[0]["failure_reason"] == {"message": "no GPU"}
    assert [request.path for request in fake.requests] == ["/v1/list-jobs"]


def test_sdk_reports_failing_list(fake, sdk):
    fake.fail_next(status=403, endpoint="list-jobs")
    assert sdk.list_jobs() is None
    assert fake.faults_left == 0


def test_sdk_reads_statuses_of_fake(fake, sdk):
    fake.add_job("job-1", ["running", "succeeded"])
    assert [sdk.get_job_status("job-1") for _ in range(2)] == ["RUNNING", "SUCCEEDED"]
