"""Why a job failed, from its record, if its status does not say so."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Final

import attrs

from sutro_async._http import JOB, Options, SessionManager
from sutro_async.errors import SutroError
from sutro_async.models import FailureReason, Job, JobStatus, JobStatusReport

__all__ = ["add_reason", "needs_reason"]

_log: Final = logging.getLogger("sutro_async")


async def add_reason(
    manager: SessionManager, report: JobStatusReport, options: Options, *, seconds: float
) -> tuple[JobStatusReport, Job | None]:
    """Add the reason of a failure from the record to a report that has none.

    The service guarantees a reason in the status response only if a job failed during its
    initialization (API reference: "Checking Job Status").

    Best effort: one request, with the usual timeout of one, in no more than so many seconds in all.
    If it fails, the report is returned as it is.

    Returns:
        The report, and the record if it was read.
    """
    job: Job | None = None
    if not needs_reason(report) or seconds <= 0:
        return report, job
    try:
        async with asyncio.timeout(None if seconds == math.inf else seconds):
            job = await manager.request(JOB, report.job_id, options, is_quoted=True)
    except SutroError as error:
        problem = str(error)
    except TimeoutError:
        problem = f"job {report.job_id!r}: no record within {seconds:.3g} s"
    else:
        if job.status is JobStatus.FAILED and _has_reason(job.failure_reason):
            return attrs.evolve(report, failure=job.failure_reason), job
        problem = f"job {report.job_id!r}: the record ({job.status}) has no reason either"
    _log.warning("%s; the reason of the failure is unknown", problem)
    return report, job


def needs_reason(report: JobStatusReport) -> bool:
    """Whether a report says that the job failed, but not why."""
    return report.status is JobStatus.FAILED and not _has_reason(report.failure)


def _has_reason(failure: FailureReason | None) -> bool:
    return failure is not None and bool(str(failure).strip())
