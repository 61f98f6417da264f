"""`FakeSutro` and the list of jobs: pages, cursors, lag and faults."""

import asyncio
import json
import re
from urllib.parse import quote

import aiohttp
import pytest

from sutro_async.testing import FakeSutro
from tests.test_fake_sutro import Caller, Clock

both_prefixes = pytest.mark.parametrize("prefix", ["", "/v1"])


@pytest.fixture
async def caller(fake):
    async with aiohttp.ClientSession() as session:
        yield Caller(fake, session)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("sutro_async.testing._server.monotonic", clock)
    return clock


def add_jobs(fake, count):
    for number in range(count):
        fake.add_job(f"job-{number}", ["running"])


def ids_of(body):
    return [job["job_id"] for job in body["jobs"]]


async def pages_of(caller, limit, prefix=""):
    path = f"{prefix}/list-jobs?limit={limit}"
    cursor, pages = None, []
    while True:
        query = "" if cursor is None else f"&cursor={quote(cursor, safe='')}"
        status, body = await caller.json(path + query)
        assert status == 200
        assert list(body) == ["jobs", "next_cursor"]
        pages.append(ids_of(body))
        cursor = body["next_cursor"]
        if cursor is None:
            return pages


# ---- pages


@both_prefixes
async def test_list_without_limit_is_one_page(fake, caller, prefix):
    add_jobs(fake, 150)
    status, body = await caller.json(f"{prefix}/list-jobs")
    assert (status, list(body)) == (200, ["message", "jobs"])
    assert body["message"] == "Jobs retrieved successfully."
    assert ids_of(body) == [f"job-{n}" for n in reversed(range(150))]


async def test_cursor_without_limit_is_ignored(fake, caller):
    add_jobs(fake, 3)
    _, body = await caller.json("/list-jobs?cursor=nonsense")
    assert len(body["jobs"]) == 3


@both_prefixes
@pytest.mark.parametrize(
    ("limit", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (6, [6, 1]), (7, [7]), (100, [7])]
)
async def test_pages_are_newest_first(fake, caller, prefix, limit, sizes):
    add_jobs(fake, 7)
    pages = await pages_of(caller, limit, prefix)
    assert [len(page) for page in pages] == sizes
    assert [job_id for page in pages for job_id in page] == [f"job-{n}" for n in reversed(range(7))]


async def test_account_without_jobs_has_one_empty_page(caller):
    assert await caller.json("/list-jobs?limit=100") == (200, {"jobs": [], "next_cursor": None})


async def test_cursor_requires_encoding(fake, caller):
    add_jobs(fake, 30)
    for limit in (1, 5, 20):
        _, body = await caller.json(f"/list-jobs?limit={limit}")
        assert re.search("[+/]", body["next_cursor"])
        status, body = await caller.json(f"/list-jobs?limit=1&cursor={body['next_cursor']}")
        assert status == 422  # a plus sign that is not encoded is a space


async def test_job_added_between_pages_shifts_entries(fake, caller):
    add_jobs(fake, 4)
    _, first = await caller.json("/list-jobs?limit=2")
    fake.add_job("new")
    cursor = quote(first["next_cursor"], safe="")
    _, second = await caller.json(f"/list-jobs?limit=2&cursor={cursor}")
    assert (ids_of(first), ids_of(second)) == (["job-3", "job-2"], ["job-2", "job-1"])


@pytest.mark.parametrize("dialect", ["mapping", "flat"])
async def test_entry_is_record(dialect):
    async with FakeSutro(dialect=dialect) as fake, aiohttp.ClientSession() as session:
        caller = Caller(fake, session)
        fake.add_job("job-1", ["failed"], failure_reason="no GPU", run_type="FULL")
        record = await caller.record()
        for query in ("", "?limit=1"):
            _, body = await caller.json(f"/list-jobs{query}")
            assert body["jobs"] == [record]


async def test_list_does_not_advance_timelines(fake, caller):
    fake.add_job("job-1", ["queued", "running"])
    for _ in range(3):
        _, body = await caller.json("/list-jobs?limit=1")
        assert body["jobs"][0]["status"] == "QUEUED"
    assert await caller.word() == "QUEUED"


# ---- bad requests


@pytest.mark.parametrize(
    "limit", ["0", "101", "-1", "+5", "1.5", "", "all", "%C2%B2", pytest.param("1" * 5000, id="1…")]
)
async def test_invalid_limit_gets_422(caller, limit):
    status, body = await caller.json(f"/list-jobs?limit={limit}")
    assert status == 422
    (detail,) = body["detail"]
    assert detail["loc"] == ["query", "limit"]
    assert detail["msg"] == "Input should be an integer from 1 to 100"


@pytest.mark.parametrize("cursor", ["", "abc", "MTAw", "%2B%2F%2F%2B", "%FF", "+//+MTAw"])
async def test_invalid_cursor_gets_422(caller, cursor):
    status, body = await caller.json(f"/list-jobs?limit=5&cursor={cursor}")
    assert status == 422
    assert body["detail"][0]["loc"] == ["query", "cursor"]


@both_prefixes
async def test_wrong_key_gets_401(fake, caller, prefix):
    add_jobs(fake, 1)
    path = f"{prefix}/list-jobs?limit=1"
    response = await caller.json(path, headers={"Authorization": "Key other"})
    assert response == (401, {"detail": "Invalid API key"})


@pytest.mark.parametrize("path", ["/list-jobs/", "/list-jobs/a", "/v2/list-jobs", "/list-jobsx"])
async def test_unknown_path_gets_404(fake, caller, path):
    add_jobs(fake, 1)
    assert await caller.json(path) == (404, {"detail": "Not Found"})


async def test_other_method_gets_405(caller):
    response = await caller.json("/list-jobs", method="POST")
    assert response == (405, {"detail": "Method Not Allowed"})


# ---- lag


async def words(caller):
    _, body = await caller.json("/list-jobs?limit=100")
    return {job["job_id"]: job["status"] for job in body["jobs"]}


async def test_list_lags_behind_statuses(clock):
    async with FakeSutro(list_lag=10) as fake, aiohttp.ClientSession() as session:
        caller = Caller(fake, session)
        fake.add_job("by-requests", ["queued", "succeeded"])
        fake.add_job("by-seconds", [("running", 3.0), "failed"])
        fake.add_job("by-hand", ["running"])
        clock.now += 5
        for _ in range(2):
            await caller.word("by-requests")
        fake.set_status("by-hand", "cancelled")
        assert await caller.word("by-seconds") == "FAILED"
        seen = {}
        for elapsed in (5, 12.9, 13, 14.9, 15):
            clock.now = 1000 + elapsed
            seen[elapsed] = list((await words(caller)).values())
        assert seen == {
            5: ["RUNNING", "RUNNING", "QUEUED"],
            12.9: ["RUNNING", "RUNNING", "QUEUED"],
            13: ["RUNNING", "FAILED", "QUEUED"],
            14.9: ["RUNNING", "FAILED", "QUEUED"],
            15: ["CANCELLED", "FAILED", "SUCCEEDED"],
        }


async def test_entry_lags_and_record_does_not(clock):
    async with FakeSutro(list_lag=10) as fake, aiohttp.ClientSession() as session:
        caller = Caller(fake, session)
        fake.add_job("job-1", [("running", 1.0), "succeeded"])
        clock.now += 2
        _, body = await caller.json("/list-jobs")
        assert (body["jobs"][0]["datetime_completed"], body["jobs"][0]["job_cost"]) == (None, None)
        record = await caller.record()
        assert record["datetime_completed"] is not None
        fake.list_lag = 0
        _, body = await caller.json("/list-jobs")
        assert body["jobs"] == [record]


@pytest.mark.parametrize("lag", [-1, float("inf"), float("nan")])
def test_invalid_lag_is_rejected(lag):
    with pytest.raises(ValueError, match="list_lag"):
        FakeSutro(list_lag=lag)


# ---- faults

PATHS = {"job-status": "/job-status/job-1", "jobs": "/v1/jobs/job-1", "list-jobs": "/list-jobs?a=1"}


@pytest.mark.parametrize("endpoint", PATHS)
async def test_endpoint_fault_does_not_affect_other_endpoints(fake, caller, endpoint):
    fake.add_job("job-1")
    fake.fail_next(2, status=503, endpoint=endpoint)
    for _ in range(3):
        statuses = {}
        for name, path in PATHS.items():
            async with caller.request(path) as response:
                statuses[name] = response.status
        left = fake.faults_left
        spoilt = 503 if statuses[endpoint] == 503 else 200
        assert statuses == {**dict.fromkeys(PATHS, 200), endpoint: spoilt}
    assert (left, spoilt) == (0, 200)


async def test_fault_for_endpoint_and_job(fake, caller):
    add_jobs(fake, 2)
    fake.fail_next(status=503, endpoint="jobs", job_id="job-1")
    statuses = []
    for path in ("/jobs/job-0", "/job-status/job-1", "/list-jobs", "/jobs/job-1", "/jobs/job-1"):
        async with caller.request(path) as response:
            statuses.append(response.status)
    assert statuses == [200, 200, 200, 503, 200]


async def test_job_fault_does_not_affect_list(fake, caller):
    add_jobs(fake, 1)
    fake.fail_next(status=503, job_id="job-0")
    status, _ = await caller.json("/list-jobs")
    assert (status, fake.faults_left) == (200, 1)


async def test_fault_without_endpoint_affects_list(fake, caller):
    fake.fail_next(status=404)
    assert await caller.json("/list-jobs") == (404, {"detail": "Not Found"})
    fake.fail_next(delay=0.05)
    began = asyncio.get_running_loop().time()
    assert (await caller.json("/list-jobs?limit=1"))[0] == 200
    assert asyncio.get_running_loop().time() - began >= 0.05


async def test_body_replaces_page(fake, caller):
    page = {"jobs": [5], "next_cursor": "again"}
    fake.fail_next(body=json.dumps(page), endpoint="list-jobs")
    assert await caller.json("/list-jobs?limit=100") == (200, page)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint": "list"}, "one of 'job-status', 'jobs', 'list-jobs', got 'list'"),
        ({"endpoint": "list-jobs", "job_id": "a"}, "has no job id: drop job_id"),
    ],
)
def test_invalid_fault_is_rejected(options, message):
    fake = FakeSutro()
    with pytest.raises(ValueError, match=message):
        fake.fail_next(status=503, **options)
    assert fake.faults_left == 0
