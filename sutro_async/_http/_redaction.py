"""Removes the key from what the service has sent back, before it gets into an error or a log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from sutro_async.errors import SutroError

__all__ = ["Redaction"]

# Characters. Shorter keys exist in tests only, where they are parts of other words.
_SHORTEST_SECRET: Final = 6
_REDACTED: Final = "[api key]"

ErrorT = TypeVar("ErrorT", bound=SutroError)


class Redaction:
    """Finds one key, each of its characters as it is or escaped as JSON may have it.

    Redact before truncating: a truncated key no longer matches.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._is_secret = len(key) >= _SHORTEST_SECRET
        self._pattern = _pattern(key)

    def body(self, body: bytes) -> bytes:
        """Take the key out of a body."""
        return self._pattern.sub(_REDACTED.encode(), body) if self._is_secret else body

    def refusal(self, headers: Mapping[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
        """Take the key out of a response with an error; return headers and body.

        The names of the headers are in lower case. The body may have been cut off within the key,
        so that the beginning of the key goes from its end too.
        """
        values = {name.lower(): headers[name] for name in headers}
        if not self._is_secret:
            return values, body
        body = self.body(body)
        key = self._key.encode()
        for length in range(len(key) - 1, _SHORTEST_SECRET - 1, -1):
            body = body.removesuffix(key[:length])
        return self.value(values), body

    def error(self, error: ErrorT) -> ErrorT:
        """Take the key out of an error, its fields and its causes; return the error."""
        if not self._is_secret:
            return error
        for name, value in vars(error).items():
            if name != "job_id":
                setattr(error, name, self.value(value))
        error.args = self.value(error.args)
        if self._is_in_chain(error.__cause__ or error.__context__):
            error.__cause__ = error.__context__ = None
        return error

    def value(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Take the key out of a JSON value."""
        if not self._is_secret:
            return value
        if isinstance(value, str):
            return value.replace(self._key, _REDACTED)
        if isinstance(value, dict):
            return {self.value(k): self.value(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self.value, value))
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
