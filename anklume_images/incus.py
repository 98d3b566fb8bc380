"""The only module that knows the Incus API: a thin adapter over pylxd.

Only pylxd's transport is used (`client.api`): of its models, some cut output, some ignore what they are told. API:
https://linuxcontainers.org/incus/docs/main/rest-api/. Where a server is found is `incus_remotes`' business.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, unquote, urlencode, urlsplit

from anklume_images.errors import IncusError
from anklume_images.incus_connection import Server, check_server, open_client
from anklume_images.incus_errors import explain, translated
from anklume_images.incus_remotes import Address, addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

__all__ = ["Image", "Incus", "Result", "Server", "is_missing"]

_PIECE = 1 << 20
_WAIT_SECONDS = 5  # one request for an operation's end; below the transport's own limit of 60
_RUNNING = range(100, 200)  # status codes of operations that have not ended


@dataclass(frozen=True)
class Image:
    """An image in a server's image store."""

    fingerprint: str
    properties: Mapping[str, str]
    aliases: tuple[str, ...]
    public: bool
    size: int


@dataclass(frozen=True)
class Result:
    """What a command inside an instance came to."""

    code: int
    stdout: bytes
    stderr: bytes


class Incus:
    """One connection to one project of one server; a context manager that closes it."""

    def __init__(self, client: Any, address: str, server: Server, project: str, open_again: Callable[..., Any]) -> None:
        self._client = client
        self._open_again = open_again
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
        open_again = partial(open_client, endpoint, cert=cert, key=key, server_cert=server_cert)
        with translated(endpoint):
            client = open_again(project=project)
        try:
            server = check_server(client.host_info, endpoint)
        except BaseException:
            client.api.session.close()
            raise
        return cls(client, endpoint, server, project or "default", open_again)

    def another(self, project: str | None = None) -> Self:
        """A connection of its own to the same server (one is for one thread), to a project of it."""
        with translated(self.address):
            client = self._open_again(project=project or self.project)
        return type(self)(client, self.address, self.server, project or self.project, self._open_again)

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

    def within(self, project: str | None) -> Incus:
        """The same connection, for another project (None: none named, as requests about all projects want it).

        Closing one of them closes both.
        """
        api = self._client.api
        node = type(api)(api._api_endpoint, api.session, project=project)  # noqa: SLF001 - pylxd has no other way
        client = SimpleNamespace(api=node)
        return Incus(client, self.address, self.server, project or "default", self._open_again)

    @property
    def session(self) -> Any:
        """The HTTP session with its certificates, for what is not a request below /1.0."""
        return self._client.api.session

    def close(self) -> None:
        """Close the connection."""
        self._client.api.session.close()

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
        node = self._client.api
        for part in filter(None, path.split("/")):
            node = node[part]
        return node

    # Images

    def image(self, fingerprint: str) -> Image | None:
        """The image of that whole fingerprint, or None."""
        found = self.find_one(f"images/{fingerprint}")
        if found is None:
            return None
        return Image(
            found["fingerprint"],
            found.get("properties") or {},
            tuple(sorted(alias["name"] for alias in found.get("aliases") or ())),
            found["public"],
            found["size"],
        )

    def aliases(self) -> dict[str, str]:
        """The image aliases of the project: name to fingerprint."""
        return {alias["name"]: alias["target"] for alias in self.get("images/aliases", recursion=1)}

    def import_image(
        self,
        metadata: Path,
        rootfs: Path,
        *,
        fingerprint: str,
        properties: Mapping[str, str] | None = None,
        public: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> bool:
        """Send a split image and return True, or return False when the server has it.

        The files are streamed; `progress` gets the bytes sent and their total. The server compares what arrived with
        `fingerprint`, the sha256 of both files one after the other, and keeps nothing that differs.
        """
        if self.image(fingerprint) is not None:
            return False
        try:
            headers = {"X-Incus-public": "1" if public else "0", "X-Incus-fingerprint": fingerprint}
            if properties:
                headers["X-Incus-properties"] = urlencode(properties)
            self._upload(metadata, rootfs, headers, progress)
        except IncusError:
            if self.image(fingerprint) is None:
                raise
            return False  # another process was quicker
        return True

    def _upload(
        self,
        metadata: Path,
        rootfs: Path,
        headers: dict[str, str],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        from requests_toolbelt import MultipartEncoder

        with metadata.open("rb") as first, rootfs.open("rb") as second:
            body = MultipartEncoder(
                [
                    ("metadata", (metadata.name, first, "application/octet-stream")),
                    ("rootfs", (rootfs.name, second, "application/octet-stream")),
                ]
            )
            headers["Content-Type"] = body.content_type
            self.upload("images", body, headers, progress)

    def set_properties(self, fingerprint: str, properties: Mapping[str, str]) -> None:
        """Add or change properties of an image, leaving the others."""
        self.send("patch", f"images/{fingerprint}", {"properties": dict(properties)})

    def set_alias(self, name: str, fingerprint: str, description: str = "") -> str | None:
        """Let an alias name an image; return the fingerprint that it named before, or None when it is new."""
        before = self.aliases().get(name)
        body = {"target": fingerprint, "description": description}
        if before is None:
            self.send("post", "images/aliases", {"name": name, **body})
        elif before != fingerprint:
            self.send("put", f"images/aliases/{quote(name, safe='')}", body)
        return before

    def delete_image(self, fingerprint: str) -> None:
        """Delete an image with its aliases."""
        self.send("delete", f"images/{fingerprint}")

    # Instances

    def create_instance(
        self,
        name: str,
        *,
        fingerprint: str,
        profiles: Iterable[str] = ("default",),
        config: Mapping[str, str] | None = None,
        devices: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Create a container from an image of the same server, stopped."""
        body = {
            "name": name,
            "type": "container",
            "source": {"type": "image", "fingerprint": fingerprint},
            "profiles": list(profiles),
            "config": dict(config or {}),
            "devices": {device: dict(keys) for device, keys in (devices or {}).items()},
        }
        self.send("post", "instances", body)

    def start(self, name: str) -> None:
        """Start an instance."""
        self.send("put", f"instances/{name}/state", {"action": "start", "timeout": -1})

    def stop(self, name: str, *, force: bool = False, timeout: int = 30) -> None:
        """Stop an instance, by its own shutdown within `timeout` seconds unless forced."""
        self.send("put", f"instances/{name}/state", {"action": "stop", "timeout": timeout, "force": force})

    def delete(self, name: str) -> None:
        """Delete a stopped instance."""
        self.send("delete", f"instances/{name}")

    def execute(
        self,
        name: str,
        command: Iterable[str],
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Run a command inside a running instance, without input, and return all that it said.

        The server records the output in files; over websockets, pylxd loses some of it.
        """
        body = {
            "command": list(command),
            "environment": dict(environment or {}),
            "interactive": False,
            "record-output": True,
            "wait-for-websocket": False,
        }
        with translated(self.address):
            operation = self._node(f"instances/{name}/exec").post(json=body).json()["operation"]
        ended = self.wait(operation, timeout=timeout)
        output = ended.get("output") or {}
        return Result(ended["return"], self._take_log(output.get("1")), self._take_log(output.get("2")))

    def _take_log(self, url: str | None) -> bytes:
        if url is None:
            return b""
        node = self._node(unquote(urlsplit(url).path).removeprefix("/1.0/"))
        with translated(self.address):
            content: bytes = node.get(is_api=False).content
            with contextlib.suppress(IncusError):
                node.delete()
        return content


class _Pieces:
    """A request's body in pieces larger than the 16 KiB that http.client asks for: a third less time."""

    def __init__(self, body: Any, progress: Callable[[int, int], None] | None) -> None:
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


def is_missing(error: IncusError) -> bool:
    """Whether the server said that there is no such thing."""
    from pylxd.exceptions import NotFound

    return isinstance(error.__cause__, NotFound)
