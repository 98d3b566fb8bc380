"""HTTP as mirrors speak it: one session a thread, polite pauses, every answer sorted into gone, refused or again."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from anklume_images.files import CHUNK
from anklume_images.inputs.access import Access, environment_access
from anklume_images.inputs.answers import AgainError, Refusal, StoppedError, TooLargeRefusal, Why
from anklume_images.inputs.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import requests

    from anklume_images.inputs.http_session import AccessSession

__all__ = ["Transport", "backoff", "retry_after"]

T = TypeVar("T")

_GONE = {404, 410}
_LATER = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT = 60.0
_SLOWEST = 1000  # bytes per second, measured over the read timeout; slower is a stall


def retry_after(header: str | None, date: str | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3), at most 60; None when it asks for nothing.

    A date counts from the response's own Date header where there is one, so that a wrong clock here does no harm.
    """
    if not header:
        return None
    if header.strip().isdecimal():
        return min(float(header), _LONGEST_WAIT)
    until, now = _http_date(header), _http_date(date) or datetime.now(UTC)
    return min(max((until - now).total_seconds(), 0.0), _LONGEST_WAIT) if until else None


def backoff(failures: int, jitter: Callable[[], float] = random.random) -> float:
    """Seconds to wait after so many failures in a row: 1, 2, 4 … 30, of which up to half is left out by chance."""
    return min(2.0 ** (failures - 1), 30.0) * (1 - jitter() / 2)


class Transport:
    """What the threads of one fetch share: when to stop, which hosts asked for a pause, which do not answer.

    `access` is how servers are reached where a request does not say otherwise. Pauses and repeats are kept here and
    not in urllib3's Retry, which knows one request: not a body that broke off, nor the other threads, nor the next
    address.
    """

    def __init__(
        self,
        access: Access | None = None,
        *,
        timeout: tuple[float, float] = (10, 30),
        attempts: int = 4,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.timeout = timeout
        self.clock = clock
        self._access = access or environment_access()
        self._attempts = attempts
        self._stop = threading.Event()
        self._sleep = sleep or self._stop.wait
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: set[requests.Response] = set()
        self._not_before: dict[str, float] = {}
        self._silent: set[str] = set()

    def stop(self) -> None:
        """Call off all work: bodies being read end now, threads that wait wake up."""
        self._stop.set()
        with self._lock:
            responses = list(self._open)
        for response in responses:
            # urllib3 offers shutdown() for exactly this: to end a read that another thread blocks in.
            with contextlib.suppress(AttributeError, ValueError, RuntimeError, OSError):
                response.raw.shutdown()

    def check(self) -> None:
        """Raise StoppedError once stop() was called."""
        if self._stop.is_set():
            raise StoppedError

    def pause(self, seconds: float) -> None:
        """Sleep, or wake up with StoppedError."""
        self._sleep(seconds)
        self.check()

    @contextlib.contextmanager
    def ask(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        access: Access | None = None,
        follow: bool = True,
    ) -> Iterator[requests.Response]:
        """The streamed answer: 200, 206 or 416; any other, and a break in the body, is Refusal or AgainError.

        Without `follow` a redirect is an answer, too.
        """
        from requests.exceptions import ConnectionError as Unreachable
        from requests.exceptions import RequestException, Timeout
        from urllib3.exceptions import HTTPError

        self._wait_for_host(url)
        access = access or self._access
        session = self._session(access)
        try:
            response = session.request(
                method,
                url,
                auth=session.login(url),
                headers=dict(headers or {}),
                stream=True,
                timeout=self.timeout,
                allow_redirects=follow,
            )
        except (Unreachable, Timeout) as error:
            message, why = self._describe(error, access.proxy(url))
            if why in {Why.PROXY_LOGIN, Why.CERTIFICATE}:
                raise Refusal(message, why=why) from None
            raise AgainError(message, silent=True, why=why) from None
        except (
            OSError,
            ValueError,
        ) as error:  # RequestException and a CA bundle that is not there are OSErrors
            message, why = self._describe(error, None)
            raise Refusal(message, why=why) from None
        with self._lock:
            self._open.add(response)
        try:
            self.check()
            if follow or not response.is_redirect:
                self._judge(response)
            yield response
        except (RequestException, HTTPError, ConnectionError, TimeoutError) as error:
            self.check()
            raise AgainError(self._describe(error, access.proxy(url))[0]) from None
        finally:
            with self._lock:
                self._open.discard(response)
            response.close()

    def read(
        self, url: str, limit: int, headers: Mapping[str, str] | None = None, *, access: Access | None = None
    ) -> tuple[bytes, str, str]:
        """A small file, its type and the address it came from after redirects; Refusal above `limit` bytes.

        Asked for again as in `insist`.
        """

        def whole() -> tuple[bytes, str, str]:
            with self.ask(url, headers, access=access) as response:
                body = bytearray()
                for piece in self.steady(iter(lambda: response.raw.read1(CHUNK, decode_content=True), b"")):
                    body += piece
                    if len(body) > limit:
                        told = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit} bytes"
                        raise TooLargeRefusal(f"larger than {told}", answered=True)
                return bytes(body), response.headers.get("Content-Type", ""), response.url

        return self.insist(url, whole)

    def steady(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The pieces of a body as they come; AgainError where a server drips, so that silence alone never ends it."""
        window = self.timeout[1]
        since, arrived = self.clock(), 0
        for piece in pieces:
            yield piece
            arrived += len(piece)
            elapsed = self.clock() - since
            if elapsed >= window:
                if arrived < _SLOWEST * elapsed:
                    raise AgainError(f"sent {arrived} bytes in {elapsed:.0f} s")
                since, arrived = self.clock(), 0

    def size(self, url: str) -> int | None:
        """How many bytes a file has, by HEAD, or else by asking for one byte of it; None when the server does not say.

        Some servers refuse HEAD, some answer it without a length.
        """

        def stated() -> int | None:
            with self.ask(url, method="HEAD") as response:
                length = response.headers.get("Content-Length", "")
                return int(length) if response.status_code == 200 and length.isdecimal() else None

        def total() -> int | None:
            with self.ask(url, {"Range": "bytes=0-0"}) as response:
                text = response.headers.get("Content-Range", "").rpartition("/")[2]
                if response.status_code == 200:
                    text = response.headers.get("Content-Length", "")
                return int(text) if text.isdecimal() else None

        try:
            if size := self.insist(url, stated):
                return size
        except Refusal as refusal:
            if refusal.gone or not refusal.answered:
                raise
        return self.insist(url, total)

    def insist(self, url: str, action: Callable[[], T], advanced: Callable[[], bool] = lambda: False) -> T:
        """Repeat `action` while it raises AgainError, with growing pauses; at the end Refusal with what was said last.

        An attempt after which `advanced()` is true begins the count anew. A host that never answered gets one attempt
        for each later file, not all of them.
        """
        host = _host(url)
        failures = 0
        while True:
            self.check()
            try:
                return action()
            except AgainError as again:
                self.check()
                failures = 1 if advanced() else failures + 1
                if failures >= (1 if host in self._silent else self._attempts):
                    if again.silent:
                        self._silent.add(host)
                    raise Refusal(again.message, answered=again.answered, why=again.why) from None
                if again.wait:
                    self._not_before[host] = self.clock() + again.wait
                else:
                    self.pause(backoff(failures))

    def close(self) -> None:
        """Close the calling thread's sessions."""
        for session in self._sessions().values():
            session.close()
        self._sessions().clear()

    def _sessions(self) -> dict[Access, AccessSession]:
        sessions: dict[Access, AccessSession] | None = getattr(self._local, "sessions", None)
        if sessions is None:
            sessions = self._local.sessions = {}
        return sessions

    def _session(self, access: Access) -> AccessSession:
        from anklume_images.inputs.http_session import AccessSession

        sessions = self._sessions()
        if access not in sessions:
            sessions[access] = AccessSession(access)
        return sessions[access]

    def _wait_for_host(self, url: str) -> None:
        left = self._not_before.get(_host(url), 0.0) - self.clock()
        if left > 0:
            self.pause(left)

    @staticmethod
    def _judge(response: requests.Response) -> None:
        status = response.status_code
        if status in {200, 206, 416}:
            return
        message = f"{status} {_phrase(status)}"
        if status in _LATER:
            wait = retry_after(response.headers.get("Retry-After"), response.headers.get("Date"))
            raise AgainError(message, wait=wait if status in {429, 503} else None, answered=True)
        if response.history:
            message += f" (redirected to {redact(response.url)})"
        why = {401: Why.LOGIN, 403: Why.FORBIDDEN, 407: Why.PROXY_LOGIN}.get(status, Why.OTHER)
        raise Refusal(message, gone=status in _GONE, answered=True, why=why)

    def _describe(self, error: BaseException, proxy: str | None) -> tuple[str, Why]:
        """What happened in a few words, and what is behind it."""
        from requests import exceptions as of_requests
        from urllib3 import exceptions as of_urllib3

        # Never the text of the error itself: it holds the URL, and with it credentials.
        by = f" (by the proxy {redact(proxy)})" if proxy else ""
        if isinstance(error, of_requests.ProxyError):
            return _of_proxy(error, proxy)
        from anklume_images.inputs.http_session import DowngradeError

        plain: list[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = [
            (of_requests.ConnectTimeout, f"no connection within {self.timeout[0]:g} s"),
            ((of_requests.ReadTimeout, of_urllib3.ReadTimeoutError), f"nothing came for {self.timeout[1]:g} s"),
            (of_requests.TooManyRedirects, "redirects without end"),
            (DowngradeError, "redirects from https to http, which is not followed"),
            (ValueError, "not an address that can be asked"),
        ]
        for kind, message in plain:
            if isinstance(error, kind):
                return message + by, Why.OTHER
        if type(error) is OSError:  # requests' own, about a CA bundle; it names a path, no address
            return str(error), Why.CERTIFICATE
        cause = _system_error(error)
        if isinstance(error, of_requests.SSLError):
            verdict = getattr(cause, "verify_message", None)
            reason = verdict or getattr(cause, "reason", None) or "refused"
            return f"TLS failed: {reason}{by}", Why.CERTIFICATE if verdict else Why.OTHER
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror + by, Why.NAME if isinstance(cause, socket.gaierror) else Why.OTHER
        return "the connection broke off" + by, Why.OTHER


def _of_proxy(error: BaseException, proxy: str | None) -> tuple[str, Why]:
    """A proxy that cannot be reached, or does not let this request pass."""
    name = f"the proxy {redact(proxy or '')}".rstrip()
    answered = re.search(r"Tunnel connection failed: (\d{3})", str(error))
    if answered:
        status = int(answered[1])
        return f"{name} answers {status} {_phrase(status)}", Why.PROXY_LOGIN if status == 407 else Why.PROXY
    cause = _system_error(error)
    reason = f": {cause.strerror}" if isinstance(cause, OSError) and cause.strerror else ""
    return f"{name} cannot be reached{reason}", Why.PROXY


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return url


def _http_date(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(a status of its own)"


def _system_error(error: object, depth: int = 8) -> OSError | None:
    """The error of the operating system that requests and urllib3 have wrapped, if there is one."""
    if depth == 0 or not isinstance(error, BaseException):
        return None
    inner: list[Any] = [getattr(error, "reason", None), *error.args, error.__cause__, error.__context__]
    for candidate in inner:
        if cause := _system_error(candidate, depth - 1):
            return cause
    return error if isinstance(error, OSError) and error.errno is not None else None
