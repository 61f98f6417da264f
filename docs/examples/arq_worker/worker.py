"""An arq worker that waits for Sutro jobs, thousands at a time.

    arq worker.WorkerSettings

The key comes from SUTRO_API_KEY, and REDIS_URL says where Redis is.
"""

import os
from typing import Any, ClassVar

from arq import Retry, func
from arq.connections import RedisSettings

from sutro_async import JobStatusReport, JobWaitTimeoutError, SutroClient

# Seconds. Long waits are made of short ones: when a worker is killed, arq starts its task again
# only after the timeout of the task.
SLICE = 240
TASK_TIMEOUT = 300
# Every slice counts as a try, and so does every restart of the worker. These are for three days.
MAX_TRIES = 3 * 24 * 3600 // SLICE

KEEP_RESULT = 7 * 24 * 3600


async def wait_for_job(ctx: dict[str, Any], job_id: str) -> JobStatusReport:
    """Wait until a job has finished; the report or the exception is the result in Redis."""
    client: SutroClient = ctx["client"]
    try:
        return await client.wait_for_job(job_id, timeout=SLICE)
    except JobWaitTimeoutError:
        raise Retry from None  # it is still running: wait for the next slice


async def open_client(ctx: dict[str, Any]) -> None:
    """Give all tasks of this worker one client, so that they share its limits."""
    ctx["client"] = SutroClient()


async def close_client(ctx: dict[str, Any]) -> None:
    """Close it when the worker stops; arq has cancelled the tasks by then, to run them again."""
    await ctx["client"].aclose()


class WorkerSettings:
    """The settings that the command `arq` reads."""

    functions: ClassVar = [
        func(wait_for_job, timeout=TASK_TIMEOUT, max_tries=MAX_TRIES, keep_result=KEEP_RESULT)
    ]
    on_startup = open_client
    on_shutdown = close_client
    max_jobs = 5000  # a wait takes little memory, and no connection between polls
    redis_settings = RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://localhost"))
