"""One request in, one response or error out. The only module that imports aiohttp's client."""

from __future__ import annotations

import asyncio
import base64
import logging
from functools import lru_cache, partial
from typing import Any, Final

import aiohttp
from aiohttp import ClientSession
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from sutro_async._config import Settings
from sutro_async._http._redaction import Redaction
from sutro_async._http._request_timer import RequestTimer
from sutro_async._http._tls import ssl_context
from sutro_async._proxy import Proxy
from sutro_async._version import __version__
from sutro_async._wire import MAX_BODY_BYTES, parse_error
from sutro_async.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    ClientStateError,
    ConfigurationError,
    InvalidResponseError,
    SutroError,
    one_line,
    subject,
)

__all__ = ["ClientSession", "Transport"]

# Longer than the longest interval between two polls by default, so that they share a connection.
_KEEP_ALIVE_SECONDS: Final = 30

# Jobs are polled again and again, and making a URL and its parts takes 5 % of a request's CPU time.
# These take about 1 MiB.
_REMEMBERED_URLS: Final = 1024

# Parsing a longer explanation would only block the event loop.
_MAX_ERROR_BYTES: Final = 2**20

_log: Final = logging.getLogger("sutro_async")


_UNTRUSTED_SERVER: Final = (
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ServerFingerprintMismatch,
)

# Of a proxy: a retry cannot help.
_PROXY_REFUSALS: Final = frozenset({401, 403, 407})

# Statuses that a service has for a key or a job of another deployment.
_WRONG_DEPLOYMENT_STATUSES: Final = frozenset({401, 403, 404, 410})
_DEFAULT_URL_HINT: Final = (
    "SUTRO_API_URL is not set, so https://api.sutro.sh was requested;"
    " if your account has a deployment of its own, set SUTRO_API_URL to its URL"
)


# `RequestTimer` replaces it.
_NO_TIMEOUT: Final = aiohttp.ClientTimeout()

# A session that was passed in may have other defaults. Aiohttp refuses one of another event loop
# only if it has a timer to set, so it gets one of some months.
_OPTIONS_WITH_OTHER_DEFAULTS: Final = {
    "timeout": aiohttp.ClientTimeout(total=1e7),
    "raise_for_status": False,
    "auto_decompress": True,
}


class _BodyTooLargeError(Exception):
    """The body is larger than any description of a job."""


_ERRORS_OF_AIOHTTP: Final = (
    aiohttp.ClientError,
    OSError,  # a TimeoutError is one too
    RuntimeError,
    StopAsyncIteration,  # of a session's middleware; the stream would take it for its end
    ValueError,
    _BodyTooLargeError,
)


class Transport:
    """Sends GET requests to one deployment.

    The aiohttp session is made at first use, inside the running loop. One that was passed in
    belongs to the caller: it is never closed here, and keeps its headers, cookies, proxies and
    tracing.
    """

    def __init__(self, settings: Settings, session: ClientSession | None) -> None:
        self.base_url: str = settings.base_url
        make_url = partial(_url_below, URL(self.base_url, encoded=True))
        self._url = lru_cache(_REMEMBERED_URLS)(make_url)
        self.timer: RequestTimer = RequestTimer()
        if session is not None and not isinstance(session, ClientSession):
            raise ConfigurationError(f"session must be an aiohttp.ClientSession, got {session!r}")
        self._session = session
        self._owns_session = session is None
        self.redaction: Redaction = Redaction(settings.api_key)
        self._hint = _DEFAULT_URL_HINT if settings.is_default_url else ""
        self._proxy = settings.proxy
        needs_tls = self._owns_session and self.base_url.startswith("https:")
        self._ssl = ssl_context() if needs_tls else None
        headers = {"Authorization": f"Key {settings.api_key}", "Accept": "application/json"}
        # Aiohttp takes long to merge headers, so our own session has them built in. Not with a
        # proxy: aiohttp sends the headers of a session to it, in the clear.
        is_built_in = self._owns_session and settings.proxy is None
        self._session_headers = headers if is_built_in else {}
        self._request_options: dict[str, Any] = {
            "allow_redirects": False,
            **({} if is_built_in else {"headers": headers}),
            **({} if self._owns_session else _OPTIONS_WITH_OTHER_DEFAULTS),
            **_proxy_options(settings.proxy),
        }

    async def get(
        self, path: str, *, job_id: str | None, sent_at: float, timeout: float, attempt: int
    ) -> bytes:
        """Make one request and return the body of its response, which has status 200.

        Args:
            path: Where, below the base URL; percent-encoded.
            job_id: The job that it is about, for the messages of errors; None for list-jobs.
            sent_at: The time now, in seconds of the loop's clock.
            timeout: Seconds for the request.
            attempt: Which try it is, from 1 on, for the log.

        Raises:
            APIError: There is no such response.
            ClientStateError: The session is closed, or belongs to another event loop.
            ConfigurationError: The session that was passed in is unusable.
        """
        if self._session is None:
            self._session = self._make_session()
        scope = self.timer.timeout_at(sent_at + timeout)
        try:
            with scope:
                response = await self._session.get(self._url(path), **self._request_options)
                body = _body_read_already(response) or await _read_body(response)
        except _ERRORS_OF_AIOHTTP as error:
            if scope.is_interrupted and isinstance(error, ClientStateError):
                raise  # the client was closed
            _log_request(path, "no response", sent_at, attempt)
            failure = self._to_sutro_error(error, job_id, timeout)
        else:
            _log_request(path, response.status, sent_at, attempt)
            if response.status == 200:
                return body
            failure = self._error_from_response(job_id, response, body)
            body = b""  # so that the traceback does not keep it in memory
        if isinstance(failure, APIError):
            self.add_hint(failure)
        # Not in the except clause, where Python would attach its error, which may contain the key.
        raise self.redaction.error(failure)

    def add_hint(self, error: APIError) -> None:
        """Say in an error that no URL was set, if that may be its cause."""
        if not self._hint:
            return
        if isinstance(error, APIStatusError):
            if error.status_code not in _WRONG_DEPLOYMENT_STATUSES:
                return
            error.message = f"{error.message}; {self._hint}"
        elif not isinstance(error, APIConnectionError):
            return
        error.args = (f"{error}; {self._hint}",)

    async def close(self) -> None:
        """Close the session, unless it was passed in."""
        if self._owns_session and self._session is not None:
            await self._session.close()

    def _error_from_response(
        self, job_id: str | None, response: aiohttp.ClientResponse, body: bytes
    ) -> APIError:
        """Make an error of a response with a status other than 200."""
        headers, body = self.redaction.refusal(response.headers, body)
        return parse_error(job_id, response.status, headers, body)

    def _to_sutro_error(self, error: Exception, job_id: str | None, timeout: float) -> SutroError:
        """Make an error of ours out of one of aiohttp's, with that as its cause."""
        ours: SutroError
        if isinstance(error, _ConnectionLostError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        if isinstance(error, TimeoutError):
            ours = APITimeoutError(
                f"{subject(job_id)}: no response from {self._peer()} within {timeout:g} s",
                job_id=job_id,
            )
        elif isinstance(error, aiohttp.ClientError | OSError):
            _remove_request_headers(error)
            ours = APIConnectionError(
                f"{subject(job_id)}: {self._problem(error)}",
                job_id=job_id,
                retryable=_is_retryable(error),
            )
        elif isinstance(error, _BodyTooLargeError):
            ours = InvalidResponseError(
                job_id=job_id, path="$", reason=f"larger than {MAX_BODY_BYTES // 2**20} MiB"
            )
        elif isinstance(error, RuntimeError | StopAsyncIteration):
            ours = ClientStateError(f"the session cannot be used: {_describe(error)}")
        else:
            ours = ConfigurationError(
                f"the session cannot be used: {_describe(error)}{_credentials_hint(error)}"
            )
        ours.__cause__ = error
        return ours

    def _problem(self, error: Exception) -> str:
        if isinstance(error, aiohttp.ClientHttpProxyError) and self._proxy is not None:
            return f"the proxy {self._proxy.address} responded with {error.status}"
        return f"no response from {self._peer()}: {_describe(error)}"

    def _peer(self) -> str:
        if self._proxy is None:
            return self.base_url
        return f"{self.base_url} through the proxy {self._proxy.address}"

    def _make_session(self) -> ClientSession:
        return ClientSession(
            # The throttle limits the connections.
            connector=_Connector(
                limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS, ssl=self._ssl or True
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"sutro-async/{__version__}", **self._session_headers},
            middlewares=(_send_once,),
            timeout=_NO_TIMEOUT,
        )


class _Connector(aiohttp.TCPConnector):
    """Does not reuse a connection on which an unsolicited response has arrived.

    The next request would take that for its own, and a report in the flat form does not say which
    job it is about.
    """

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None or not protocol.should_close:
                return connection
            connection.close()


class _ConnectionLostError(aiohttp.ClientConnectionError):
    """The connection was lost before there was a response; the cause is aiohttp's own error."""


def _url_below(base: URL, path: str) -> URL:
    """Make the URL of a path, which is encoded already."""
    path = base.raw_path.rstrip("/") + path
    if "?" in path:
        return URL(f"{base.origin()}{path}", encoded=True)
    return base.with_path(path, encoded=True)  # parsing it anew takes three times as long


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating a request whose connection was lost.

    It would do so at once and unseen: a service that resets connections would get every request
    twice. There is no option for it (https://github.com/aio-libs/aiohttp/issues/10790, open in
    3.14). But it repeats a request only after some errors of its own, so this raises another one.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # aiohttp does not repeat these
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLostError from error


def _body_read_already(response: aiohttp.ClientResponse) -> bytes | None:
    """Return the body if it came along with the headers, so that nothing waits for it."""
    content = response.content
    if content.is_eof() and content.total_bytes <= MAX_BODY_BYTES:
        return content.read_nowait(-1)
    return None


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """Read the body, up to a limit, and release the connection."""
    try:
        return await _read_chunks(response)
    finally:
        # Aiohttp has released it already if the body was read to its end.
        if response.connection is not None:
            response.release()


async def _read_chunks(response: aiohttp.ClientResponse) -> bytes:
    """Read the body, up to a limit.

    For a status other than 200, the status is enough: a broken body is read as far as possible, and
    of a long one only the beginning.
    """
    limit = MAX_BODY_BYTES if response.status == 200 else _MAX_ERROR_BYTES
    chunks: list[bytes] = []
    size = 0
    content = response.content
    try:
        while size <= limit and not content.at_eof():
            chunks.append(await content.readany())
            size += len(chunks[-1])
    except BaseException as error:
        is_broken = isinstance(error, aiohttp.ClientError | OSError)
        if response.status == 200 or not is_broken or isinstance(error, TimeoutError):
            chunks.clear()  # so that the traceback does not keep them in memory
            raise
    if size > limit:
        response.close()
        if response.status == 200:
            chunks.clear()
            raise _BodyTooLargeError
    return b"".join(chunks)


def _is_retryable(error: Exception) -> bool:
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return error.status not in _PROXY_REFUSALS
    return not isinstance(error, _UNTRUSTED_SERVER)


def _proxy_options(proxy: Proxy | None) -> dict[str, Any]:
    """Give the options of a request that goes through a proxy.

    The credentials go into a header: aiohttp shows those in the URL in the repr of its errors.
    """
    if proxy is None:
        return {}
    options: dict[str, Any] = {"proxy": URL(proxy.url)}
    if proxy.credentials is not None:
        token = base64.b64encode(":".join(proxy.credentials).encode()).decode()
        options["proxy_headers"] = {"Proxy-Authorization": f"Basic {token}"}
    return options


def _log_request(path: str, outcome: object, sent_at: float, attempt: int) -> None:
    if not _log.isEnabledFor(logging.DEBUG):
        return
    elapsed = (asyncio.get_running_loop().time() - sent_at) * 1000
    _log.debug("GET %s: %s after %.1f ms, attempt %d", path, outcome, elapsed, attempt)


def _describe(error: Exception) -> str:
    # The str of an aiohttp.ClientResponseError begins with a status that was not sent.
    text = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
    return one_line(text) or type(error).__name__


def _credentials_hint(error: Exception) -> str:
    if not str(error).startswith("Cannot combine AUTH"):
        return ""
    return " (credentials of its own, from .netrc for instance, do not go with a key)"


def _remove_request_headers(error: Exception) -> None:
    """Take the key out of an error of aiohttp, whose repr shows the headers of the request."""
    if isinstance(error, aiohttp.ClientResponseError):
        no_headers = CIMultiDictProxy(CIMultiDict[str]())
        error.request_info = error.request_info._replace(headers=no_headers)
        error.args = (error.request_info, error.history)
