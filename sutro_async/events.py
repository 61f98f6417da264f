"""What an observer of a client is notified of, and what `stats()` returns.

Times are aware datetimes in UTC. Durations are seconds, measured on the monotonic clock of the
event loop. Events hold plain values: the key is in none of them, and their errors are copies
without causes and frames, so they may be kept.

`endpoint`, `outcome` and `reason` have few values, which are known in advance, so they can be
labels of metrics; `typing.get_args` lists them. Job ids cannot.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import attrs

from sutro_async.errors import APIError, SutroError
from sutro_async.models import JobStatus, JobStatusReport

__all__ = [
    "ClientStats",
    "Endpoint",
    "Event",
    "PauseReason",
    "PollFailed",
    "RequestEnded",
    "RequestOutcome",
    "StatusChanged",
    "ThrottlePaused",
    "ThrottleResumed",
    "WaitEnded",
    "WaitOutcome",
]

Endpoint = Literal["job-status", "jobs", "list-jobs"]
"""The endpoints of the service."""

RequestOutcome = Literal[
    "ok",
    "rate_limited",
    "server_error",
    "client_error",
    "invalid_response",
    "timeout",
    "connection_error",
    "cancelled",
    "unusable_session",
]
"""The outcome of a request; `RequestEnded` explains the values."""

PauseReason = Literal["retry_after", "outage"]
"""Why a client pauses; `ThrottlePaused` explains the values."""

WaitOutcome = Literal["succeeded", "failed", "cancelled", "timeout", "error", "abandoned"]
"""How a wait ended; `WaitEnded` explains the values."""


@attrs.frozen(kw_only=True)
class Event:
    """The base of all events."""


@attrs.frozen(kw_only=True)
class RequestEnded(Event):
    """A request got a response, failed or was cancelled: each try of a call and each poll.

    The values of `outcome`:

    - `ok`: a usable response
    - `rate_limited`: status 429
    - `server_error`: a status from 500 to 599
    - `client_error`: any other status outside 200 to 299
    - `invalid_response`: a status from 200 to 299, without what the API promises
    - `timeout`: no complete response within the timeout of the request
    - `connection_error`: no complete response, for another reason
    - `cancelled`: the caller was cancelled or left, or the client was closed
    - `unusable_session`: the aiohttp session that was passed in could not be used

    Attributes:
        endpoint: What was requested: `job-status`, `jobs` or `list-jobs`.
        outcome: Its outcome.
        job_id: The job; None for list-jobs.
        status_code: The HTTP status; None without a response.
        error: The error; None if the outcome is `ok` or `cancelled`.
        seconds: Seconds from sending it to its end.
        queued_seconds: Seconds that it waited in the queues of the client before that.
        attempt: The number of the try of a call, or of the poll of a wait; from 1 on.
    """

    endpoint: Endpoint
    outcome: RequestOutcome
    job_id: str | None
    status_code: int | None
    error: SutroError | None
    seconds: float
    queued_seconds: float
    attempt: int


@attrs.frozen(kw_only=True)
class PollFailed(Event):
    """A poll of a wait failed, which most waits survive.

    Attributes:
        job_id: The job.
        error: Why it failed.
        failing_since: When the first poll of this series of failures failed.
        next_poll_in: Seconds until the next poll; None if the wait ends with this failure.
    """

    job_id: str
    error: APIError
    failing_since: datetime
    next_poll_in: float | None


@attrs.frozen(kw_only=True)
class ThrottlePaused(Event):
    """The client paused, because of a `Retry-After` or of an outage of the service.

    Attributes:
        reason: `retry_after`: a 429 or 503 named a time until which no request is sent; `outage`:
            polls are held back, except for one probe at a time.
        seconds: Seconds until the end, or longer if the service asks for more; None in an outage.
    """

    reason: PauseReason
    seconds: float | None


@attrs.frozen(kw_only=True)
class ThrottleResumed(Event):
    """The client sends requests again, or was closed during a pause.

    Attributes:
        reason: Why it was paused.
        seconds: Seconds that the pause took.
    """

    reason: PauseReason
    seconds: float


@attrs.frozen(kw_only=True)
class StatusChanged(Event):
    """A wait saw a job for the first time, or its status has changed.

    Attributes:
        job_id: The job.
        previous: The status before; None at first.
        report: The report. If only the record says why a job failed, `report.failure` is not set
            yet.
    """

    job_id: str
    previous: JobStatus | None
    report: JobStatusReport


@attrs.frozen(kw_only=True)
class WaitEnded(Event):
    """The wait for a job ended. All watchers of a job in a monitor share one wait.

    The values of `outcome`:

    - `succeeded`, `failed`, `cancelled`: the terminal status of the job
    - `timeout`: the timeout of the wait expired
    - `error`: a failure that a wait does not survive, or that lasted too long
    - `abandoned`: the program ended it: the task was cancelled, a stream was left, the client or
      the monitor was closed, or an error of another job ended the whole batch

    Attributes:
        job_id: The job.
        outcome: How it ended.
        polls: How many polls were sent.
        elapsed: Seconds that it took.
        late: Seconds from `datetime_completed` of the record to the end of the wait; None where the
            wait did not read the record. It compares the clocks of two machines, so it can be
            negative.
    """

    job_id: str
    outcome: WaitOutcome
    polls: int
    elapsed: float
    late: float | None


@attrs.frozen(kw_only=True)
class ClientStats:
    """What a client, its `with_options` clones included, is doing now.

    Attributes:
        in_flight: Requests in flight.
        queued: Requests in the queue of the client.
        waiting: Jobs that are waited for; one that a monitor polls for many watchers counts once.
        pause_reason: Why the client is paused: `retry_after` or `outage`; None if it is not.
        paused_since: When the pause began; None without one.
        paused_until: When the pause is going to end; None without one, and in an outage.
        last_response_at: When the last good response arrived; None if there was none.
        last_failure: The last failure that indicates the service: a connection error, a timeout, a
            malformed response, 429, or another retryable status; None if there was none.
        last_failure_at: When that was.
        unresponsive_since: Since when requests are in flight or have failed like that without a
            response in between; None while the service responds. In a healthy client it is the time
            of the request in flight. If several jobs are waited for, requests about one of them are
            not enough.
        unresponsive_seconds: Seconds since then, and in an outage since the last good response;
            0 while the service responds.
    """

    in_flight: int
    queued: int
    waiting: int
    pause_reason: PauseReason | None
    paused_since: datetime | None
    paused_until: datetime | None
    last_response_at: datetime | None
    last_failure: APIError | None
    last_failure_at: datetime | None
    unresponsive_since: datetime | None
    unresponsive_seconds: float

    @property
    def current_failure(self) -> APIError | None:
        """The last failure, unless the service has responded since."""
        if self.unresponsive_since is None or self.last_failure_at is None:
            return None
        return self.last_failure if self.last_failure_at >= self.unresponsive_since else None
