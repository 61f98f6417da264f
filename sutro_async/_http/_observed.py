"""`ObservedManager`: a `SessionManager` that notifies an observer of each request.

A class of its own, so that a client without an observer pays nothing for it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from sutro_async._http._manager import Endpoint, JobIdT, Options, ResponseT, SessionManager
from sutro_async._http._observer import Observer, as_value
from sutro_async._http._throttle import Priority, Throttle
from sutro_async._http._transport import Transport
from sutro_async.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ClientStateError,
    InvalidResponseError,
    RateLimitError,
    ServerError,
    SutroError,
)
from sutro_async.events import RequestEnded, RequestOutcome

__all__ = ["ObservedManager"]

# The first class that matches applies.
_OUTCOMES: Final[tuple[tuple[type[SutroError], RequestOutcome], ...]] = (
    (RateLimitError, "rate_limited"),
    (ServerError, "server_error"),
    (APIStatusError, "client_error"),
    (InvalidResponseError, "invalid_response"),
    (APITimeoutError, "timeout"),
    (APIConnectionError, "connection_error"),
    (SutroError, "unusable_session"),
)


class ObservedManager(SessionManager):
    """Notifies an observer of each request.

    Args:
        transport: Sends the requests.
        throttle: Says when.
        observer: Gets the events, those of the throttle too.
    """

    observer: Observer

    def __init__(self, transport: Transport, throttle: Throttle, observer: Observer) -> None:
        super().__init__(transport, throttle)
        self.observer = throttle.observer = observer

    async def request(
        self,
        endpoint: Endpoint[JobIdT, ResponseT],
        job_id: JobIdT,
        options: Options,
        *,
        attempt: int = 1,
        priority: Priority = Priority.CALL,
        send_by: float = math.inf,
        due_at: float = math.inf,
        on_sent: Callable[[float], None] | None = None,
        is_quoted: bool = False,
    ) -> ResponseT:
        """Send one request as `SessionManager` does, and notify the observer of its end."""
        due_at = min(due_at, _now())
        sent_at: float | None = None

        def note_sent(now: float) -> None:
            nonlocal sent_at
            sent_at = now
            if on_sent is not None:
                on_sent(now)

        def notify(outcome: RequestOutcome, status: int | None, error: SutroError | None) -> None:
            if sent_at is None:
                return  # it was not sent: held back, or cancelled in the queue
            event = RequestEnded(
                endpoint=endpoint.name,
                outcome=outcome,
                job_id=job_id,
                status_code=status,
                error=None if error is None else as_value(error),
                seconds=_now() - sent_at,
                queued_seconds=sent_at - due_at,
                attempt=attempt,
            )
            self.observer.notify(event)

        try:
            response = await super().request(
                endpoint,
                job_id,
                options,
                attempt=attempt,
                priority=priority,
                send_by=send_by,
                on_sent=note_sent,
                is_quoted=is_quoted,
            )
        except SutroError as error:
            if self.lifecycle.is_closed and isinstance(error, ClientStateError):
                notify("cancelled", None, None)
            else:
                outcome = next(outcome for kind, outcome in _OUTCOMES if isinstance(error, kind))
                notify(outcome, _status_code(error), error)
            raise
        except BaseException:
            notify("cancelled", None, None)
            raise
        notify("ok", 200, None)
        return response


def _status_code(error: SutroError) -> int | None:
    if isinstance(error, InvalidResponseError):
        return 200
    return error.status_code if isinstance(error, APIStatusError) else None


def _now() -> float:
    return asyncio.get_running_loop().time()
