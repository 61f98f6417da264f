"""The fake's jobs: their timelines, and the service's responses about them. No HTTP here.

Every instant is a reading of `time.monotonic`, in seconds, passed in by the caller.
"""

import difflib
import json
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

import attrs

Dialect = Literal["mapping", "flat"]
Step = str | tuple[str, float]

# Lists of its own: lists of the client would hide the client's mistakes.
_TERMINAL = frozenset({"succeeded", "failed", "cancelled", "canceled"})
_STARTED = frozenset({"starting", "running", "succeeded", "failed"})
_STATUSES = _TERMINAL | {
    "pending",
    "submitted",
    "queued",
    "starting",
    "running",
    "cancelling",
    "canceling",
    "unknown",
}
_FIELDS = frozenset(
    {
        "model",
        "system_prompt",
        "job_priority",
        "datetime_created",
        "datetime_started",
        "datetime_completed",
        "json_schema",
        "sampling_params",
        "name",
        "description",
        "dataset_id",
        "input_tokens",
        "output_tokens",
        "job_cost",
        "num_rows",
        "cost_estimate",
        # Not in the API reference, but sent by the deployed service.
        "run_type",
        "datetime_added",
        "created_at",
        "completed_at",
        "input_count",
        "priority",
    }
)

_MESSAGES = {
    "succeeded": "The job has completed",
    "failed": "The job has failed",
    "cancelled": "The job was cancelled",
}


def require_text(value: object, what: str) -> str:
    """Return `value` if it is a string that is not blank.

    Raises:
        TypeError: It is not a string.
        ValueError: It is empty or blank.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, got {value!r}")
    if not value.strip():
        raise ValueError(f"{what} must not be empty")
    return value


def require_known(word: str, known: Collection[str], what: str) -> None:
    """Check that Sutro uses a word.

    Raises:
        ValueError: It does not; the message names the most similar word that it uses.
    """
    if word.lower() in known:
        return
    nearest = difflib.get_close_matches(word.lower(), known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(sorted(known))}."
    raise ValueError(
        f"unknown {what} {word!r}: {hint} Pass allow_unknown=True to send it nonetheless."
    )


@attrs.define(kw_only=True)
class Timeline:
    """The statuses of one job, in order, and the times at which they begin.

    With seconds, every time is known from the start. With requests, the time of a step is added
    when the step is sent. In both cases the steps reached are those that began by now.
    """

    statuses: list[str]
    starts: list[float]
    _first_served: bool = attrs.field(default=False, init=False)

    @classmethod
    def plan(cls, steps: Iterable[Step], *, now: float, allow_unknown: bool) -> Self:
        """Read the steps of `FakeSutro.add_job`.

        Raises:
            TypeError: The timeline or one of its statuses has the wrong type.
            ValueError: There is no status, or one that is empty or unknown, or a pair lacks
                positive seconds.
        """
        if isinstance(steps, str):
            raise TypeError(f"a timeline is a list of statuses: write [{steps!r}]")
        steps = list(steps)
        if not steps:
            raise ValueError("a timeline needs at least one status, such as ['succeeded']")
        if not any(isinstance(step, tuple) for step in steps):
            return cls(statuses=[_status(step, allow_unknown) for step in steps], starts=[now])
        *timed, last = steps
        if isinstance(last, tuple):
            raise TypeError(f"the last status lasts forever: write {last[0]!r}, without seconds")
        statuses, starts = [], [now]
        for step in timed:
            status, seconds = _timed_step(step, allow_unknown)
            statuses.append(status)
            starts.append(starts[-1] + seconds)
        return cls(statuses=[*statuses, _status(last, allow_unknown)], starts=starts)

    def reached(self, now: float) -> list[tuple[str, float]]:
        """Return the steps that began by `now`, each a status and its time; at least the first."""
        # Not strict: with requests, later steps have no time yet.
        steps = zip(self.statuses, self.starts, strict=False)
        return [(status, start) for status, start in steps if start <= now]

    def advance(self, now: float) -> None:
        """Count a status request: with requests, each but the first starts the next step."""
        if self._first_served and len(self.starts) < len(self.statuses):
            self.starts.append(now)
        self._first_served = True

    def jump(self, status: str, now: float, *, allow_unknown: bool) -> None:
        """Make `status` the last step, from `now` on; later steps are dropped."""
        reached = self.reached(now)
        self.statuses = [*(word for word, _ in reached), _status(status, allow_unknown)]
        self.starts = [*(start for _, start in reached), now]


def _status(status: object, allow_unknown: bool) -> str:
    word = require_text(status, "a status").lower()
    if not allow_unknown:
        require_known(word, _STATUSES, "status")
    return word


def _timed_step(step: object, allow_unknown: bool) -> tuple[str, float]:
    match step:
        case (status, int() | float() as seconds) if 0 < seconds < float("inf"):
            return _status(status, allow_unknown), seconds
    raise ValueError(
        "in a timeline of pairs, each status except the last needs positive seconds,"
        f" as in ('running', 2.0), got {step!r}"
    )


class Unset:
    """The default of arguments for which None is a value: JSON's null."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset()


@attrs.define(kw_only=True)
class FakeJob:
    """One job of the fake service."""

    job_id: str
    timeline: Timeline
    failure_reason: object
    additional_context: object
    status_reason: bool
    message: object
    metadata: object
    fields: dict[str, Any]
    created: float
    created_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))

    @classmethod
    def plan(
        cls,
        job_id: str,
        timeline: Iterable[Step],
        *,
        failure_reason: object,
        additional_context: object,
        status_reason: bool,
        message: object,
        metadata: object,
        allow_unknown: bool,
        fields: Mapping[str, object],
        now: float,
    ) -> Self:
        """Read the arguments of `FakeSutro.add_job`, which documents them.

        Raises:
            TypeError: An argument has the wrong type, or cannot be sent as JSON.
            ValueError: An argument is invalid.
        """
        if require_text(job_id, "a job id") in {".", ".."}:
            raise ValueError(f"invalid job id {job_id!r}: it must be one segment of a URL's path")
        if "status" in fields:
            raise ValueError(f"write timeline=[{fields['status']!r}]: the status of a job changes")
        if additional_context is not None and failure_reason is None:
            raise ValueError("additional_context explains a failure_reason: pass that too")
        for text, name in (
            (failure_reason, "failure_reason"),
            (additional_context, "additional_context"),
        ):
            if isinstance(text, str):
                require_text(text, name)
        if not allow_unknown:
            for name in fields:
                require_known(name, _FIELDS, "field of a record")
        return cls(
            job_id=job_id,
            timeline=Timeline.plan(timeline, now=now, allow_unknown=allow_unknown),
            failure_reason=_json_copy(failure_reason),
            additional_context=_json_copy(additional_context),
            status_reason=status_reason,
            message=message if message is UNSET else _json_copy(message),
            metadata=metadata if metadata is UNSET else _json_copy(metadata),
            fields=_json_copy(fields),
            created=now,
        )

    def status_body(self, dialect: Dialect, now: float) -> dict[str, Any]:
        """Return the body of `GET /job-status/{job_id}`."""
        status, _ = self.timeline.reached(now)[-1]
        metadata: dict[str, Any] = {}
        if status == "failed" and self.status_reason and self.failure_reason is not None:
            if dialect == "mapping":
                metadata = {"failure_reason": self._rich_reason()}
            else:
                metadata = {"failure_reason": self.failure_reason} | self._context()
        body: dict[str, Any]
        if dialect == "mapping":
            body = {
                "message": f"Job status with job_id {self.job_id} retrieved.",
                "job_status": {self.job_id: status.upper()},
                "metadata": metadata or None,
            }
        else:
            message = _MESSAGES.get(status, f"The job is {status}")
            body = {"message": message, "job_status": status, "metadata": metadata}
        overrides = {"message": self.message, "metadata": self.metadata}
        return body | {name: value for name, value in overrides.items() if value is not UNSET}

    def record(self, dialect: Dialect, now: float) -> dict[str, Any]:
        """Return the `job` in the body of `GET /jobs/{job_id}`."""
        reached = self.timeline.reached(now)
        status, _ = reached[-1]
        succeeded = status == "succeeded"
        reason = self._rich_reason() if dialect == "mapping" else self.failure_reason
        return {
            "job_id": self.job_id,
            "status": status.upper() if dialect == "mapping" else status,
            "model": "llama-3.1-8b",
            "system_prompt": "Answer in one word.",
            "job_priority": 0,
            "datetime_created": self._time(self.created),
            "datetime_started": self._first_time(reached, _STARTED),
            "datetime_completed": (
                self._first_time(reached, _TERMINAL) if status in _TERMINAL else None
            ),
            "json_schema": None,
            "sampling_params": {"temperature": 0.7, "max_tokens": 512},
            "name": "Fake batch",
            "description": None,
            "dataset_id": "dataset-fake",
            "input_tokens": 12_000 if succeeded else None,
            "output_tokens": 3_400 if succeeded else None,
            "job_cost": 0.0185 if succeeded else None,
            "num_rows": 100,
            "failure_reason": reason if status == "failed" else None,
            "cost_estimate": 0.02,
        } | self.fields

    def _rich_reason(self) -> object:
        """Return the reason with its context in one object, if it is a text or an object."""
        if isinstance(self.failure_reason, str):
            return {"message": self.failure_reason} | self._context()
        if isinstance(self.failure_reason, dict):
            return self.failure_reason | self._context()
        return self.failure_reason

    def _context(self) -> dict[str, Any]:
        if self.additional_context is None:
            return {}
        return {"additional_context": self.additional_context}

    def _first_time(self, reached: list[tuple[str, float]], words: frozenset[str]) -> str | None:
        return next((self._time(start) for status, start in reached if status in words), None)

    def _time(self, instant: float) -> str:
        at = self.created_at + timedelta(seconds=instant - self.created)
        return at.isoformat().replace("+00:00", "Z")


def _json_copy(value: object) -> Any:  # noqa: ANN401 - any JSON value
    # A copy by way of JSON is checked here and not in a handler, and later changes of the original
    # do not affect it.
    return json.loads(json.dumps(value, default=_mapping_as_dict))


def _mapping_as_dict(value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r} cannot be sent as JSON")
