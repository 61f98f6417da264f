"""The forward proxy, if there is one."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

from sutro_async._hosts import DEFAULT_PORTS, is_loopback, plain_host, with_port
from sutro_async.errors import ConfigurationError

__all__ = ["Proxy", "resolve_proxy"]


@attrs.frozen(kw_only=True)
class Proxy:
    """A forward proxy.

    Attributes:
        url: Its URL, without credentials.
        address: Its host and port, for messages.
        credentials: User name and password, if it takes any; as secret as the key.
    """

    url: str
    address: str
    credentials: tuple[str, str] | None = attrs.field(default=None, repr=False)


def resolve_proxy(argument: object, base_url: str, environ: Mapping[str, str]) -> Proxy | None:
    """Find the proxy for a base URL, as other clients do; only https goes through one."""
    target = urlsplit(base_url)
    # Parsed even if it is not used, so that a mistake is noticed at once.
    proxy = None if argument is None else _parse_proxy(argument, "proxy")
    if target.scheme != "https":
        return None
    if proxy is not None:
        return proxy
    if is_loopback(target.hostname or "") or _is_excluded(target, environ):
        return None
    for names in (("https_proxy", "HTTPS_PROXY"), ("all_proxy", "ALL_PROXY")):
        # The first that is set decides, even if it is empty.
        name = next((name for name in names if name in environ), "")
        if environ.get(name, "").strip():
            return _parse_proxy(environ[name], name)
    return None


def _is_excluded(target: SplitResult, environ: Mapping[str, str]) -> bool:
    """Whether NO_PROXY names the host, its domain, its network, or everything."""
    excluded = environ.get("no_proxy", environ.get("NO_PROXY", ""))
    host = target.hostname or ""
    address = with_port(host, target.port or DEFAULT_PORTS[target.scheme])
    entries = [entry.strip().lower() for entry in excluded.split(",")]
    return "*" in entries or any(
        _is_in_domain(host, entry) or _is_in_domain(address, entry) or _is_in_network(host, entry)
        for entry in filter(None, entries)
    )


def _is_in_domain(host: str, domain: str) -> bool:
    domain = domain.removeprefix("*").lstrip(".")
    return host == domain or host.endswith(f".{domain}")


def _is_in_network(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _parse_proxy(proxy: object, source: str) -> Proxy:
    # No message may quote the URL, which may contain a password.
    example = "http://proxy.example:3128"
    if not isinstance(proxy, str) or not proxy.strip():
        raise ConfigurationError(f"{source} must be the URL of a proxy, such as {example!r}")
    parts, host = _split(proxy.strip())
    if parts is None or not host:
        raise ConfigurationError(f"{source} is not the URL of a proxy, such as {example!r}")
    if parts.scheme not in DEFAULT_PORTS:
        raise ConfigurationError(
            f"{source} must be the URL of an HTTP proxy, such as {example!r};"
            f" {parts.scheme} proxies are not supported"
        )
    address = with_port(host, parts.port or DEFAULT_PORTS[parts.scheme])
    credentials = None
    if parts.username is not None:
        credentials = (unquote(parts.username), unquote(parts.password or ""))
    return Proxy(url=f"{parts.scheme}://{address}", address=address, credentials=credentials)


def _split(url: str) -> tuple[SplitResult | None, str]:
    """Split the URL of a proxy, and return its host too; None and empty where it is malformed."""
    if not url.isprintable() or " " in url:
        return None, ""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        parts.port  # noqa: B018 - raises where it is not a number in range
        return parts, plain_host(parts.netloc.rpartition("@")[2])
    except ValueError:
        return None, ""
