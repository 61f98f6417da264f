"""The recipes of `docs/fastapi.md`: an app with users, and event streams with a login."""

import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse
from playwright.async_api import async_playwright

from sutro_async.fastapi import jobs_router, sutro_lifespan
from tests.asgi_server import serve
from tests.conftest import FAST_POLL
from tests.end_to_end.test_dashboard import launch_chromium
from tests.test_fastapi import browser_of

PAGE = (Path(__file__).parents[2] / "docs/fastapi.md").read_text(encoding="utf-8")


def snippet(language, needle):
    [code] = [
        code for code in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if needle in code
    ]
    return code


# ---- users


async def test_each_user_sees_jobs_of_dict(fake, monkeypatch):
    monkeypatch.setenv("SUTRO_API_KEY", fake.api_key)
    monkeypatch.setenv("SUTRO_API_URL", fake.url)
    names = {"FastAPI": FastAPI, "jobs_router": jobs_router, "sutro_lifespan": sutro_lifespan}
    exec(compile(snippet("python", "JOBS_OF"), "docs/fastapi.md", "exec"), names)  # our page
    for job_id in ("job-a", "job-b"):
        fake.add_job(job_id)
    app = names["app"]
    async with app.router.lifespan_context(app), browser_of(app) as browser:
        assert (await browser.get("/jobs/job-a")).status_code == 401
        for user, statuses in (("alice", (200, 404)), ("bob", (404, 200)), ("eve", (401, 401))):
            responses = [
                await browser.get(f"/jobs/job-{job}", headers={"X-User": user}) for job in "ab"
            ]
            assert tuple(response.status_code for response in responses) == statuses


# ---- users and a database


@pytest.fixture
async def recipe(fake, monkeypatch, tmp_path):
    """The app of the page, with two users and a job of each."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/jobs.db")
    monkeypatch.setenv("SUTRO_API_KEY", fake.api_key)
    monkeypatch.setenv("SUTRO_API_URL", fake.url)
    names = {"__name__": "recipe"}
    exec(compile(snippet("python", "class JobOwner"), "docs/fastapi.md", "exec"), names)  # our page
    app = names["app"]
    async with app.router.lifespan_context(app):
        async with names["sessions"].begin() as session:
            for user_id, name in enumerate(["ann", "bob"]):
                fake.add_job(f"job-{name}")
                session.add(names["Login"](token=f"secret-{name}", user_id=user_id))
                session.add(names["JobOwner"](job_id=f"job-{name}", user_id=user_id))
        yield app


async def test_each_user_sees_their_own_jobs(recipe, fake):
    async with browser_of(recipe) as browser:
        assert (await browser.get("/api/jobs/job-ann")).status_code == 401
        browser.cookies.set("login", "secret-unknown")
        assert (await browser.get("/api/jobs/job-ann")).status_code == 401
        assert not fake.requests
        for me, other in (("ann", "bob"), ("bob", "ann")):
            browser.cookies.set("login", f"secret-{me}")
            for path in ("", "/status", "/wait"):
                mine = await browser.get(f"/api/jobs/job-{me}{path}")
                theirs = await browser.get(f"/api/jobs/job-{other}{path}")
                absent = await browser.get(f"/api/jobs/job-xyz{path}")
                assert (mine.status_code, mine.json()["status"]) == (200, "succeeded")
                assert theirs.status_code == 404
                assert theirs.text == absent.text.replace("job-xyz", f"job-{other}")
            listed = (await browser.get("/api/jobs")).json()
            assert [job["job_id"] for job in listed["jobs"]] == [f"job-{me}"]
            body = {"job_ids": [f"job-{other}", f"job-{me}"] + [f"x-{n}" for n in range(998)]}
            outcomes = (await browser.post("/api/jobs/statuses", json=body)).json()["outcomes"]
            assert [each["job_id"] for each in outcomes if "report" in each] == [f"job-{me}"]
            ids = {"job_id": [f"job-{other}", f"job-{me}"]}
            stream = (await browser.get("/api/job-events", params=ids)).text
            assert stream.count("event: status") == stream.count("event: problem") == 1


async def test_documented_insecure_guard_shows_jobs_of_others(fake):
    """If this fails because the jobs are hidden, the warning can go."""
    fake.add_job("theirs")
    fake.add_job("mine")

    async def owner(job_id: str) -> None:
        if job_id != "mine":
            raise HTTPException(404)

    app = FastAPI(lifespan=sutro_lifespan(fake.client))
    app.include_router(jobs_router(), dependencies=[Depends(owner)])
    async with app.router.lifespan_context(app), browser_of(app) as browser:
        assert (await browser.get("/jobs/theirs")).status_code == 404
        stream = await browser.get("/job-events?job_id=theirs&job_id=mine")
        assert '"job_id": "theirs", "status": "succeeded"' in stream.text
        body = {"job_ids": ["theirs"]}
        outcomes = await browser.post("/jobs/statuses?job_id=mine", json=body)
        assert outcomes.json()["outcomes"][0]["report"]["status"] == "succeeded"


# ---- event streams


async def test_stream_sends_documented_events(fake):
    fake.add_job("job-12345", ["queued", "running", "succeeded"])
    app = FastAPI(lifespan=sutro_lifespan(lambda: fake.client(poll=FAST_POLL)))
    app.include_router(jobs_router())
    async with app.router.lifespan_context(app), browser_of(app) as browser:
        response = await browser.get("/jobs/job-12345/events")
    assert response.text == snippet("text", "event: status") + "\n"


# ---- in a browser


TOKEN = "secret-ann"


def make_app(fake):
    async def user(
        login: Annotated[str | None, Cookie()] = None,
        authorization: Annotated[str | None, Header()] = None,
    ) -> str:
        if TOKEN not in {login, (authorization or "").removeprefix("Bearer ")}:
            raise HTTPException(401, "log in first")
        return "ann"

    async def visible(user: Annotated[str, Depends(user)]):
        async def visible_jobs(job_ids):
            return {job_id for job_id in job_ids if job_id.startswith(user)}

        return visible_jobs

    app = FastAPI(lifespan=sutro_lifespan(lambda: fake.client(poll=FAST_POLL)))
    app.include_router(jobs_router(visible), prefix="/api")

    @app.get("/login")
    async def log_in(response: Response) -> None:
        response.set_cookie("login", TOKEN, httponly=True, samesite="lax")

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return "<!doctype html><title>A page</title>"

    return app


@pytest.fixture
async def chromium():
    async with async_playwright() as playwright:
        launched = await launch_chromium(playwright)
        yield launched
        await launched.close()


@asynccontextmanager
async def open_page(chromium, url):
    context = await chromium.new_context()
    page = await context.new_page()
    await page.goto(url)
    yield page
    await context.close()


BY_EVENT_SOURCE = """([url, options]) => new Promise((resolve) => {
  const stream = new EventSource(url, options);
  const found = [];
  const take = (event) => {
    const data = JSON.parse(event.data);
    found.push([event.type, data.job_id, data.status]);
    if (event.lastEventId === "end") { stream.close(); resolve(found); }
  };
  stream.addEventListener("status", take);
  stream.addEventListener("problem", take);
  stream.addEventListener("error", () => {
    if (stream.readyState === EventSource.CLOSED) resolve("refused");
  });
})"""

BY_FETCH = """async ([url, token]) => {
  const found = [];
  try {
    for await (const { event, data } of readEvents(url, token)) {
      found.push([event, data.job_id, data.status]);
    }
  } catch (error) {
    return error.message;
  }
  return found;
}"""

STREAM = "/api/job-events?job_id=ann-1&job_id=bob-1"
SHOWN = [["problem", "bob-1", 404], ["status", "ann-1", "succeeded"]]


@pytest.mark.browser
async def test_event_source_authenticates_by_cookie(chromium, fake):
    for job_id in ("ann-1", "bob-1"):
        fake.add_job(job_id)
    async with serve(make_app(fake)) as server, open_page(chromium, server.url) as page:
        assert await page.evaluate(BY_EVENT_SOURCE, [STREAM, {}]) == "refused"
        await page.evaluate("fetch('/login')")
        assert await page.evaluate("document.cookie") == ""
        assert await page.evaluate(BY_EVENT_SOURCE, [STREAM, {}]) == SHOWN


@pytest.mark.browser
async def test_documented_reader_authenticates_by_header(chromium, fake):
    fake.add_job("ann-1", ["queued", "running", "succeeded"])
    async with serve(make_app(fake)) as server, open_page(chromium, server.url) as page:
        await page.add_script_tag(content=snippet("javascript", "readEvents"))
        assert await page.evaluate(BY_FETCH, [STREAM, "wrong"]) == "HTTP 401"
        assert await page.evaluate(BY_FETCH, [STREAM, TOKEN]) == [
            SHOWN[0],
            *(["status", "ann-1", status] for status in ("queued", "running", "succeeded")),
        ]


@pytest.mark.browser
async def test_another_origin_needs_cors(chromium, fake):
    fake.add_job("ann-1")
    pages, closed, opened = FastAPI(), make_app(fake), make_app(fake)

    @pages.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return "<!doctype html><title>A page of another origin</title>"

    async with serve(pages) as elsewhere:
        names = {"app": opened}
        code = snippet("python", "CORSMiddleware").replace("https://pages.example", elsewhere.url)
        exec(compile(code, "docs/fastapi.md", "exec"), names)  # our page
        assert opened.user_middleware[0].cls is CORSMiddleware
        async with (
            serve(closed) as refusing,
            serve(opened) as allowing,
            open_page(chromium, elsewhere.url) as page,
        ):
            await page.add_script_tag(content=snippet("javascript", "readEvents"))
            refused = await page.evaluate(BY_FETCH, [refusing.url + STREAM, TOKEN])
            assert refused == "Failed to fetch"
            assert await page.evaluate(BY_FETCH, [allowing.url + STREAM, TOKEN]) == SHOWN
            # To the same site, another port, a cookie goes along even with SameSite=Lax.
            await page.evaluate(f"fetch('{allowing.url}/login', {{ credentials: 'include' }})")
            source = [allowing.url + STREAM, {"withCredentials": True}]
            assert await page.evaluate(BY_EVENT_SOURCE, source) == SHOWN
            without = [allowing.url + STREAM, {}]
            assert await page.evaluate(BY_EVENT_SOURCE, without) == "refused"


async def test_retry_after_is_exposed_to_another_origin(fake):
    app = make_app(fake)
    names = {"app": app}
    exec(compile(snippet("python", "CORSMiddleware"), "docs/fastapi.md", "exec"), names)
    fake.fail_next(1, status=429, headers={"Retry-After": "120"})
    async with app.router.lifespan_context(app), browser_of(app) as browser:
        headers = {"Origin": "https://pages.example", "Authorization": f"Bearer {TOKEN}"}
        response = await browser.get("/api/jobs/ann-1", headers=headers)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "120"
    assert response.headers["access-control-expose-headers"] == "Retry-After"
    assert response.headers["access-control-allow-origin"] == "https://pages.example"
