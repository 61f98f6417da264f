"""Servers with invalid certificates."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import attrs
import trustme

from sutro_async import APIConnectionError
from tests.chaos._hostile import Promise

_AUTHORITY: Final = trustme.CA()
_UNTRUSTED_AUTHORITY: Final = trustme.CA()
_YESTERDAY: Final = datetime.now(UTC) - timedelta(days=1)


@attrs.frozen(kw_only=True)
class TLSFault:
    """A server with an invalid certificate; the attributes are those of `Fault`."""

    name: str
    does: str
    issue: Callable[[], trustme.LeafCert]
    promise: Promise = Promise.FINAL
    error: type[APIConnectionError] = APIConnectionError
    status_code: None = None


TLS_FAULTS: Final = {
    fault.name: fault
    for fault in (
        TLSFault(
            name="tls_wrong_name",
            does="has a certificate for another name",
            issue=lambda: _AUTHORITY.issue_cert("api.sutro.sh"),
        ),
        TLSFault(
            name="tls_expired",
            does="has a certificate that has expired",
            issue=lambda: _AUTHORITY.issue_cert("127.0.0.1", not_after=_YESTERDAY),
        ),
        TLSFault(
            name="tls_untrusted",
            does="has a certificate of an authority that is not trusted",
            issue=lambda: _UNTRUSTED_AUTHORITY.issue_cert("127.0.0.1"),
        ),
    )
}


def good_certificate() -> trustme.LeafCert:
    return _AUTHORITY.issue_cert("127.0.0.1")


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    """A context that trusts only this authority."""
    context = ssl.create_default_context()
    _AUTHORITY.configure_trust(context)
    return context
