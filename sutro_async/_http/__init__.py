"""One request in, one answer or error out.

- `_manager`: `SessionManager`, which all calls of a client share: it sends a request and reads the
  answer
- `_fetch`: one logical GET, with its retries
- `_transport`: one HTTP request; the only importer of aiohttp's client
- `_throttle`: the queue of all requests of a client
- `_pacer`: when the next of them may be sent
- `_rate`: the rate that the service accepts
- `_gate`: whether the service is available
- `_tls`: which certificate authorities are trusted
- `_lifecycle`: which event loop a client belongs to, and what closing it ends
- `_redaction`: takes the key out of errors and logs
"""

from sutro_async._http._fetch import fetch
from sutro_async._http._lifecycle import Lifecycle, Operation
from sutro_async._http._manager import (
    JOB,
    STATUS,
    Endpoint,
    Options,
    ResponseT,
    SessionManager,
    job_page,
    status_page,
)
from sutro_async._http._pacer import Pacer
from sutro_async._http._throttle import HeldBack, Priority, Throttle
from sutro_async._http._transport import ClientSession, Transport

__all__ = [
    "JOB",
    "STATUS",
    "ClientSession",
    "Endpoint",
    "HeldBack",
    "Lifecycle",
    "Operation",
    "Options",
    "Pacer",
    "Priority",
    "ResponseT",
    "SessionManager",
    "Throttle",
    "Transport",
    "fetch",
    "job_page",
    "status_page",
]
