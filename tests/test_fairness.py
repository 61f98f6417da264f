"""Concurrent batches of one client, with more polls due than can be sent."""

import asyncio
from collections import Counter

from sutro_async import PollPolicy

LARGE = [f"large-{number}" for number in range(200)]
SMALL = [f"small-{number}" for number in range(3)]

# Due again at once, so that hundreds of polls are always overdue.
OVERDUE = PollPolicy(initial=0.001, maximum=0.001)


def polled(fake, name):
    ids = [request.path.rpartition("/")[2] for request in fake.requests]
    return [job_id for job_id in ids if job_id.startswith(name)]


async def test_batch_polls_are_sent_in_due_order(fake):
    for job_id in LARGE:
        fake.add_job(job_id, ["running"] * 3 + ["succeeded"])
    async with fake.client(max_concurrency=5) as client:
        await client.wait_for_jobs(LARGE, poll=OVERDUE)
    counts = Counter()
    for job_id in polled(fake, "large"):
        counts[job_id] += 1
        # No job is more than one poll ahead; polls in flight may overtake each other.
        if counts[job_id] > 1:
            assert sum(counts[each] < counts[job_id] - 1 for each in LARGE) <= 5
    assert set(counts.values()) == {4}


async def test_small_batch_is_not_delayed_by_large_one(fake):
    for job_id in LARGE:
        fake.add_job(job_id, ["running"] * 1000)
    for job_id in SMALL:
        fake.add_job(job_id, ["running"] * 3 + ["succeeded"])
    async with fake.client(max_concurrency=5) as client:
        crowd = asyncio.create_task(client.wait_for_jobs(LARGE, poll=OVERDUE))
        while len(polled(fake, "large")) < len(LARGE):
            await asyncio.sleep(0.01)
        began = len(fake.requests)
        await client.wait_for_jobs(SMALL, poll=OVERDUE)
        beside = len(fake.requests) - began
        crowd.cancel()
        await asyncio.wait({crowd})
    # Queued once in the client, not behind all two hundred.
    assert len(polled(fake, "small")) == 12
    assert beside < len(LARGE)
