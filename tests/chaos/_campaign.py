"""Jobs with a known result, on a server that breaks a fraction of the responses."""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

import attrs

from sutro_async import APIStatusError, Job, JobStatusReport, SutroError
from tests.chaos._hostile import FAULTS, Fault, Promise

__all__ = ["Campaign"]

_ENDS: Final = ("succeeded", "succeeded", "failed")
_MIXABLE: Final = [fault for fault in FAULTS.values() if not fault.can_spread]


@attrs.define
class _Life:
    """A job: the statuses that are still to come, and the outcome of its newest request."""

    words: list[str]
    requests: int = 0
    fault: Fault | None = None


class Campaign:
    """Gives the statuses of the jobs, chooses the faults, and checks what the library returns.

    What is chosen depends on the seed, the job and the number of its request alone, so that it is
    the same in each run, in whatever order the requests arrive.

    Args:
        seed: For another course of events.
        steps: The fewest and the most honest responses until a job has ended.
        share: The share of requests that are broken.

    Attributes:
        requests: How many there were.
        faults: How many of them were broken, by the fault.
        ends: How many jobs ended, by their status or the error.
        wrong: Descriptions of all that was not as promised.
    """

    def __init__(self, seed: int, *, steps: tuple[int, int] = (1, 5), share: float = 0.2) -> None:
        self.requests = 0
        self.faults: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._seed = seed
        self._steps = steps
        self._share = share
        self._lives: dict[str, _Life] = {}

    def tell(self, job_id: str) -> str:
        """Return the true status of a job, and advance it to the next one."""
        words = self._lives[job_id].words
        return words.pop(0) if len(words) > 1 else words[0]

    def choose(self, job_id: str) -> Fault | None:
        """Give the fault for a request."""
        self.requests += 1
        life = self._life(job_id)
        if life.fault is not None and life.fault.promise is Promise.FINAL:
            self._complain(job_id, "was asked about once more")
        life.requests += 1
        chance = random.Random(f"{self._seed} {job_id} {life.requests}")
        life.fault = chance.choice(_MIXABLE) if chance.random() < self._share else None
        if life.fault is not None:
            self.faults[life.fault.name] += 1
        return life.fault

    def judge_wait(self, job_id: str, end: JobStatusReport | SutroError) -> None:
        """Check the end of a wait, and count it."""
        life = self._lives[job_id]
        fault = life.fault
        if fault is not None and fault.promise is Promise.FINAL:
            self._judge_error(job_id, end, fault)
        elif not isinstance(end, JobStatusReport) or life.words != [end.status]:
            self._complain(job_id, f"ended with {end!r}, and had still to say {life.words}")
        elif (end.job_id, end.message) != (job_id, f"about {job_id}"):
            self._complain(job_id, f"got the report of another: {end!r}")
        self.ends[end.status if isinstance(end, JobStatusReport) else type(end).__name__] += 1

    def judge_record(self, job_id: str, end: Job | SutroError) -> None:
        """Check what a call for the record of a finished job has returned."""
        life = self._lives[job_id]
        fault = life.fault
        if fault is not None and fault.promise in {Promise.FINAL, Promise.SURVIVED}:
            self._judge_error(job_id, end, fault)
        elif not isinstance(end, Job) or life.words != [end.status]:
            self._complain(job_id, f"has the record {end!r}, and not {life.words}")

    def has_ended(self, job_id: str) -> bool:
        """Whether the job has reached its last status, and no fault has ended its wait."""
        life = self._lives[job_id]
        return len(life.words) == 1 and (
            life.fault is None or life.fault.promise is not Promise.FINAL
        )

    def forget(self, job_id: str) -> None:
        """Forget a job that is not requested again."""
        del self._lives[job_id]

    def _judge_error(self, job_id: str, end: object, fault: Fault) -> None:
        status_code = end.status_code if isinstance(end, APIStatusError) else None
        if type(end) is not fault.error or status_code != fault.status_code:
            self._complain(job_id, f"ended with {end!r}")

    def _complain(self, job_id: str, complaint: str) -> None:
        fault = self._lives[job_id].fault
        self.wrong.append(f"{job_id} {complaint}; the last fault was {fault and fault.name}")

    def _life(self, job_id: str) -> _Life:
        if job_id not in self._lives:
            chance = random.Random(f"{self._seed} {job_id}")
            steps = chance.randint(*self._steps)
            self._lives[job_id] = _Life(["running"] * (steps - 1) + [chance.choice(_ENDS)])
        return self._lives[job_id]
