"""HTML pages, which proxies send in place of answers: what a message says of one."""

from __future__ import annotations

import html
import re
from typing import Final

from sutro_async.errors import one_line

__all__ = ["describe_html"]

_START: Final = re.compile(
    r"\s*+(?:<!--.*?-->\s*+)?<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_TITLE: Final = re.compile(r"<title[^>]*+>([^<]*+)", re.IGNORECASE)


def describe_html(text: str) -> str | None:
    """Return the title of an HTML page, "an HTML page" if it has none, or None if it is no page."""
    if not _START.match(text):
        return None
    title = _TITLE.search(text)
    return (one_line(html.unescape(title[1])) if title else "") or "an HTML page"
