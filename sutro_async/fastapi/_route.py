"""What the routes have in common: how they answer errors, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import anyio
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope, Send

from sutro_async import ClientStateError, SutroError
from sutro_async.fastapi._problems import problem_response, validation_response

__all__ = ["JobsRoute", "StreamFinished"]


class StreamFinished(Exception):  # noqa: N818 - a signal, not an error
    """The browser connects again to a stream that has been told to its end."""


class JobsRoute(APIRoute):
    """A route whose errors are answered with problem details, whatever the app does with them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_problems(request: Request) -> Response:
            try:
                return await handle(request)
            except SutroError as error:
                return problem_response(request, error)
            except RequestValidationError as error:
                return validation_response(request, error)
            except StreamFinished:
                return Response(status_code=HTTPStatus.NO_CONTENT)

        return handle_with_problems

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """End in good order where the visitor has left, and where the server cancels the answer.

        uvicorn does so when its time to stop gracefully is up. The request is over then, whether
        its cancellation goes on or not; but uvicorn would log a traceback of each that does. Any
        other cancellation has a cause of its own, such as a timeout of the app.
        """
        is_started = is_complete = False

        async def noting_send(message: Message) -> None:
            nonlocal is_started, is_complete
            is_started = True
            is_complete = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            with _suppress_broken_stream():
                await super().handle(scope, receive, noting_send)
        except asyncio.CancelledError as cancellation:
            if is_complete or not _is_servers(cancellation):
                raise
            if is_started:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                error = ClientStateError("the server has cancelled the request")
                await problem_response(Request(scope), error)(scope, receive, send)


@contextmanager
def _suppress_broken_stream() -> Iterator[None]:
    """Drop what FastAPI raises where somebody leaves with an event on its way to them."""
    try:
        yield
    except ExceptionGroup as group:
        _, others = group.split(anyio.BrokenResourceError)
        if others is not None:
            raise others from None
        # The break has taken the place of a cancellation, if that is what has ended the answer.
        cause = group.__context__
        if isinstance(cause, asyncio.CancelledError) and not _is_servers(cause):
            raise cause from None


def _is_servers(cancellation: asyncio.CancelledError) -> bool:
    return "graceful shutdown" in str(cancellation)  # in uvicorn's words
