"""Failures on request, and the bodies of error responses."""

import json
from collections.abc import Mapping
from http.client import responses
from typing import Literal, Self, get_args

import attrs
from attrs.validators import deep_mapping, ge, instance_of, le, optional
from multidict import CIMultiDict

Endpoint = Literal["job-status", "jobs", "list-jobs"]
Ending = Literal["whole", "truncate", "reset", "disconnect"]


@attrs.frozen(kw_only=True)
class Fault:
    """How to respond to the next `times` requests; without a status, with the correct response."""

    times: int = attrs.field(default=1, validator=[instance_of(int), ge(1)])
    status: int | None = attrs.field(
        default=None, validator=optional([instance_of(int), ge(200), le(599)])
    )
    headers: Mapping[str, str] = attrs.field(
        factory=dict, validator=deep_mapping(instance_of(str), instance_of(str))
    )
    body: bytes | None = attrs.field(default=None, validator=optional(instance_of(bytes)))
    delay: float = attrs.field(default=0.0, validator=ge(0))
    ending: Ending = "whole"
    endpoint: Endpoint | None = None
    job_id: str | None = None

    @classmethod
    def plan(
        cls,
        *,
        times: int,
        status: int | None,
        headers: Mapping[str, str] | None,
        body: bytes | str | None,
        delay: float,
        disconnect: bool,
        reset: bool,
        truncate: bool,
        endpoint: Endpoint | None,
        job_id: str | None,
    ) -> Self:
        """Read the arguments of `FakeSutro.fail_next`, which documents them.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: An argument is invalid.
        """
        endings: dict[Ending, bool] = {
            "disconnect": disconnect,
            "reset": reset,
            "truncate": truncate,
        }
        chosen = [ending for ending, wanted in endings.items() if wanted]
        has_response = bool(status is not None or headers or body is not None)
        if not (chosen or has_response or delay):
            raise ValueError(
                "pass what goes wrong: status, headers, body, delay, disconnect, reset or truncate"
            )
        if len(chosen) > 1:
            raise ValueError(f"these exclude each other: choose one of {', '.join(chosen)}")
        if disconnect and has_response:
            raise ValueError("disconnect sends no response: drop status, headers and body")
        if chosen and body is not None and len(body) == 0:
            raise ValueError(f"{chosen[0]} cuts the body in half: pass one that is not empty")
        if endpoint not in {None, *get_args(Endpoint)}:
            known = ", ".join(map(repr, get_args(Endpoint)))
            raise ValueError(f"endpoint must be one of {known}, got {endpoint!r}")
        if endpoint == "list-jobs" and job_id is not None:
            raise ValueError("list-jobs has no job id: drop job_id")
        return cls(
            times=times,
            status=200 if status is None and body is not None else status,
            headers=CIMultiDict(headers or {}),
            body=body.encode() if isinstance(body, str) else body,
            delay=delay,
            ending=chosen[0] if chosen else "whole",
            endpoint=endpoint,
            job_id=job_id,
        )


@attrs.define
class FaultQueue:
    """The faults to come, in the order in which they were queued."""

    _faults: list[Fault] = attrs.field(factory=list, init=False)

    @property
    def left(self) -> int:
        """How many requests are still to fail."""
        return sum(fault.times for fault in self._faults)

    def add(self, fault: Fault) -> None:
        """Queue a fault behind the others."""
        self._faults.append(fault)

    def take(self, endpoint: str, job_id: str) -> Fault | None:
        """Return the first fault for such a request, and count it."""
        for index, fault in enumerate(self._faults):
            if fault.endpoint in {None, endpoint} and fault.job_id in {None, job_id}:
                again = [attrs.evolve(fault, times=fault.times - 1)] if fault.times > 1 else []
                self._faults[index : index + 1] = again
                return fault
        return None

    def clear(self) -> None:
        """Drop what is queued."""
        self._faults.clear()


def error_body(status: int, job_id: str) -> bytes:
    """Return the body that the service, or the proxy before it, sends with an error status.

    `job_id` is the requested job, empty if the path names none.
    """
    phrase = responses.get(status, "Unknown Error")
    if status >= 500:
        return f"<html><body><h1>{status} {phrase}</h1></body></html>\n".encode()
    if status == 404 and job_id:
        body = {"message": f"No job found with ID {job_id}"}
    elif status == 401:
        body = {"detail": "Invalid API key"}
    elif status == 429:
        body = {"detail": "Rate limit exceeded", "code": "rate_limited", "request_id": "req-fake"}
    else:
        body = {"detail": phrase}
    return json.dumps(body).encode()
