"""Which certificate authorities are trusted."""

from __future__ import annotations

import os
import ssl

from sutro_async.errors import ConfigurationError

__all__ = ["ssl_context"]


def ssl_context() -> ssl.SSLContext | None:
    """Make a context that trusts the authorities of SSL_CERT_FILE and SSL_CERT_DIR.

    None if neither is set. aiohttp makes its own context when it is imported, so variables that
    are set later do not affect it.

    Raises:
        ConfigurationError: The file cannot be read.
    """
    file = os.environ.get("SSL_CERT_FILE")
    if not file and not os.environ.get("SSL_CERT_DIR"):
        return None
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if file:
        try:
            context.load_verify_locations(cafile=file)
        except OSError as error:  # an ssl.SSLError is one too
            raise ConfigurationError(
                f"SSL_CERT_FILE cannot be read: {file!r} is not a file of PEM certificates"
            ) from error
    return context
