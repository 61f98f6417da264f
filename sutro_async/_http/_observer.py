"""Calls the observer of a client, whose exceptions must not affect the client."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Final, TypeVar

from sutro_async.errors import APIError, ConfigurationError, SutroError, copied
from sutro_async.events import Event

__all__ = ["Observer", "as_value"]

_MAX_KINDS: Final = 100

_log: Final = logging.getLogger("sutro_async")

ErrorT = TypeVar("ErrorT", bound=SutroError)


class Observer:
    """Passes events on, and logs what the observer raises, once for each kind.

    Args:
        function: The observer.

    Raises:
        ConfigurationError: It cannot be called, or is a coroutine function.
    """

    def __init__(self, function: Callable[[Event], object]) -> None:
        if not _is_plain_callable(function):
            raise ConfigurationError(
                f"observer must be a plain callable, not a coroutine function, got {function!r}"
            )
        self._function = function
        self._logged: set[tuple[type, type]] = set()

    def notify(self, event: Event) -> None:
        """Call the observer."""
        try:
            self._function(event)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - logged
            self._log(event, error)

    def _log(self, event: Event, error: BaseException) -> None:
        """Log an exception, once for each kind: the next event would raise it again."""
        kind = (type(event), type(error))
        # The bound is for an observer that raises a new class each time.
        if kind in self._logged or len(self._logged) >= _MAX_KINDS:
            return
        self._logged.add(kind)
        name = type(event).__name__
        _log.exception("the observer failed on %s; the next failures like it are not logged", name)


def _is_plain_callable(function: object) -> bool:
    if not callable(function) or inspect.iscoroutinefunction(function):
        return False
    return not inspect.iscoroutinefunction(type(function).__call__)


def as_value(error: ErrorT) -> ErrorT:
    """Copy an error without its causes, frames and report, so that it can be kept for long.

    The report is as the service sent it, and may quote the key.
    """
    value = copied(error)
    value.__cause__ = value.__context__ = value.__traceback__ = None
    if isinstance(value, APIError):
        value.last_report = None
    return value
