"""The types of `sutro_async` and `sutro_async.testing`."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any, Literal, assert_type

import aiohttp

from sutro_async import (
    TERMINAL_STATUSES,
    APIError,
    APIStatusError,
    FailureReason,
    InvalidResponseError,
    Job,
    JobFailedError,
    JobMonitor,
    JobOutcome,
    JobStatus,
    JobStatusReport,
    JobWaitTimeoutError,
    PollPolicy,
    RetryPolicy,
    Stream,
    SutroClient,
    SutroError,
)
from sutro_async.events import ClientStats, Event, RequestEnded, WaitEnded
from sutro_async.testing import FakeSutro, RecordedRequest

assert_type(TERMINAL_STATUSES, frozenset[JobStatus])


async def the_client(session: aiohttp.ClientSession) -> None:
    async with SutroClient() as client:
        assert_type(client, SutroClient)
        assert_type(client.base_url, str)
    client = SutroClient(
        "sk_key",
        base_url="https://example.com",
        timeout=5,
        retry=RetryPolicy(attempts=2, maximum=1),
        poll=PollPolicy(initial=0.5, factor=1),
        max_concurrency=5,
        max_rate=10,
        session=session,
    )
    assert_type(client.with_options(timeout=1.5, poll=PollPolicy()), SutroClient)
    assert_type(await client.aclose(), None)
    SutroClient(timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SutroClient("key", "https://example.com")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def one_job(client: SutroClient) -> None:
    assert_type(await client.get_job_status("job-1"), JobStatusReport)
    assert_type(await client.get_job("job-1"), Job)
    assert_type(await client.wait_for_job("job-1"), JobStatusReport)
    await client.wait_for_job("job-1", timeout=timedelta(hours=1), raise_on_failure=True)
    await client.wait_for_job("job-1", on_change=print)
    await client.wait_for_job("job-1", on_change=on_change)
    async for report in client.watch_job("job-1", timeout=1):
        assert_type(report, JobStatusReport)
    async with aclosing(client.watch_job("job-1")) as reports:
        assert_type(await anext(reports), JobStatusReport)
    await client.get_job(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def on_change(report: JobStatusReport) -> None:
    assert_type(report.is_terminal, bool)


async def many_jobs(client: SutroClient, job_ids: set[str]) -> None:
    statuses = await client.get_job_statuses(job_ids)
    assert_type(statuses, dict[str, JobOutcome[JobStatusReport]])
    assert_type(await client.get_jobs(job_ids), dict[str, JobOutcome[Job]])
    assert_type(await client.wait_for_jobs(job_ids), dict[str, JobOutcome[JobStatusReport]])
    async for outcome in client.as_completed(job_ids):
        assert_type(outcome, JobOutcome[JobStatusReport])
        assert_type(outcome.value, JobStatusReport | None)
        assert_type(outcome.error, SutroError | None)
        assert_type(outcome.ok, bool)
        assert_type(outcome.result(), JobStatusReport)
        assert_type(outcome.to_dict(), dict[str, Any])
        if outcome.value is not None:
            assert_type(outcome.value.status, JobStatus)
    async with aclosing(client.as_completed(job_ids)) as outcomes:
        assert_type(await anext(outcomes), JobOutcome[JobStatusReport])
    takes_an_iterator(client.as_completed(job_ids))


async def all_jobs(client: SutroClient) -> None:
    assert_type(client.list_jobs(), Stream[Job])
    async with client.list_jobs() as jobs:
        async for job in jobs:
            assert_type(job, Job)
    client.list_jobs(5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def takes_an_iterator(outcomes: AsyncIterator[JobOutcome[JobStatusReport]]) -> None:
    """Accept what `as_completed` gives by its documented type."""


async def the_monitor(client: SutroClient) -> None:
    async with JobMonitor(client, poll=PollPolicy(), keep_finished=5) as monitor:
        assert_type(monitor, JobMonitor)
        assert_type(await monitor.get_job("job-1"), Job)
        assert_type(await monitor.get_job_status("job-1"), JobStatusReport)
        assert_type(await monitor.wait("job-1", timeout=5), JobStatusReport)
        async for report in monitor.watch("job-1"):
            assert_type(report, JobStatusReport)
        assert_type(monitor.latest("job-1"), JobStatusReport | None)
        assert_type(len(monitor), int)


def observer(event: Event) -> None:
    match event:
        case RequestEnded():
            assert_type(event.endpoint, Literal["job-status", "jobs", "list-jobs"])
            assert_type(event.status_code, int | None)
            assert_type(event.error, SutroError | None)
            assert_type(event.seconds, float)
        case WaitEnded(outcome="timeout"):
            assert_type(event.late, float | None)
        case _:
            pass
    RequestEnded("jobs")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def an_observed_client(client: SutroClient) -> None:
    seen: list[Event] = []
    SutroClient(observer=observer)
    SutroClient(observer=seen.append)
    SutroClient(observer=on_change)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    stats = client.stats()
    assert_type(JobMonitor(client).stats(), ClientStats)
    assert_type(stats, ClientStats)
    assert_type(stats.in_flight, int)
    assert_type(stats.pause_reason, Literal["retry_after", "outage"] | None)
    assert_type(stats.paused_until, datetime | None)
    assert_type(stats.unresponsive_seconds, float)
    assert_type(stats.last_failure, APIError | None)


def models(report: JobStatusReport, job: Job) -> None:
    assert_type(report.status, JobStatus)
    assert_type(report.raw_status, str)
    assert_type(report.message, str)
    assert_type(report.failure, FailureReason | None)
    assert_type(FailureReason(message="no GPU").message, str | None)
    assert_type(report.raise_for_failure(), JobStatusReport)
    assert_type(job.datetime_started, datetime | None)
    assert_type(job.duration, timedelta | None)
    assert_type(job.total_tokens, int | None)
    assert_type(job.job_cost, float | None)
    assert_type(job.extra["anything"], Any)
    assert_type(JobStatus("running").is_terminal, bool)
    JobStatusReport("job-1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    report.status = JobStatus.RUNNING  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def errors(error: Exception) -> None:
    if isinstance(error, APIStatusError):
        assert_type(error.status_code, int)
        assert_type(error.retry_after, float | None)
        assert_type(error.request_id, str | None)
        assert_type(error.body, object)
    elif isinstance(error, InvalidResponseError):
        assert_type(error.path, str)
    elif isinstance(error, APIError):
        assert_type(error.job_id, str | None)
        assert_type(error.last_report, JobStatusReport | None)
        assert_type(error.retryable, bool)
    elif isinstance(error, JobWaitTimeoutError):
        assert_type(error.elapsed, float)
    elif isinstance(error, JobFailedError):
        assert_type(error.report, JobStatusReport)


async def the_fake(dialect: Literal["mapping", "flat"]) -> None:
    async with FakeSutro(api_key="sk_test", dialect=dialect, list_lag=1.5) as fake:
        assert_type(fake, FakeSutro)
        fake.add_job("job-1", ["queued", "succeeded"])
        fake.add_job("job-2", [("running", 2.0), "failed"], failure_reason="no GPU", num_rows=5)
        fake.fail_next(2, status=503, headers={"Retry-After": "1"})
        fake.fail_next(status=401, endpoint="list-jobs")
        fake.fail_next(status=401, endpoint="list")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert_type(fake.list_lag, float)
        assert_type(fake.requests, list[RecordedRequest])
        assert_type(fake.client(timeout=1), SutroClient)
        assert_type(fake.url, str)
