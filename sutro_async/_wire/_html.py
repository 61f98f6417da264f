"""HTML pages, which proxies send in place of responses: how a message describes one."""

from __future__ import annotations

import html
import re
from typing import Final

from sutro_async.errors import one_line

__all__ = ["describe_html"]

# The title of a page is near its beginning, and a body may have 16 MiB.
_HEAD_CHARACTERS: Final = 10_000

_START: Final = re.compile(
    r"\ufeff?(?:\s++|<\?xml[^>]*+>|<!--.*?-->)*+<(?:!doctype\s+html|html|head|title|body)\b",
    re.IGNORECASE | re.DOTALL,
)
_TITLE: Final = re.compile(r"<title\b[^<>]*+>([^<]*+)", re.IGNORECASE)


def describe_html(text: str) -> str | None:
    """Return the title of an HTML page, "an HTML page" if it has none, or None if it is no page."""
    head = text[:_HEAD_CHARACTERS]
    if not _START.match(head):
        return None
    title = _TITLE.search(head)
    return (one_line(html.unescape(title[1])) if title else "") or "an HTML page"
