"""The two loops over requests: one logical GET, and the wait for a job to end.

Both run on tenacity's engine, with a controller of their own for each call: a shared one would mix
up the states of concurrent calls.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, Final, Generic, NamedTuple, TypeVar

import attrs
import tenacity

from sutro_async._lifecycle import Lifecycle
from sutro_async._transport import Transport
from sutro_async._wire import (
    Mismatch,
    OnMismatch,
    job_path,
    parse_job,
    parse_report,
    status_path,
)
from sutro_async.errors import (
    APIError,
    APIStatusError,
    ClientStateError,
    ConfigurationError,
    InvalidResponseError,
    JobNotFoundError,
    JobWaitTimeoutError,
    SutroError,
    one_line,
)
from sutro_async.models import FailureReason, Job, JobStatus, JobStatusReport
from sutro_async.policies import PollPolicy, RetryPolicy

__all__ = [
    "JOB",
    "STATUS",
    "OnChange",
    "Options",
    "Query",
    "Service",
    "Wait",
    "fetch",
    "timeout_seconds",
]

_MAX_WORDS: Final = 100
# The reason of a failure, and a word that was not recognised, can be part of the text of an error.
_QUOTED_IN_ERRORS: Final = frozenset({JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.UNKNOWN})
# Seconds.
_FOREVER: Final = 1e9
_FIRST_BACKOFF: Final = 0.5
_LAST_POLL_MARGIN: Final = 0.1
_RUSH_SECONDS: Final = 0.002

_log: Final = logging.getLogger("sutro_async")

T = TypeVar("T")
Answer = TypeVar("Answer", bound=Job | JobStatusReport)

OnChange = Callable[[JobStatusReport], object]
"""What a wait tells each changed report to: a plain callable or one that returns an awaitable."""


@attrs.frozen(kw_only=True)
class Options:
    """How a client asks: seconds for one request, and the two policies."""

    timeout: float
    retry: RetryPolicy
    poll: PollPolicy

    def __attrs_post_init__(self) -> None:
        for name, kind in (("retry", RetryPolicy), ("poll", PollPolicy)):
            if not isinstance(getattr(self, name), kind):
                raise ConfigurationError(f"{name} must be a {kind.__name__}")


class Query(NamedTuple, Generic[Answer]):
    """One of the two questions that can be asked about a job.

    Attributes:
        path: Gives the path to ask at; raises TypeError or ValueError for an invalid job id.
        parse: Reads the body of the answer.
    """

    path: Callable[[str], str]
    parse: Callable[[str, bytes, OnMismatch], Answer]


STATUS: Final = Query(status_path, parse_report)
JOB: Final = Query(job_path, parse_job)


class Service:
    """What all calls of one client, and of its clones, have in common."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.lifecycle: Lifecycle = Lifecycle()
        self._unrecognised_words: set[str] = set()
        self._mismatched_paths: set[str] = set()

    def send(
        self,
        query: Query[Answer],
        job_id: str,
        options: Options,
        *,
        attempt: int = 1,
        pause_until: float = math.inf,
    ) -> Coroutine[Any, Any, bytes]:
        """Make one request; to be awaited for the body of its answer.

        Raises:
            TypeError: The job id is not a string.
            ValueError: The job id is invalid.
            APIError: There is no answer.
        """
        return self.transport.get(
            query.path(job_id),
            job_id=job_id,
            timeout=options.timeout,
            max_pause=options.retry.max_retry_after,
            attempt=attempt,
            pause_until=pause_until,
        )

    def read(self, query: Query[Answer], job_id: str, body: bytes) -> Answer:
        """Read an answer.

        Raises:
            APIError: It cannot be used.
        """
        note = functools.partial(self._warn_of_mismatch, job_id)
        try:
            answer = query.parse(job_id, body, note)
            if isinstance(answer, JobStatusReport) and answer.status in _QUOTED_IN_ERRORS:
                # What an error may quote later is redacted now, as long as the key is known.
                redacted = self.transport.redaction.body(body)
                answer = answer if redacted == body else query.parse(job_id, redacted, note)
        except APIError as error:
            failure = self._redacted(error, query, job_id, body)
        else:
            if answer.status is JobStatus.UNKNOWN:
                self._warn_of_unknown_status(answer)
            return answer
        del body  # lest the traceback keeps it in memory
        raise failure

    def _redacted(self, error: APIError, query: Query[Any], job_id: str, body: bytes) -> APIError:
        """Make an error of an answer again, without the key in what it quotes."""
        redacted = self.transport.redaction.body(body)
        if redacted != body:  # before what it quotes is truncated
            error = _error_of(query, job_id, redacted) or error
        self.transport.redaction.error(error)
        self.transport.add_hint(error)
        # An error may be kept for long, and so would be what its context and the frames of its
        # traceback hold: the body, first of all.
        error.__context__ = None
        return error.with_traceback(None)

    def _warn_of_mismatch(self, job_id: str, mismatch: Mismatch) -> None:
        if mismatch.path not in self._mismatched_paths:
            self._mismatched_paths.add(mismatch.path)
            redacted = attrs.evolve(mismatch, value=self.transport.redaction.value(mismatch.value))
            _log.warning("job %r: %s; the rest of the answer is read", job_id, redacted)

    def _warn_of_unknown_status(self, answer: Job | JobStatusReport) -> None:
        if answer.raw_status.lower() == JobStatus.UNKNOWN:
            return  # an ordinary status
        abbreviated = one_line(answer.raw_status, limit=40)
        word = abbreviated.lower()
        # The bound keeps a faulty service from filling the memory.
        if word in self._unrecognised_words or len(self._unrecognised_words) >= _MAX_WORDS:
            return
        self._unrecognised_words.add(word)
        _log.warning(
            "job %r: unrecognised status %r is read as unknown; a newer version of"
            " sutro-async may know it",
            answer.job_id,
            abbreviated,
        )


def _error_of(query: Query[Any], job_id: str, body: bytes) -> APIError | None:
    try:
        query.parse(job_id, body, lambda _: None)
    except APIError as error:
        return error
    return None  # the key was what could not be read


class _Outcome:
    """What an attempt came to; as `tenacity.Future`, but for the lock that costs most of it."""

    __slots__ = ("_error", "_result")

    def __init__(self, result: object, error: BaseException | None) -> None:
        self._result = result
        self._error = error

    @property
    def failed(self) -> bool:
        return self._error is not None

    def exception(self) -> BaseException | None:
        return self._error

    def result(self) -> object:
        if self._error is not None:
            raise self._error
        return self._result


class _Attempts(tenacity.BaseRetrying):
    """Tenacity's engine for coroutines.

    `tenacity.AsyncRetrying` would do, but it inspects every callable at every attempt to find out
    whether it is a coroutine function, and keeps its state in thread-local storage. All callables
    here are plain functions but the attempt itself, and all run in one thread.
    """

    def __init__(self, **strategies: Any) -> None:  # noqa: ANN401 - tenacity's own
        super().__init__(**strategies)
        self._iter_state = tenacity.IterState()
        self._statistics: dict[str, Any] = {}

    @property
    def iter_state(self) -> tenacity.IterState:
        return self._iter_state

    @property
    def statistics(self) -> dict[str, Any]:
        return self._statistics

    async def __call__(  # type: ignore[override] # as in tenacity.AsyncRetrying
        self, fn: Callable[[], Awaitable[T]], failure: Exception | None = None
    ) -> T:
        """Make attempts until the strategies say stop; `failure` is that of one made already."""
        self.begin()
        state = tenacity.RetryCallState(self, fn, (), {})
        if failure is not None:
            state.outcome = _Outcome(None, failure)  # type: ignore[assignment]
        while True:
            step = self.iter(retry_state=state)
            if isinstance(step, tenacity.DoAttempt):
                try:
                    state.outcome = _Outcome(await fn(), None)  # type: ignore[assignment]
                except Exception as error:  # noqa: BLE001 - the engine decides
                    state.outcome = _Outcome(None, error)  # type: ignore[assignment]
            elif isinstance(step, tenacity.DoSleep):
                state.prepare_for_next_attempt()
                await asyncio.sleep(step)
            else:
                return step  # type: ignore[no-any-return] # the result of the last attempt


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _retry_after(error: BaseException | None) -> float:
    retry_after = error.retry_after if isinstance(error, APIStatusError) else None
    return retry_after or 0.0


def _growing(start: float, factor: float, steps: int, maximum: float) -> float:
    try:
        return min(start * factor**steps, maximum)
    except OverflowError:  # a patient wait makes more steps than a float can follow
        return maximum


# ---- one logical GET


async def fetch(service: Service, query: Query[Answer], job_id: str, options: Options) -> Answer:
    """Ask once, and again after a transient failure, as the retry policy says.

    Raises:
        TypeError: The job id is not a string.
        ValueError: The job id is invalid.
        APIError: No try brought an answer that can be used; the error is that of the last one.
        ClientStateError: The client is closed, or belongs to another event loop.
    """
    with service.lifecycle.operation():
        try:
            return service.read(query, job_id, await service.send(query, job_id, options))
        except APIError as error:
            # Only now is tenacity's engine worth its price, which is a good part of a request's.
            return await _retry(service, query, job_id, options, error)


async def _retry(
    service: Service, query: Query[Answer], job_id: str, options: Options, failure: APIError
) -> Answer:
    policy = options.retry
    tries = itertools.count(2)

    def delay(state: tenacity.RetryCallState) -> float:
        bound = _growing(policy.initial, 2, state.attempt_number - 1, policy.maximum)
        return max(random.uniform(0, bound), _retry_after(_error(state)))  # noqa: S311 - jitter

    def is_worth_a_retry(state: tenacity.RetryCallState) -> bool:
        error = _error(state)
        return (
            isinstance(error, APIError)
            and error.retryable
            and _retry_after(error) <= policy.max_retry_after
        )

    def log_retry(state: tenacity.RetryCallState) -> None:
        _log.warning("%s; trying again in %.2f s", _error(state), state.upcoming_sleep)

    attempts = _Attempts(
        stop=tenacity.stop_after_attempt(policy.attempts),
        wait=delay,
        retry=is_worth_a_retry,
        before_sleep=log_retry,
        reraise=True,
    )

    async def attempt() -> Answer:
        return service.read(
            query, job_id, await service.send(query, job_id, options, attempt=next(tries))
        )

    return await attempts(attempt, failure)


# ---- why a job failed


async def add_reason(
    service: Service, report: JobStatusReport, options: Options, seconds: float
) -> JobStatusReport:
    """Add the reason of a failure from the record to a report that has none.

    The status answer is promised to tell a reason only where a job failed during its
    initialization (API reference: "Checking Job Status").

    Best effort: one request, in no more than so many seconds. If that fails, the report is
    returned as it is.
    """
    if report.status is not JobStatus.FAILED or _has_reason(report.failure) or seconds <= 0:
        return report
    seconds = min(seconds, options.timeout)
    try:
        async with asyncio.timeout(seconds):
            body = await service.send(JOB, report.job_id, options)
        # An error may quote the reason.
        body = service.transport.redaction.body(body)
        job = service.read(JOB, report.job_id, body)
    except SutroError as error:
        problem = str(error)
    except TimeoutError:
        problem = f"job {report.job_id!r}: no record within {seconds:.3g} s"
    else:
        if job.status is JobStatus.FAILED and _has_reason(job.failure_reason):
            return attrs.evolve(report, failure=job.failure_reason)
        problem = f"job {report.job_id!r}: the record ({job.status}) has no reason either"
    _log.warning("%s; the job failed for an unknown reason", problem)
    return report


def _has_reason(failure: FailureReason | None) -> bool:
    return failure is not None and bool(str(failure).strip())


# ---- the wait


class Wait(AsyncIterator[JobStatusReport]):
    """One wait for a job: iterates over the changes of its report, the terminal one last.

    It works only while the next report is asked for. Between two reports there is no task, no
    timer and no connection of it, so that it may be dropped at any time.

    Args:
        service: What is asked.
        job_id: The job to wait for.
        options: How to ask.
        timeout: Seconds from the first step of the iteration, None for no limit; 0 asks once.
        batch_size: How many waits share the deadline. If more than zero do, it is left to whoever
            made them to end all of them at the same moment.

    Raises:
        TypeError: The job id is not a string.
        ValueError: The job id is invalid.

    Attributes:
        job_id: The job that is waited for.
        report: The last good report, if there was one.
        failure: What went wrong with the latest poll, if anything did.
        deadline: When the time-out strikes, once the wait has begun; seconds of the loop's clock.
    """

    __slots__ = (
        "_batch_size",
        "_began_at",
        "_failed_polls",
        "_is_over",
        "_is_stepping",
        "_latest_poll_at",
        "_missing_since",
        "_next_poll_at",
        "_options",
        "_outage_began_at",
        "_poll_began_at",
        "_poll_seconds",
        "_polls",
        "_service",
        "_timeout",
        "_unchanged_polls",
        "deadline",
        "failure",
        "job_id",
        "report",
    )

    def __init__(
        self,
        service: Service,
        job_id: str,
        options: Options,
        timeout: float | None,
        *,
        batch_size: int = 0,
    ) -> None:
        STATUS.path(job_id)  # refuses an invalid job id before any request
        self.job_id: str = job_id
        self.report: JobStatusReport | None = None
        self.failure: APIError | None = None
        self.deadline: float | None = None
        self._service = service
        self._options = options
        self._timeout = timeout
        self._batch_size = batch_size

        self._unchanged_polls = 0
        self._failed_polls = 0
        self._outage_began_at = math.inf
        self._missing_since = math.inf

        self._began_at: float | None = None
        self._polls = 0
        self._poll_began_at = 0.0
        self._poll_seconds = 0.0
        self._next_poll_at = -math.inf
        self._latest_poll_at = math.inf
        self._is_over = False
        self._is_stepping = False

    def __aiter__(self) -> Wait:
        return self

    async def __anext__(self) -> JobStatusReport:
        if self._is_stepping:
            raise ClientStateError(
                f"job {self.job_id!r}: another task waits for the next report of this iterator;"
                " give each task an iterator of its own"
            )
        if self._is_over:
            raise StopAsyncIteration
        self._is_stepping = True
        try:
            report = await self._next_report()
        except SutroError as error:
            self._is_over = True
            if isinstance(error, APIError):
                error.last_report = self.report
            raise
        finally:
            self._is_stepping = False
        self._is_over = report.is_terminal
        return report

    async def _next_report(self) -> JobStatusReport:
        if self._began_at is None:
            self.begin(_now())
        if self._timeout == 0 and self._polls:
            raise self.timed_out()
        attempts = _Attempts(
            wait=lambda _: self._seconds_to_next_poll(),
            retry=self._must_poll_again,
            before_sleep=self._log_failure,
        )
        scope = asyncio.timeout_at(None if self._batch_size else self.deadline)
        try:
            with self._service.lifecycle.operation():
                async with scope:
                    await asyncio.sleep(self._seconds_to_next_poll())
                    report = await attempts(self._poll)
                # After the scope: the deadline cuts this short, and does not end in an error.
                self.report = await add_reason(
                    self._service, report, self._options, self._seconds_left()
                )
                return self.report
        except TimeoutError:
            # An APITimeoutError is one as well, and so ask whose it is.
            if not scope.expired():
                raise
            raise self.timed_out() from self.failure

    def begin(self, now: float) -> None:
        """Let the time-out count from now on, if not from the first step of the iteration."""
        self._began_at = now
        if self._timeout:
            self.deadline = now + self._timeout
            self._latest_poll_at = self.deadline - self._shortest_lead()

    async def run(self, on_change: OnChange | None) -> JobStatusReport:
        """Go through the wait to its end, and return the terminal report.

        Raises:
            APIError: A failure that a wait does not survive.
            ClientStateError: The client is closed, or belongs to another event loop.
            JobWaitTimeoutError: The time-out struck.
        """
        while True:
            report = await anext(self)
            if on_change is not None:
                with self._service.lifecycle.operation():
                    await _tell(on_change, report, self.deadline)
            if report.is_terminal:
                return report

    async def aclose(self) -> None:
        """End the iteration; for `contextlib.aclosing`, since there is nothing to clean up."""
        self._is_over = True

    async def _poll(self) -> JobStatusReport:
        self._poll_began_at = _now()
        self._polls += 1
        return self._service.read(
            STATUS,
            self.job_id,
            await self._service.send(
                STATUS,
                self.job_id,
                self._options,
                attempt=self._polls,
                pause_until=self._latest_poll_at,
            ),
        )

    def _seconds_left(self) -> float:
        """Seconds until the timeout, which 0 gives no time at all after the first poll."""
        if self._timeout is None:
            return math.inf
        return 0.0 if self.deadline is None else self.deadline - _now()

    def _must_poll_again(self, state: tenacity.RetryCallState) -> bool:
        """Take note of what a poll brought; whether the wait for a change goes on."""
        error = _error(state)
        if error is None:
            assert state.outcome is not None  # noqa: S101 - there was no error
            return self._note_report(state.outcome.result())
        return isinstance(error, APIError) and self._note_failure(error)

    def _note_report(self, report: JobStatusReport) -> bool:
        previous, self.report = self.report, report
        self._poll_seconds = _now() - self._poll_began_at
        self.failure = None
        self._failed_polls = 0
        self._outage_began_at = math.inf
        is_unchanged = report == previous
        self._unchanged_polls = self._unchanged_polls + 1 if is_unchanged else 0
        if previous is None or report.raw_status != previous.raw_status:
            _log.info("job %r: %s", report.job_id, one_line(report.raw_status, limit=40))
        policy = self._options.poll
        interval = _growing(policy.initial, policy.factor, self._unchanged_polls, policy.maximum)
        self._schedule(interval * random.uniform(1 - policy.jitter, 1 + policy.jitter))  # noqa: S311
        return is_unchanged and not report.is_terminal

    def _note_failure(self, error: APIError) -> bool:
        policy = self._options.poll
        is_missing = isinstance(error, JobNotFoundError)
        if is_missing and self.report is None:
            self._missing_since = min(self._missing_since, self._poll_began_at)
            give_up_at = self._missing_since + policy.not_found_grace
        elif error.retryable or isinstance(error, InvalidResponseError):
            self._outage_began_at = min(self._outage_began_at, self._poll_began_at)
            give_up_at = self._outage_began_at + policy.max_outage
        else:
            return False
        if _now() >= give_up_at:
            return False
        self.failure = error
        self._failed_polls += 1
        bound = _growing(
            min(policy.initial, _FIRST_BACKOFF), 2, self._failed_polls - 1, policy.maximum
        )
        self._schedule(max(random.uniform(bound / 2, bound), _retry_after(error)), give_up_at)  # noqa: S311
        if self._timeout == 0 or self._next_poll_at == math.inf:
            # There will be no other answer, and "no such job" is one, unlike all other failures.
            if is_missing:
                return False
            if self._timeout == 0:
                raise self.timed_out() from error
        return True

    def _schedule(self, delay: float, give_up_at: float = math.inf) -> None:
        """Set the time of the next poll, sooner than `delay` where it would be too late by then.

        Before the wait gives up on an outage, and before its time-out strikes, there is one last
        poll, the latter so early that it can be expected to finish.
        """
        now = _now()
        latest = give_up_at
        if self.deadline is not None:
            left = self.deadline - now
            lead = 1.5 * self._poll_seconds + _LAST_POLL_MARGIN
            # Spread out, lest thousands of last polls coincide.
            rush = self._batch_size * _RUSH_SECONDS
            if now >= self._latest_poll_at and left < lead + rush + _LAST_POLL_MARGIN:
                self._next_poll_at = math.inf  # this was the last poll; the time-out comes next
                return
            lead += random.uniform(0, rush)  # noqa: S311 - spreads, hides nothing
            latest = min(latest, self.deadline - max(min(lead, left / 2), self._shortest_lead()))
        self._latest_poll_at = latest
        self._next_poll_at = min(now + delay, latest)

    def _shortest_lead(self) -> float:
        return min(_LAST_POLL_MARGIN, (self._timeout or 0.0) / 2)

    def _seconds_to_next_poll(self) -> float:
        return max(0.0, self._next_poll_at - _now())

    def _log_failure(self, state: tenacity.RetryCallState) -> None:
        if self.failure is not None:
            seconds = state.upcoming_sleep
            again = f"polling again in {seconds:.2f} s" if seconds < math.inf else "time is up"
            _log.warning("%s; %s", self.failure, again)

    def timed_out(self, now: float | None = None) -> JobWaitTimeoutError:
        """Make the error that says that the time-out has struck, now or just then."""
        error = JobWaitTimeoutError(
            job_id=self.job_id,
            last_report=self.report,
            elapsed=(now or _now()) - (self._began_at or 0.0),
            timeout=self._timeout or 0.0,
            failure=self.failure,
        )
        error.__cause__ = self.failure
        return error


async def _tell(on_change: OnChange, report: JobStatusReport, deadline: float | None) -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    cancelling = task.cancelling()
    scope = asyncio.timeout_at(deadline)
    try:
        async with scope:
            result = on_change(report)
            if inspect.isawaitable(result):
                await result
    except (Exception, asyncio.CancelledError):
        if task.cancelling() > cancelling:
            raise
        if scope.expired():
            _log.warning("job %r: the time-out of the wait cut on_change short", report.job_id)
        else:
            _log.exception("job %r: on_change failed; the wait goes on", report.job_id)
    if task.cancelling() > cancelling:  # and on_change has kept it to itself
        raise asyncio.CancelledError


def check_callback(on_change: object) -> None:
    """Check that `on_change` is None or can be called.

    Raises:
        TypeError: It is neither.
    """
    if on_change is not None and not callable(on_change):
        raise TypeError(f"on_change must be callable, got {on_change!r}")


def timeout_seconds(timeout: float | timedelta | None) -> float | None:
    """Return the time-out of a wait in seconds, None for no limit.

    Raises:
        ValueError: It is no time-out.
    """
    seconds: object = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise ValueError(
            f"timeout must be a number of seconds from 0, a timedelta or None, got {timeout!r}"
        )
    return None if seconds > _FOREVER else float(seconds)


def _now() -> float:
    return asyncio.get_running_loop().time()
