"""The requests and responses of the fake, in terms of aiohttp."""

import asyncio
import re
import socket
import struct
from collections.abc import Mapping
from typing import cast
from urllib.parse import unquote

import attrs
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from sutro_async.testing._faults import Ending

# The id is taken from the path as sent: once decoded, a slash in it would look like a separator.
_PATH = re.compile(
    r"(?:/v1)?/(?:(?P<endpoint>job-status|jobs)/(?P<job_id>[^/?]+)|list-jobs)(?:\?.*)?"
)
_REDACTED = "[redacted]"
# Closing a socket with a linger time of zero sends a TCP reset.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@attrs.frozen(kw_only=True)
class RecordedRequest:
    """A request that arrived at the fake.

    Attributes:
        method: The HTTP method.
        path: The target as sent: with the prefix, percent-encoded, with the query.
        headers: The headers, whatever the case of their names; the key is redacted.
        time: When it arrived, in seconds of the event loop's clock.
    """

    method: str
    path: str
    headers: Mapping[str, str] = attrs.field(hash=False)
    time: float


def record(request: web.Request, *, api_key: str, now: float) -> RecordedRequest:
    """Make a record of a request without any key in it."""
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in request.headers.items():
        if name.lower() == "authorization":
            # All of it: a key that this server rejects may be a real one.
            headers.add(name, "Key [redacted]" if value.startswith("Key ") else _REDACTED)
        else:
            headers.add(name, value.replace(api_key, _REDACTED))
    return RecordedRequest(
        method=request.method,
        path=request.raw_path,
        headers=CIMultiDictProxy(headers),
        time=now,
    )


def parse_path(path: str) -> tuple[str, str]:
    """Return the endpoint and the job id that a path names; each is empty if it names none."""
    match = _PATH.fullmatch(path)
    if match is None:
        return "", ""
    return match["endpoint"] or "list-jobs", unquote(match["job_id"] or "")


def make_response(status: int, body: bytes, headers: Mapping[str, str]) -> web.Response:
    """Make a response with the content type of its body, unless the headers name one."""
    content_type = "text/html" if body.startswith(b"<") else "application/json"
    merged = CIMultiDict({"Content-Type": content_type})
    merged.update(headers)
    return web.Response(status=status, headers=merged, body=body)


async def send(
    response: web.Response, request: web.Request, transport: asyncio.Transport, ending: Ending
) -> None:
    """Send a response, whole or cut in half."""
    await response.prepare(request)
    if ending == "whole":
        await response.write_eof()
        return
    body = cast("bytes", response.body)
    await response.write(body[: len(body) // 2])
    if ending == "reset":
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.close()
