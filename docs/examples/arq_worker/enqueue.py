"""Hand Sutro jobs to the worker, and print what became of them.

python enqueue.py job-12345 job-12346
"""

import asyncio
import os
import sys

from arq import create_pool
from arq.connections import RedisSettings
from arq.jobs import Job

from sutro_async import SutroError


async def main(job_ids: list[str]) -> None:
    """Queue a wait for each job; one that waits already is not queued again."""
    redis = await create_pool(
        RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://localhost"))
    )
    for job_id in job_ids:
        await redis.enqueue_job("wait_for_job", job_id, _job_id=job_id)
    # This part could be another program, on another machine, tomorrow.
    for job_id in job_ids:
        try:
            report = await Job(job_id, redis).result()
        except SutroError as error:
            print(error)
        else:
            print(report.job_id, report.status, report.failure or "")
    await redis.aclose(close_connection_pool=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
