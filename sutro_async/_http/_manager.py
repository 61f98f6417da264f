"""`SessionManager`: sends a request and reads its response, for all calls of one client."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar

import attrs

from sutro_async._http._health import Health
from sutro_async._http._lifecycle import Lifecycle
from sutro_async._http._observer import Observer
from sutro_async._http._throttle import Priority, Throttle
from sutro_async._http._transport import Transport
from sutro_async._wire import (
    JobPage,
    Mismatch,
    OnMismatch,
    StatusPage,
    ignore_mismatch,
    job_path,
    page_path,
    parse_job,
    parse_jobs,
    parse_report,
    parse_statuses,
    status_path,
)
from sutro_async.errors import APIError, ConfigurationError, one_line, subject
from sutro_async.events import Endpoint as EndpointName
from sutro_async.models import FailureReason, Job, JobStatus, JobStatusReport
from sutro_async.policies import PollPolicy, RetryPolicy

__all__ = [
    "JOB",
    "STATUS",
    "Endpoint",
    "JobIdT",
    "Options",
    "ResponseT",
    "SessionManager",
    "job_page",
    "status_page",
]

_MAX_UNRECOGNISED: Final = 100
# The reason of a failure and an unrecognised status can be part of the text of an error.
_QUOTED_IN_ERRORS: Final = frozenset({JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.UNKNOWN})

_log: Final = logging.getLogger("sutro_async")

JobIdT = TypeVar("JobIdT", bound=str | None)
ResponseT = TypeVar("ResponseT", bound=Job | JobStatusReport | JobPage | StatusPage)


@attrs.frozen(kw_only=True)
class Options:
    """How a client sends requests: seconds for one of them, and the two policies."""

    timeout: float
    retry: RetryPolicy
    poll: PollPolicy

    def __attrs_post_init__(self) -> None:
        for name, kind in (("retry", RetryPolicy), ("poll", PollPolicy)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ConfigurationError(f"{name} must be a {kind.__name__}, got {value!r}")


class Endpoint(NamedTuple, Generic[JobIdT, ResponseT]):
    """One of the two endpoints of a job, or a page of the list of jobs, whose job id is None.

    Attributes:
        name: Its name in events.
        path: Gives the path for a job id.
        parse: Reads the body of a response.
    """

    name: EndpointName
    path: Callable[[JobIdT], str]
    parse: Callable[[JobIdT, bytes, OnMismatch], ResponseT]


STATUS: Final = Endpoint("job-status", status_path, parse_report)
JOB: Final = Endpoint("jobs", job_path, parse_job)


def job_page(cursor: str | None, limit: int) -> Endpoint[None, JobPage]:
    """Make the endpoint of a page of the list.

    Args:
        cursor: The `next_cursor` of the page before; None for the first page.
        limit: Jobs a page, 1 to 100.
    """
    return Endpoint(
        "list-jobs",
        lambda _: page_path(cursor, limit),
        lambda _, body, note: parse_jobs(body, note),
    )


def status_page(cursor: str | None, limit: int) -> Endpoint[None, StatusPage]:
    """Make the endpoint of a page of the list that is read for its statuses alone.

    Args:
        cursor: The `next_cursor` of the page before; None for the first page.
        limit: Jobs a page, 1 to 100.
    """
    return Endpoint(
        "list-jobs",
        lambda _: page_path(cursor, limit),
        lambda _, body, __: parse_statuses(body),
    )


class SessionManager:
    """What all calls of one client, and of its clones, have in common.

    Args:
        transport: Sends the requests.
        throttle: Says when.

    Attributes:
        transport: Sends the requests.
        throttle: Says when.
        lifecycle: Which event loop the client belongs to, and what closing it ends.
        health: When the service responded last, and since when it has not.
        observer: Gets events, if there is one.
        waiting: How many jobs are waited for.
    """

    observer: Observer | None = None

    def __init__(self, transport: Transport, throttle: Throttle) -> None:
        self.transport = transport
        self.throttle = throttle
        self.lifecycle: Lifecycle = Lifecycle()
        self.health = Health()
        self.waiting = 0
        self._unrecognised_statuses: set[str] = set()
        self._mismatched_paths: set[str] = set()

    async def request(
        self,
        endpoint: Endpoint[JobIdT, ResponseT],
        job_id: JobIdT,
        options: Options,
        *,
        attempt: int = 1,
        priority: Priority = Priority.CALL,
        send_by: float = math.inf,
        due_at: float = math.inf,
        on_sent: Callable[[float], None] | None = None,
        is_quoted: bool = False,
    ) -> ResponseT:
        """Send one request, and read its response.

        Args:
            endpoint: What is requested.
            job_id: Of which job; None for a page of the list.
            options: How.
            attempt: Which try it is, from 1 on, for logs and events.
            priority: Which requests are sent first.
            send_by: When to send a poll even during a pause or an outage; seconds of the loop's
                clock.
            due_at: When it was due, if it has waited already; for events.
            on_sent: Called with the time when it leaves the client's own queue.
            is_quoted: Whether an error may quote the response later, so that the key is taken out.

        Raises:
            APIError: There is no usable response.
            HeldBack: It is a poll, and the service is unavailable.
            ClientStateError: The client or its session is closed, or belongs to another event loop.
            ConfigurationError: The session that was passed in is unusable.
        """
        del due_at  # only an observer needs it
        throttle, health = self.throttle, self.health
        loop = self.lifecycle.check()
        sent_at = loop.time()
        permit = throttle.acquire_at_once(sent_at)
        if permit is None:
            with self.lifecycle.operation():
                permit = await throttle.acquire(priority, send_by=send_by)
            sent_at = loop.time()  # the loop may have been busy since the permit was given
        health.note_sent(sent_at, job_id)
        try:
            if on_sent is not None:
                on_sent(sent_at)
            response = self._read(
                endpoint,
                job_id,
                # Not in a variable, so that the traceback of an error does not keep it in memory.
                await self.transport.get(
                    endpoint.path(job_id),
                    job_id=job_id,
                    sent_at=sent_at,
                    timeout=options.timeout,
                    attempt=attempt,
                ),
                is_quoted=is_quoted,
            )
        except APIError as error:
            now, max_pause = loop.time(), options.retry.max_retry_after
            health.note_error(now, error, others=throttle.in_flight - 1)
            throttle.note_error(now, error, permit, max_pause=max_pause)
            raise
        except BaseException:
            health.note_cancelled(others=throttle.in_flight - 1)
            raise
        else:
            now = loop.time()
            health.note_success(now, others=throttle.in_flight - 1)
            throttle.note_success(now, permit)
            return response
        finally:
            throttle.release(permit)

    def _read(
        self, endpoint: Endpoint[JobIdT, ResponseT], job_id: JobIdT, body: bytes, *, is_quoted: bool
    ) -> ResponseT:
        note = functools.partial(self._warn_of_mismatch, job_id)
        try:
            response = endpoint.parse(job_id, body, note)
            if is_quoted or (
                isinstance(response, JobStatusReport) and response.status in _QUOTED_IN_ERRORS
            ):
                # Redacted now, as long as the key is known.
                redacted = self.transport.redaction.body(body)
                response = response if redacted == body else endpoint.parse(job_id, redacted, note)
        except APIError as error:
            failure = self._redacted_error(error, endpoint, job_id, body)
        else:
            self._log_warnings(response)
            return response
        del body  # so that the traceback does not keep it in memory
        raise failure

    def has_response_since(self, when: float) -> bool:
        """Whether the client has had a good response after a time of the loop's clock."""
        return self.health.last_response_at > when

    def log_status(self, report: JobStatusReport) -> None:
        """Log a changed status."""
        word = self.transport.redaction.value(report.raw_status)
        _log.info("job %r: %s", report.job_id, one_line(word, limit=40))

    def redacted_report(self, report: JobStatusReport) -> JobStatusReport:
        """Take the key out of a report, should the service quote it."""
        value = self.transport.redaction.value
        failure = report.failure
        if failure is not None:
            failure = FailureReason(**value(attrs.asdict(failure, recurse=False)))
        return attrs.evolve(
            report,
            raw_status=value(report.raw_status),
            message=value(report.message),
            metadata=value(report.metadata),
            failure=failure,
        )

    def _redacted_error(
        self, error: APIError, endpoint: Endpoint[JobIdT, Any], job_id: JobIdT, body: bytes
    ) -> APIError:
        """Make an error of a response again, without the key in what it quotes."""
        redacted = self.transport.redaction.body(body)
        if redacted != body:  # before what it quotes is truncated
            error = _error_of(endpoint, job_id, redacted) or error
        self.transport.redaction.error(error)
        self.transport.add_hint(error)
        # An error may be kept for long, and so would be what its context and the frames of its
        # traceback hold: the body, first of all.
        error.__context__ = None
        return error.with_traceback(None)

    def _log_warnings(self, response: Job | JobStatusReport | JobPage | StatusPage) -> None:
        """Warn of unrecognised statuses, and of entries of a page that cannot be read."""
        if isinstance(response, JobPage):
            self._warn_of_skipped_entries(response)
            for job in response.jobs:
                self._log_warnings(job)
        elif not isinstance(response, StatusPage) and response.status is JobStatus.UNKNOWN:
            self._warn_of_unrecognised_status(response)

    def _warn_of_mismatch(self, job_id: str | None, mismatch: Mismatch) -> None:
        if mismatch.path not in self._mismatched_paths:
            self._mismatched_paths.add(mismatch.path)
            redacted = self._redacted_mismatch(mismatch)
            _log.warning("%s: %s; the rest of the response is used", subject(job_id), redacted)

    def _warn_of_skipped_entries(self, page: JobPage) -> None:
        for mismatch in page.skipped:
            _log.warning("list-jobs: %s; the entry is skipped", self._redacted_mismatch(mismatch))
        others = page.skipped_count - len(page.skipped)
        if others:
            _log.warning("list-jobs: %d more entries of the page are skipped", others)

    def _redacted_mismatch(self, mismatch: Mismatch) -> Mismatch:
        return attrs.evolve(mismatch, value=self.transport.redaction.value(mismatch.value))

    def _warn_of_unrecognised_status(self, record: Job | JobStatusReport) -> None:
        if record.raw_status.lower() == JobStatus.UNKNOWN:
            return  # an ordinary status
        abbreviated = one_line(record.raw_status, limit=40)
        word, warned_of = abbreviated.lower(), self._unrecognised_statuses
        # The bound keeps a faulty service from filling the memory.
        if word in warned_of or len(warned_of) >= _MAX_UNRECOGNISED:
            return
        warned_of.add(word)
        _log.warning(
            "job %r: unrecognised status %r is read as unknown; a newer version of"
            " sutro-async may know it",
            record.job_id,
            abbreviated,
        )


def _error_of(endpoint: Endpoint[JobIdT, Any], job_id: JobIdT, body: bytes) -> APIError | None:
    try:
        endpoint.parse(job_id, body, ignore_mismatch)
    except APIError as error:
        return error
    return None  # the key was what could not be read
