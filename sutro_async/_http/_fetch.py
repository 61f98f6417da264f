"""One logical GET: a request, and its retries after transient failures. Driven by tenacity."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from typing import Final

import tenacity

from sutro_async._backoff import backoff
from sutro_async._http._manager import Endpoint, Options, ResponseT, SessionManager
from sutro_async._wire import check_job_id
from sutro_async.errors import APIError, APIStatusError

__all__ = ["fetch"]

_log: Final = logging.getLogger("sutro_async")


async def fetch(
    manager: SessionManager, endpoint: Endpoint[ResponseT], job_id: str, options: Options
) -> ResponseT:
    """Send a request, and again after a transient failure, as the retry policy says.

    Raises:
        TypeError: The job id is not a string.
        ValueError: The job id is invalid.
        APIError: No try brought an answer that can be used; the error is that of the last one.
        ClientStateError: The client is closed, or belongs to another event loop.
        ConfigurationError: The session that was passed in cannot be used.
    """
    job_id = check_job_id(job_id)
    with manager.lifecycle.operation():
        try:
            return await manager.request(endpoint, job_id, options)
        except APIError as error:
            failure = error
        # Only now is tenacity worth its price, which is a good part of a request's.
        return await _retry(manager, endpoint, job_id, options, failure)


async def _retry(
    manager: SessionManager,
    endpoint: Endpoint[ResponseT],
    job_id: str,
    options: Options,
    failure: APIError,
) -> ResponseT:
    policy = options.retry
    tries = itertools.count(1)

    async def attempt() -> ResponseT:
        number = next(tries)
        if number == 1:
            raise failure
        return await manager.request(endpoint, job_id, options, attempt=number)

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
