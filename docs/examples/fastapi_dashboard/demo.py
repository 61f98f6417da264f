"""Jobs to play with, for when there is no key for the real service."""

import itertools

from fastapi import APIRouter, Request

from sutro_async.testing import FakeSutro

router = APIRouter(prefix="/demo", tags=["demo"])
numbers = itertools.count(1)


@router.post("/jobs")
async def add_jobs(request: Request) -> list[str]:
    """Add six jobs to the fake service, and give their ids."""
    fake: FakeSutro = request.app.state.fake
    batch = next(numbers)
    ids = [
        f"demo-{batch}-{name}"
        for name in ("translate", "classify", "summarise", "embed", "extract", "rewrite")
    ]
    translate, classify, summarise, embed, extract, rewrite = ids
    fake.add_job(translate, [("queued", 3), ("running", 8), "succeeded"], num_rows=1200)
    fake.add_job(
        classify,
        [("queued", 2), ("starting", 2), ("running", 4), "succeeded"],
        num_rows=300,
    )
    fake.add_job(
        summarise,
        [("queued", 6), ("running", 24), "succeeded"],
        num_rows=5000,
        cost_estimate=2.55,
    )
    fake.add_job(embed, [("pending", 5), ("running", 15), "succeeded"], num_rows=800)
    fake.add_job(
        extract,
        [("queued", 4), ("running", 6), "failed"],
        failure_reason="the output does not match the schema",
        additional_context="row 17: 'price' is not a number",
    )
    fake.add_job(rewrite, [("running", 9), ("cancelling", 4), "cancelled"])
    return ids
