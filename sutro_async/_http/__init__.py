"""One request in, one answer or error out.

- `_manager`: `SessionManager`, which all calls of a client share: it sends a request and reads the
  answer
- `_fetch`: one logical GET, with its retries
- `_transport`: one HTTP request; the only importer of aiohttp's client
- `_throttle`: the limits that all requests of a client share
- `_request_timer`: the timeouts of requests, with one timer for all
- `_tls`: which certificate authorities are trusted
- `_lifecycle`: which event loop a client belongs to, and what closing it ends
- `_scope`: what a timeout and closing have in common: they interrupt a task from outside
- `_redaction`: takes the key out of errors and logs
"""

from sutro_async._http._fetch import fetch
from sutro_async._http._lifecycle import Lifecycle
from sutro_async._http._manager import JOB, STATUS, Endpoint, Options, ResponseT, SessionManager
from sutro_async._http._scope import Scope
from sutro_async._http._throttle import Throttle
from sutro_async._http._transport import ClientSession, Transport

__all__ = [
    "JOB",
    "STATUS",
    "ClientSession",
    "Endpoint",
    "Lifecycle",
    "Options",
    "ResponseT",
    "Scope",
    "SessionManager",
    "Throttle",
    "Transport",
    "fetch",
]
