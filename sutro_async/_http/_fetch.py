"""One logical GET: a request, and its retries after transient failures. Driven by tenacity."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, Generic

import tenacity

from sutro_async._backoff import backoff
from sutro_async._http._manager import Endpoint, JobIdT, Options, ResponseT, SessionManager
from sutro_async._http._throttle import HeldBack, Priority
from sutro_async.errors import APIError, APIStatusError
from sutro_async.policies import RetryPolicy

__all__ = ["fetch"]

# Seconds between two looks whether the service is available again.
_HELD_BACK_SECONDS: Final = 0.25

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
        APIError: No try brought an answer that can be used; the error is that of the last one.
        ClientStateError: The client is closed, or belongs to another event loop.
        ConfigurationError: The session that was passed in cannot be used.
    """
    request: Callable[[int], Awaitable[ResponseT]]
    if priority is Priority.CALL:
        request = functools.partial(_request_at_once, manager, endpoint, job_id, options)
    else:
        request = _PatientRequest(manager, endpoint, job_id, options)
    with manager.lifecycle.operation():
        try:
            return await request(1)
        except APIError as error:
            failure = error
        # Only now is tenacity worth its price, which is a good part of a request's.
        return await _retry(request, options.retry, failure)


def _request_at_once(
    manager: SessionManager,
    endpoint: Endpoint[JobIdT, ResponseT],
    job_id: JobIdT,
    options: Options,
    attempt: int,
) -> Awaitable[ResponseT]:
    return manager.request(endpoint, job_id, options, attempt=attempt)


class _PatientRequest(Generic[JobIdT, ResponseT]):
    """One of many: in an outage all its tries are held back, for as long as one back-off may be.

    After that they are sent, so that a batch in an outage ends, each job with its own error.
    """

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
        self._send_by: float | None = None

    async def __call__(self, attempt: int) -> ResponseT:
        loop = asyncio.get_running_loop()
        priority = Priority.POLL
        while True:
            try:
                return await self._manager.request(
                    self._endpoint, self._job_id, self._options, attempt=attempt, priority=priority
                )
            except HeldBack:
                if self._send_by is None:
                    self._send_by = loop.time() + self._options.retry.maximum
            left = self._send_by - loop.time()
            if left <= 0:
                priority = Priority.CALL
            await asyncio.sleep(max(0.0, min(left, _HELD_BACK_SECONDS)))


async def _retry(
    request: Callable[[int], Awaitable[ResponseT]], policy: RetryPolicy, failure: APIError
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
