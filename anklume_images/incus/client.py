"""The Incus API as this project uses it: images, and commands in instances, beside the objects of `objects`.

No path of it is written outside this package.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlencode, urlsplit

from anklume_images.errors import IncusError
from anklume_images.incus.connection import Server
from anklume_images.incus.errors import explain, is_missing, translated
from anklume_images.incus.objects import ObjectId, Objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

__all__ = ["Image", "Incus", "ObjectId", "Result", "Server", "is_missing"]


@dataclass(frozen=True)
class Image:
    """An image in a server's image store."""

    fingerprint: str
    properties: Mapping[str, str]
    aliases: tuple[str, ...]
    size: int


@dataclass(frozen=True)
class Result:
    """What a command inside an instance came to."""

    code: int
    stdout: bytes
    stderr: bytes


class Incus(Objects):
    """One connection to one project of one server; a context manager that closes it."""

    # Images

    def image(self, fingerprint: str) -> Image | None:
        """The image of that whole fingerprint, or None."""
        image = self.find_one(f"images/{fingerprint}")
        if image is None:
            return None
        return Image(
            image["fingerprint"],
            image.get("properties") or {},
            tuple(sorted(alias["name"] for alias in image.get("aliases") or ())),
            image["size"],
        )

    def aliases(self) -> dict[str, str]:
        """The image aliases of the project: name to fingerprint."""
        return {alias["name"]: alias["target"] for alias in self.get("images/aliases", recursion=1)}

    def alias_notes(self) -> dict[str, str]:
        """The descriptions of the image aliases of the project, by their names."""
        return {alias["name"]: alias["description"] for alias in self.get("images/aliases", recursion=1)}

    def import_image(
        self,
        metadata: Path,
        rootfs: Path,
        *,
        fingerprint: str,
        properties: Mapping[str, str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> bool:
        """Send a split image and return True, or return False when the server has it by then.

        The files are streamed; `progress` gets the bytes sent and their total. The server compares what arrived with
        `fingerprint`, the sha256 of both files one after the other, and keeps nothing that differs.
        """
        try:
            headers = {"X-Incus-public": "0", "X-Incus-fingerprint": fingerprint}
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

    def pull_image(self, other: Incus, fingerprint: str) -> None:
        """Have this server fetch an image from another one; the bytes do not pass through here.

        The other one is asked for a secret that counts once; it must be reachable from this server by one of its
        addresses. The server compares what arrives with the fingerprint.
        """
        addresses = other.https_addresses()
        if not addresses:
            raise IncusError(
                "this server listens on no address, so no other one can fetch from it",
                where=other.address,
                hint="incus config set core.https_address :8443",
            )
        failures = []
        for address in addresses:
            secret = other.begin(f"images/{fingerprint}/secret", {})["metadata"]["secret"]
            source = {
                "type": "image",
                "mode": "pull",
                "server": address,
                "protocol": "incus",
                "certificate": other.server.certificate,
                "fingerprint": fingerprint,
                "secret": secret,
            }
            try:
                self.send("post", "images", {"source": source, "auto_update": False})
            except IncusError as error:
                failures.append(f"{address}: {error.message}")
            else:
                return
        raise explain("\n".join(["it could not fetch the image:", *failures]), self.address)

    def delete_alias(self, name: str) -> None:
        """Remove an alias, not what it names."""
        self.send("delete", f"images/aliases/{quote(name, safe='')}")

    def set_alias(self, name: str, fingerprint: str, description: str = "") -> str | None:
        """Let an alias name an image; return the fingerprint that it named before, or None when it is new."""
        before = self.aliases().get(name)
        body = {"target": fingerprint, "description": description}
        if before is None:
            try:
                self.send("post", "images/aliases", {"name": name, **body})
            except IncusError:
                before = self.aliases().get(name)  # somebody else has made it just now
                if before is None:
                    raise
        if before not in (None, fingerprint):
            self.send("put", f"images/aliases/{quote(name, safe='')}", body)
        return before

    # Instances

    def stop(self, name: str, *, force: bool = False, timeout: int = 30) -> None:
        """Stop an instance, by its own shutdown within `timeout` seconds unless forced."""
        self.set_instance_state(ObjectId("instance", name), "stop", timeout=timeout, force=force)

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
