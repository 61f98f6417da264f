"""One logical GET: a request, and its retries after transient failures. Driven by tenacity."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import tenacity

from sutro_async._backoff import backoff
from sutro_async._http._manager import Endpoint, JobIdT, Options, ResponseT, SessionManager
from sutro_async._http._throttle import HeldBack, Priority
from sutro_async.errors import APIError, retry_after_of
from sutro_async.policies import RetryPolicy

__all__ = ["fetch", "fetch_in_batch"]

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
) -> ResponseT:
    """Send a request, and again after a transient failure, as the retry policy says.

    Args:
        manager: Sends it.
        endpoint: What is requested.
        job_id: Of which job, a valid id; None for a page of the list.
        options: How.

    Raises:
        APIError: No try had a usable response; the error is that of the last one.
        ClientStateError: The client is closed, or belongs to another event loop.
        ConfigurationError: The session that was passed in is unusable.
    """
    try:
        return await manager.request(endpoint, job_id, options)
    except APIError as error:
        failure = error
    request = partial(manager.request, endpoint, job_id, options)
    return await _retry(manager, request, options.retry, failure)


async def fetch_in_batch(
    manager: SessionManager,
    endpoint: Endpoint[JobIdT, ResponseT],
    job_id: JobIdT,
    options: Options,
) -> ResponseT:
    """Do what `fetch` does for one job of a batch: in an outage it is held back, but not forever.

    A lasting outage concerns the whole batch. Each of its requests is then sent once, after a short
    delay, so that the batch ends, and each job has its own error.
    """

    def may_wait() -> bool:
        """Whether the service is available, or may be again soon."""
        since = manager.throttle.unavailable_since
        now = asyncio.get_running_loop().time()
        return since is None or now < since + _LASTING_OUTAGE_SECONDS

    async def request(*, attempt: int = 1) -> ResponseT:
        send = partial(manager.request, endpoint, job_id, options, attempt=attempt)
        with manager.lifecycle.operation():
            while may_wait():
                try:
                    return await send(priority=Priority.POLL)
                except HeldBack:
                    await asyncio.sleep(_HELD_BACK_SECONDS)
            await asyncio.sleep(_LASTING_OUTAGE_DELAY)
            return await send()

    try:
        return await request()
    except APIError as error:
        failure = error
    return await _retry(manager, request, options.retry, failure, may_retry=may_wait)


async def _retry(
    manager: SessionManager,
    request: Callable[..., Awaitable[ResponseT]],
    policy: RetryPolicy,
    failure: APIError,
    *,
    may_retry: Callable[[], bool] = lambda: True,
) -> ResponseT:
    """Send a request again after its first failure, if that is worth a retry.

    The first try itself, and an error that is never retried, take no tenacity.
    """
    if not failure.retryable:
        raise failure
    tries = itertools.count(1)

    async def attempt() -> ResponseT:
        number = next(tries)
        if number == 1:
            raise failure
        return await request(attempt=number)

    def delay(state: tenacity.RetryCallState) -> float:
        bound = backoff(policy.initial, 2, state.attempt_number - 1, policy.maximum)
        return max(random.uniform(0, bound), retry_after_of(_error(state)))  # noqa: S311 - jitter

    def is_worth_a_retry(error: BaseException) -> bool:
        return (
            isinstance(error, APIError)
            and error.retryable
            and may_retry()
            and retry_after_of(error) <= policy.max_retry_after
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
    with manager.lifecycle.operation():
        return await attempts(attempt)


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
