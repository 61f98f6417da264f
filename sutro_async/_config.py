"""The sources of key, URL and proxy, and which key and URL may be combined.

A key belongs to one deployment. Every rule here prevents sending it to another.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

import attrs

from sutro_async._hosts import DEFAULT_PORTS, is_loopback, plain_host, with_port
from sutro_async._proxy import Proxy, resolve_proxy
from sutro_async.errors import ConfigurationError

__all__ = ["Settings", "resolve_settings"]

_DEFAULT_HOST: Final = "api.sutro.sh"
_DEFAULT_URL: Final = f"https://{_DEFAULT_HOST}"
_CONFIG_FILE: Final = "~/.sutro/config.json"
_MAX_FILE_BYTES: Final = 2**20

_PATH: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:-]+)*")


@attrs.frozen(kw_only=True)
class Settings:
    """A key, the URL of its deployment, and the proxy.

    Attributes:
        api_key: The key.
        base_url: The URL.
        is_default_url: Whether the URL is the default, since none was set anywhere.
        proxy: The proxy, if there is one.
    """

    api_key: str = attrs.field(repr=False)
    base_url: str
    is_default_url: bool = False
    proxy: Proxy | None = None


def resolve_settings(
    api_key: str | None = None,
    base_url: str | None = None,
    proxy: str | None = None,
    *,
    has_session: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Find key and URL: the arguments, then the environment, then the configuration file.

    White space around them is removed, since files with secrets end in newlines.

    Raises:
        ConfigurationError: There is no key, the key, the URL or the proxy is malformed, or the key
            was given for another deployment than the URL.
    """
    argument_url = None if base_url is None else _normalize_url(base_url, "base_url")
    environment_key = _variable(environ, "SUTRO_API_KEY")
    environment_url = _variable(environ, "SUTRO_API_URL")

    key: object
    url: str | None
    if api_key is not None:
        key, source = api_key, "api_key"
        url = argument_url or _environment_url(environment_url)
    elif environment_key is not None:
        key, source = environment_key, "SUTRO_API_KEY"
        key_url = _environment_url(environment_url)
        url = argument_url or key_url
        if key_url is not None and url != key_url:
            _refuse(f"SUTRO_API_KEY is for {key_url} (SUTRO_API_URL)", url)
    elif environment_url is not None:
        raise ConfigurationError(
            "SUTRO_API_URL is set, but there is no key for it: set SUTRO_API_KEY too,"
            " or pass api_key"
        )
    else:
        key, file_url = _read_config_file()
        source = f"api_key in {_CONFIG_FILE}"
        key_url = file_url or _DEFAULT_URL
        if argument_url not in {None, key_url}:
            _refuse(f"the key in {_CONFIG_FILE} is for {key_url}", argument_url)
        url = argument_url or file_url
    resolved_url = url or _DEFAULT_URL
    return Settings(
        api_key=_normalize_key(key, source),
        base_url=resolved_url,
        is_default_url=url is None,
        # A session that was passed in has its own proxy, whatever the environment says.
        proxy=None if has_session else resolve_proxy(proxy, resolved_url, environ),
    )


def _variable(environ: Mapping[str, str], name: str) -> str | None:
    return environ.get(name, "").strip() or None


def _environment_url(url: str | None) -> str | None:
    return None if url is None else _normalize_url(url, "SUTRO_API_URL")


def _refuse(whose: str, url: str | None) -> NoReturn:
    raise ConfigurationError(
        f"{whose} and must not be sent to {url}: pass the api_key that belongs to this base_url"
    )


def _read_config_file() -> tuple[str, str | None]:
    """Return the key, and the URL if there is one, that the SDK's `sutro login` has stored."""
    content = _load_config_file()
    if isinstance(content, FileNotFoundError):
        raise ConfigurationError(
            f"no API key: pass api_key, set SUTRO_API_KEY, or store one in {_CONFIG_FILE}"
            " with `sutro login`"
        )
    if isinstance(content, Exception):
        raise ConfigurationError(
            f"{_CONFIG_FILE} cannot be read ({type(content).__name__}):"
            " repair or remove it, or set SUTRO_API_KEY"
        )
    if not isinstance(content, dict) or not isinstance(content.get("api_key"), str):
        raise ConfigurationError(
            f"{_CONFIG_FILE} contains no api_key: run `sutro login`, or set SUTRO_API_KEY"
        )
    urls = [
        content[name] for name in ("api_url", "base_url") if content.get(name) not in (None, "")
    ]
    url = _normalize_url(urls[0], f"api_url in {_CONFIG_FILE}") if urls else None
    return content["api_key"], url


def _load_config_file() -> object:
    """Return what the file holds, or the error that kept it from being read.

    The error is returned and not raised: a raised one would be the context of the next one, and
    that of a JSON parser contains the document with the key.
    """
    try:
        path = Path(_CONFIG_FILE).expanduser()
    except RuntimeError:  # there is no home directory
        return FileNotFoundError(_CONFIG_FILE)
    try:
        return json.loads(_read_bounded(path))
    except (OSError, ValueError, RecursionError) as error:
        return error


def _read_bounded(path: Path) -> bytes:
    """Read a regular file; a pipe could block, and a device never ends."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a directory says what it is
        raise OSError("not a regular file")
    with path.open("rb") as file:
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise OSError("too large")
    return content


def _normalize_key(key: object, source: str) -> str:
    # No message may quote the key, not even a malformed one.
    if not isinstance(key, str) or not key.strip():
        raise ConfigurationError(f"{source} must be a non-empty string")
    key = key.strip()
    if not key.isascii():
        raise ConfigurationError(f"{source} has a character outside ASCII: copy the key again")
    if " " in key or not key.isprintable():
        raise ConfigurationError(
            f"{source} has white space or a control character inside: copy the key again"
        )
    return key


def _check_characters(url: str, source: str) -> None:
    # urlsplit removes some control characters silently, so check for them first.
    if not url.isprintable() or " " in url or "\\" in url:
        raise ConfigurationError(
            f"{source} has white space, a control character or a backslash, which a URL cannot have"
        )
    if not url.isascii():
        raise ConfigurationError(
            f"{source} has a character outside ASCII: write its host in punycode (xn--...)"
        )


def _normalize_url(url: object, source: str) -> str:
    """Return the URL in the one spelling that is compared and used; without a slash at its end."""
    if not isinstance(url, str):
        raise ConfigurationError(f"{source} must be a string such as {_DEFAULT_URL!r}")
    url = url.strip()
    _check_characters(url, source)
    # Before anything that could quote it: what stands before an @ may be a password.
    if "@" in url:
        raise ConfigurationError(f"{source} must not contain a user name or password")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = plain_host(parts.netloc)
    except ValueError as error:
        raise ConfigurationError(f"{source} is not a URL: {error}") from None
    if not host:
        raise ConfigurationError(
            f"{source} must be an absolute URL with a plain host, such as {_DEFAULT_URL!r}"
        )
    if "?" in url or "#" in url:
        raise ConfigurationError(f"{source} must not have a query or a fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ConfigurationError(
            f"{source} must begin with https:// (http:// only for localhost),"
            f" such as {_DEFAULT_URL!r}"
        )
    path = parts.path.rstrip("/")
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ConfigurationError(f"{source} has a path that cannot be used as a prefix: {path!r}")
    if not path and host != _DEFAULT_HOST:
        path = "/v1"
    port = None if port == DEFAULT_PORTS[parts.scheme] else port
    return f"{parts.scheme}://{with_port(host, port)}{path}"
