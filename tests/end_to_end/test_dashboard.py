"""The dashboard of the examples: as a program, and in a browser.

With SCREENSHOTS set to a directory, the browser leaves pictures there.
"""

import asyncio
import os
import re
import shutil
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import async_playwright, expect

from sutro_async.testing import FakeSutro

# One process and one browser for all tests, since each takes a second to start. Each test has its
# own jobs.
pytestmark = pytest.mark.asyncio(loop_scope="module")

PROGRAM = Path(__file__).parents[2] / "docs/examples/fastapi_dashboard/app.py"
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

# The program with short intervals for polls and for browsers that reconnect.
AT_A_QUICK_PACE = """
import functools, runpy, sys
import sutro_async.fastapi
from sutro_async import PollPolicy

poll = PollPolicy(initial=0.05, maximum=0.1, not_found_grace=0.2)
lifespan = functools.partial(sutro_async.fastapi.sutro_lifespan, poll=poll)
sutro_async.fastapi.sutro_lifespan = lifespan
sutro_async.fastapi._events._RECONNECT_AFTER = 100
sutro_async.fastapi._events._TICK = 0.2
sutro_async.fastapi._problems._TROUBLE_AFTER = 2
sys.path.insert(0, sys.argv[1])
runpy.run_path(sys.argv[1] + "/app.py", run_name="__main__")
"""
AS_IT_IS = [PROGRAM]
QUICK = ["-c", AT_A_QUICK_PACE, PROGRAM.parent]

# Milliseconds; the page waits three seconds before it reconnects.
expect.set_options(timeout=15_000)

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


class Dashboard:
    """The example as a process of its own."""

    def __init__(self, command, environment):
        self._command = command
        self._environment = environment
        self.url = ""

    async def start(self, port=0):
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "dev", "-W", "error", *self._command),
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PORT": str(port)} | self._environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        line = ""
        while not (found := re.search(r"running on (http://\S+:\d+)", line)):
            line = (await self._process.stderr.readline()).decode()
            assert line, "it did not start"
        self.url = found[1]

    async def stop(self, number=signal.SIGTERM):
        """Stop it, and return its log."""
        if self._process.returncode is None:
            self._process.send_signal(number)
        async with asyncio.timeout(5):
            _, log = await self._process.communicate()
        return log.decode()

    async def restart(self):
        await self.start(int(self.url.rpartition(":")[2]))


@asynccontextmanager
async def running(environment, command=AS_IT_IS):
    dashboard = Dashboard(command, environment)
    await dashboard.start()
    try:
        yield dashboard
    finally:
        log = await dashboard.stop()
        assert "Traceback" not in log


def job_requests(fake):
    return {"SUTRO_API_KEY": fake.api_key, "SUTRO_API_URL": fake.url}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dashboard():
    """The dashboard, with the jobs of a fake that outlives it."""
    async with FakeSutro() as fake, running(job_requests(fake), QUICK) as started:
        started.fake = fake
        yield started


async def launch_chromium(playwright):
    """Launch the Chromium of the system, or skip the test."""
    chromium = shutil.which("chromium")
    if chromium is None:
        reason = "there is no Chromium: apt-get install chromium"
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)(reason)
    return await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_OPTIONS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser():
    async with async_playwright() as playwright:
        launched = await launch_chromium(playwright)
        yield launched
        await launched.close()


@asynccontextmanager
async def open_page(browser, url, *, viewport=DESKTOP, scheme="light"):
    """A page whose scripts run without an error."""
    context = await browser.new_context(viewport=viewport, color_scheme=scheme)
    page = await context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(error))  # noqa: PLW0108 - no built-in will do
    await page.goto(url)
    yield page
    assert not errors
    await context.close()


async def picture(page, name):
    if directory := os.environ.get("SCREENSHOTS"):
        await page.screenshot(path=Path(directory) / f"{name}.png", full_page=True)


def job(page, job_id):
    return page.get_by_role("listitem").filter(has_text=job_id)


# ---- the program


async def test_dashboard_without_key_shows_fake_jobs():
    async with running({}) as dashboard, httpx.AsyncClient(base_url=dashboard.url) as visitor:
        assert "<h1>Sutro jobs</h1>" in (await visitor.get("/")).text
        assert (await visitor.get("/settings")).json() == {"demo": True}
        job_ids = (await visitor.post("/demo/jobs")).json()
        assert len(job_ids) == 6
        outcomes = await visitor.post("/api/jobs/statuses", json={"job_ids": job_ids})
        assert all(outcome["report"] for outcome in outcomes.json()["outcomes"])


async def test_dashboard_with_key_shows_jobs_of_service(dashboard):
    dashboard.fake.add_job("job-1")
    async with httpx.AsyncClient(base_url=dashboard.url) as visitor:
        assert (await visitor.get("/settings")).json() == {"demo": False}
        assert (await visitor.post("/demo/jobs")).status_code in {404, 405}
        assert (await visitor.get("/api/jobs/job-1")).json()["job_cost"] == 0.0185


# ---- the page


@pytest.mark.browser
async def test_jobs_change_live_until_terminal(browser, dashboard):
    fake = dashboard.fake
    fake.add_job("good-1", ["queued"], num_rows=50)
    fake.add_job(
        "bad-1", ["queued"], failure_reason="no GPU", additional_context="<b>0 of 8</b> are free"
    )
    fake.add_job("over-1", ["running"])
    async with open_page(browser, dashboard.url) as page:
        await page.get_by_label("Job ids").fill("good-1, bad-1\nover-1 missing-1")
        await page.get_by_role("button", name="Watch", exact=True).click()
        await expect(page.get_by_role("status")).to_have_text("Live")
        await expect(job(page, "good-1")).to_contain_text("queued")
        await expect(job(page, "good-1")).to_contain_text("Expected cost$0.0200")
        fake.set_status("good-1", "running")
        fake.set_status("over-1", "cancelling")
        await expect(job(page, "good-1")).to_contain_text("running")
        await expect(job(page, "over-1")).to_contain_text("cancelling")
        await picture(page, "moving")
        fake.set_status("good-1", "succeeded")
        fake.set_status("bad-1", "failed")
        fake.set_status("over-1", "cancelled")
        await expect(page.get_by_text("4 of 4 finished")).to_be_visible()
        await expect(page.get_by_role("status")).to_have_text("All finished")
        for text in ("succeeded", "Rows50", "Tokens15,400", "Cost$0.0185", "Time"):
            await expect(job(page, "good-1")).to_contain_text(text)
        await expect(job(page, "bad-1")).to_contain_text("no GPU — <b>0 of 8</b> are free")
        await expect(job(page, "over-1")).to_contain_text("cancelled")
        await expect(job(page, "missing-1")).to_contain_text("not found")
        await expect(page.locator("#totals")).to_have_text(
            "Running0Succeeded1Failed1Cancelled1Not found1Tokens15,400Cost$0.0185"
        )
        bar = page.get_by_role("progressbar")
        assert await bar.get_attribute("aria-valuenow") == "4"
        assert await bar.get_attribute("aria-valuemax") == "4"
        address = page.url.replace("&job_id=missing-1", "")  # each look would take its grace

    async def look_at(name, **look):
        async with open_page(browser, address, **look) as page:
            await expect(page.get_by_text("3 of 3 finished")).to_be_visible()
            await expect(job(page, "good-1")).to_contain_text("Cost$0.0185")
            await picture(page, name)
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width == look["viewport"]["width"]

    await asyncio.gather(
        *(
            look_at(f"{name}-{scheme}", viewport=viewport, scheme=scheme)
            for name, viewport in (("desktop", DESKTOP), ("phone", PHONE))
            for scheme in ("light", "dark")
        )
    )


@pytest.mark.browser
async def test_empty_page_shows_instructions_and_demo(browser):
    async with running({}) as dashboard, open_page(browser, dashboard.url) as page:
        await expect(page.get_by_text("Paste the ids of your jobs")).to_be_visible()
        await expect(page.get_by_text("press “Start six demo jobs”")).to_be_visible()
        await picture(page, "empty")
        await page.get_by_role("button", name="Start six demo jobs").click()
        await expect(page.get_by_text("Paste the ids of your jobs")).to_be_hidden()
        await expect(page.get_by_text("0 of 6 finished")).to_be_visible()
        for name, cost in (
            ("translate", "0.0252"),
            ("classify", "0.0123"),
            ("summarise", "0.4950"),
            ("embed", "0.0225"),
            ("extract", "0.0026"),
            ("rewrite", "0.0013"),
        ):
            await expect(job(page, f"demo-1-{name}")).to_contain_text(f"Expected cost${cost}")
            await expect(job(page, f"demo-1-{name}")).not_to_contain_text("Tokens")
        await expect(page.locator("#totals")).to_contain_text("Running")


@pytest.mark.browser
async def test_failures_can_be_sorted_first_and_running_jobs_are_counted(browser, dashboard):
    ids = [f"order-{number}" for number in range(6)]
    for job_id in ids:
        dashboard.fake.add_job(job_id, ["running"])
    query = "&".join(f"job_id={job_id}" for job_id in ids)
    async with open_page(browser, f"{dashboard.url}?{query}") as page:

        async def check(totals, order):
            await expect(page.locator("#totals")).to_have_text(totals)
            await expect(page.locator("#jobs .id")).to_have_text([f"order-{n}" for n in order])

        await check("Running6", "012345")
        await page.get_by_label("Failures first").check()
        dashboard.fake.set_status("order-4", "failed")
        await check("Running5Failed1", "401235")
        dashboard.fake.set_status("order-2", "failed")
        await check("Running4Failed2", "240135")
        await page.get_by_label("Failures first").uncheck()
        await check("Running4Failed2", "012345")


@pytest.mark.browser
async def test_ids_beyond_limit_stay_in_input(browser, dashboard):
    dashboard.fake.add_job("kept-0", ["running"])
    ids = [f"kept-{number}" for number in range(103)]
    async with open_page(browser, dashboard.url) as page:
        box = page.get_by_label("Job ids")
        await box.fill(" ".join([*ids, "kept-0"]))
        await box.press("Control+Enter")
        await expect(page.get_by_role("listitem")).to_have_count(100)
        await expect(box).to_have_value("kept-100\nkept-101\nkept-102")
        await expect(page.get_by_text("remove some to watch the other 3")).to_be_visible()
        for number in range(1, 4):
            await page.get_by_role(
                "button", name=f"Stop watching kept-{number}", exact=True
            ).click()
        await box.press("Control+Enter")
        await expect(box).to_have_value("")
        await expect(job(page, "kept-102")).to_have_count(1)
        await expect(page.get_by_text("Separated by spaces")).to_be_visible()


@pytest.mark.browser
async def test_page_works_with_keyboard_and_rejects_invalid_ids(browser, dashboard):
    dashboard.fake.add_job("job-3", ["running"])
    async with open_page(browser, dashboard.url) as page:
        await expect(page.get_by_role("button", name="demo")).to_be_hidden()
        await page.keyboard.press("Tab")
        await page.keyboard.type("job-3 ..")
        await page.keyboard.press("Control+Enter")
        await expect(page.get_by_text("“..” cannot be a job id.")).to_be_visible()
        await page.get_by_label("Job ids").fill("job-3")
        await page.keyboard.press("Control+Enter")
        await expect(job(page, "job-3")).to_contain_text("running")
        await page.get_by_role("button", name="Stop watching job-3").press("Enter")
        await expect(page.get_by_role("listitem")).to_have_count(0)
        await expect(page.get_by_role("status")).to_have_text("Nothing to watch")
        await page.goto(f"{dashboard.url}?job_id=a%C2%A0b&job_id=%E2%80%A8&job_id=job-3")
        await expect(page.get_by_role("status")).to_have_text("Live")
        await expect(page.get_by_role("listitem")).to_have_count(1)


@pytest.mark.browser
async def test_id_rejected_by_backend_is_shown_and_can_be_removed(browser, dashboard):
    dashboard.fake.add_job("job-4", ["running"])
    dashboard.fake.add_job("with/slash", ["succeeded"])

    async def serve_script_without_validation(route):
        response = await route.fetch()
        line = re.compile("(?m)^const isInvalidId = .*$")
        script, found = line.subn("const isInvalidId = () => false;", await response.text())
        assert found == 1
        await route.fulfill(response=response, body=script)

    async with open_page(browser, dashboard.url) as page:
        requested = []
        page.on("request", lambda request: requested.append(request.url))
        await page.route("**/app.js", serve_script_without_validation)
        await page.goto(f"{dashboard.url}?job_id=..&job_id=job-4&job_id=with/slash")
        await expect(page.get_by_role("status")).to_contain_text("Refused")
        await expect(page.get_by_text("invalid job id '..'")).to_be_visible()
        await page.get_by_role("button", name="Stop watching ..", exact=True).click()
        await expect(page.get_by_role("status")).to_have_text("Live")
        await expect(job(page, "job-4")).to_contain_text("running")
        await expect(job(page, "with/slash")).to_contain_text("succeeded")
        assert [url.rpartition("/")[2] for url in requested if "/api/jobs/" in url] == ["job-4"]


@pytest.mark.browser
async def test_page_recovers_after_backend_restart(browser, dashboard):
    fake = dashboard.fake
    fake.add_job("job-2", ["running"])
    async with open_page(browser, f"{dashboard.url}?job_id=job-2") as page:
        await expect(job(page, "job-2")).to_contain_text("running")
        await dashboard.stop(signal.SIGKILL)
        await expect(page.get_by_role("status")).to_contain_text("Connection lost")
        await picture(page, "lost")
        fake.set_status("job-2", "cancelling")
        await dashboard.restart()
        await expect(page.get_by_role("status")).to_have_text("Live")
        await expect(job(page, "job-2")).to_contain_text("cancelling")

        log = await dashboard.stop(signal.SIGTERM)
        assert "Traceback" not in log
        await expect(page.get_by_role("status")).to_contain_text("Connection lost")
        await expect(page.get_by_role("alert")).to_contain_text("Trying again")
        await expect(job(page, "job-2")).not_to_contain_text("Trying again")
        await picture(page, "stopped")
        fake.set_status("job-2", "cancelled")
        await dashboard.restart()
        await expect(page.get_by_role("status")).to_have_text("All finished")
        await expect(job(page, "job-2")).to_contain_text("cancelled")
        await expect(page.get_by_role("alert")).to_be_hidden()


@pytest.mark.browser
async def test_unresponsive_service_shows_one_banner(browser, dashboard):
    fake = dashboard.fake
    ids = ["silent-1", "silent-2", "silent-3"]
    for job_id in ids:
        fake.add_job(job_id, ["running"])
    query = "&".join(f"job_id={job_id}" for job_id in ids)
    async with open_page(browser, f"{dashboard.url}?{query}") as page:
        banner = page.get_by_role("alert")
        for job_id in ids:
            await expect(job(page, job_id)).to_contain_text("running")
        await expect(banner).to_be_hidden()
        fake.fail_next(10_000, status=503)
        await expect(banner).to_contain_text("The service has not responded since")
        await expect(page.get_by_text("has not responded")).to_have_count(1)
        for job_id in ids:
            await expect(job(page, job_id).locator(".trouble")).to_be_empty()
        await picture(page, "silent")
        fake.clear_faults()
        await expect(banner).to_be_hidden()
        await expect(page.get_by_role("status")).to_have_text("Live")
