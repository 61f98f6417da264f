"""One request in, one response or error out.

- `_manager`: `SessionManager`, which all calls of a client share: it sends a request and reads the
  response
- `_fetch`: one logical GET, with its retries
- `_listing`: the list of jobs, page by page
- `_transport`: one HTTP request; the only importer of aiohttp's client
- `_throttle`: the queue of all requests of a client
- `_pacer`: when the next of them may be sent, and how many may be in flight
- `_adaptive_rate`: the rate that the service accepts
- `_outage_gate`: whether the service is available
- `_request_timer`: the timeouts of requests, with one timer for all
- `_tls`: which certificate authorities are trusted
- `_lifecycle`: which event loop a client belongs to, and what closing it ends
- `_steps`: the steps of a stream, and their end
- `_scope`: what a timeout and closing have in common: they interrupt a task from outside
- `_health`: when the service responded last
- `_observer`: calls the observer of a client
- `_observed`: notifies it of each request
- `_stats`: what a client is doing now
- `_redaction`: takes the key out of errors and logs
"""

from sutro_async._http._fetch import fetch, fetch_in_batch
from sutro_async._http._lifecycle import Lifecycle
from sutro_async._http._listing import JobListing
from sutro_async._http._manager import (
    JOB,
    STATUS,
    Endpoint,
    Options,
    ResponseT,
    SessionManager,
    status_page,
)
from sutro_async._http._observed import ObservedManager
from sutro_async._http._observer import Observer, as_value
from sutro_async._http._pacer import Pacer
from sutro_async._http._stats import client_stats, datetime_of
from sutro_async._http._steps import Steps
from sutro_async._http._throttle import HeldBack, Priority, Throttle
from sutro_async._http._transport import ClientSession, Transport

__all__ = [
    "JOB",
    "STATUS",
    "ClientSession",
    "Endpoint",
    "HeldBack",
    "JobListing",
    "Lifecycle",
    "ObservedManager",
    "Observer",
    "Options",
    "Pacer",
    "Priority",
    "ResponseT",
    "SessionManager",
    "Steps",
    "Throttle",
    "Transport",
    "as_value",
    "client_stats",
    "datetime_of",
    "fetch",
    "fetch_in_batch",
    "status_page",
]
