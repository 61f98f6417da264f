"""The router conforms to its OpenAPI document, as schemathesis checks."""

import asyncio
import threading
from types import SimpleNamespace

import hypothesis
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from sutro_async import PollPolicy, RetryPolicy
from sutro_async.fastapi import jobs_router, sutro_lifespan
from sutro_async.testing import FakeSutro
from tests.asgi_server import serve

FAULTS = [
    {"status": 401},
    {"status": 403},
    {"status": 404},
    {"status": 410},
    {"status": 418},
    {"status": 429},
    {"status": 429, "headers": {"Retry-After": "99"}},
    {"status": 500},
    {"status": 503, "headers": {"Retry-After": "0.01"}},
    {"status": 302, "headers": {"Location": "https://elsewhere.example/"}},
    {"body": b"<html>"},
    {"body": b'{"job_status": 7}'},
    {"truncate": True},
    {"reset": True},
    {"disconnect": True},
    {"delay": 1},
]


# Fewer examples than elsewhere: each makes at least one request.
EXAMPLES = hypothesis.settings().max_examples // 5

EXCLUDED = [
    not_a_server_error,  # a failure of the service is a 502, 503 or 504, as the document says
    positive_data_acceptance,  # no schema says which characters Python takes for printable
]


async def serve_until(stopped, fake, started):
    def client():
        return fake.client(
            timeout=0.1,
            retry=RetryPolicy(attempts=2, initial=0.001, maximum=0.001, max_retry_after=0.01),
            poll=PollPolicy(initial=0.001, maximum=0.01, max_outage=0.05, not_found_grace=0.01),
        )

    async def visible():
        async def visible_jobs(job_ids):
            return {job_id for job_id in job_ids if "hidden" not in job_id}

        return visible_jobs

    app = FastAPI(lifespan=sutro_lifespan(client))
    app.include_router(jobs_router(visible))
    async with fake, serve(app) as server:
        started(asyncio.get_running_loop(), f"{server.url}/openapi.json")
        await stopped.wait()


@pytest.fixture(scope="module")
def backend():
    """The router on a server and a fake service, both in a thread of their own."""
    fake, stopped, running = FakeSutro(), asyncio.Event(), threading.Event()
    made = SimpleNamespace(fake=fake)

    def started(loop, url):
        made.loop, made.url = loop, url
        running.set()

    fake.add_job("running-first", ["running", "running", "succeeded"])
    fake.add_job("failed", ["failed"], failure_reason={"message": "no GPU", "nested": [{}]})
    thread = threading.Thread(target=asyncio.run, args=[serve_until(stopped, fake, started)])
    thread.start()
    assert running.wait(5)
    yield made
    made.loop.call_soon_threadsafe(stopped.set)
    thread.join()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/jobs/{job_id}"),
        ("GET", "/jobs/{job_id}/status"),
        ("GET", "/jobs/{job_id}/wait"),
        ("GET", "/jobs/{job_id}/events"),
        ("GET", "/job-events"),
        ("POST", "/jobs/statuses"),
        ("GET", "/jobs"),
    ],
)
def test_responses_match_openapi_schema(backend, method, path):
    fake = backend.fake
    operation = schemathesis.openapi.from_url(backend.url)[path][method]

    @hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @hypothesis.given(
        case=operation.as_strategy(),
        job_id=st.sampled_from([None, "running-first", "failed", "missing", "hidden"]),
        fault=st.sampled_from([None, *FAULTS]),
        times=st.sampled_from([1, 2, 1000]),
    )
    def check(case, job_id, fault, times):
        if "job_id" in case.path_parameters and job_id:
            case.path_parameters["job_id"] = job_id
        fake.clear_faults()
        if fault:
            fake.fail_next(times, **fault)
        response = case.call()
        assert response.status_code != 500
        case.validate_response(response, excluded_checks=EXCLUDED)

    check()
