"""Demo jobs, for when there is no key for the real service."""

import itertools

from fastapi import APIRouter, Request

from sutro_async.testing import FakeSutro

router = APIRouter(prefix="/demo", tags=["demo"])
numbers = itertools.count(1)


@router.post("/jobs")
async def add_jobs(request: Request) -> list[str]:
    """Add six jobs to the fake service, those of `sutro-async demo`, and give their ids."""
    fake: FakeSutro = request.app.state.fake
    batch = next(numbers)
    ids = []
    for name, first, running, rows, tokens in (
        ("translate", ("queued", 3), 8, 1200, 31),
        ("classify", ("queued", 4), 5, 300, 212),
        ("summarise", ("starting", 6), 24, 5000, 740),
        ("embed", ("pending", 5), 15, 800, 96),
    ):
        ids.append(f"demo-{batch}-{name}")
        cost = rows * (tokens + 160) * 1e-7
        fake.add_job(
            ids[-1],
            [first, ("running", running), "succeeded"],
            name=name.capitalize(),
            num_rows=rows,
            input_tokens=rows * tokens,
            output_tokens=rows * 40,
            job_cost=cost,
            cost_estimate=cost * 1.1,
        )
    ids += [f"demo-{batch}-extract", f"demo-{batch}-rewrite"]
    fake.add_job(
        ids[-2],
        [("queued", 4), ("running", 6), "failed"],
        name="Extract",
        failure_reason="the output does not match the schema",
        additional_context="row 17: 'price' is not a number",
        num_rows=80,
        cost_estimate=0.0026,
    )
    fake.add_job(
        ids[-1],
        [("running", 9), ("cancelling", 4), "cancelled"],
        name="Rewrite",
        num_rows=40,
        cost_estimate=0.0013,
    )
    return ids
