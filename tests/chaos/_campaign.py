"""Jobs with a known result, on a server that breaks a fraction of the responses."""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

import attrs

from sutro_async import APIStatusError, Job, JobStatusReport, SutroError
from tests.chaos._hostile import FAULTS, Fault, Promise

__all__ = ["Campaign"]

_TERMINAL: Final = ("succeeded", "succeeded", "failed")
_MIXABLE: Final = [fault for fault in FAULTS.values() if not fault.can_spread]


@attrs.define
class _JobState:
    """A job: its remaining statuses, and the fault of its latest request."""

    statuses: list[str]
    requests: int = 0
    fault: Fault | None = None


class Campaign:
    """Sets the statuses of the jobs, chooses the faults, and checks what the library returns.

    The choices depend only on the seed, the job and the number of its request, so they are the same
    in each run, whatever the order of the requests.

    Args:
        seed: The seed of all choices.
        steps: The smallest and the largest number of correct responses until a job has finished.
        share: The share of requests that are broken.

    Attributes:
        requests: The number of requests.
        faults: The number of broken requests, by fault.
        results: The number of jobs, by terminal status or error.
        wrong_results: Descriptions of the results that were not as promised.
    """

    def __init__(self, seed: int, *, steps: tuple[int, int] = (1, 5), share: float = 0.2) -> None:
        self.requests = 0
        self.faults: Counter[str] = Counter()
        self.results: Counter[str] = Counter()
        self.wrong_results: list[str] = []
        self._seed = seed
        self._steps = steps
        self._share = share
        self._jobs: dict[str, _JobState] = {}

    def next_status(self, job_id: str) -> str:
        """Return the status of a job, and advance it to the next one."""
        statuses = self._jobs[job_id].statuses
        return statuses.pop(0) if len(statuses) > 1 else statuses[0]

    def choose_fault(self, job_id: str) -> Fault | None:
        """Return the fault of a request."""
        self.requests += 1
        job = self._job(job_id)
        if job.fault is not None and job.fault.promise is Promise.FINAL:
            self._add_wrong(job_id, "was requested again")
        job.requests += 1
        draw = random.Random(f"{self._seed} {job_id} {job.requests}")
        job.fault = draw.choice(_MIXABLE) if draw.random() < self._share else None
        if job.fault is not None:
            self.faults[job.fault.name] += 1
        return job.fault

    def check_wait(self, job_id: str, result: JobStatusReport | SutroError) -> None:
        """Check the result of a wait, and count it."""
        job = self._jobs[job_id]
        fault = job.fault
        if fault is not None and fault.promise is Promise.FINAL:
            self._check_error(job_id, result, fault)
        elif not isinstance(result, JobStatusReport) or job.statuses != [result.status]:
            self._add_wrong(job_id, f"ended with {result!r}, with {job.statuses} still to come")
        elif (result.job_id, result.message) != (job_id, f"about {job_id}"):
            self._add_wrong(job_id, f"got the report of another job: {result!r}")
        self.results[
            result.status if isinstance(result, JobStatusReport) else type(result).__name__
        ] += 1

    def check_record(self, job_id: str, result: Job | SutroError) -> None:
        """Check the result of a call for the record of a finished job."""
        job = self._jobs[job_id]
        fault = job.fault
        if fault is not None and fault.promise in {Promise.FINAL, Promise.SURVIVED}:
            self._check_error(job_id, result, fault)
        elif not isinstance(result, Job) or job.statuses != [result.status]:
            self._add_wrong(job_id, f"has the record {result!r}, expected {job.statuses}")

    def has_finished(self, job_id: str) -> bool:
        """Whether the job has a terminal status, and no fault has ended its wait."""
        job = self._jobs[job_id]
        return len(job.statuses) == 1 and (
            job.fault is None or job.fault.promise is not Promise.FINAL
        )

    def forget(self, job_id: str) -> None:
        """Drop a job that is not requested again."""
        del self._jobs[job_id]

    def _check_error(self, job_id: str, result: object, fault: Fault) -> None:
        status_code = result.status_code if isinstance(result, APIStatusError) else None
        if type(result) is not fault.error or status_code != fault.status_code:
            self._add_wrong(job_id, f"ended with {result!r}")

    def _add_wrong(self, job_id: str, problem: str) -> None:
        fault = self._jobs[job_id].fault
        self.wrong_results.append(f"{job_id} {problem}; the last fault was {fault and fault.name}")

    def _job(self, job_id: str) -> _JobState:
        if job_id not in self._jobs:
            draw = random.Random(f"{self._seed} {job_id}")
            steps = draw.randint(*self._steps)
            self._jobs[job_id] = _JobState(["running"] * (steps - 1) + [draw.choice(_TERMINAL)])
        return self._jobs[job_id]
