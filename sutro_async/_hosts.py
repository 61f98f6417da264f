"""Hosts and ports of URLs."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

__all__ = ["DEFAULT_PORTS", "is_loopback", "plain_host", "with_port"]

DEFAULT_PORTS: Final = {"https": 443, "http": 80}

# Only what every reader of a URL understands alike; anything else (percent signs in a host,
# backslashes, non-ASCII) has been used to make two readers see two different hosts.
_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NETWORK_LOCATION: Final = re.compile(
    rf"(\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>{_LABEL}(\.{_LABEL})*)\.?)(:[0-9]*)?"
)


def plain_host(network_location: str) -> str:
    """Return the host of a network location; empty where it is not plain.

    Raises:
        ValueError: It is an invalid IPv6 address.
    """
    match = _NETWORK_LOCATION.fullmatch(network_location.lower())
    if match is None:
        return ""
    if match["ipv6"]:
        return str(ipaddress.IPv6Address(match["ipv6"]))
    return match["name"]


def with_port(host: str, port: int | None) -> str:
    """Return a host as it stands in a URL, with its port if there is one."""
    address = f"[{host}]" if ":" in host else host
    return address if port is None else f"{address}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
