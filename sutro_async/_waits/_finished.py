"""The finished jobs that a monitor remembers, so that they cost no request."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from sutro_async.models import Job, JobStatusReport

__all__ = ["FinishedJobs"]

FinishedT = TypeVar("FinishedT", bound=Job | JobStatusReport)


class FinishedJobs(Generic[FinishedT]):
    """Remembers finished jobs, by report or record; the least recently used are forgotten first."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._jobs: OrderedDict[str, FinishedT] = OrderedDict()

    def __len__(self) -> int:
        return len(self._jobs)

    def remember(self, job: FinishedT) -> None:
        """Remember a terminal report, or the record of a finished job."""
        self._jobs[job.job_id] = job
        self._jobs.move_to_end(job.job_id)
        if len(self._jobs) > self._maximum:
            self._jobs.popitem(last=False)

    def recall(self, job_id: str) -> FinishedT | None:
        """Return what is remembered of a job."""
        job = self._jobs.get(job_id)
        if job is not None:
            self._jobs.move_to_end(job_id)
        return job
