"""Takes the key out of what the service has sent back, before anybody gets to see it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from sutro_async.errors import SutroError

__all__ = ["Redaction"]

# Characters. Shorter keys exist in tests only, where they are parts of innocent words. It takes
# more to be looked for in a good answer, which must not be spoilt.
_SHORTEST_SECRET: Final = 6
_SHORTEST_SECRET_IN_ANSWER: Final = 12
_REDACTED: Final = "[api key]"

ErrorT = TypeVar("ErrorT", bound=SutroError)


class Redaction:
    """Finds one key, each of its characters as it is or escaped as JSON may have it.

    What is to be shortened is to be redacted before: a piece of the key is not found any more.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._is_secret = len(key) >= _SHORTEST_SECRET
        self._pattern = _pattern(key)
        self._signs = _signs(key) if len(key) >= _SHORTEST_SECRET_IN_ANSWER else ()

    def answer(self, body: bytes) -> bytes:
        """Take the key out of the body of a good answer."""
        for sign in self._signs:
            if sign in body:
                return self._pattern.sub(_REDACTED.encode(), body)
        return body

    def refusal(self, headers: Mapping[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
        """Take the key out of an answer with an error; return headers and body.

        The names of the headers are in lower case. The body may have been cut off within the key,
        so that the beginning of the key goes from its end too.
        """
        values = {name.lower(): headers[name] for name in headers}
        if not self._is_secret:
            return values, body
        body = self._pattern.sub(_REDACTED.encode(), body)
        key = self._key.encode()
        for length in range(len(key) - 1, _SHORTEST_SECRET - 1, -1):
            body = body.removesuffix(key[:length])
        return self._without_key(values), body

    def error(self, error: ErrorT) -> ErrorT:
        """Take the key out of an error, its fields and its causes; return the error."""
        if not self._is_secret:
            return error
        for name, value in vars(error).items():
            if name != "job_id":
                setattr(error, name, self._without_key(value))
        error.args = self._without_key(error.args)
        if self._is_in_chain(error.__cause__ or error.__context__):
            error.__cause__ = error.__context__ = None
        return error

    def _without_key(self, value: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
        if isinstance(value, str):
            return value.replace(self._key, _REDACTED)
        if isinstance(value, dict):
            return {self._without_key(k): self._without_key(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self._without_key, value))
        return value

    def _is_in_chain(self, error: BaseException | None) -> bool:
        while error is not None:
            if self._key in f"{error} {error!r} {vars(error)}":
                return True
            error = error.__cause__ or error.__context__
        return False


def _pattern(key: str) -> re.Pattern[bytes]:
    characters = []
    for char in key:
        as_it_is = re.escape(char).encode()
        characters.append(rb"(?:%b|\\%b|(?i:\\u%04x))" % (as_it_is, as_it_is, ord(char)))
    return re.compile(b"".join(characters))


def _signs(key: str) -> tuple[bytes, ...]:
    """Give what is in every body that holds the key; quicker to look for than the pattern."""
    escaped = json.dumps(key)[1:-1]
    signs = {key, escaped, escaped.replace("/", r"\/"), r"\u00"}
    return tuple(sign.encode() for sign in signs)
