"""One logical GET: a request, and its retries after transient failures. Driven by tenacity."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable
from typing import Final, Generic

import tenacity

from sutro_async._backoff import backoff
from sutro_async._http._manager import Endpoint, JobIdT, Options, ResponseT, SessionManager
from sutro_async._http._throttle import HeldBack, Priority
from sutro_async.errors import APIError, APIStatusError
from sutro_async.policies import RetryPolicy

__all__ = ["fetch"]

# Seconds between two checks whether the service is available again.
_HELD_BACK_SECONDS: Final = 0.25

# Seconds after which an outage counts as lasting, and the delay of each request of a batch then.
_LASTING_OUTAGE_SECONDS: Final = 8.0
_LASTING_OUTAGE_DELAY: Final = 1.0

_log: Final = logging.getLogger("sutro_async")


async def fetch(
    manager: SessionManager,
    endpoint: Endpoint[JobIdT, ResponseT],
    job_id: JobIdT,
    options: Options,
    *,
    priority: Priority = Priority.CALL,
) -> ResponseT:
    """Send a request, and again after a transient failure, as the retry policy says.

    Args:
        manager: Sends it.
        endpoint: What is requested.
        job_id: Of which job, a valid id; None for a page of the list.
        options: How.
        priority: Which requests are sent first.

    Raises:
        APIError: No try had a usable response; the error is that of the last one.
        ClientStateError: The client is closed, or belongs to another event loop.
        ConfigurationError: The session that was passed in is unusable.
    """
    make_request = _Request if priority is Priority.CALL else _PatientRequest
    request = make_request(manager, endpoint, job_id, options)
    with manager.lifecycle.operation():
        try:
            return await request(1)
        except APIError as error:
            failure = error
        # Only from here on: tenacity takes a good part of the time of a request.
        return await _retry(request, options.retry, failure)


class _Request(Generic[JobIdT, ResponseT]):
    """One request; called with the number of the try, from 1 on."""

    def __init__(
        self,
        manager: SessionManager,
        endpoint: Endpoint[JobIdT, ResponseT],
        job_id: JobIdT,
        options: Options,
    ) -> None:
        self._manager = manager
        self._endpoint = endpoint
        self._job_id = job_id
        self._options = options

    def __call__(self, attempt: int, priority: Priority = Priority.CALL) -> Awaitable[ResponseT]:
        return self._manager.request(
            self._endpoint, self._job_id, self._options, attempt=attempt, priority=priority
        )

    def may_be_retried(self) -> bool:
        """Whether there may be another try."""
        return True


class _PatientRequest(_Request[JobIdT, ResponseT]):
    """A request of a batch: in an outage it is held back, but not forever.

    A lasting outage concerns the whole batch. Each of its requests is then sent once, after a short
    delay, so that the batch ends, and each job has its own error.
    """

    async def __call__(self, attempt: int, priority: Priority = Priority.POLL) -> ResponseT:
        while self.may_be_retried():
            try:
                return await super().__call__(attempt, priority)
            except HeldBack:
                await asyncio.sleep(_HELD_BACK_SECONDS)
        await asyncio.sleep(_LASTING_OUTAGE_DELAY)
        return await super().__call__(attempt)

    def may_be_retried(self) -> bool:
        """Whether the service is available, or may be again soon."""
        since = self._manager.throttle.unavailable_since
        now = asyncio.get_running_loop().time()
        return since is None or now < since + _LASTING_OUTAGE_SECONDS


async def _retry(
    request: _Request[JobIdT, ResponseT], policy: RetryPolicy, failure: APIError
) -> ResponseT:
    tries = itertools.count(1)

    async def attempt() -> ResponseT:
        number = next(tries)
        if number == 1:
            raise failure
        return await request(number)

    def delay(state: tenacity.RetryCallState) -> float:
        bound = backoff(policy.initial, 2, state.attempt_number - 1, policy.maximum)
        return max(random.uniform(0, bound), _retry_after(_error(state)))  # noqa: S311 - jitter

    def is_worth_a_retry(error: BaseException) -> bool:
        return (
            isinstance(error, APIError)
            and error.retryable
            and request.may_be_retried()
            and _retry_after(error) <= policy.max_retry_after
        )

    def log_retry(state: tenacity.RetryCallState) -> None:
        _log.warning("%s; retrying in %.2f s", _error(state), state.upcoming_sleep)

    attempts = tenacity.AsyncRetrying(
        sleep=asyncio.sleep,
        stop=tenacity.stop_after_attempt(policy.attempts),
        wait=delay,
        retry=tenacity.retry_if_exception(is_worth_a_retry),
        before_sleep=log_retry,
        reraise=True,
    )
    return await attempts(attempt)


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _retry_after(error: BaseException | None) -> float:
    retry_after = error.retry_after if isinstance(error, APIStatusError) else None
    return retry_after or 0.0
