"""One wait: polls a job at its pace, until it has finished. Driven by tenacity."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import tenacity

from sutro_async._http import Options, SessionManager, Steps
from sutro_async._waits._callbacks import OnChange, notify, wait_until_done
from sutro_async._waits._poller import JobPoller, pace_settings
from sutro_async._wire import check_job_id
from sutro_async.errors import ClientStateError
from sutro_async.models import JobStatusReport

__all__ = ["Wait"]

_log: Final = logging.getLogger("sutro_async")


class _PollAgain(Exception):  # noqa: N818 - a signal, not an error
    """The poll returned nothing that ends this step of the wait."""


class Wait:
    """One wait for a job, a change of its report at a time.

    It works only while the next report is awaited. Between two reports there is no task, no timer
    and no connection in use.

    Args:
        manager: Sends the requests.
        job_id: The job to wait for.
        options: How to send them.
        timeout: Seconds from the first step on, None for no limit; 0 polls exactly once.

    Raises:
        TypeError: The job id is not a string.
        ValueError: The job id is invalid.
    """

    def __init__(
        self, manager: SessionManager, job_id: str, options: Options, timeout: float | None
    ) -> None:
        self._job_id = check_job_id(job_id)
        self._manager = manager
        self._options = options
        self._timeout = timeout
        self._steps = Steps(manager.lifecycle)
        self._poller: JobPoller | None = None
        self._deadline: float | None = None
        self._is_delivered = False

    async def next_report(self) -> JobStatusReport:
        """Wait for the next report that differs from the one before, or is terminal.

        Raises:
            StopAsyncIteration: The terminal report was returned before.
            APIError: A failure that is not transient, or has lasted too long.
            JobWaitTimeoutError: The timeout expired.
            ClientStateError: The client is closed, or belongs to another event loop.
        """
        poller = self._poller or self._begin()
        if self._is_delivered:
            raise StopAsyncIteration
        if poller.polls_once and poller.report is not None and not poller.is_over:
            poller.end("timeout")
            raise poller.timeout_error()
        try:
            with self._steps.step():
                report = poller.report if poller.is_over else await self._poll(poller)
                assert report is not None  # noqa: S101 - `is_over` says so
                report = await poller.add_reason(report)
        except Exception as error:
            poller.end_by(error)
            raise
        if report.is_terminal:
            self._is_delivered = True
            poller.end()
        return report

    async def aclose(self) -> None:
        """End the step that is running, if one is, with StopAsyncIteration."""
        self.abandon()
        await self._steps.aclose()

    def abandon(self) -> None:
        """Note that the caller has left, unless the wait has ended before."""
        if self._poller is not None:
            self._poller.end()

    def _begin(self) -> JobPoller:
        now = asyncio.get_running_loop().time()
        settings = pace_settings(self._options, self._timeout, now)
        self._deadline = settings.deadline
        self._poller = JobPoller(self._manager, self._job_id, self._options, settings, now)
        return self._poller

    async def _poll(self, poller: JobPoller) -> JobStatusReport:
        """Poll until there is a report to return."""

        async def poll() -> JobStatusReport:
            is_postponed = poller.postpone(asyncio.get_running_loop().time())
            report = None if is_postponed else await poller.poll()
            if report is None:
                raise _PollAgain
            return report

        attempts = tenacity.AsyncRetrying(
            sleep=asyncio.sleep,
            wait=lambda _: poller.seconds_to_next_poll(),
            retry=tenacity.retry_if_exception_type(_PollAgain),
            reraise=True,
        )
        scope = asyncio.timeout_at(self._deadline)
        try:
            async with scope:
                await asyncio.sleep(poller.seconds_to_next_poll())
                return await attempts(poll)
        except TimeoutError:
            # An APITimeoutError is one too.
            if not scope.expired():
                raise
        raise poller.timeout_error()

    async def run(self, on_change: OnChange | None) -> JobStatusReport:
        """Wait for the terminal report, and return it.

        Raises:
            APIError: A failure that is not transient, or has lasted too long.
            JobWaitTimeoutError: The timeout expired.
            ClientStateError: The client is closed, or belongs to another event loop.
        """
        try:
            while True:
                report = await self.next_report()
                if on_change is not None:
                    await self._notify(on_change, report)
                if report.is_terminal:
                    return report
        finally:
            self.abandon()  # if it was cancelled

    async def _notify(self, on_change: OnChange, report: JobStatusReport) -> None:
        pending = notify(on_change, report)
        if pending is None:
            return
        scope = asyncio.timeout_at(self._deadline)
        try:
            with self._manager.lifecycle.operation():
                async with scope:
                    await wait_until_done(pending, report)
        except TimeoutError:
            _log.warning("job %r: the timeout of the wait cancelled on_change", report.job_id)
        except ClientStateError:
            # An on_change that started eagerly may have closed the client already.
            pending.cancel()
            await asyncio.wait({pending})
            raise
