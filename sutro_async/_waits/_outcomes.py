"""The outcomes of many jobs, and which errors concern all of them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from types import TracebackType
from typing import Final

from sutro_async.errors import (
    AuthenticationError,
    ClientStateError,
    ConfigurationError,
    PermissionDeniedError,
    SutroError,
    detached,
)
from sutro_async.models import JobOutcome, JobStatusReport

__all__ = ["BatchErrors", "Outcomes"]

# These concern the whole batch, so they are not the outcome of a job.
_BATCH_FATAL_ERRORS: Final = (AuthenticationError, ClientStateError, ConfigurationError)

# A 403 can concern one job. For this many jobs, and without a good response, it concerns the key.
_FATAL_REFUSALS: Final = 3


class BatchErrors:
    """Distinguishes errors that concern the whole batch from those of one job."""

    def __init__(self) -> None:
        self._refused: set[str] = set()
        self._has_good_response = False

    def note_success(self) -> None:
        """Note a good response about some job."""
        self._has_good_response = True

    def note_error(self, job_id: str, error: Exception) -> bool:
        """Note the error that ended one job, and return whether it ends the batch."""
        if isinstance(error, PermissionDeniedError):
            self._refused.add(job_id)
            return not self._has_good_response and len(self._refused) >= _FATAL_REFUSALS
        return isinstance(error, _BATCH_FATAL_ERRORS)


class Outcomes:
    """Keeps outcomes until they are read: for each job only the newest, so without a backlog.

    Attributes:
        error: The error that ended the batch, if one did.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._errors = BatchErrors()
        # An error does not replace the last report before it.
        # Not a plain dict: finding its first item skips over all those that were removed.
        self._items: OrderedDict[tuple[str, bool], JobOutcome[JobStatusReport]] = OrderedDict()
        self._changed = asyncio.Event()
        self._is_ended = False
        self._is_raised = False
        self._traceback: TracebackType | None = None

    def note_success(self) -> None:
        """Note a good response about some job."""
        self._errors.note_success()

    def put_report(self, job_id: str, report: JobStatusReport) -> None:
        """Add a report."""
        self._errors.note_success()
        self._put(JobOutcome(job_id=job_id, value=report))

    def put_error(self, job_id: str, error: Exception) -> bool:
        """Add the error that ended a job.

        Returns:
            False if it concerns the whole batch, so that it was not added.
        """
        if self._errors.note_error(job_id, error) or not isinstance(error, SutroError):
            return False
        self._put(JobOutcome(job_id=job_id, error=detached(error)))
        return True

    def _put(self, outcome: JobOutcome[JobStatusReport]) -> None:
        self._items[outcome.job_id, outcome.ok] = outcome
        self._changed.set()

    def end(self, error: BaseException | None = None) -> None:
        """Note that nothing more will be added.

        Of several errors the first counts, but one that ends the program comes before others.
        """
        if error is not None and (self.error is None or _is_crash(error) > _is_crash(self.error)):
            self.error = error
            self._traceback = error.__traceback__
            self._is_raised = False
        self._is_ended = True
        self._changed.set()

    def raise_error(self) -> None:
        """Raise the error that ended the batch, if one did.

        Other readers may raise the same one: it does not keep their frames.
        """
        if self.error is not None:
            self._is_raised = True
            raise self.error.with_traceback(self._traceback)

    def raise_crash(self) -> None:
        """Raise that error if it must not be lost, and was not raised before."""
        if self.error is not None and _is_crash(self.error) and not self._is_raised:
            self.raise_error()

    async def get(self) -> JobOutcome[JobStatusReport] | None:
        """Wait for an outcome, and take it; None after the last one."""
        while not self._items:
            if self._is_ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._items.popitem(last=False)[1]


def _is_crash(error: BaseException) -> bool:
    """Whether an error ends the program, as `pytest.fail` does.

    Asyncio itself raises a `KeyboardInterrupt` or `SystemExit` of a task out of the event loop.
    """
    return not isinstance(error, Exception | KeyboardInterrupt | SystemExit)
