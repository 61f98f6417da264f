"""An arq worker that waits for Sutro jobs, thousands at a time.

    arq worker.WorkerSettings

The key comes from SUTRO_API_KEY, and REDIS_URL says where Redis is.
"""

import os
from typing import Any, ClassVar

from arq import Retry, func
from arq.connections import RedisSettings

from sutro_async import JobStatusReport, JobWaitTimeoutError, SutroClient

# Seconds. Long waits are made of short ones: when a worker dies without a word, Redis
# believes it at work until the timeout of its task has passed.
SLICE = 240
TASK_TIMEOUT = 300
# Every slice counts as a try, and so does every restart of the worker: three days' worth.
MAX_TRIES = 3 * 24 * 3600 // SLICE

KEEP_RESULT = 7 * 24 * 3600


async def wait_for_job(ctx: dict[str, Any], job_id: str) -> JobStatusReport:
    """Wait for the end of a job; the report, or what is raised, is the result in Redis."""
    client: SutroClient = ctx["client"]
    try:
        return await client.wait_for_job(job_id, timeout=SLICE)
    except JobWaitTimeoutError:
        raise Retry from None  # it goes on: the next slice


async def open_client(ctx: dict[str, Any]) -> None:
    """Give all tasks of this worker one client, so that they share its limits."""
    ctx["client"] = SutroClient()


async def close_client(ctx: dict[str, Any]) -> None:
    """Close it when the worker stops; arq has cancelled the tasks by then, to run them again."""
    await ctx["client"].aclose()


class WorkerSettings:
    """What the command `arq` looks at."""

    functions: ClassVar = [
        func(wait_for_job, timeout=TASK_TIMEOUT, max_tries=MAX_TRIES, keep_result=KEEP_RESULT)
    ]
    on_startup = open_client
    on_shutdown = close_client
    max_jobs = 5000  # waiting costs next to nothing
    redis_settings = RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://localhost"))
