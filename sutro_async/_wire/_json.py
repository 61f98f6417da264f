"""Strict JSON, within bounds of size and depth: a body is read, or malformed for one reason."""

from __future__ import annotations

import itertools
import json
import math
import re
import reprlib
from typing import Any, Final

from sutro_async._wire._html import describe_html
from sutro_async.errors import one_line

__all__ = ["MAX_BODY_BYTES", "MalformedError", "abbreviate", "as_text", "load"]

MAX_BODY_BYTES: Final = 16 * 2**20
_MAX_TOKENS: Final = 200_000
_MAX_DEPTH: Final = 64
_TOO_DEEP: Final = f"nested deeper than {_MAX_DEPTH} levels"
_EXCERPT: Final = 60

_WHITESPACE: Final = " \t\n\r"  # of RFC 8259


class MalformedError(ValueError):
    """A body that is not JSON, or JSON beyond the bounds."""


def load(body: bytes, *, is_lenient: bool = False) -> object:
    """Parse a body.

    A lone surrogate, as of a text that was truncated within an emoji, is read as U+FFFD.

    Args:
        body: The body.
        is_lenient: Whether to allow NaN, duplicate keys and deep nesting, which takes half of the
            time: for a body of which only hints are taken.

    Raises:
        MalformedError: It is not JSON, or beyond the bounds.
    """
    if len(body) > _MAX_TOKENS:
        _check_size(body)
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("not valid UTF-8") from _excerpt(error)
    if is_lenient:
        return _parse(text, _lenient_decoder)
    content = _parse(text, _decoder)
    # The exact depth is worth its time only where there are enough brackets for it.
    if len(text) > 2 * _MAX_DEPTH and _depth_at_most(text) > _MAX_DEPTH < _depth(content):
        raise MalformedError(_TOO_DEEP)
    if "\\" in text and "\\u" in text:  # a search for one character takes almost no time
        content = _without_lone_surrogates(content)
    return content


def as_text(value: object) -> str:
    """Return a string as it is, and any other JSON value as compact JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_repr: Final = reprlib.Repr()
_repr.maxstring = _repr.maxlong = 60
_repr.maxlevel = 3


def abbreviate(value: object) -> str:
    """Show a JSON value on one line, for a message."""
    return "null" if value is None else one_line(_repr.repr(value), limit=200)


# A string, whether or not it ends, or what precedes a further value. It never backtracks.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{,]', re.DOTALL)
_FOUR_BYTES_WIDE: Final = re.compile(rb"[\xf0-\xff]|\\u[dD][89abAB]")
_TWO_BYTES_WIDE: Final = re.compile(rb"[\xc4-\xef]|\\u")
_CONTINUATIONS: Final = bytes(range(0x80, 0xC0))


def _check_size(body: bytes) -> None:
    """Refuse a body whose parsed form would take many times its size.

    A value takes some 60 bytes, even an empty list; and one emoji makes four bytes of each
    character of its text.
    """
    tokens_at_most = sum(map(body.count, (b'"', b"[", b"{", b",")))
    if tokens_at_most > _MAX_TOKENS:
        too_many = itertools.islice(_TOKEN.finditer(body), _MAX_TOKENS, None)
        if next(too_many, None) is not None:
            raise MalformedError(f"more than {_MAX_TOKENS:,} values")
    if not body.isascii() or b"\\u" in body:
        width = 4 if _FOUR_BYTES_WIDE.search(body) else 2 if _TWO_BYTES_WIDE.search(body) else 1
        if len(body.translate(None, _CONTINUATIONS)) * width > MAX_BODY_BYTES:
            raise MalformedError(f"larger than {MAX_BODY_BYTES // 2**20} MiB as text")


def _excerpt(error: json.JSONDecodeError | UnicodeDecodeError) -> ValueError:
    """Make the same error again, without the whole body, which it would keep in memory."""
    if isinstance(error, json.JSONDecodeError):
        start = max(0, error.pos - _EXCERPT // 2)
        return json.JSONDecodeError(
            error.msg, error.doc[start : start + _EXCERPT], error.pos - start
        )
    excerpt = error.object[error.start : error.start + _EXCERPT]
    return UnicodeDecodeError(error.encoding, excerpt, 0, error.end - error.start, error.reason)


def _parse(text: str, decoder: json.JSONDecoder) -> object:
    document = text.strip(_WHITESPACE)  # as `decode` would do, but with slow regular expressions
    try:
        content, end = decoder.raw_decode(document)
    except RecursionError:
        # Its traceback is as deep as the body.
        raise MalformedError(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        reason = describe_html(text) or f"{abbreviate(text)} ({error.msg})"
        raise MalformedError(f"not JSON: {reason}") from _excerpt(error)
    except MalformedError:
        raise
    except ValueError as error:  # an integer of more digits than Python converts
        raise MalformedError("a number is out of range") from error.with_traceback(None)
    if end < len(document):
        raise MalformedError(f"not JSON: {abbreviate(text)} (Extra data)")
    return content


_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _without_lone_surrogates(content: object) -> object:
    text = json.dumps(content, ensure_ascii=False)
    whole, count = _LONE_SURROGATE.subn("\ufffd", text)
    return json.loads(whole) if count else content


def _depth_at_most(text: str) -> int:
    return text.count("[") + text.count("{")


def _depth(content: object) -> int:
    depth = 0
    values = [content]
    while parents := [value for value in values if isinstance(value, dict | list)]:
        depth += 1
        values = [
            child
            for parent in parents
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return depth


def _reject_constant(name: str) -> None:
    raise MalformedError(f"{name} is not JSON")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise MalformedError(f"the number {one_line(digits, limit=40)} is out of range")
    return number


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise MalformedError("an object has the same key twice")
    return content


_decoder: Final = json.JSONDecoder(
    parse_constant=_reject_constant,
    parse_float=_finite_float,
    object_pairs_hook=_unique_names,
)
_lenient_decoder: Final = json.JSONDecoder()
