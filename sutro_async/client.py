"""`SutroClient`: what a user calls; it names what the modules below do."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

import attrs

from sutro_async._config import resolve_settings
from sutro_async._polling import OnChange, Options, Query, Service, Wait, fetch, run_wait
from sutro_async._throttle import Throttle
from sutro_async._transport import Transport
from sutro_async.errors import ConfigurationError
from sutro_async.models import Job, JobStatusReport
from sutro_async.policies import PollPolicy, RetryPolicy

if TYPE_CHECKING:
    import aiohttp

__all__ = ["SutroClient"]


class SutroClient:
    """An asynchronous client for Sutro batch jobs.

    Use it as `async with SutroClient() as client`, or end it with `await client.aclose()`. It
    belongs to the event loop that it first runs in, and any number of tasks may share it.

    Args:
        api_key: The key. Without it: `SUTRO_API_KEY`, else `~/.sutro/config.json`, which is read
            only where neither `SUTRO_API_KEY` nor `SUTRO_API_URL` is set.
        base_url: Where the service is. Without it: `SUTRO_API_URL`, or the URL stored with the key
            of the file, else `https://api.sutro.sh`. A URL without a path gets `/v1`, except on
            `api.sutro.sh`.
        timeout: Seconds for one request, from the moment that it leaves.
        retry: How a request is tried again.
        poll: The pace of waits.
        max_concurrency: Requests in flight at once; the others stand in line.
        max_rate: Requests a second, retries and polls included; None for no limit.
        session: An aiohttp session to use instead of one of the client's own. It is never closed,
            and its own headers, cookies, proxies and tracing are left alone. If its connector
            allows fewer connections than `max_concurrency`, requests wait for one at the expense
            of their time-out.

    Raises:
        ConfigurationError: There is no key, or an argument or setting cannot be used.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        timeout: float = 30.0,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - immutable
        poll: PollPolicy = PollPolicy(),  # noqa: B008 - immutable
        max_concurrency: int = 20,
        max_rate: float | None = None,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        settings = resolve_settings(api_key, base_url)
        throttle = Throttle(max_concurrency, max_rate)
        self._service = Service(Transport(settings, throttle, session))
        self._options = Options(timeout=_request_timeout(timeout), retry=retry, poll=poll)
        self._is_clone = False

    @property
    def base_url(self) -> str:
        """Where the service is, in full."""
        return self._service.transport.base_url

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.base_url}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SutroClient cannot be pickled: it holds a key and open connections")

    async def __aenter__(self) -> Self:
        self._service.lifecycle.check()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client; whatever of it still runs ends with `ClientStateError`.

        Closing it once more does nothing. Closing a client made by `with_options` does nothing
        either: what it uses belongs to the client that it was made from.

        Raises:
            ClientStateError: The client belongs to another event loop.
        """
        if not self._is_clone:
            try:
                await self._service.lifecycle.close()
            finally:
                await self._service.transport.close()

    def with_options(
        self,
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        poll: PollPolicy | None = None,
    ) -> SutroClient:
        """Make a client with other options that shares connections, limits and key with this one.

        Args:
            timeout: Seconds for one request; None keeps that of this client.
            retry: How a request is tried again; None keeps the policy of this client.
            poll: The pace of waits; None keeps the policy of this client.

        Raises:
            ConfigurationError: An option cannot be used.
        """
        changes: dict[str, Any] = {"retry": retry, "poll": poll}
        if timeout is not None:
            changes["timeout"] = _request_timeout(timeout)
        changes = {name: value for name, value in changes.items() if value is not None}
        clone = object.__new__(type(self))
        clone._service = self._service
        clone._options = attrs.evolve(self._options, **changes)
        clone._is_clone = True
        return clone

    async def get_job_status(self, job_id: str) -> JobStatusReport:
        """Ask how a job is doing (API reference: "Checking Job Status").

        Raises:
            ValueError: The job id cannot be one.
            JobNotFoundError: There is no such job.
            APIError: There was no answer that can be used, retries included.
            ClientStateError: The client is closed, or belongs to another event loop.
        """
        return await fetch(self._service, Query.for_status(job_id), self._options)

    async def get_job(self, job_id: str) -> Job:
        """Read the record of a job (API reference: "Fetch Job Details").

        Raises:
            ValueError: The job id cannot be one.
            JobNotFoundError: There is no such job.
            APIError: There was no answer that can be used, retries included.
            ClientStateError: The client is closed, or belongs to another event loop.
        """
        return await fetch(self._service, Query.for_record(job_id), self._options)

    async def wait_for_job(
        self,
        job_id: str,
        *,
        timeout: float | timedelta | None = None,
        poll: PollPolicy | None = None,
        on_change: OnChange | None = None,
        raise_on_failure: bool = False,
    ) -> JobStatusReport:
        """Wait until a job has succeeded, failed or been cancelled, and return its last report.

        Trouble on the way does not end the wait, unless it lasts longer than the policy allows.
        Nor does the end of the wait, in whatever way, end the job.

        Args:
            job_id: The job.
            timeout: Seconds, or a `timedelta`, for the whole wait; None for no limit; 0 asks
                exactly once.
            poll: The pace; None takes that of the client.
            on_change: Called with each changed report, the first and the last included; may be
                a coroutine function. What it raises is logged.
            raise_on_failure: Raise where the job failed or was cancelled.

        Raises:
            ValueError: The job id or the time-out cannot be one.
            JobWaitTimeoutError: The job had not ended when the time-out struck.
            JobNotFoundError: There is no such job.
            APIError: A failure that a wait does not survive, or one that lasted too long.
            JobFailedError: The job failed, and `raise_on_failure` is set.
            JobCancelledError: The job was cancelled, and `raise_on_failure` is set.
            ClientStateError: The client is closed, or belongs to another event loop.
        """
        report = await run_wait(self._wait(job_id, timeout, poll), on_change)
        return report.raise_for_failure() if raise_on_failure else report

    def watch_job(
        self,
        job_id: str,
        *,
        timeout: float | timedelta | None = None,
        poll: PollPolicy | None = None,
    ) -> AsyncIterator[JobStatusReport]:
        """Iterate over the reports on a job: the first at once, then each change, until its end.

        The job is polled only while the next report is waited for, so the loop over it may be left
        at any time.

        Args:
            job_id: The job.
            timeout: Seconds, or a `timedelta`, for the whole iteration, from its first step; None
                for no limit; 0 asks exactly once.
            poll: The pace; None takes that of the client.

        Raises:
            ValueError: The job id or the time-out cannot be one.
            JobWaitTimeoutError: The job had not ended when the time-out struck.
            JobNotFoundError: There is no such job.
            APIError: A failure that a wait does not survive, or one that lasted too long.
            ClientStateError: The client is closed, or belongs to another event loop.
        """
        return self._wait(job_id, timeout, poll)

    def _wait(
        self, job_id: str, timeout: float | timedelta | None, poll: PollPolicy | None
    ) -> Wait:
        options = self._options if poll is None else attrs.evolve(self._options, poll=poll)
        return Wait(self._service, job_id, options, _wait_timeout(timeout))


def _request_timeout(timeout: float) -> float:
    seconds = _seconds(timeout)
    if seconds is None or not 0 < seconds < math.inf:
        raise ConfigurationError(f"timeout must be a number of seconds above 0, got {timeout!r}")
    return seconds


def _wait_timeout(timeout: float | timedelta | None) -> float | None:
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else _seconds(timeout)
    if seconds is None or not seconds >= 0:
        raise ValueError(
            f"timeout must be a number of seconds from 0, a timedelta or None, got {timeout!r}"
        )
    return None if math.isinf(seconds) else seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return None
