"""The types of `sutro_async.fastapi`, as an app uses them."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, assert_type

from fastapi import APIRouter, FastAPI

from sutro_async import Job, JobMonitor, PollPolicy, SutroClient
from sutro_async.fastapi import (
    MonitorDep,
    SutroDep,
    install_error_handlers,
    jobs_router,
    sutro_lifespan,
)

app = FastAPI(lifespan=sutro_lifespan())
FastAPI(lifespan=sutro_lifespan(lambda: SutroClient(max_rate=5), poll=PollPolicy(maximum=10)))
FastAPI(lifespan=sutro_lifespan(SutroClient()))

assert_type(install_error_handlers(app), None)
assert_type(jobs_router(), APIRouter)


async def visible_jobs(user: str) -> Callable[[frozenset[str]], Awaitable[set[str]]]:
    async def visible(job_ids: frozenset[str]) -> set[str]:
        return {job_id for job_id in job_ids if job_id.startswith(user)}

    return visible


assert_type(jobs_router(visible_jobs, problem_details=False), APIRouter)
takes_an_app: AbstractAsyncContextManager[Any] = sutro_lifespan()(app)


@app.get("/cost/{job_id}")
async def cost(job_id: str, client: SutroDep, monitor: MonitorDep) -> float | None:
    assert_type(client, SutroClient)
    assert_type(monitor, JobMonitor)
    job = await client.get_job(job_id)
    assert_type(job, Job)
    return job.job_cost
