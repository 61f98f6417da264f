"""The classes of the routes: how they respond to errors, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope, Send

from sutro_async import ClientStateError, SutroError
from sutro_async.fastapi._problems import problem_response, validation_response
from sutro_async.fastapi._workarounds import is_cancelled_by_server, suppress_broken_stream

__all__ = ["JobsRoute", "ProblemsRoute", "StreamFinished"]


class StreamFinished(Exception):  # noqa: N818 - a signal, not an error
    """The browser reconnects to a stream that has sent its last event."""


class JobsRoute(APIRoute):
    """A route whose errors are left to the handlers of the app."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_finished_stream(request: Request) -> Response:
            try:
                return await handle(request)
            except StreamFinished:
                return Response(status_code=HTTPStatus.NO_CONTENT)

        return handle_finished_stream

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """End cleanly if the visitor has disconnected, or if the server cancels the response.

        uvicorn cancels responses when its `timeout_graceful_shutdown` expires. The request ends
        then in any case, but uvicorn would log a traceback for each `CancelledError`. All other
        cancellations are raised, such as that of a timeout of the app.
        """
        is_started = is_complete = False

        async def noting_send(message: Message) -> None:
            nonlocal is_started, is_complete
            is_started = True
            is_complete = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            with suppress_broken_stream():
                await super().handle(scope, receive, noting_send)
        except asyncio.CancelledError as cancellation:
            if is_complete or not is_cancelled_by_server(cancellation):
                raise
            if not is_started:
                error = ClientStateError("the server has cancelled the request")
                await self.respond_to_cancelled(error, scope, receive, send)
            else:
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def respond_to_cancelled(
        self,
        error: ClientStateError,
        scope: Scope,  # noqa: ARG002 - for the subclass
        receive: Receive,  # noqa: ARG002
        send: Send,  # noqa: ARG002
    ) -> None:
        """Raise for a request that the server has cancelled, for the handlers of the app."""
        raise error from None


class ProblemsRoute(JobsRoute):
    """A route that responds to errors with problem details, whatever the app does with them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_problems(request: Request) -> Response:
            try:
                return await handle(request)
            except SutroError as error:
                return problem_response(request, error)
            except RequestValidationError as error:
                return validation_response(request, error)

        return handle_with_problems

    async def respond_to_cancelled(
        self, error: ClientStateError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Respond with problem details to a request that the server has cancelled."""
        await problem_response(Request(scope), error)(scope, receive, send)
