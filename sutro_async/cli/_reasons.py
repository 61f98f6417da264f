"""Why jobs failed, from their records, where their statuses do not say so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import attrs

from sutro_async import (
    Job,
    JobOutcome,
    JobStatus,
    JobStatusReport,
    RetryPolicy,
    SutroClient,
    SutroError,
)

__all__ = ["add_reason", "add_reasons"]

# Seconds, for one request and for all: a reason is worth no long wait.
_RECORD_TIMEOUT: Final = 10.0
_TIMEOUT: Final = 30.0


async def add_reasons(
    client: SutroClient, outcomes: Iterable[JobOutcome[JobStatusReport]]
) -> list[JobOutcome[JobStatusReport]]:
    """Read the records of the jobs that failed for an unknown reason; best effort."""
    outcomes = list(outcomes)
    job_ids = [each.job_id for each in outcomes if each.value and _lacks_reason(each.value)]
    records: dict[str, JobOutcome[Job]] = {}
    client = client.with_options(timeout=_RECORD_TIMEOUT, retry=RetryPolicy(attempts=2))
    with suppress(SutroError, TimeoutError):
        async with asyncio.timeout(_TIMEOUT):
            records = await client.get_jobs(job_ids)
    return [_add_reason(outcome, records.get(outcome.job_id)) for outcome in outcomes]


def _add_reason(
    outcome: JobOutcome[JobStatusReport], record: JobOutcome[Job] | None
) -> JobOutcome[JobStatusReport]:
    if outcome.value is None or record is None or record.value is None:
        return outcome
    return attrs.evolve(outcome, value=add_reason(outcome.value, record.value))


def add_reason(report: JobStatusReport, record: Job) -> JobStatusReport:
    """Take the reason of a failure from the record, where the report has none."""
    if _lacks_reason(report) and record.failure is not None:
        return attrs.evolve(report, failure=record.failure)
    return report


def _lacks_reason(report: JobStatusReport) -> bool:
    return report.status is JobStatus.FAILED and not str(report.failure or "").strip()
