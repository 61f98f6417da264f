"""One request in, one answer or error out. The only module that imports aiohttp's client."""

from __future__ import annotations

import logging
import math
import time
from typing import Final

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from sutro_async._config import Settings
from sutro_async._throttle import Throttle
from sutro_async._version import __version__
from sutro_async._wire import MAX_BODY_BYTES, parse_error
from sutro_async.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ClientStateError,
    ConfigurationError,
    InvalidResponseError,
    SutroError,
    one_line,
)

__all__ = ["Transport"]

# Longer than the longest interval between two polls by default, so that they share a connection.
_KEEP_ALIVE_SECONDS: Final = 30

_log: Final = logging.getLogger("sutro_async")


class _BodyTooLargeError(Exception):
    """More bytes than anybody needs to describe a job."""


_ERRORS_OF_AIOHTTP: Final = (
    aiohttp.ClientError,
    OSError,  # a TimeoutError is one too
    RuntimeError,
    ValueError,
    _BodyTooLargeError,
)


class Transport:
    """Sends GET requests to one deployment, within the limits of a throttle.

    The aiohttp session is made at first use, inside the running loop. One that was passed in
    belongs to whoever made it: it is never closed here, and its own headers, cookies, proxies and
    tracing are left alone.
    """

    def __init__(
        self, settings: Settings, throttle: Throttle, session: aiohttp.ClientSession | None
    ) -> None:
        self.base_url = settings.base_url
        self._throttle = throttle
        self._session = session
        self._owns_session = session is None
        self._key = settings.api_key.encode()
        self._headers = {
            "Authorization": f"Key {settings.api_key}",
            "Accept": "application/json",
        }

    async def get(
        self,
        path: str,
        *,
        job_id: str,
        timeout: float,
        max_pause: float,
        attempt: int,
        through_pause: bool = False,
    ) -> bytes:
        """Make one request and return the body of its answer, which has status 200.

        Args:
            path: Where, below the base URL; percent-encoded.
            job_id: The job that it is about, for the messages of errors.
            timeout: Seconds for the request; standing in line for it does not count.
            max_pause: Seconds; the longest pause that a `Retry-After` may bring upon all requests.
            attempt: The how many-th try it is, for the log.
            through_pause: Send it even during such a pause.

        Raises:
            APIError: There is no such answer.
            ClientStateError: The session is closed, or belongs to another event loop.
            ConfigurationError: The session that was passed in cannot be used.
        """
        await self._throttle.acquire(through_pause=through_pause)
        try:
            if self._session is None:
                self._session = self._make_session()
            sent_at = time.monotonic()
            outcome: object = "no answer"
            try:
                response = await self._session.get(
                    # Encoded already; yarl would take %2F for a slash that need not be encoded.
                    URL(self.base_url + path, encoded=True),
                    # Aiohttp takes long to merge headers, so our own session has them built in.
                    headers=None if self._owns_session else self._headers,
                    timeout=aiohttp.ClientTimeout(total=timeout, ceil_threshold=math.inf),
                    allow_redirects=False,
                    raise_for_status=False,
                    auto_decompress=True,
                )
                try:
                    body = await _read_body(response)
                finally:
                    response.release()
                outcome = response.status
            except _ERRORS_OF_AIOHTTP as error:
                raise self._translated(error, job_id, timeout) from error
            finally:
                if _log.isEnabledFor(logging.DEBUG):
                    elapsed = (time.monotonic() - sent_at) * 1000
                    _log.debug("GET %s: %s after %.1f ms, try %d", path, outcome, elapsed, attempt)
            body = body.replace(self._key, b"[api key]")
            if response.status == 200:
                return body
            refusal = parse_error(job_id, response.status, response.headers, body)
            if isinstance(refusal, APIStatusError) and refusal.status_code in {429, 503}:
                # The service speaks to the whole account, not to this request alone.
                self._throttle.pause(min(refusal.retry_after or 0.0, max_pause))
            raise refusal
        finally:
            self._throttle.release()

    async def close(self) -> None:
        """Close the session, unless it was passed in."""
        if self._owns_session and self._session is not None:
            await self._session.close()

    def _translated(self, error: Exception, job_id: str, timeout: float) -> SutroError:
        """Make an error of ours out of one of aiohttp's."""
        if isinstance(error, TimeoutError):
            return APITimeoutError(
                f"job {job_id!r}: no answer from {self.base_url} within {timeout:g} s",
                job_id=job_id,
            )
        if isinstance(error, aiohttp.ClientError | OSError):
            _remove_request_headers(error)
            return APIConnectionError(
                f"job {job_id!r}: no answer from {self.base_url}: {_described(error)}",
                job_id=job_id,
                retryable=not isinstance(error, aiohttp.ClientConnectorCertificateError),
            )
        if isinstance(error, _BodyTooLargeError):
            return InvalidResponseError(
                job_id=job_id, path="$", reason=f"larger than {MAX_BODY_BYTES // 2**20} MiB"
            )
        # A closed session or one of another event loop; or one that has credentials of its own.
        error_class = ClientStateError if isinstance(error, RuntimeError) else ConfigurationError
        return error_class(f"the session cannot be used: {_described(error)}")

    def _make_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # The throttle limits the connections.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={**self._headers, "User-Agent": f"sutro-async/{__version__}"},
        )


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """Read as much of the body as makes sense.

    The status of an answer other than 200 says enough, so a broken body of one is read as far as
    it goes.
    """
    chunks: list[bytes] = []
    size = 0
    content = response.content
    try:
        while size <= MAX_BODY_BYTES and not content.at_eof():
            chunks.append(await content.readany())
            size += len(chunks[-1])
    except (aiohttp.ClientError, OSError) as error:
        if response.status == 200 or isinstance(error, TimeoutError):
            raise
    if size > MAX_BODY_BYTES:
        response.close()
        if response.status == 200:
            raise _BodyTooLargeError
    return b"".join(chunks)


def _described(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__


def _remove_request_headers(error: Exception) -> None:
    """Take the key out of an error of aiohttp, whose repr shows the headers of the request."""
    if isinstance(error, aiohttp.ClientResponseError):
        no_headers = CIMultiDictProxy(CIMultiDict[str]())
        error.request_info = error.request_info._replace(headers=no_headers)
        error.args = (error.request_info, error.history)
