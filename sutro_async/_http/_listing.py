"""The list of jobs: a sequence of logical GETs, one for each page."""

from __future__ import annotations

from collections import deque
from typing import Final

from sutro_async._http._fetch import fetch
from sutro_async._http._manager import Options, SessionManager, job_page
from sutro_async._http._scope import Scope
from sutro_async.errors import ClientStateError, InvalidResponseError
from sutro_async.models import Job

__all__ = ["JobListing"]

_PAGE_SIZE: Final = 100


class JobListing:
    """The jobs of the account, newest first, each once.

    It works only while the next job is awaited, and keeps one page, and the ids so far.

    Args:
        manager: Sends the requests.
        options: How to send them.
    """

    def __init__(self, manager: SessionManager, options: Options) -> None:
        self._manager = manager
        self._options = options
        self._jobs: deque[Job] = deque()
        self._job_ids: set[str] = set()
        self._cursor: str | None = None
        self._cursors: set[str | None] = set()
        self._is_complete = False
        self._step: Scope | None = None
        self._is_closed = False

    async def next_job(self) -> Job:
        """Return the next job, from the next page if need be.

        A step that is cancelled has changed nothing: the page is requested again.

        Raises:
            StopAsyncIteration: There is none.
            APIError: A page could not be read, retries included.
            ClientStateError: The client is closed, or belongs to another event loop.
            ConfigurationError: The session that was passed in is unusable.
        """
        self._manager.lifecycle.check()
        while not self._jobs:
            if self._is_complete:
                raise StopAsyncIteration
            await self._read_page()
        return self._jobs.popleft()

    async def aclose(self) -> None:
        """End the step that is running, if one is, with StopAsyncIteration."""
        self._is_closed = True
        if self._step is not None:
            step = self._step
            step.interrupt()
            await step.wait_ended()

    async def _read_page(self) -> None:
        if self._cursor in self._cursors:
            raise InvalidResponseError(
                job_id=None,
                path="$.next_cursor",
                reason="the cursor of an earlier page was repeated, so the list would never end",
            )
        endpoint = job_page(self._cursor, _PAGE_SIZE)
        self._step = self._manager.lifecycle.operation()
        try:
            with self._step:
                page = await fetch(self._manager, endpoint, None, self._options)
        except ClientStateError:
            if self._is_closed:
                raise StopAsyncIteration from None
            raise
        finally:
            self._step = None
        self._cursors.add(self._cursor)
        self._cursor = page.next_cursor
        self._is_complete = page.next_cursor is None
        for job in page.jobs:
            # A job comes again if another was submitted between two pages.
            if job.job_id not in self._job_ids:
                self._job_ids.add(job.job_id)
                self._jobs.append(job)
