"""`sutro-async demo`: six jobs on a fake service, waited for as `sutro-async wait` does."""

from __future__ import annotations

from typing import Any, Final

from sutro_async import PollPolicy
from sutro_async.cli._board import Board
from sutro_async.cli._exit import ExitStatus
from sutro_async.cli._views import open_view
from sutro_async.cli._wait import wait_for_all
from sutro_async.testing import FakeSutro

__all__ = ["run_demo"]

_POLL: Final = PollPolicy(initial=0.1, maximum=0.3)

_CODE: Final = """\
The same in a program of yours, with the key in SUTRO_API_KEY:

    async with SutroClient() as client:
        report = await client.wait_for_job("job-12345", timeout=3600)
        report.raise_for_failure()
        job = await client.get_job("job-12345")
        print(job.status, job.duration, job.job_cost)
"""


async def run_demo(*, as_json: bool = False) -> ExitStatus:
    """Wait for six jobs, with a little trouble on the way, and show what happens.

    It does without click, and without rich too.

    Args:
        as_json: Show it as `sutro-async wait --json` does, and nothing else.
    """
    async with FakeSutro() as fake:
        job_ids = _add_jobs(fake)
        fake.fail_next(1, status=503, headers={"Retry-After": "0.4"}, job_id="embed")
        fake.fail_next(1, truncate=True, job_id="translate")
        board = Board(job_ids)
        view = open_view(board, as_json=as_json, raw=False)
        if not as_json:
            print(f"Waiting for {len(job_ids)} jobs at {fake.url}, a fake Sutro service:\n")
        async with fake.client(poll=_POLL) as client:
            await wait_for_all(client, board, view, timeout=None)
        if not as_json:
            print(
                f"\nIt took {len(fake.requests)} requests. The service answered one with 503 and a"
                " Retry-After,\nand broke off another in the middle: no wait noticed.\n"
            )
            print(_CODE, end="")
    return ExitStatus.OK


def _add_jobs(fake: FakeSutro) -> list[str]:
    fake.add_job(
        "translate", [("queued", 0.5), ("running", 1.9), "succeeded"], **_size(1200, 31, 40)
    )
    fake.add_job("classify", [("queued", 0.9), ("running", 1.2), "succeeded"], **_size(300, 212, 4))
    fake.add_job(
        "summarise", [("starting", 0.8), ("running", 3.4), "succeeded"], **_size(5000, 740, 85)
    )
    fake.add_job("embed", [("pending", 0.6), ("running", 2.5), "succeeded"], **_size(800, 96, 1))
    fake.add_job(
        "extract",
        [("queued", 0.6), ("running", 1.4), "failed"],
        failure_reason="the output does not match the schema",
        additional_context="row 17: 'price' is not a number",
        num_rows=80,
    )
    fake.add_job("rewrite", [("running", 1.1), ("cancelling", 0.7), "cancelled"], num_rows=40)
    return ["translate", "classify", "summarise", "embed", "extract", "rewrite"]


def _size(rows: int, tokens_in: int, tokens_out: int) -> dict[str, Any]:
    """Make the fields of a record that grow with the rows; the tokens are those of one row."""
    return {
        "num_rows": rows,
        "input_tokens": rows * tokens_in,
        "output_tokens": rows * tokens_out,
        "job_cost": rows * (tokens_in + 4 * tokens_out) * 1e-7,
    }
