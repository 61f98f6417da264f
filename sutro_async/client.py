"""`SutroClient`: the public interface of the modules below."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, Callable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import attrs

from sutro_async._config import resolve_settings
from sutro_async._http import (
    JOB,
    STATUS,
    ClientSession,
    JobListing,
    ObservedManager,
    Observer,
    Options,
    Pacer,
    SessionManager,
    Throttle,
    Transport,
    client_stats,
    fetch,
)
from sutro_async._numbers import check_number, timeout_seconds
from sutro_async._waits import OnChange, Stream, Wait, WaitBatch, check_callback, fetch_all
from sutro_async._wire import check_job_id
from sutro_async.errors import ConfigurationError
from sutro_async.events import ClientStats, Event
from sutro_async.models import Job, JobOutcome, JobStatusReport
from sutro_async.policies import PollPolicy, RetryPolicy

__all__ = ["SutroClient"]

# Seconds.
_LONGEST_TIMEOUT: Final = 86_400.0


class SutroClient:
    """An asynchronous client for Sutro batch jobs.

    Use it as `async with SutroClient() as client`, or close it with `await client.aclose()`. It
    belongs to the event loop in which it is first used, and any number of tasks may share it.

    Args:
        api_key: The API key. Without it: `SUTRO_API_KEY`, else `~/.sutro/config.json`, which is
            read only if neither `SUTRO_API_KEY` nor `SUTRO_API_URL` is set.
        base_url: The URL of the service. Without it: `SUTRO_API_URL`, or the URL stored with the
            key of the file, else `https://api.sutro.sh`. A URL without a path gets `/v1`, except on
            `api.sutro.sh`.
        timeout: Seconds for one request, counted from when it is sent.
        retry: How a failed request is retried.
        poll: The polling intervals of waits.
        max_concurrency: Requests in flight at once; the others are queued.
        max_rate: Requests a second, retries and polls included; None for no limit.
        proxy: The URL of a forward proxy, such as `http://user:password@proxy.example:3128`.
            Without it: `HTTPS_PROXY` or `ALL_PROXY`, unless `NO_PROXY` names the host. Only an
            https base URL is requested through a proxy.
        observer: Called with each event of `sutro_async.events` as it happens, in the event loop; a
            plain callable, which should be quick. What it raises is logged, once for each kind.
        session: An aiohttp session to use instead of one of the client's own. The client never
            closes it, and keeps its headers, cookies, proxies and tracing. If its connector
            allows fewer connections than `max_concurrency`, the time that a request waits for one
            counts against its timeout.

    Raises:
        ConfigurationError: There is no key, or an argument or setting is invalid.
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
        proxy: str | None = None,
        observer: Callable[[Event], object] | None = None,
        session: ClientSession | None = None,
    ) -> None:
        if proxy is not None and session is not None:
            raise ConfigurationError(
                "proxy cannot be combined with session: set the proxy on the session"
            )
        settings = resolve_settings(api_key, base_url, proxy, has_session=session is not None)
        throttle = Throttle(Pacer(max_concurrency, max_rate))
        transport = Transport(settings, session)
        self._manager = (
            SessionManager(transport, throttle)
            if observer is None
            else ObservedManager(transport, throttle, Observer(observer))
        )
        self._options = Options(timeout=_request_timeout(timeout), retry=retry, poll=poll)
        self._is_clone = False

    @property
    def base_url(self) -> str:
        """The URL of the service."""
        return self._manager.transport.base_url

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.base_url}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SutroClient cannot be pickled: it holds a key and open connections")

    async def __aenter__(self) -> Self:
        self._manager.lifecycle.check()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client; calls and waits that still run raise `ClientStateError`.

        Closing it again does nothing. Closing a client made by `with_options` does nothing either:
        what it uses belongs to the client that it was made from.

        Raises:
            ClientStateError: The client belongs to another event loop.
        """
        if self._is_clone:
            return
        lifecycle = self._manager.lifecycle
        if not lifecycle.is_closed:
            lifecycle.check_loop()
        try:
            await lifecycle.close(requests=self._manager.transport.timer.in_flight)
        finally:
            self._manager.throttle.close()
            await self._manager.transport.close()

    def with_options(
        self,
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        poll: PollPolicy | None = None,
    ) -> Self:
        """Make a client with other options that shares connections, limits and key with this one.

        Args:
            timeout: Seconds for one request; None keeps that of this client.
            retry: How a failed request is retried; None keeps the policy of this client.
            poll: The polling intervals of waits; None keeps the policy of this client.

        Raises:
            ConfigurationError: An option is invalid.
        """
        changes: dict[str, Any] = {"retry": retry, "poll": poll}
        if timeout is not None:
            changes["timeout"] = _request_timeout(timeout)
        changes = {name: value for name, value in changes.items() if value is not None}
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__)
        clone._options = attrs.evolve(self._options, **changes)
        clone._is_clone = True
        return clone

    def stats(self) -> ClientStats:
        """Return what the client, its `with_options` clones included, is doing now.

        It costs microseconds, and works in any thread, before the first use and after closing.
        """
        return client_stats(self._manager)

    async def get_job_status(self, job_id: str) -> JobStatusReport:
        """Get the status of a job (API reference: "Checking Job Status").

        Raises:
            TypeError: The job id is not a string.
            ValueError: The job id is invalid.
            JobNotFoundError: There is no such job.
            APIError: There was no usable response, retries included.
            ClientStateError: The client is closed, or belongs to another event loop.
            ConfigurationError: The session that was passed in is unusable.
        """
        return await fetch(self._manager, STATUS, check_job_id(job_id), self._options)

    async def get_job(self, job_id: str) -> Job:
        """Get the record of a job (API reference: "Fetch Job Details").

        Raises:
            TypeError: The job id is not a string.
            ValueError: The job id is invalid.
            JobNotFoundError: There is no such job.
            APIError: There was no usable response, retries included.
            ClientStateError: The client is closed, or belongs to another event loop.
            ConfigurationError: The session that was passed in is unusable.
        """
        return await fetch(self._manager, JOB, check_job_id(job_id), self._options)

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

        Transient failures do not end the wait until they have lasted `max_outage` seconds. Ending
        the wait never cancels the job.

        Args:
            job_id: The job.
            timeout: Seconds, or a `timedelta`, for the whole wait; None for no limit; 0 polls
                exactly once.
            poll: The polling policy; None takes that of the client.
            on_change: Called with each changed report, the first and the last included; may be
                a coroutine function. What it raises is logged.
            raise_on_failure: Raise if the job failed or was cancelled.

        Raises:
            TypeError: The job id is not a string, or `on_change` cannot be called.
            ValueError: The job id or `timeout` is invalid.
            JobWaitTimeoutError: The job had not finished when the timeout expired.
            JobNotFoundError: There is no such job.
            APIError: A failure that is not transient, or has lasted too long.
            JobFailedError: The job failed, and `raise_on_failure` is set.
            JobCancelledError: The job was cancelled, and `raise_on_failure` is set.
            ClientStateError: The client is closed, or belongs to another event loop.
            ConfigurationError: The session that was passed in is unusable.
        """
        check_callback(on_change)
        report = await self._wait(job_id, timeout, poll).run(on_change)
        return report.raise_for_failure() if raise_on_failure else report

    def watch_job(
        self,
        job_id: str,
        *,
        timeout: float | timedelta | None = None,
        poll: PollPolicy | None = None,
    ) -> Stream[JobStatusReport]:
        """Iterate over the reports of a job: the first, then each change, until it finishes.

        The job is polled only while the next report is awaited, so the loop may be left at any
        time.

        Args:
            job_id: The job.
            timeout: Seconds, or a `timedelta`, for the whole iteration, from its first step; None
                for no limit; 0 polls exactly once.
            poll: The polling policy; None takes that of the client.

        Raises:
            TypeError: The job id is not a string.
            ValueError: The job id or `timeout` is invalid.
            JobWaitTimeoutError: The job had not finished when the timeout expired.
            JobNotFoundError: There is no such job.
            APIError: A failure that is not transient, or has lasted too long.
            ClientStateError: The client is closed, or belongs to another event loop.
            ConfigurationError: The session that was passed in is unusable.
        """
        wait = self._wait(job_id, timeout, poll)
        return Stream(wait.next_report, wait.aclose, wait.abandon)

    def watch_jobs(
        self,
        job_ids: Iterable[str] | AsyncIterable[str],
        *,
        timeout: float | timedelta | None = None,
        poll: PollPolicy | None = None,
    ) -> Stream[JobOutcome[JobStatusReport]]:
        """Iterate over the reports of many jobs: the first of each, then each change.

        The last item of a job is its terminal report or its error; an error of one job does not
        affect the others. A slow reader gets the newest report of each job, not a backlog.

        Args:
            job_ids: The jobs; duplicates are polled once. An asynchronous iterable adds jobs while
                others are polled already.
            timeout: Seconds, or a `timedelta`, for the whole iteration, from its first step; jobs
                that have not finished by then get a `JobWaitTimeoutError`, all at the same moment.
                None for no limit; 0 polls each job exactly once.
            poll: The polling policy; None takes that of the client.

        Raises:
            TypeError: `job_ids` is a single string, or an id is not a string.
            ValueError: A job id or `timeout` is invalid.
            AuthenticationError: The key is wrong; no further request is sent.
            PermissionDeniedError: Three jobs were refused with 403 and no job had a good response;
                no further request is sent.
            ClientStateError: The client is closed, or belongs to another event loop.
            ConfigurationError: The session that was passed in is unusable.
        """
        return _stream(self._waits(job_ids, timeout, poll, every_change=True))

    async def get_job_statuses(
        self, job_ids: Iterable[str]
    ) -> dict[str, JobOutcome[JobStatusReport]]:
        """Get the status of each of many jobs (API reference: "Checking Job Status").

        An error of one job becomes its outcome; the other jobs are unaffected.

        Args:
            job_ids: The jobs; duplicates are requested once.

        Returns:
            An outcome for each job, in the order of the ids.

        Raises:
            TypeError: `job_ids` is a single string, or an id is not a string.
            ValueError: A job id is invalid; nothing was requested.
            AuthenticationError: The key is wrong; no further request is sent.
            PermissionDeniedError: Three jobs were refused with 403 and no job had a good response;
                no further request is sent.
            ClientStateError: The client is closed, or belongs to another event loop.
            ConfigurationError: The session that was passed in is unusable.
        """
        return await fetch_all(self._manager, STATUS, job_ids, self._options)

    async def get_jobs(self, job_ids: Iterable[str]) -> dict[str, JobOutcome[Job]]:
        """Get the records of many jobs (API reference: "Fetch Job Details").

        An error of one job becomes its outcome; the other jobs are unaffected.

        Args:
            job_ids: The jobs; duplicates are requested once.

        Returns:
            An outcome for each job, in the order of the ids.

        Raises:
            TypeError: `job_ids` is a single string, or an id is not a string.
            ValueError: A job id is invalid; nothing was requested.
            AuthenticationError: The key is wrong; no further request is sent.
            PermissionDeniedError: Three jobs were refused with 403 and no job had a good response;
                no further request is sent.
            ClientStateError: The client is closed, or belongs to another event loop.
            ConfigurationError: The session that was passed in is unusable.
        """
        return await fetch_all(self._manager, JOB, job_ids, self._options)

    def as_completed(
        self,
        job_ids: Iterable[str] | AsyncIterable[str],
        *,
        timeout: float | timedelta | None = None,
        poll: PollPolicy | None = None,
        on_change: OnChange | None = None,
    ) -> Stream[JobOutcome[JobStatusReport]]:
        """Wait for many jobs, and iterate over their outcomes in the order in which they finish.

        An error of one job becomes its outcome; the other jobs are unaffected. The jobs are polled
        in the background, also while the loop over the outcomes is busy, until the stream is closed
        or garbage-collected.

        Args:
            job_ids: The jobs; duplicates are waited for once. An asynchronous iterable adds jobs
                while others are waited for already.
            timeout: Seconds, or a `timedelta`, for the whole iteration, from its first step; jobs
                that have not finished by then get a `JobWaitTimeoutError`, all at the same moment.
                None for no limit; 0 polls each job exactly once.
            poll: The polling policy; None takes that of the client.
            on_change: Called with each changed report of any of the jobs; may be a coroutine
                function. What it raises is logged.

        Raises:
            TypeError: `job_ids` is a single string, an id is not a string, or `on_change` cannot
                be called.
            ValueError: A job id or `timeout` is invalid.
            AuthenticationError: The key is wrong; no further request is sent.
            PermissionDeniedError: Three jobs were refused with 403 and no job had a good response;
                no further request is sent.
            ClientStateError: The client is closed, or belongs to another event loop.
            ConfigurationError: The session that was passed in is unusable.
        """
        return _stream(self._waits(job_ids, timeout, poll, on_change))

    async def wait_for_jobs(
        self,
        job_ids: Iterable[str],
        *,
        timeout: float | timedelta | None = None,
        poll: PollPolicy | None = None,
        on_change: OnChange | None = None,
    ) -> dict[str, JobOutcome[JobStatusReport]]:
        """Wait until many jobs have finished.

        Like `as_completed`, with all outcomes at once.

        Returns:
            An outcome for each job, in the order of the ids.

        Raises:
            TypeError: `job_ids` is a single string, an id is not a string, or `on_change` cannot
                be called.
            ValueError: A job id or `timeout` is invalid; nothing was requested.
            AuthenticationError: The key is wrong; no further request is sent.
            PermissionDeniedError: Three jobs were refused with 403 and no job had a good response;
                no further request is sent.
            ClientStateError: The client is closed, or belongs to another event loop.
            ConfigurationError: The session that was passed in is unusable.
        """
        return await self._waits(job_ids, timeout, poll, on_change).collect()

    def list_jobs(self) -> Stream[Job]:
        """Iterate over the account's jobs, newest first (API reference: "Listing All Jobs").

        Each page of up to 100 jobs is requested when its first job is awaited, and retried like any
        call, so the loop may be left at any time. Each job comes once, with the record that it had
        when its page was read. An entry that cannot be read is skipped, with a warning in the log.

        Raises:
            APIError: A page could not be read, retries included; `job_id` is None.
            InvalidResponseError: A page is larger than 16 MiB or has no list of jobs, or the cursor
                of an earlier page came again.
            ClientStateError: The client is closed, or belongs to another event loop.
            ConfigurationError: The session that was passed in is unusable.
        """
        listing = JobListing(self._manager, self._options)
        return Stream(listing.next_job, listing.aclose)

    def _wait(
        self, job_id: str, timeout: float | timedelta | None, poll: PollPolicy | None
    ) -> Wait:
        return Wait(self._manager, job_id, self._options_with(poll), timeout_seconds(timeout))

    def _waits(
        self,
        job_ids: Iterable[str] | AsyncIterable[str],
        timeout: float | timedelta | None,
        poll: PollPolicy | None,
        on_change: OnChange | None = None,
        *,
        every_change: bool = False,
    ) -> WaitBatch:
        check_callback(on_change)
        return WaitBatch(
            self._manager,
            job_ids,
            self._options_with(poll),
            timeout_seconds(timeout),
            on_change,
            every_change=every_change,
        )

    def _options_with(self, poll: PollPolicy | None) -> Options:
        return self._options if poll is None else attrs.evolve(self._options, poll=poll)


def _stream(batch: WaitBatch) -> Stream[JobOutcome[JobStatusReport]]:
    return Stream(batch.next_outcome, batch.aclose, batch.cancel)


_request_timeout: Final = functools.partial(
    check_number, "timeout", above=0, maximum=_LONGEST_TIMEOUT
)
