"""Queue Sutro jobs for the worker, and print their results.

python enqueue.py job-12345 job-12346
"""

import asyncio
import os
import sys
from datetime import timedelta

from arq import create_pool
from arq.connections import RedisSettings
from arq.jobs import Job, ResultNotFound
from arq.worker import JobExecutionFailed

from sutro_async import SutroError

# As long as the worker keeps trying; by default, arq drops a job after a day.
EXPIRES = timedelta(days=3)


async def main(job_ids: list[str]) -> None:
    """Queue a wait for each job, unless one is queued already or its result is still stored."""
    redis = await create_pool(
        RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://localhost"))
    )
    for job_id in job_ids:
        await redis.enqueue_job("wait_for_job", job_id, _job_id=job_id, _expires=EXPIRES)
    # Another program, on another machine, could read the results later.
    for job_id in job_ids:
        try:
            report = await Job(job_id, redis).result()
        except SutroError as error:
            print(error)
        except (JobExecutionFailed, ResultNotFound) as error:  # of arq itself
            print(f"job {job_id!r}: {error}")
        else:
            print(report.job_id, report.status, report.failure or "")
    await redis.aclose(close_connection_pool=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
