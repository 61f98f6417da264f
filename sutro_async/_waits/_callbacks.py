"""Calls `on_change`, and logs what it raises."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any, Final

from sutro_async.models import JobStatusReport

__all__ = ["OnChange", "check_callback", "log_failure", "notify", "wait_until_done"]

_log: Final = logging.getLogger("sutro_async")

OnChange = Callable[[JobStatusReport], object]
"""A plain callable, or one that returns an awaitable."""


def check_callback(on_change: object) -> None:
    """Check that `on_change` is None or can be called.

    Raises:
        TypeError: It is neither.
    """
    if on_change is not None and not callable(on_change):
        raise TypeError(f"on_change must be callable, got {on_change!r}")


def notify(on_change: OnChange, report: JobStatusReport) -> asyncio.Future[Any] | None:
    """Call `on_change`; what it raises is logged.

    Returns:
        A future to wait for, if `on_change` returned an awaitable. It is a task of its own: a
        cancellation that it raises can then be distinguished from one of the wait, which counting
        cancellations cannot do. A failed `TaskGroup` leaves one behind on Python 3.11 and 3.12
        (https://github.com/python/cpython/issues/116720, fixed in 3.13).
    """
    try:
        result = on_change(report)
        return asyncio.ensure_future(result) if inspect.isawaitable(result) else None
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - logged
        _log_exception(report)
        return None


async def wait_until_done(pending: asyncio.Future[Any], report: JobStatusReport) -> None:
    """Wait for what `notify` returned, and cancel it if the waiting is cancelled.

    Raises:
        BaseException: It raised one that must not be kept, such as a `KeyboardInterrupt`.
    """
    try:
        await asyncio.wait({pending})
    except asyncio.CancelledError:
        pending.cancel()
        await asyncio.wait({pending})
        log_failure(pending, report, is_over=True)
        raise
    log_failure(pending, report)


def log_failure(
    done: asyncio.Future[Any], report: JobStatusReport, *, is_over: bool = False
) -> None:
    """Log the exception of an `on_change` that has ended.

    Args:
        done: What `notify` returned.
        report: The report that it was about.
        is_over: Whether the wait is over, so that it was cancelled.

    Raises:
        BaseException: It is one that must not be kept, such as a `KeyboardInterrupt`.
    """
    if is_over and done.cancelled():
        return
    try:
        done.result()
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - logged
        _log_exception(report, is_over=is_over)


def _log_exception(report: JobStatusReport, *, is_over: bool = False) -> None:
    then = " when it was cancelled" if is_over else "; the wait continues"
    _log.exception("job %r: on_change failed%s", report.job_id, then)
