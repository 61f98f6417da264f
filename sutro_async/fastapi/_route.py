"""What the routes have in common: how they answer errors, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

import anyio
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope, Send

from sutro_async import ClientStateError, SutroError
from sutro_async.fastapi._problems import problem_response, validation_response

__all__ = ["EventsAreOverError", "JobsRoute"]

_SERVER_STOPS: Final = "graceful shutdown"  # in the message of the cancellation by uvicorn


class EventsAreOverError(Exception):
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
            except EventsAreOverError:
                return Response(status_code=HTTPStatus.NO_CONTENT)

        return handle_with_problems

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """End in good order where the visitor has left, and where the server cancels the answer.

        uvicorn does so when its time to stop gracefully is up. The request is over then, whether
        its cancellation goes on or not; but uvicorn would log a traceback of each that does. Any
        other cancellation belongs to whoever it comes from, such as a time-out of the app.
        """
        is_started = is_complete = False

        async def noting_send(message: Message) -> None:
            nonlocal is_started, is_complete
            is_started = True
            is_complete = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            await super().handle(scope, receive, noting_send)
        except ExceptionGroup as group:
            # FastAPI's event streams break where an event is on its way to somebody who leaves.
            _, others = group.split(anyio.BrokenResourceError)
            if others is not None:
                raise others from None
        except asyncio.CancelledError as cancellation:
            if is_complete or _SERVER_STOPS not in str(cancellation):
                raise
            if is_started:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                error = ClientStateError("the server has cancelled the request")
                await problem_response(Request(scope), error)(scope, receive, send)
