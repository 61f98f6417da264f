"""The FastAPI integration without a server: lifespan, dependencies, problems and responses."""

import asyncio
import gc
import importlib
import json
import math
import os
import re
import signal
import sys
import threading
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import AsyncMock

import aiohttp
import attrs
import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.exceptions import FastAPIError
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

import sutro_async.fastapi
from sutro_async import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    ClientStateError,
    ConfigurationError,
    FailureReason,
    GoneError,
    InvalidResponseError,
    Job,
    JobCancelledError,
    JobFailedError,
    JobMonitor,
    JobNotFoundError,
    JobStatus,
    JobStatusReport,
    JobUnsuccessfulError,
    JobWaitTimeoutError,
    PermissionDeniedError,
    PollPolicy,
    RateLimitError,
    ServerError,
    Stream,
    SutroClient,
    SutroError,
    errors,
)
from sutro_async.fastapi import (
    FailureReasonModel,
    JobModel,
    JobStatusReportModel,
    MonitorDep,
    SutroDep,
    _problems,
    get_job_monitor,
    get_sutro_client,
    install_error_handlers,
    jobs_router,
    sutro_lifespan,
)
from sutro_async.fastapi._events import events
from sutro_async.fastapi._lifespan import _on_signal_to_stop
from tests.conftest import FAST_POLL, FAST_RETRY, TIMER_RESOLUTION, now
from tests.fast_loop import FastLoop

pytestmark = pytest.mark.usefixtures("fast_clock")

ROUTER = jobs_router()  # once for most tests, since it takes some 20 ms
FAKE = SimpleNamespace(client=None)


def make_app(fake, **options):
    app = FastAPI(
        lifespan=sutro_lifespan(lambda: fake.client(retry=FAST_RETRY, poll=FAST_POLL), **options)
    )
    app.include_router(ROUTER)
    return app


APP = make_app(FAKE)  # likewise, since its first request takes as long


@asynccontextmanager
async def browsing(app):
    """A browser of an app whose lifespan runs, without a server between them."""
    async with app.router.lifespan_context(app), browser_of(app) as browser:
        yield browser


def browser_of(app):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://app")


@pytest.fixture
async def app(fake, monkeypatch):
    monkeypatch.setattr(FAKE, "client", fake.client)
    return APP


@pytest.fixture
async def browser(app):
    async with browsing(app) as opened:
        yield opened


# ---- importing it


def test_missing_fastapi_error_names_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.setitem(sys.modules, "fastapi.sse", None)
    with pytest.raises(ImportError, match=r"pip install 'sutro-async\[fastapi\]'"):
        importlib.reload(sutro_async.fastapi)


def test_public_names_are_documented():
    names = sutro_async.fastapi.__all__
    assert names == sorted(names)
    for name in set(names) - {"SutroDep", "MonitorDep"}:
        assert getattr(sutro_async.fastapi, name).__doc__, name


# ---- the lifespan


async def test_client_and_monitor_live_as_long_as_app(fake, app):
    fake.add_job("job-1")
    async with app.router.lifespan_context(app) as state:
        client, monitor = state["sutro_client"], state["sutro_monitor"]
        assert (await monitor.wait("job-1")).is_terminal
        assert app.state.sutro_client is client
        assert app.state.sutro_monitor is monitor
    for call in (client.get_job("job-1"), monitor.wait("job-1")):
        with pytest.raises(ClientStateError):
            await call
    assert not hasattr(app.state, "sutro_client")


async def test_client_that_is_passed_in_stays_open(fake, client):
    fake.add_job("job-1")
    app = FastAPI(lifespan=sutro_lifespan(client))
    async with app.router.lifespan_context(app) as state:
        assert state["sutro_client"] is client
    assert (await client.get_job("job-1")).job_id == "job-1"


async def test_client_is_made_from_environment_when_app_starts(monkeypatch):
    app = FastAPI(lifespan=sutro_lifespan())
    with pytest.raises(ConfigurationError, match="SUTRO_API_KEY"):
        async with app.router.lifespan_context(app):
            pass
    monkeypatch.setenv("SUTRO_API_KEY", "sk_env")
    async with app.router.lifespan_context(app) as state:
        assert state["sutro_client"].base_url == "https://api.sutro.sh"


async def test_lifespan_composes_with_app_lifespan(fake):
    happened = []

    @asynccontextmanager
    async def own(app):
        happened.append(app.state.sutro_client.base_url)
        yield {"database": "open"}
        happened.append(len(app.state.sutro_monitor))

    app = FastAPI(lifespan=sutro_lifespan(fake.client, lifespan=own))
    async with app.router.lifespan_context(app) as state:
        assert state.keys() == {"sutro_client", "sutro_monitor", "database"}
    assert happened == [fake.url + "/v1", 0]


async def test_app_lifespan_can_enter_sutro_lifespan(fake):
    @asynccontextmanager
    async def nothing(app):
        yield

    @asynccontextmanager
    async def own(app):
        async with sutro_lifespan(fake.client, lifespan=nothing)(app) as state:
            yield {**state, "database": "open"}

    app = FastAPI(lifespan=own)
    async with app.router.lifespan_context(app) as state:
        assert state.keys() == {"sutro_client", "sutro_monitor", "database"}


async def test_lifespan_can_be_entered_twice(fake, app):
    async with app.router.lifespan_context(app) as outer:
        async with app.router.lifespan_context(app) as inner:
            assert app.state.sutro_client is inner["sutro_client"]
            assert inner["sutro_client"] is not outer["sutro_client"]
    assert not hasattr(app.state, "sutro_client")
    nested = FastAPI(lifespan=sutro_lifespan(fake.client, lifespan=sutro_lifespan(fake.client)))
    async with nested.router.lifespan_context(nested):
        pass
    assert not hasattr(nested.state, "sutro_monitor")


async def test_error_of_app_lifespan_is_raised(fake):
    @asynccontextmanager
    async def broken(app):
        raise LookupError("no database")
        yield

    app = FastAPI(lifespan=sutro_lifespan(fake.client, lifespan=broken))
    with pytest.raises(LookupError, match="no database"):
        async with app.router.lifespan_context(app):
            pass
    assert not hasattr(app.state, "sutro_client")


async def test_poll_and_keep_finished_are_passed_to_monitor(fake):
    fake.add_job("job-1", ["running", "succeeded"])
    app = FastAPI(
        lifespan=sutro_lifespan(
            lambda: fake.client(poll=PollPolicy(initial=60, maximum=60)),
            poll=FAST_POLL,
            keep_finished=0,
        )
    )
    async with app.router.lifespan_context(app) as state, asyncio.timeout(2):
        assert (await state["sutro_monitor"].wait("job-1")).is_terminal
        assert state["sutro_monitor"].latest("job-1") is None


# ---- signals


@pytest.fixture
def received_signals(monkeypatch):
    """The signals that the server of the app has received."""
    numbers = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


async def test_signal_closes_monitor_and_reaches_server(fake, app, received_signals):
    fake.add_job("job-1", ["running"])
    handler = signal.getsignal(signal.SIGTERM)
    async with app.router.lifespan_context(app) as state:
        waiting = asyncio.create_task(state["sutro_monitor"].wait("job-1"))
        await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(ClientStateError, match="monitor was closed"):
            await waiting
        assert (await state["sutro_client"].get_job("job-1")).status == "running"
    assert received_signals == [signal.SIGTERM] * 2
    assert signal.getsignal(signal.SIGTERM) is handler


def test_lifespans_can_end_in_start_order(received_signals, monkeypatch):
    monkeypatch.setenv("SUTRO_API_KEY", "sk_env")
    first, second = (FastAPI(lifespan=sutro_lifespan()) for _ in range(2))

    async def run():
        async with AsyncExitStack() as ends_last:
            async with first.router.lifespan_context(first):
                await ends_last.enter_async_context(second.router.lifespan_context(second))
            os.kill(os.getpid(), signal.SIGTERM)
            assert received_signals == [signal.SIGTERM]

    asyncio.run(run())
    os.kill(os.getpid(), signal.SIGTERM)
    assert received_signals == [signal.SIGTERM] * 2


@pytest.mark.parametrize("ends_after", ["the loop", "the signal"])
def test_signal_after_loop_closed_reaches_server(received_signals, ends_after):
    loop, notified = asyncio.new_event_loop(), []

    async def enter(stack):
        stack.enter_context(_on_signal_to_stop(lambda: notified.append("stop")))

    with ExitStack() as first, ExitStack() as second:
        loop.run_until_complete(enter(first))
        loop.run_until_complete(enter(second))
        if ends_after == "the loop":
            first.close()
        loop.close()
        os.kill(os.getpid(), signal.SIGTERM)
    assert received_signals == [signal.SIGTERM]
    assert not notified


async def test_signal_without_handler_is_not_changed(app):
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    async with app.router.lifespan_context(app):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_close_on_signal_false_changes_no_handlers(fake, received_signals):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    app = make_app(fake, close_on_signal=False)
    fake.add_job("job-1", ["running"])
    async with app.router.lifespan_context(app) as state:
        during = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        assert during == handlers
        waiting = asyncio.create_task(state["sutro_monitor"].wait("job-1"))
        await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert received_signals == [signal.SIGTERM]
    with pytest.raises(ClientStateError, match="monitor was closed"):
        await waiting


async def test_handler_set_later_is_kept(app, received_signals):
    async with app.router.lifespan_context(app):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_app_in_thread_sets_no_signal_handlers(monkeypatch):
    monkeypatch.setenv("SUTRO_API_KEY", "sk_env")
    app = FastAPI(lifespan=sutro_lifespan())
    before = signal.getsignal(signal.SIGINT)
    seen = []

    async def run():
        async with app.router.lifespan_context(app) as state:
            seen.append((len(state["sutro_monitor"]), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=asyncio.run, args=[run()])
    thread.start()
    thread.join()
    assert seen == [(0, before)]


# ---- dependencies


def make_app_with_dependencies(**options):
    app = FastAPI(**options)

    @app.get("/who")
    async def who(client: SutroDep, monitor: MonitorDep) -> list[str]:
        return [repr(client), repr(monitor)]

    return app


async def test_dependencies_return_client_and_monitor(fake):
    app = make_app_with_dependencies(lifespan=sutro_lifespan(fake.client))
    async with browsing(app) as browser:
        client = app.state.sutro_client
        body = (await browser.get("/who")).json()
        assert body == [repr(client), f"<JobMonitor of {client!r}: 0 polled, 0 finished>"]


async def test_mounted_app_uses_client_of_parent_app(fake):
    app = FastAPI(lifespan=sutro_lifespan(fake.client))
    app.mount("/inner", make_app_with_dependencies())
    async with app.router.lifespan_context(app) as state:

        async def server(scope, receive, send):  # which carries the state to the requests
            await app(scope | {"state": dict(state)}, receive, send)

        async with browser_of(server) as browser:
            assert (await browser.get("/inner/who")).status_code == 200


async def test_dependencies_without_lifespan_raise_clear_error():
    app = make_app_with_dependencies()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as browser:
        with pytest.raises(RuntimeError, match=r"FastAPI\(lifespan=sutro_lifespan\(\)\)"):
            await browser.get("/who")


async def test_dependencies_can_be_overridden(fake, client):
    fake.add_job("job-1")
    app = FastAPI()
    app.include_router(jobs_router())
    async with JobMonitor(client) as monitor, browser_of(app) as browser:
        app.dependency_overrides[get_sutro_client] = lambda: client
        app.dependency_overrides[get_job_monitor] = lambda: monitor
        assert (await browser.get("/jobs/job-1")).json()["status"] == "succeeded"
        assert (await browser.get("/jobs/job-1/wait")).status_code == 200
    assert monitor.latest("job-1") is not None


async def test_each_dependency_can_be_overridden_separately_and_by_mock(client):
    app = FastAPI()
    app.include_router(jobs_router())
    mock = AsyncMock(spec=JobMonitor)
    mock.get_job_status.return_value = report(JobStatus.RUNNING)
    async with JobMonitor(client) as monitor, browser_of(app) as browser:
        app.dependency_overrides = {get_job_monitor: lambda: monitor}
        assert (await browser.get("/jobs/job-1/wait?timeout=0.3")).status_code == 404
        assert (await browser.get("/jobs/job-1/events")).status_code == 200
        app.dependency_overrides = {get_job_monitor: lambda: mock}
        assert (await browser.get("/jobs/job-1/status")).json()["status"] == "running"
    gc.collect()  # which warns of what was not awaited


async def test_client_can_be_provided_by_any_dependency(fake, client):
    async def dependency():
        return client

    app = FastAPI()

    @app.get("/status")
    async def status(client: SutroClient = Depends(dependency)) -> str:  # noqa: B008, FAST002
        return (await client.get_job_status("job-1")).status

    fake.add_job("job-1")
    async with browser_of(app) as browser:
        assert (await browser.get("/status")).json() == "succeeded"
    assert "parameters" not in app.openapi()["paths"]["/status"]["get"]


def test_class_is_rejected_as_dependency():
    app = FastAPI()
    with pytest.raises(FastAPIError, match=r"RetryPolicy.* is a valid Pydantic field type"):

        @app.get("/status")
        async def status(client: SutroClient = Depends(SutroClient)): ...  # noqa: B008, FAST002

    assert "/status" not in app.openapi()["paths"]


# ---- problems


def report(status):
    return JobStatusReport(
        job_id="job-1",
        status=status,
        raw_status=status.upper(),
        failure=FailureReason(message="no GPU"),
    )


def http_error(cls, status, **fields):
    return cls(
        job_id="job-1",
        status_code=status,
        message="upstream says",
        body={"detail": "upstream says", "url": "https://user:secret@host"},
        **fields,
    )


def timed_out(last_report, failure=None):
    error = JobWaitTimeoutError(
        job_id="job-1", last_report=last_report, elapsed=1.0, timeout=1.0, failure=failure
    )
    error.__cause__ = failure
    return error


PROBLEMS = [
    (http_error(JobNotFoundError, 404), 404, None),
    (http_error(GoneError, 410), 410, None),
    (http_error(RateLimitError, 429), 503, "5"),
    (http_error(RateLimitError, 429, retry_after=12.2), 503, "13"),
    (http_error(AuthenticationError, 401), 502, None),
    (http_error(PermissionDeniedError, 403), 502, None),
    (http_error(ServerError, 503, retry_after=7.0), 502, "7"),
    (http_error(APIStatusError, 422), 502, None),
    (APIConnectionError("cannot connect to upstream says", job_id="job-1"), 502, None),
    (APITimeoutError("upstream says nothing", job_id="job-1"), 504, None),
    (InvalidResponseError(job_id="job-1", path="$", reason="upstream says"), 502, None),
    (
        timed_out(report(JobStatus.RUNNING), APIConnectionError("upstream says", job_id="job-1")),
        504,
        None,
    ),
    (timed_out(None), 504, None),
    (timed_out(None, http_error(RateLimitError, 429)), 503, "5"),
    (timed_out(None, http_error(RateLimitError, 429, retry_after=12.2)), 503, "13"),
    (timed_out(None, http_error(JobNotFoundError, 404)), 404, None),
    (JobFailedError(report(JobStatus.FAILED)), 409, None),
    (JobCancelledError(report(JobStatus.CANCELLED)), 409, None),
    (JobUnsuccessfulError(report(JobStatus.FAILED)), 409, None),
    (ClientStateError("upstream says"), 503, "1"),
    (ConfigurationError("upstream says"), 500, None),
    (SutroError("upstream says"), 500, None),
]


def test_every_error_class_has_problem_details():
    tried = {type(error) for error, _, _ in PROBLEMS}
    abstract = {errors.APIError}
    assert tried | abstract == {getattr(errors, name) for name in errors.__all__}


@pytest.mark.parametrize(
    ("error", "status", "retry_after"), PROBLEMS, ids=lambda value: type(value).__name__
)
async def test_each_error_gets_problem_details(error, status, retry_after, caplog):
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/own/{name}")
    async def own(name: str):
        raise error

    async with browser_of(app) as browser:
        response = await browser.get("/own/route?secret=1")
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers.get("retry-after") == retry_after
    problem = response.json()
    assert problem["status"] == status
    assert problem["instance"] == "/own/route"
    if (
        not isinstance(error, ClientStateError | ConfigurationError)
        and type(error) is not SutroError
    ):
        assert problem["job_id"] == "job-1"
    assert problem["type"].endswith("#" + problem["title"].lower().replace(" ", "-"))
    assert problem.keys() <= {"type", "title", "status", "detail", "instance", "job_id"}
    for inner in ("upstream says", "secret", "Traceback", "no GPU"):
        assert inner not in response.text
    logged = [record.getMessage() for record in caplog.records if record.name == "sutro_async"]
    is_logged = status >= 500 and not isinstance(error, ClientStateError)
    assert [str(error) in line for line in logged] == [True] * is_logged


@pytest.mark.parametrize("host", ["[", "evil/x?y#", ""])
async def test_unusual_host_is_accepted(browser, host):
    response = await browser.get("/jobs/m%C3%BCll%3F/status", headers={"Host": host})
    assert response.status_code == 404
    assert response.json()["instance"] == "/jobs/m%C3%BCll%3F/status"


async def test_key_is_in_no_response_and_no_log(fake, caplog):
    caplog.set_level("DEBUG")
    app = FastAPI(lifespan=sutro_lifespan(lambda: SutroClient("sk_very_secret", base_url=fake.url)))
    app.include_router(jobs_router())
    async with browsing(app) as browser:
        for path in ("", "/status", "/wait", "/events"):
            response = await browser.get(f"/jobs/job-1{path}")
            assert "very_secret" not in response.text + str(response.headers)
            assert "502" in response.text
        assert "very_secret" not in json.dumps(app.openapi())
    assert "very_secret" not in caplog.text


async def test_other_errors_are_left_to_app(fake):
    def current_user():
        raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})

    app = FastAPI(lifespan=sutro_lifespan(fake.client))
    app.include_router(jobs_router(), prefix="/api", dependencies=[Depends(current_user)])
    async with browsing(app) as browser:
        response = await browser.get("/api/jobs/job-1")
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Basic"
    assert not fake.requests


# ---- the router


async def test_record_has_all_fields(fake, browser):
    fake.add_job(
        "job-1",
        [("running", 0.01), "failed"],
        failure_reason="no GPU",
        additional_context="0 of 8",
        input_tokens=3,
        output_tokens=4,
        run_type="nightly",
    )
    await asyncio.sleep(0.02)
    job = (await browser.get("/jobs/job-1")).json()
    assert job["status"] == "failed"
    assert job["total_tokens"] == 7
    assert job["duration_seconds"] == pytest.approx(0.01, abs=0.001)
    assert job["extra"] == {"run_type": "nightly"}
    assert job["failure_reason"] == {
        "message": "no GPU",
        "additional_context": "0 of 8",
        "details": {"message": "no GPU", "additional_context": "0 of 8"},
    }


@pytest.mark.parametrize(
    ("model", "cls", "properties"),
    [
        (JobStatusReportModel, JobStatusReport, {"is_terminal"}),
        (JobModel, Job, {"is_terminal", "duration_seconds", "total_tokens"}),
        (FailureReasonModel, FailureReason, set()),
    ],
)
def test_models_have_every_field_of_library_models(model, cls, properties):
    assert model.model_fields.keys() == attrs.fields_dict(cls).keys() | properties


async def test_status_makes_one_request(fake, browser):
    fake.add_job("job-1", ["brand-new", "running"], allow_unknown=True)
    body = (await browser.get("/jobs/job-1/status")).json()
    assert body["status"] == "unknown"
    assert body["raw_status"] == "BRAND-NEW"
    assert body["is_terminal"] is False
    assert len(fake.requests) == 1


async def test_missing_job_gets_404(fake, browser):
    for path in ("", "/status", "/wait"):
        response = await browser.get(f"/jobs/job-1{path}")
        assert response.status_code == 404
        assert response.json()["job_id"] == "job-1"


async def test_rate_limits_become_503_with_retry_after(fake, browser):
    fake.fail_next(1, status=429, headers={"Retry-After": "120"})
    response = await browser.get("/jobs/job-1")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "120"


async def test_many_statuses_are_outcomes_in_order(fake, browser):
    fake.add_job("b")
    fake.add_job("a/../b")
    body = {"job_ids": ["b", "missing", "a/../b", "b"]}
    outcomes = (await browser.post("/jobs/statuses", json=body)).json()["outcomes"]
    assert [outcome["job_id"] for outcome in outcomes] == ["b", "missing", "a/../b"]
    assert [outcome["report"]["status"] for outcome in outcomes[::2]] == ["succeeded"] * 2
    assert outcomes[1]["problem"]["status"] == 404
    assert [outcome.keys() for outcome in outcomes] == [
        {"job_id", "report"},
        {"job_id", "problem"},
        {"job_id", "report"},
    ]
    assert outcomes[0]["report"]["failure"] is None
    assert None not in outcomes[1]["problem"].values()


async def test_failure_of_many_jobs_is_logged_once(fake, browser, caplog):
    fake.fail_next(1000, status=400)
    response = await browser.post("/jobs/statuses", json={"job_ids": ["a", "b", "c"]})
    assert [outcome["problem"]["status"] for outcome in response.json()["outcomes"]] == [502] * 3
    logged = [record for record in caplog.records if "responded with 502" in record.getMessage()]
    assert len(logged) == 1


@pytest.mark.parametrize("status", [500, 403])
async def test_outage_limits_requests_for_many_jobs(fake, browser, status):
    fake.fail_next(1000, status=status)
    job_ids = [f"job-{number}" for number in range(200)]
    response = await browser.post("/jobs/statuses", json={"job_ids": job_ids})
    outcomes = response.json()["outcomes"]
    assert [outcome["job_id"] for outcome in outcomes] == job_ids
    assert [outcome["problem"]["job_id"] for outcome in outcomes] == job_ids
    assert {outcome["problem"]["status"] for outcome in outcomes} == {502}
    tries = 4 if status == 500 else 1
    assert len(fake.requests) <= 12 * tries
    fake.clear_faults()
    for job_id in job_ids:
        fake.add_job(job_id)
    response = await browser.post("/jobs/statuses", json={"job_ids": job_ids})
    assert all("report" in outcome for outcome in response.json()["outcomes"])


async def test_good_response_among_failures_lets_all_jobs_be_requested(fake, browser):
    job_ids = [f"job-{number}" for number in range(60)]
    for job_id in job_ids[1::2]:
        fake.add_job(job_id)
    fake.fail_next(2, status=403)
    response = await browser.post("/jobs/statuses", json={"job_ids": job_ids})
    statuses = [outcome["problem"]["status"] for outcome in response.json()["outcomes"][::2]]
    assert len(fake.requests) == 60
    assert set(statuses) <= {404, 502}


async def test_many_statuses_are_requested_ten_at_a_time_and_cached(fake, browser):
    job_ids = [f"job-{number}" for number in range(60)]
    for job_id in job_ids:
        fake.add_job(job_id)
    bodies = [browser.post("/jobs/statuses", json={"job_ids": job_ids}) for _ in range(5)]
    responses = await asyncio.gather(*bodies)
    assert {response.text for response in responses} == {responses[0].text}
    assert len(fake.requests) == 60
    assert fake.max_in_flight <= 10


async def test_concurrent_visitors_share_one_request(fake, browser):
    fake.add_job("job-1", ["running"])
    for path in ("/jobs/job-1", "/jobs/job-1/status"):
        before = len(fake.requests)
        responses = await asyncio.gather(*(browser.get(path) for _ in range(100)))
        assert {response.json()["status"] for response in responses} == {"running"}
        assert len(fake.requests) == before + 1


async def test_batch_fatal_error_is_one_problem(fake, browser):
    fake.fail_next(2, status=401)
    response = await browser.post("/jobs/statuses", json={"job_ids": ["a", "b"]})
    assert response.status_code == 502
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "body",
    [
        b'{"job_ids": []}',
        b'{"job_ids": "job-1"}',
        b'{"job_ids": [".."]}',
        b'{"job_ids": ["\\u0007"]}',
        b'{"job_ids": ["\\ud800"]}',
        b'{"job_ids": ["' + b"a" * 501 + b'"]}',
        b'{"job_ids": ["a", NaN, "\\ud800"]}',
        b'{"job_ids": [' + b'"a",' * 1000 + b'"a"]}',
        b"{",
        b"",
    ],
)
async def test_invalid_body_gets_422(fake, browser, body):
    headers = {"Content-Type": "application/json"}
    response = await browser.post("/jobs/statuses", content=body, headers=headers)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"][0].keys() == {"type", "loc", "msg"}
    assert not fake.requests


@pytest.mark.parametrize(
    "job_id",
    [
        "..%2f",
        "%2e%2e",
        "..%2f..%2fadmin",
        "%2f",
        "a%2fb",
        "job-1%2f",
        "a%00b",
        "%0d%0aX:%20y",
        "%1b",
        "%E2%80%AE",
        "%C2%A0",
        "a" * 501,
    ],
)
async def test_invalid_job_id_sends_no_request(fake, browser, job_id):
    for tail in ("", "/status", "/wait", "/events"):
        response = await browser.get(f"/jobs/{job_id}{tail}")
        assert response.status_code in {404, 422}
    assert not fake.requests


async def test_job_id_in_query_is_validated(fake, browser):
    for query in ("job_id=..", "job_id=a&job_id=%00", "", "job_id=a&" * 101, "job_id=" + "a" * 501):
        assert (await browser.get(f"/job-events?{query}")).status_code == 422
    assert not fake.requests


async def test_unusable_session_is_server_error(fake, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with aiohttp.ClientSession(trust_env=True) as session:
        app = FastAPI(lifespan=sutro_lifespan(lambda: fake.client(session=session)))
        app.include_router(jobs_router())
        async with browsing(app) as browser:
            responses = [await browser.get(f"/jobs/job-1{tail}") for tail in ("", "/status")]
            responses.append(await browser.post("/jobs/statuses", json={"job_ids": ["job-1"]}))
    for response in responses:
        assert response.status_code == 500
        assert response.json()["title"] == "Internal error"
        assert "netrc" not in response.text


# ---- the long poll


async def test_long_poll_returns_terminal_report(fake, browser):
    fake.add_job("job-1", ["queued", "running", "succeeded"])
    response = await browser.get("/jobs/job-1/wait")
    assert response.status_code == 200
    assert response.json()["status"] == "succeeded"


async def timed(browser, path):
    """Return the last of three responses and the shortest time, for busy machines."""
    times = []
    for _ in range(3):
        began = now()
        response = await browser.get(path)
        times.append(now() - began)
    return response, min(times)


async def test_long_poll_returns_newest_report_when_timeout_expires(fake, browser):
    fake.add_job("job-1", ["queued", "running"])
    response, seconds = await timed(browser, "/jobs/job-1/wait?timeout=0.2")
    assert 0.2 - TIMER_RESOLUTION <= seconds <= 0.4
    assert response.status_code == 202
    assert response.json()["status"] == "running"


@pytest.mark.parametrize("timeout", [0, 0.3])
async def test_long_poll_timeout_is_accurate_while_service_hangs(fake, browser, timeout):
    fake.fail_next(1000, delay=math.inf)
    response, seconds = await timed(browser, f"/jobs/job-1/wait?timeout={timeout}")
    assert timeout - TIMER_RESOLUTION <= seconds <= timeout + 0.2
    assert response.status_code == 504
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["title"] == "No report"


async def test_long_poll_without_report_returns_service_error(fake, browser):
    fake.fail_next(1000, status=429, headers={"Retry-After": "1"})
    response = await browser.get("/jobs/job-1/wait?timeout=0.3")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["title"] == "Rate limited"


@pytest.mark.parametrize("timeout", ["-0.1", "60.1", "nan", "inf", "soon", ""])
async def test_timeout_outside_0_to_60_gets_422(fake, browser, timeout):
    response = await browser.get(f"/jobs/job-1/wait?timeout={timeout}")
    assert response.status_code == 422
    assert not fake.requests


@pytest.mark.parametrize("path", ["/jobs/job-1", "/jobs/job-1/wait", "/jobs/job-1/events"])
async def test_timeout_around_request_expires(fake, browser, path):
    fake.fail_next(1000, delay=math.inf)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await browser.get(path)


async def test_timeout_expires_while_event_is_being_sent(fake, app):
    fake.add_job("job-1", [f"step {number}" for number in range(100)], allow_unknown=True)

    async def never(message=None):
        if message is None or message["type"] == "http.response.body":
            await asyncio.Event().wait()

    path = "/jobs/job-1/events"
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    async with app.router.lifespan_context(app):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await app(scope, never, never)


async def test_cancelled_caller_is_cancelled(fake, browser):
    fake.add_job("job-1", ["running"])
    asking = asyncio.create_task(browser.get("/jobs/job-1/wait"))
    await asyncio.sleep(0.02)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_timeout_middleware_takes_precedence(fake, app):
    fake.add_job("job-1", ["running"])

    async def with_timeout(scope, receive, send):
        try:
            async with asyncio.timeout(0.05):
                await app(scope, receive, send)
        except TimeoutError:
            await PlainTextResponse("too slow", status_code=504)(scope, receive, send)

    async with app.router.lifespan_context(app), browser_of(with_timeout) as browser:
        response = await browser.get("/jobs/job-1/wait")
    assert (response.status_code, response.text) == (504, "too slow")


async def test_cancellation_after_response_propagates(fake):
    fake.add_job("job-1")
    is_sent, sent = asyncio.Event(), []

    async def slow_to_cancel():
        yield
        await asyncio.sleep(60)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            is_sent.set()

    app = FastAPI(lifespan=sutro_lifespan(fake.client))
    app.include_router(jobs_router(), dependencies=[Depends(slow_to_cancel)])
    path = "/jobs/job-1/status"
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    async with app.router.lifespan_context(app):
        responding = asyncio.create_task(app(scope, receive, send))
        await is_sent.wait()
        responding.cancel("timeout graceful shutdown exceeded")
        with pytest.raises(asyncio.CancelledError):
            await responding
    assert sent == ["http.response.start", "http.response.body"]


# ---- events


async def test_slow_visitor_gets_newest_report_without_backlog(fake, client):
    words = [f"step-{number}" for number in range(20)]
    fake.add_job("job-1", [*words, "succeeded"], allow_unknown=True)
    async with JobMonitor(client) as monitor:
        async with monitor.watch_jobs(["job-1"]) as outcomes:
            stream = events(outcomes, ["job-1"], monitor.stats)
            assert (await anext(stream)).retry == 3000
            await anext(stream)
            while (latest := monitor.latest("job-1")) is None or not latest.is_terminal:
                await asyncio.sleep(0.01)
            rest = [event async for event in stream]
    assert len(rest) <= 3
    assert rest[-1].id == "end"


async def test_trouble_event_is_sent_once_and_cleared_by_status(fake, client, fast_clock):
    fake.add_job("job-1", ["running"])
    stats = client.stats()
    in_trouble = attrs.evolve(
        stats, unresponsive_since=datetime(2026, 1, 1, tzinfo=UTC), unresponsive_seconds=10
    )
    states = iter([stats, in_trouble, in_trouble, stats, stats])
    async with JobMonitor(client) as monitor, monitor.watch_jobs(["job-1"]) as outcomes:
        seen = []
        async for event in events(outcomes, ["job-1"], lambda: next(states, stats)):
            seen.append((event.event, json.loads(event.raw_data or "null")))
            if len(seen) == 4:
                break
    assert [name for name, _ in seen] == [None, "status", "trouble", "status"]
    assert seen[1] == seen[3]
    assert seen[2][1] == {
        "since": "2026-01-01T00:00:00Z",
        "detail": "The service did not respond in time.",
    }


async def test_unrelated_timeout_is_not_mistaken_for_silence():
    async def broken():
        raise TimeoutError

    with pytest.raises(TimeoutError):
        async for _ in events(Stream(broken), ["job-1"], None):
            pass


async def test_error_in_watching_is_raised_at_once():
    async def broken():
        raise LookupError("no such thing")

    class Monitor:
        stats = None

        def watch_jobs(self, job_ids):
            return Stream(broken)

    app = FastAPI()
    app.include_router(jobs_router())
    app.dependency_overrides[get_job_monitor] = Monitor
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as browser:
        with pytest.raises(ExceptionGroup) as caught:
            await browser.get("/jobs/job-1/events")
    assert caught.group_contains(LookupError, match="no such thing")


# ---- the OpenAPI document


def test_openapi_describes_every_route(app):
    paths = app.openapi()["paths"]
    assert {(path, *methods) for path, methods in paths.items()} == {
        ("/jobs/{job_id}", "get"),
        ("/jobs/{job_id}/status", "get"),
        ("/jobs/{job_id}/wait", "get"),
        ("/jobs/{job_id}/events", "get"),
        ("/job-events", "get"),
        ("/jobs/statuses", "post"),
    }
    for methods in paths.values():
        for operation in methods.values():
            assert operation["summary"]
            assert operation["description"]
            for status, response in operation["responses"].items():
                if int(status) > 400:
                    assert response["content"].keys() == {"application/problem+json"}
    long_poll = paths["/jobs/{job_id}/wait"]["get"]["responses"]
    assert long_poll["200"]["content"] == long_poll["202"]["content"]
    events = paths["/job-events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    assert len(events["itemSchema"]["properties"]["data"]["contentSchema"]["anyOf"]) == 3


def test_openapi_references_resolve(app):
    document = app.openapi()
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references == document["components"]["schemas"].keys()


def test_app_can_have_models_with_same_names():
    class JobProblem(BaseModel):
        mine: int

    class JobStatusReportModel(BaseModel):
        mine: int

    app = FastAPI()
    app.include_router(jobs_router())

    @app.get("/mine", response_model=JobProblem | JobStatusReportModel)
    def mine(): ...

    document = app.openapi()
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references == document["components"]["schemas"].keys()
    responses = document["paths"]["/job-events"]["get"]["responses"]
    problem = responses["503"]["content"]["application/problem+json"]["schema"]
    events = responses["200"]["content"]["text/event-stream"]["itemSchema"]
    report, same_problem, trouble = events["properties"]["data"]["contentSchema"]["anyOf"]
    assert same_problem == problem
    assert problem["properties"].keys() == sutro_async.fastapi.JobProblem.model_fields.keys()
    assert "succeeded" in report["properties"]["status"]["enum"]
    assert trouble["properties"].keys() == {"since", "detail"}
    assert report["properties"]["failure"]["anyOf"][0]["properties"].keys() == {
        "message",
        "additional_context",
        "details",
    }


# ---- the documentation


def test_documented_test_passes():
    page = (Path(__file__).parent.parent / "docs/fastapi.md").read_text()
    [code] = [
        code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def test_" in code
    ]
    names = {}
    exec(compile(code, "docs/fastapi.md", "exec"), names)  # our own page
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        runner.run(names["test_finished_job_is_returned"]())


def test_problem_types_are_documented_headings():
    page = (Path(__file__).parent.parent / "docs/fastapi.md").read_text()
    kinds = {kind for kind in vars(_problems).values() if isinstance(kind, _problems._Kind)}
    kinds |= {*_problems._KINDS.values()}
    assert {f"### {kind.title}\n" for kind in kinds} == set(
        re.findall(r"(?m)^### .*\n", page.partition("## Errors")[2])
    )
