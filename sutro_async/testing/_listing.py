"""The response to `GET /list-jobs`: pages, cursors, and bad queries. No HTTP here."""

import base64
import re
from collections.abc import Callable
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl

from sutro_async.testing._jobs import FakeJob

_MAX_LIMIT = 100
# In Base64 these bytes are "+//+": characters that a query cannot hold as they are.
_MARK = b"\xfb\xff\xfe"
_POSITION = re.compile(_MARK + rb"([0-9]{1,18})")


def list_response(
    jobs: dict[str, FakeJob], query: str, record: Callable[[FakeJob], dict[str, Any]]
) -> tuple[int, dict[str, Any]]:
    """Return status and body, the newest job first.

    A cursor is a position in the list, so that the last job of a page comes twice if a job is added
    before the next page.

    Args:
        jobs: The jobs, the oldest first.
        query: The query of the request, as sent.
        record: Returns the entry of a job.
    """
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    limit, cursor = parameters.get("limit"), parameters.get("cursor")
    newest_first = reversed(jobs.values())
    if limit is None:
        body = {"message": "Jobs retrieved successfully.", "jobs": [*map(record, newest_first)]}
        return 200, body
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= _MAX_LIMIT:
        return 422, _error("limit", f"Input should be an integer from 1 to {_MAX_LIMIT}", limit)
    start = 0 if cursor is None else _position(cursor)
    if start is None:
        return 422, _error("cursor", "Input should be the next_cursor of a page", cursor)
    end = start + int(limit)
    return 200, {
        "jobs": [*map(record, islice(newest_first, start, end))],
        "next_cursor": _cursor(end) if end < len(jobs) else None,
    }


def _cursor(position: int) -> str:
    return base64.b64encode(_MARK + b"%d" % position).decode()


def _position(cursor: str) -> int | None:
    try:
        match = _POSITION.fullmatch(base64.b64decode(cursor, validate=True))
    except ValueError:
        return None
    return int(match[1]) if match else None


def _error(name: str, message: str, value: str | None) -> dict[str, Any]:
    return {"detail": [{"loc": ["query", name], "msg": message, "input": value}]}
