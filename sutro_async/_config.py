"""Where the key and the URL come from, and which of them may go together.

A key belongs to one deployment. Every rule here keeps it from reaching another.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

import attrs

from sutro_async.errors import ConfigurationError

__all__ = ["Settings", "resolve_settings"]

_DEFAULT_HOST: Final = "api.sutro.sh"
_DEFAULT_URL: Final = f"https://{_DEFAULT_HOST}"
_CONFIG_FILE: Final = "~/.sutro/config.json"

# Only what every reader of a URL understands alike; anything else (percent signs in a host,
# backslashes, non-ASCII) has been used to make two readers see two different hosts.
_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NETWORK_LOCATION: Final = re.compile(
    rf"(\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>{_LABEL}(\.{_LABEL})*)\.?)(:[0-9]*)?"
)
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:-]+)*")


@attrs.frozen(kw_only=True)
class Settings:
    """A key, and the URL of the deployment that it is for."""

    api_key: str = attrs.field(repr=False)
    base_url: str


def resolve_settings(
    api_key: str | None = None,
    base_url: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Find the key and the URL: the arguments, then the environment, then the configuration file.

    Raises:
        ConfigurationError: There is no key, the key or the URL is malformed, or the key was given
            for another deployment than the URL.
    """
    argument_url = None if base_url is None else _normalize_url(base_url, "base_url")
    environment_key = environ.get("SUTRO_API_KEY") or None
    environment_url = environ.get("SUTRO_API_URL") or None

    if api_key is not None:
        key, source = api_key, "api_key"
        url = argument_url or _environment_url(environment_url)
    elif environment_key is not None:
        key, source = environment_key, "SUTRO_API_KEY"
        key_url = _environment_url(environment_url)
        url = argument_url or key_url
        if environment_url is not None and url != key_url:
            _refuse(f"SUTRO_API_KEY is for {key_url} (SUTRO_API_URL)", url)
    elif environment_url is not None:
        raise ConfigurationError(
            "SUTRO_API_URL is set, but there is no key for it: set SUTRO_API_KEY too,"
            " or pass api_key"
        )
    else:
        key, file_url = _read_config_file()
        source = f"api_key in {_CONFIG_FILE}"
        url = argument_url or file_url
        if url != file_url:
            _refuse(f"the key in {_CONFIG_FILE} is for {file_url}", url)
    _check_key(key, source)
    return Settings(api_key=key, base_url=url)


def _environment_url(url: str | None) -> str:
    return _DEFAULT_URL if url is None else _normalize_url(url, "SUTRO_API_URL")


def _refuse(whose: str, url: str) -> NoReturn:
    raise ConfigurationError(
        f"{whose} and must not be sent to {url}: pass the api_key that belongs to this base_url"
    )


def _read_config_file() -> tuple[str, str]:
    """Return the key and the URL that the official SDK's `sutro login` has stored."""
    content = _load_config_file()
    if isinstance(content, FileNotFoundError):
        raise ConfigurationError(
            f"no API key: pass api_key, set SUTRO_API_KEY, or store one in {_CONFIG_FILE}"
            " with `sutro login`"
        )
    if isinstance(content, Exception):
        raise ConfigurationError(
            f"{_CONFIG_FILE} cannot be read ({type(content).__name__}):"
            " mend or remove it, or set SUTRO_API_KEY"
        )
    if not isinstance(content, dict) or not isinstance(content.get("api_key"), str):
        raise ConfigurationError(
            f"{_CONFIG_FILE} holds no api_key: run `sutro login`, or set SUTRO_API_KEY"
        )
    urls = [
        content[name] for name in ("api_url", "base_url") if content.get(name) not in (None, "")
    ]
    url = urls[0] if urls else _DEFAULT_URL
    return content["api_key"], _normalize_url(url, f"api_url in {_CONFIG_FILE}")


def _load_config_file() -> object:
    """Return what the file holds, or the error that kept it from being read.

    The error is returned, not raised, for a raised one stays in reach of whatever is raised next,
    and that of a JSON parser holds the document, key and all.
    """
    try:
        path = Path(_CONFIG_FILE).expanduser()
    except RuntimeError:  # there is no home directory
        return FileNotFoundError(_CONFIG_FILE)
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return error


def _check_key(key: object, source: str) -> None:
    # No message may quote the key, not even a malformed one.
    if not isinstance(key, str) or not key:
        raise ConfigurationError(f"{source} must be a non-empty string")
    if key != key.strip():
        raise ConfigurationError(f"{source} has white space at an end: strip it")
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(
            f"{source} has a control character or one outside ASCII: copy the key again"
        )


def _normalize_url(url: object, source: str) -> str:
    """Return the URL in the one spelling that is compared and used; without a slash at its end."""
    if not isinstance(url, str):
        raise ConfigurationError(f"{source} must be a string such as {_DEFAULT_URL!r}")
    # urlsplit drops some control characters in silence, so look for them first.
    if not (url.isascii() and url.isprintable()) or " " in url or "\\" in url:
        raise ConfigurationError(
            f"{source} has a character that does not belong into a URL; write a host outside ASCII"
            " in its punycode form"
        )
    # Before anything that could quote it: what stands before an @ may be a password.
    if "@" in url:
        raise ConfigurationError(f"{source} must not hold a user name or password")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = _plain_host(parts.netloc)
    except ValueError as error:
        raise ConfigurationError(f"{source} is no URL: {error}") from None
    if not host:
        raise ConfigurationError(
            f"{source} must be an absolute URL with a plain host, such as {_DEFAULT_URL!r}"
        )
    if "?" in url or "#" in url:
        raise ConfigurationError(f"{source} must not have a query or a fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise ConfigurationError(
            f"{source} must begin with https:// (http:// only for this machine itself),"
            f" such as {_DEFAULT_URL!r}"
        )
    path = parts.path.rstrip("/")
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ConfigurationError(f"{source} has a path that cannot be used as a prefix: {path!r}")
    if not path and host != _DEFAULT_HOST:
        path = "/v1"
    default_port = {"https": 443, "http": 80}[parts.scheme]
    return (
        f"{parts.scheme}://{f'[{host}]' if ':' in host else host}"
        f"{'' if port in (None, default_port) else f':{port}'}{path}"
    )


def _plain_host(network_location: str) -> str:
    match = _NETWORK_LOCATION.fullmatch(network_location.lower())
    if match is None:
        return ""
    if match["ipv6"]:
        return str(ipaddress.IPv6Address(match["ipv6"]))
    return match["name"]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
