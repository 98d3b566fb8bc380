"""Requests to an Incus server and waiting for what they start: pylxd's transport, and nothing else of pylxd.

Of its models, some cut output, some ignore what they are told. API: https://linuxcontainers.org/incus/docs/main/rest-api/.
Where a server is found is for `remotes` to say.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from anklume_images.errors import IncusError
from anklume_images.incus.connection import Server, open_api, open_session
from anklume_images.incus.errors import explain, is_missing, translated
from anklume_images.incus.remotes import Address, addresses
from anklume_images.incus.transport import root_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    import requests

__all__ = ["Requests"]

_PIECE = 1 << 20
_WAIT_SECONDS = 5  # one request for an operation's end; below the transport's own limit of 60
_RUNNING = range(100, 200)  # status codes of operations that have not ended


class Requests:
    """One connection to one project of one server; a context manager that closes it."""

    def __init__(
        self, api: Any, address: str, server: Server, project: str, open_session: Callable[[], requests.Session]
    ) -> None:
        self._api = api
        self._open_session = open_session
        self.address = address
        self.server = server
        self.project = project

    # Connecting

    @classmethod
    def connect(
        cls,
        *,
        socket: str | Path | None = None,
        https: str | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        server_cert: Path | None = None,
        project: str | None = None,
    ) -> Self:
        """Connect to a unix socket, or to `https://host:port` with a client certificate.

        `server_cert` pins the server's certificate: no other is accepted, whoever signed it. Without it the system's
        authorities decide.
        """
        if (socket is None) == (https is None):
            raise ValueError("one of socket and https")
        endpoint = str(socket) if socket is not None else str(https)
        open_one = partial(open_session, endpoint, cert=cert, key=key, server_cert=server_cert)
        with translated(endpoint):
            api, server = open_api(endpoint, open_one(), project)
        return cls(api, endpoint, server, project or "default", open_one)

    def another(self) -> Self:
        """A connection of its own to the same server and project: one is for one thread."""
        with translated(self.address):
            session = self._open_session()
        return self._with(session, self.project)

    @classmethod
    def find(cls, remote: str | None = None, *, project: str | None = None) -> Self:
        """Connect as the `incus` client would, to one of its remotes or to its default one.

        Of several addresses the first that answers is taken.
        """
        failures: list[IncusError] = []
        for address in addresses(remote, project):
            try:
                return cls._at(address)
            except IncusError as error:
                failures.append(error)
        raise failures[-1]

    @classmethod
    def _at(cls, address: Address) -> Self:
        return cls.connect(
            socket=address.socket,
            https=address.https,
            cert=address.cert,
            key=address.key,
            server_cert=address.server_cert,
            project=address.project,
        )

    def within(self, project: str | None) -> Self:
        """The same connection, for another project (None: none named, as requests about all projects want it).

        Closing one of them closes both.
        """
        return self._with(self.session, project)

    def _with(self, session: requests.Session, project: str | None) -> Self:
        api = root_for(self._api, session, project)
        return type(self)(api, self.address, self.server, project or "default", self._open_session)

    @property
    def session(self) -> requests.Session:
        """The HTTP session with its certificates, for what is not a request below /1.0."""
        session: requests.Session = self._api.session
        return session

    def close(self) -> None:
        """Close the connection."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Requests

    def get(self, path: str, **params: str | int) -> Any:
        """GET below /1.0 and return the answer's metadata."""
        with translated(self.address):
            return self._node(path).get(params=params).json()["metadata"]

    def read(self, path: str) -> bytes:
        """GET a file below /1.0: a log."""
        with translated(self.address):
            content: bytes = self._node(path).get(is_api=False).content
        return content

    def clock(self) -> float:
        """The server's own time, in seconds since 1970."""
        with translated(self.address):
            stamp: str = self._node("").get().headers["Date"]
        return parsedate_to_datetime(stamp).timestamp()

    def find_one(self, path: str, **params: str | int) -> Any:
        """GET below /1.0 and return the answer's metadata, or None when there is no such thing."""
        try:
            return self.get(path, **params)
        except IncusError as error:
            if is_missing(error):
                return None
            raise

    def send(
        self,
        method: Literal["post", "put", "patch", "delete"],
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Send a request below /1.0, wait for the operation that it started, and return its metadata.

        `params` are the request's, such as `project`; `progress` is that of `wait`.
        """
        with translated(self.address):
            answer = getattr(self._node(path), method)(json=dict(body or {}), params=dict(params or {})).json()
        if answer.get("type") == "async":
            return self.wait(answer["operation"], progress)
        return answer.get("metadata") or {}

    def begin(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST below /1.0 what starts an operation, and return the operation without waiting for it."""
        with translated(self.address):
            operation: dict[str, Any] = self._node(path).post(json=dict(body)).json()["metadata"]
        return operation

    def upload(
        self, path: str, body: Any, headers: Mapping[str, str], progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Any]:
        """POST a stream below /1.0, wait for the operation that it starts, and return its metadata.

        `body` has a `len` and `read`; `progress` gets the bytes sent and their total.
        """
        with translated(self.address):
            answer = self._node(path).post(data=_Pieces(body, progress), headers=dict(headers)).json()
        return self.wait(answer["operation"])

    def post_stream(self, path: str, body: Any, headers: Mapping[str, str], params: Mapping[str, str]) -> None:
        """POST a stream, or nothing (None), below /1.0, which is done when it is answered."""
        data = None if body is None else _Pieces(body)
        with translated(self.address):
            self._node(path).post(data=data, headers=dict(headers), params=dict(params))

    def wait(
        self, operation: str, progress: Callable[[dict[str, Any]], None] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Wait for an operation's end and return its metadata; IncusError when it failed.

        `progress` gets the metadata whenever it changed, at least each second; `timeout` is in seconds.
        """
        name = urlsplit(operation).path.rpartition("/")[2]
        end = None if timeout is None else time.monotonic() + timeout
        seen: dict[str, Any] = {}
        while True:
            state = self._look(name, 1 if progress or end else _WAIT_SECONDS)
            metadata = state.get("metadata") or {}
            if progress and metadata != seen:
                progress(metadata)
                seen = metadata
            if state["status_code"] not in _RUNNING:
                break
            if end is not None and time.monotonic() > end:
                raise IncusError(f"{state['description']} did not end within {timeout:g} s", where=self.address)
        if state["status_code"] != 200:
            raise explain(state["err"] or state["status"], self.address)
        return dict(metadata)

    def _look(self, operation: str, seconds: int) -> dict[str, Any]:
        """The operation's state at its end, or after some seconds."""
        try:
            state: dict[str, Any] = self.get(f"operations/{operation}/wait", timeout=seconds)
        except IncusError as error:
            # 6.0 answers with an error both when the time is over and when the operation failed.
            try:
                state = self.get(f"operations/{operation}")
            except IncusError:
                raise error from None
        return state

    def _node(self, path: str) -> Any:
        node = self._api
        for part in filter(None, path.split("/")):
            node = node[part]
        return node


class _Pieces:
    """A request's body in pieces larger than the 16 KiB that http.client asks for: a third less time."""

    def __init__(self, body: Any, progress: Callable[[int, int], None] | None = None) -> None:
        self._body = body
        self._progress = progress
        self._sent = 0
        self.len: int = body.len  # requests looks for it

    def read(self, _size: int = -1) -> bytes:
        """The next piece."""
        piece: bytes = self._body.read(_PIECE)
        self._sent += len(piece)
        if self._progress is not None and piece:
            self._progress(self._sent, self.len)
        return piece
