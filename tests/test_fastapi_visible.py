"""Who may see which jobs: every route calls `visible` first, and hides all other jobs."""

import asyncio
import json
import re
import unicodedata
from types import SimpleNamespace
from typing import Annotated
from urllib.parse import quote

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from sutro_async import AuthenticationError, JobNotFoundError, SutroError
from sutro_async.fastapi import get_job_monitor, jobs_router, sutro_lifespan
from tests.cases import in_turn
from tests.conftest import FAST_POLL, FAST_RETRY, now
from tests.test_fastapi import browser_of, browsing

pytestmark = pytest.mark.usefixtures("fast_clock")

MINE = {"mine-job", "missing1"}  # the service does not know the second
THEIRS, ABSENT, MISSING = "theirs-1", "absent-1", "missing1"

# The request for one job, of each route of the router: method, path, body. None if it takes no id.
ROUTES = {
    ("GET", "/jobs/{job_id}"): ("/jobs/{}", None),
    ("GET", "/jobs/{job_id}/status"): ("/jobs/{}/status", None),
    ("GET", "/jobs/{job_id}/wait"): ("/jobs/{}/wait?timeout=0.5", None),
    ("GET", "/jobs/{job_id}/events"): ("/jobs/{}/events", None),
    ("GET", "/job-events"): ("/job-events?job_id={}", None),
    ("POST", "/jobs/statuses"): ("/jobs/statuses", "job_ids"),
    ("GET", "/jobs"): ("/jobs?before={}", None),
}
# These respond with 404 whatever the id, and do nothing with it.
UNUSED = {("GET", f"/jobs/{{job_id}}{path}/") for path in ("", "/status", "/wait", "/events")}
BY_NAME = {" ".join(route): route for route in ROUTES}
METHODS = {method: method for method in ("HEAD", "OPTIONS", "PUT", "DELETE", "PATCH")}
EVERY_ROUTE = pytest.mark.parametrize("route", BY_NAME.values(), ids=BY_NAME)


async def user(x_user: Annotated[str | None, Header()] = None) -> str:
    if x_user is None:
        raise HTTPException(401, "log in first")
    return x_user


async def mine(job_ids):
    return job_ids & MINE


ACCESS = SimpleNamespace(visible=mine, calls=[])


@pytest.fixture
def access():
    """The behaviour of `visible`; replaced by tests."""
    ACCESS.visible, ACCESS.calls = mine, []
    return ACCESS


def make_router(access, **options):
    async def visible(user: Annotated[str, Depends(user)]):
        async def visible_jobs(job_ids):
            access.calls.append(job_ids)
            return await access.visible(job_ids)

        return visible_jobs

    return jobs_router(visible, **options)


def make_app(fake, router):
    app = FastAPI(lifespan=sutro_lifespan(lambda: fake.client(retry=FAST_RETRY, poll=FAST_POLL)))
    app.include_router(router)
    return app


# Once for most tests, since making it and its first request take some 50 ms.
FAKE = SimpleNamespace(client=None)
APP = make_app(FAKE, make_router(ACCESS))


@pytest.fixture
async def app(fake, access, monkeypatch):
    for job_id in ("mine-job", THEIRS):
        fake.add_job(job_id)
    monkeypatch.setattr(FAKE, "client", fake.client)
    return APP


@pytest.fixture
async def browser(app):
    async with browsing(app) as opened:
        opened.headers["X-User"] = "me"
        yield opened


async def send_request(browser, route, *job_ids, **options):
    """Send a request for one or more jobs to a route."""
    method, _ = route
    path, field = ROUTES[route]
    if field is not None:
        return await browser.request(method, path, json={field: list(job_ids)}, **options)
    return await browser.request(method, path.format(quote(job_ids[0], safe="")), **options)


def visible_content(response, job_id):
    """Return the visible content of a response, with the id replaced."""
    headers = {name: value for name, value in response.headers.items() if name != "date"}
    return response.status_code, headers, response.text.replace(job_id, "the-id")


# ---- every route


def test_tests_cover_every_route(access):
    routes = make_router(access).routes
    assert all(isinstance(route, APIRoute) for route in routes)
    assert {(method, route.path) for route in routes for method in route.methods} == (
        ROUTES.keys() | UNUSED
    )


def test_every_endpoint_gets_ids_from_checking_dependency(access):
    """Each parameter of a route that can hold an id is one of a dependency of `_visible`."""

    def parameters(dependant, *, is_checked=False):
        is_checked = is_checked or "_visible" in getattr(dependant.call, "__module__", "")
        for kind in ("path_params", "query_params", "body_params", "cookie_params"):
            for parameter in getattr(dependant, kind):
                yield parameter.name, is_checked
        for each in dependant.dependencies:
            yield from parameters(each, is_checked=is_checked)

    for route in make_router(access).routes:
        if ("GET", route.path) not in UNUSED:
            unchecked = {name for name, is_checked in parameters(route.dependant) if not is_checked}
            assert unchecked <= {"timeout", "limit"}, route.path
        else:
            assert not route.dependant.path_params


@EVERY_ROUTE
async def test_hidden_job_is_indistinguishable_from_missing_job(fake, browser, access, route):
    hidden = visible_content(await send_request(browser, route, THEIRS), THEIRS)
    absent = visible_content(await send_request(browser, route, ABSENT), ABSENT)
    assert hidden == absent
    assert access.calls == [{THEIRS}, {ABSENT}]
    assert not fake.requests
    assert "404" in hidden[2]
    missing = visible_content(await send_request(browser, route, MISSING), MISSING)
    assert fake.requests
    assert missing == hidden


@EVERY_ROUTE
async def test_visible_job_needs_one_call_of_visible(fake, browser, access, route):
    order = []

    async def visible(job_ids):
        order.append(len(fake.requests))
        return job_ids & MINE

    access.visible = visible
    response = await send_request(browser, route, "mine-job")
    assert response.status_code == 200
    if route != ("GET", "/jobs"):
        assert "mine-job" in response.text
        assert "succeeded" in response.text
        assert access.calls == [{"mine-job"}]
    assert order[0] == 0


@EVERY_ROUTE
async def test_cached_job_is_hidden(fake, app, browser, access, route):
    monitor = app.state.sutro_monitor
    await monitor.wait(THEIRS)
    await monitor.get_job(THEIRS)
    before = len(fake.requests)
    response = await send_request(browser, route, THEIRS)
    assert "succeeded" not in response.text
    assert "404" in response.text
    assert access.calls == [{THEIRS}]
    assert len(fake.requests) == before


@EVERY_ROUTE
async def test_authentication_in_dependency_runs_first(fake, browser, access, route):
    del browser.headers["X-User"]
    for job_id in ("mine-job", THEIRS, ".."):
        response = await send_request(browser, route, job_id, headers={"Last-Event-ID": "end"})
        if ROUTES[route][0].startswith("/jobs/{}") and job_id == "..":
            continue  # the browser resolves it
        assert (response.status_code, response.json()) == (401, {"detail": "log in first"})
    assert not access.calls
    assert not fake.requests


@EVERY_ROUTE
async def test_invalid_id_gets_422_without_call_of_visible(fake, browser, access, route):
    for job_id in ("a\x00b", "\u202e", "a" * 501):
        assert (await send_request(browser, route, job_id)).status_code == 422
    assert not access.calls
    assert not fake.requests


@pytest.mark.parametrize(("route", "method"), in_turn(BY_NAME, METHODS))
async def test_other_methods_disclose_nothing(fake, browser, access, route, method):
    path = ROUTES[route][0]
    responses = [
        await browser.request(method, path.format(job_id)) for job_id in ("mine-job", THEIRS)
    ]
    assert visible_content(responses[0], "mine-job") == visible_content(responses[1], THEIRS)
    assert responses[0].status_code == 405
    assert not access.calls
    assert not fake.requests


@pytest.mark.parametrize("path", sorted(path for _, path in UNUSED))
async def test_trailing_slash_does_not_disclose_job(fake, browser, access, path):
    responses = [
        await browser.get(path.replace("{job_id}", job_id)) for job_id in ("mine-job", THEIRS)
    ]
    assert visible_content(responses[0], "mine-job") == visible_content(responses[1], THEIRS)
    assert responses[0].status_code == 404
    assert not access.calls
    assert not fake.requests


# ---- which ids `visible` gets


@pytest.mark.parametrize(
    ("written", "job_id"),
    [
        ("theirs%2D1", "theirs-1"),
        ("%74%68%65%69%72%73-1", "theirs-1"),
        ("THEIRS-1", "THEIRS-1"),
        ("theirs-1%20", "theirs-1 "),
        ("theirs-1%3Fx", "theirs-1?x"),
        ("mine-job;theirs-1", "mine-job;theirs-1"),
        ("mine-job,theirs-1", "mine-job,theirs-1"),
        (quote(unicodedata.normalize("NFC", "jöb")), unicodedata.normalize("NFC", "jöb")),
        (quote(unicodedata.normalize("NFD", "jöb")), unicodedata.normalize("NFD", "jöb")),
        (quote("\uff54heirs-1"), "\uff54heirs-1"),
        ("theirs-1%252F", "theirs-1%2F"),
    ],
)
async def test_visible_receives_id_as_sent_to_service(fake, browser, access, written, job_id):
    async def visible(job_ids):
        return job_ids

    access.visible = visible
    for path in (f"/jobs/{written}/status", f"/job-events?job_id={written}"):
        await browser.get(path)
    assert access.calls == [{job_id}] * 2
    assert {each.path for each in fake.requests} == {f"/v1/job-status/{quote(job_id, safe='')}"}


async def test_ids_elsewhere_in_request_are_ignored(fake, browser, access):
    everywhere = {
        "params": {"job_id": THEIRS, "job_ids": THEIRS, "before": THEIRS},
        "headers": {"job-id": THEIRS, "Last-Event-ID": THEIRS},
    }
    browser.cookies.set("job_id", THEIRS)
    for path in ("", "/status", "/wait", "/events"):
        await browser.request(
            "GET", f"/jobs/mine-job{path}", json={"job_ids": [THEIRS]}, **everywhere
        )
    await browser.post(
        "/jobs/statuses", json={"job_ids": ["mine-job"], "job_id": THEIRS}, **everywhere
    )
    assert access.calls == [{"mine-job"}] * 5
    assert not any(THEIRS in request.path for request in fake.requests)


async def test_visible_receives_duplicates_once(fake, browser, access):
    ids = ["mine-job", THEIRS, "mine-job", THEIRS]
    events = await browser.get("/job-events", params={"job_id": ids})
    assert events.text.count("event: problem") == 1
    assert events.text.count("event: status") == 1
    outcomes = (await browser.post("/jobs/statuses", json={"job_ids": ids})).json()["outcomes"]
    assert [outcome["job_id"] for outcome in outcomes] == ["mine-job", THEIRS]
    assert access.calls == [{"mine-job", THEIRS}] * 2


async def test_last_of_duplicate_body_fields_is_checked_and_used(fake, browser, access):
    body = f'{{"job_ids": ["mine-job"], "job_ids": ["{THEIRS}"]}}'
    headers = {"Content-Type": "application/json"}
    response = await browser.post("/jobs/statuses", content=body, headers=headers)
    assert response.json()["outcomes"][0]["problem"]["status"] == 404
    assert access.calls == [{THEIRS}]


# ---- many jobs at once


async def test_hidden_jobs_among_many_are_not_found(fake, browser):
    ids = [THEIRS, "mine-job", ABSENT, MISSING]
    response = await browser.post("/jobs/statuses", json={"job_ids": ids})
    outcomes = response.json()["outcomes"]
    assert [outcome["job_id"] for outcome in outcomes] == ids
    assert outcomes[1]["report"]["status"] == "succeeded"
    problems = [outcomes[index]["problem"] for index in (0, 2, 3)]
    for problem in problems:
        del problem["job_id"]
    assert problems[0] == problems[1] == problems[2]
    assert problems[0]["status"] == 404
    assert sorted(request.path for request in fake.requests) == [
        "/v1/job-status/mine-job",
        "/v1/job-status/missing1",
    ]


async def test_hidden_jobs_in_stream_are_problems(fake, browser):
    response = await browser.get("/job-events", params={"job_id": [THEIRS, "mine-job", MISSING]})
    blocks = [block for block in response.text.split("\n\n") if "data:" in block]
    data = [json.loads(re.search("data: (.*)", block)[1]) for block in blocks]
    assert {each["job_id"]: each["status"] for each in data} == {
        THEIRS: 404,
        "mine-job": "succeeded",
        MISSING: 404,
    }
    assert ["id: end" in block for block in blocks] == [False, False, True]
    assert not any(THEIRS in request.path for request in fake.requests)


async def test_reconnect_after_end_is_checked(browser, access):
    for job_id in ("mine-job", THEIRS):
        path = f"/jobs/{job_id}/events"
        assert (await browser.get(path, headers={"Last-Event-ID": "end"})).status_code == 204
    assert access.calls == [{"mine-job"}, {THEIRS}]


# ---- failing closed


async def raises(job_ids):
    raise LookupError("the database is down")


async def refuses(job_ids):
    raise HTTPException(403, "job theirs-1 belongs to somebody else")


def returns(value):
    async def visible(job_ids):
        return value(job_ids) if callable(value) else value

    return visible


def plain(job_ids):
    return job_ids


NONSENSE = {
    "raises": raises,
    "raises an HTTPException": refuses,
    "None": returns(None),
    "True": returns(True),
    "a string": returns("theirs-1"),
    "bytes": returns(b"theirs-1"),
    "a number": returns(7),
    "a mapping": returns(lambda ids: dict.fromkeys(ids, False)),
    "an iterator": returns(iter),
    "other ids": returns(lambda ids: {*ids, "one-more"}),
    "ids in another case": returns(lambda ids: {each.upper() for each in ids}),
    "rows": returns(lambda ids: [(each,) for each in ids]),
    "lists": returns(lambda ids: [[each] for each in ids]),
    "a function": returns(lambda ids: lambda: ids),
}
NO_ASYNC_FUNCTIONS = {
    repr(given): given for given in (None, "theirs-1", {"mine-job"}, NotImplemented)
} | {"a plain function": plain, "a function without parameters": lambda: None}


@pytest.mark.parametrize(("route", "visible"), in_turn(BY_NAME, NONSENSE))
async def test_failing_or_invalid_visible_discloses_nothing(
    browser, access, route, visible, caplog
):
    access.visible = visible
    await check_that_nothing_is_disclosed(browser, route)
    [logged] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert logged.message == "`visible` of jobs_router failed, so no job is shown"
    assert logged.exc_info


async def check_that_nothing_is_disclosed(browser, route):
    response = await send_request(browser, route, "mine-job")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["title"] == "Internal error"
    assert response.json().keys() == {"type", "title", "status", "detail", "instance"}


@pytest.mark.parametrize(("route", "given"), in_turn(BY_NAME, NO_ASYNC_FUNCTIONS))
async def test_visible_that_is_not_async_discloses_nothing(fake, route, given):
    async def visible():
        return given

    fake.add_job("mine-job")
    async with browsing(make_app(fake, jobs_router(visible))) as browser:
        await check_that_nothing_is_disclosed(browser, route)
    assert not fake.requests


async def test_cancellation_and_base_exceptions_propagate(fake, browser, access):
    async def hangs(job_ids):
        await asyncio.Event().wait()

    access.visible = hangs
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await browser.get("/jobs/mine-job")
    assert not fake.requests


@pytest.mark.parametrize(
    "collection", [set, frozenset, list, tuple, lambda ids: dict.fromkeys(ids).keys()]
)
async def test_any_collection_is_accepted(browser, access, collection):
    access.visible = returns(lambda ids: collection(ids & MINE))
    assert (await browser.get("/jobs/mine-job")).status_code == 200
    assert (await browser.get(f"/jobs/{THEIRS}")).status_code == 404


async def test_visible_cannot_change_ids_of_route(fake, browser, access):
    async def visible(job_ids):
        assert isinstance(job_ids, frozenset)
        return job_ids & MINE

    access.visible = visible
    assert (await browser.get("/jobs/mine-job")).status_code == 200


async def test_dependency_parameters_are_validated(fake):
    async def visible(tenant: Annotated[int, Header()]):
        async def visible_jobs(job_ids):
            return job_ids

        return visible_jobs

    fake.add_job("job-1")
    async with browsing(make_app(fake, jobs_router(visible))) as browser:
        response = await browser.get("/jobs/job-1")
        assert response.status_code == 422
        assert response.json()["errors"][0]["loc"] == ["header", "tenant"]
        assert not fake.requests
        assert (await browser.get("/jobs/job-1", headers={"tenant": "7"})).status_code == 200


async def test_visible_works_in_mounted_app(fake, access):
    fake.add_job("mine-job")
    fake.add_job(THEIRS)
    app = FastAPI(lifespan=sutro_lifespan(fake.client))
    inner = FastAPI()
    inner.include_router(make_router(access), prefix="/api")
    app.mount("/inner", inner)
    async with app.router.lifespan_context(app):
        inner.dependency_overrides[get_job_monitor] = lambda: app.state.sutro_monitor
        async with browser_of(app) as browser:
            browser.headers["X-User"] = "me"
            assert (await browser.get("/inner/api/jobs/mine-job")).status_code == 200
            assert (await browser.get(f"/inner/api/jobs/{THEIRS}")).status_code == 404
    assert access.calls == [{"mine-job"}, {THEIRS}]


async def test_404_of_service_with_retry_after_looks_like_hidden_job(fake, browser):
    fake.fail_next(10, status=404, headers={"Retry-After": "7"}, body=b'{"detail": "no such job"}')
    for path in ("", "/status", "/wait?timeout=0.2"):
        missing = await browser.get(f"/jobs/{MISSING}{path}")
        hidden = await browser.get(f"/jobs/{THEIRS}{path}")
        assert visible_content(missing, MISSING) == visible_content(hidden, THEIRS)


async def test_hidden_ids_get_immediate_response(browser):
    began = now()
    for path in ("", "/status", "/wait?timeout=60", "/events"):
        await browser.get(f"/jobs/{THEIRS}{path}")
    assert now() - began < 1


# ---- without problem details


async def test_errors_reach_handlers_of_app(fake, access):
    app = make_app(fake, make_router(access, problem_details=False))

    @app.exception_handler(SutroError)
    async def handle(request: Request, error: SutroError):
        return JSONResponse({"mine": error.to_dict()}, 404 if "404" in str(error) else 500)

    fake.add_job(THEIRS)
    async with browsing(app) as browser:
        browser.headers["X-User"] = "me"
        for path in ("", "/status", "/wait?timeout=0.05", "/wait?timeout=5"):
            hidden = await browser.get(f"/jobs/{THEIRS}{path}")
            missing = await browser.get(f"/jobs/{MISSING}{path}")
            assert visible_content(hidden, THEIRS) == visible_content(missing, MISSING)
            assert hidden.json()["mine"]["type"] == JobNotFoundError.__name__
        fake.fail_next(1, status=401)
        refused = await browser.get(f"/jobs/{MISSING}")
        assert refused.json()["mine"]["type"] == AuthenticationError.__name__
        invalid = await browser.get(f"/jobs/{MISSING}/wait?timeout=soon")
        assert invalid.status_code == 422
        assert invalid.json()["detail"][0]["loc"] == ["query", "timeout"]
        access.visible = raises
        failed = await browser.get(f"/jobs/{MISSING}")
        assert failed.json() == {
            "mine": {"type": "SutroError", "message": "`visible` of jobs_router failed"}
        }
        access.visible = returns(set)
        finished = await browser.get(f"/jobs/{MISSING}/events", headers={"Last-Event-ID": "end"})
        assert finished.status_code == 204


async def test_openapi_without_problem_details(fake, access):
    app = make_app(fake, make_router(access, problem_details=False))
    for methods in app.openapi()["paths"].values():
        for operation in methods.values():
            assert not {"404", "502", "503"} & operation["responses"].keys()


# ---- the list


@pytest.fixture
def many(fake):
    """Jobs of two users, alternately: the newest is number 0."""
    for number in reversed(range(250)):
        owner = "mine" if number % 2 else "theirs"
        fake.add_job(f"{owner}-{number}")


@pytest.fixture
def owner(access):
    async def visible(job_ids):
        return {job_id for job_id in job_ids if job_id.startswith("mine")}

    access.visible = visible


def ids_of(response):
    assert response.status_code == 200
    return [job["job_id"] for job in response.json()["jobs"]]


async def test_list_has_jobs_of_caller_newest_first(fake, many, owner, browser, access):
    response = await browser.get("/jobs?limit=3")
    assert ids_of(response) == ["mine-job", "mine-1", "mine-3"]
    assert response.json()["next"] == "mine-3"
    assert response.json()["is_truncated"] is False
    assert response.json()["jobs"][0]["status"] == "succeeded"
    assert len(fake.requests) == 1
    assert [len(ids) for ids in access.calls] == [100]


async def test_list_pages_have_each_job_once(fake, many, owner, browser):
    found, path = [], "/jobs?limit=40"
    pages = 0
    while path:
        response = await browser.get(path)
        assert "theirs" not in response.text
        found += ids_of(response)
        before = response.json()["next"]
        path = before and f"/jobs?limit=40&before={before}"
        pages += 1
    mine = [f"mine-{number}" for number in range(1, 250, 2)]
    assert found == ["mine-job", *mine]
    assert pages == 4


async def test_new_jobs_do_not_shift_list_pages(fake, many, owner, browser):
    first = await browser.get("/jobs?limit=2")
    fake.add_job("mine-newest")
    second = await browser.get(f"/jobs?limit=2&before={first.json()['next']}")
    assert ids_of(first) + ids_of(second) == ["mine-job", "mine-1", "mine-3", "mine-5"]


async def test_list_cursor_must_be_job_of_caller(fake, many, owner, browser, access):
    hidden = await browser.get("/jobs?before=theirs-2")
    absent = await browser.get("/jobs?before=absent-2")
    assert visible_content(hidden, "theirs-2") == visible_content(absent, "absent-2")
    assert hidden.status_code == 404
    assert not fake.requests
    assert access.calls == [{"theirs-2"}, {"absent-2"}]
    assert (await browser.get("/jobs?before=mine-absent")).status_code == 404


@pytest.mark.parametrize("others", [0, 98, 99, 250])
async def test_next_page_does_not_depend_on_jobs_of_others(fake, owner, browser, others):
    for number in range(others):
        fake.add_job(f"other-{number}")
    fake.add_job("mine-newest")
    response = await browser.get("/jobs?limit=2")
    assert ids_of(response) == ["mine-newest", "mine-job"]
    assert response.json()["next"] is None
    assert response.json()["is_truncated"] is False
    response = await browser.get("/jobs?limit=1")
    assert ids_of(response) == ["mine-newest"]
    assert response.json()["next"] == "mine-newest"


async def test_list_scans_newest_thousand_jobs(fake, owner, browser, access):
    for number in range(1000):
        fake.add_job(f"other-{number}")
    response = await browser.get("/jobs")
    assert response.json() == {"jobs": [], "next": None, "is_truncated": True}
    assert len(fake.requests) == 11
    assert [len(ids) for ids in access.calls] == [100] * 10
    response = await browser.get("/jobs?before=mine-job")
    assert response.json() == {"jobs": [], "next": None, "is_truncated": True}


@pytest.mark.parametrize("limit", [1, 20])
async def test_list_of_exactly_thousand_jobs_is_not_truncated(fake, owner, browser, limit):
    for number in range(998):  # the app has two, of which `mine-job` is the oldest
        fake.add_job(f"other-{number}")
    response = await browser.get(f"/jobs?limit={limit}")
    assert ids_of(response) == ["mine-job"]
    assert response.json()["next"] is None
    assert response.json()["is_truncated"] is False
    assert len(fake.requests) == 10
    response = await browser.get("/jobs?before=mine-job")
    assert response.json() == {"jobs": [], "next": None, "is_truncated": False}
    assert (await browser.get("/jobs?before=mine-absent")).status_code == 404
    fake.add_job("other-998")
    response = await browser.get(f"/jobs?limit={limit}")
    assert response.json() == {"jobs": [], "next": None, "is_truncated": True}


async def get_list_after_thousand_jobs(fake, browser, body):
    """Get the list while the account has ten full pages, a cursor after them, and then a body."""
    for page in range(10):
        jobs = [{"job_id": f"other-{page}-{number}", "status": "RUNNING"} for number in range(100)]
        content = json.dumps({"jobs": jobs, "next_cursor": f"page-{page + 1}"})
        fake.fail_next(body=content, endpoint="list-jobs")
    fake.fail_next(20, body=body, endpoint="list-jobs")
    response = await browser.get("/jobs")
    assert ids_of(response) == []
    return response.json()["is_truncated"]


async def test_cursor_of_empty_page_does_not_truncate_list(fake, owner, browser):
    body = json.dumps({"jobs": [], "next_cursor": None})
    assert await get_list_after_thousand_jobs(fake, browser, body) is False
    assert len(fake.requests) == 11


async def test_page_after_thousand_jobs_cannot_fail_list(fake, owner, browser):
    assert await get_list_after_thousand_jobs(fake, browser, "no JSON") is True


async def test_empty_list_does_not_call_visible(access):
    from sutro_async.testing import FakeSutro

    async with FakeSutro() as fake, browsing(make_app(fake, make_router(access))) as browser:
        response = await browser.get("/jobs", headers={"X-User": "me"})
    assert response.json() == {"jobs": [], "next": None, "is_truncated": False}
    assert not access.calls


async def test_list_fails_closed(fake, many, browser, access):
    access.visible = raises
    response = await browser.get("/jobs")
    assert response.status_code == 500
    assert "mine" not in response.text


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_list_error_of_service_is_not_missing_job(fake, browser, status):
    fake.fail_next(1, status=status)
    response = await browser.get("/jobs")
    assert response.status_code == 502
    assert response.json()["instance"] == "/jobs"


@pytest.mark.parametrize("limit", ["0", "101", "many"])
async def test_limit_outside_1_to_100_gets_422(fake, browser, limit):
    assert (await browser.get(f"/jobs?limit={limit}")).status_code == 422
    assert not fake.requests


async def test_no_list_without_visible(fake):
    fake.add_job("job-1")
    async with browsing(make_app(fake, jobs_router())) as browser:
        assert (await browser.get("/jobs")).status_code == 404
        assert (await browser.get("/jobs/job-1")).status_code == 200


@pytest.mark.parametrize("visible", [None, "owner", [lambda: None]])
def test_non_callable_visible_is_rejected(visible):
    with pytest.raises(TypeError, match="visible must be a FastAPI dependency"):
        jobs_router(visible)
