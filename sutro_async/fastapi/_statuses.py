"""The statuses of many jobs, by the shared requests of the monitor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from sutro_async import (
    APIError,
    AuthenticationError,
    JobMonitor,
    JobOutcome,
    JobStatusReport,
    PermissionDeniedError,
    SutroError,
)
from sutro_async.fastapi._models import JobOutcomeModel, JobOutcomesModel, JobStatusReportModel
from sutro_async.fastapi._problems import log_problem, problem_details

__all__ = ["job_statuses", "outcomes_model"]

# Half of the default `max_concurrency` of a client; the rest is for polls.
_CONCURRENCY: Final = 10

# After this many failures in a row of the service or the key, the other jobs get the last of them.
_FATAL_FAILURES: Final = 3

Outcome = JobOutcome[JobStatusReport]


async def job_statuses(monitor: JobMonitor, job_ids: Iterable[str]) -> dict[str, Outcome]:
    """Get the status of each job; while the service is unavailable, only a few are requested.

    Raises:
        AuthenticationError: The key is wrong.
        ClientStateError: The monitor or its client is closed.
        ConfigurationError: The session that was passed in cannot be used.
    """
    reads = _Reads(monitor, job_ids)
    fatal: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_CONCURRENCY):
                group.create_task(reads.run())
    except* SutroError as errors:
        fatal = errors.exceptions[0]
    if fatal is not None:
        raise fatal
    return reads.outcomes


class _Reads:
    """The reads of some jobs, shared by several worker tasks."""

    def __init__(self, monitor: JobMonitor, job_ids: Iterable[str]) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._monitor = monitor
        self._remaining = iter(job_ids)
        self._failure: APIError | None = None
        self._failures = 0

    async def run(self) -> None:
        """Read the status of one job after another, until none is left."""
        for job_id in self._remaining:
            self.outcomes[job_id] = await self._read(job_id)

    async def _read(self, job_id: str) -> Outcome:
        if self._failure is not None and self._failures >= _FATAL_FAILURES:
            return JobOutcome(job_id=job_id, error=self._failure)
        try:
            report = await self._monitor.get_job_status(job_id)
        except AuthenticationError:
            raise
        except APIError as error:
            if error.retryable or isinstance(error, PermissionDeniedError):
                self._failure = error
                self._failures += 1
            else:
                self._failures = 0
            return JobOutcome(job_id=job_id, error=error)
        self._failures = 0
        return JobOutcome(job_id=job_id, value=report)


def outcomes_model(outcomes: Iterable[Outcome]) -> JobOutcomesModel:
    """Turn outcomes into the response, and log one error of each kind."""
    outcomes = list(outcomes)
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    for error in {type(error): error for error in errors}.values():
        log_problem(error)
    return JobOutcomesModel(outcomes=[_outcome_model(each) for each in outcomes])


def _outcome_model(outcome: Outcome) -> JobOutcomeModel:
    job_id = outcome.job_id
    if outcome.error is not None:
        return JobOutcomeModel(job_id=job_id, problem=problem_details(outcome.error, job_id=job_id))
    report = JobStatusReportModel.model_validate(outcome.result().to_dict())
    return JobOutcomeModel(job_id=job_id, report=report)
