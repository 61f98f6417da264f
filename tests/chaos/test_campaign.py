"""Thousands of jobs, with one response in five broken in one of many ways."""

import asyncio

import pytest

from sutro_async import JobMonitor, SutroError
from tests.chaos._campaign import Campaign
from tests.chaos._hostile import HostileServer
from tests.chaos.conftest import TIMEOUT, assert_no_leaks, make_client

JOBS = 2000
SEEDS = (1, 2, 3)
MAX_CONCURRENCY = 50


async def run_campaign(campaign: Campaign, jobs: int) -> None:
    """Wait for the jobs in each possible way, and read the records of all."""
    ids = [f"job-{number}" for number in range(jobs)]
    server = HostileServer(campaign.next_status, campaign.choose_fault, client_timeout=TIMEOUT)
    server.keeps_requests = False
    async with server, make_client(server, max_concurrency=MAX_CONCURRENCY) as client:
        async with JobMonitor(client) as monitor, asyncio.TaskGroup() as group:

            async def check(job_id, wait):
                try:
                    result = await wait
                except SutroError as error:
                    result = error
                campaign.check_wait(job_id, result)

            async def check_batch(job_ids):
                async for outcome in client.as_completed(job_ids):
                    campaign.check_wait(outcome.job_id, outcome.value or outcome.error)

            group.create_task(check_batch(ids[0::3]))
            for job_id in ids[1::3]:
                group.create_task(check(job_id, client.wait_for_job(job_id)))
            for job_id in ids[2::3]:
                group.create_task(check(job_id, monitor.wait(job_id)))
        assert sum(campaign.results.values()) == jobs
        # A single call fails where a wait continues, so it is checked differently.
        successes = [job_id for job_id in ids if campaign.has_finished(job_id)]
        for job_id, outcome in (await client.get_jobs(successes)).items():
            campaign.check_record(job_id, outcome.value or outcome.error)
        assert server.max_in_flight <= MAX_CONCURRENCY


@pytest.mark.parametrize("seed", SEEDS)
async def test_campaign(seed):
    campaign = Campaign(seed)
    async with assert_no_leaks(), asyncio.timeout(120):
        await run_campaign(campaign, JOBS)
    assert campaign.wrong_results == []
