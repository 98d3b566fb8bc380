"""The newest release of an upstream, asked of the forge that its files come from.

An archive whose address ends with `/releases/download` is a forge's, GitHub's or one that does as it does: the address
`…/releases/latest` leads on to `…/releases/tag/<tag>`, and a file's path begins with its tag. Others cannot be asked.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from anklume_images.inputs.answers import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anklume_images.inputs.transport import Transport
    from anklume_images.specs.model import Spec

__all__ = ["ReleaseState", "Releases", "is_newer"]

_FILES = "/releases/download"
_TAG = re.compile(r"/releases/tag/([^/?#]+)$")


@dataclass(frozen=True)
class ReleaseState:
    """A release file's tag in the spec, and the newest there is; None with the reason why it is not known.

    `unreachable` where it could have been asked, and was not answered.
    """

    name: str
    tag: str
    newest: str | None
    reason: str | None = None
    unreachable: bool = False

    @property
    def outdated(self) -> bool:
        """Whether there is a newer one."""
        return self.newest is not None and is_newer(self.newest, self.tag)


class Releases:
    """Asks each forge once, however many images and architectures take its files."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._known: dict[str, tuple[str | None, str | None, bool]] = {}

    def of(self, specs: Iterable[Spec], architecture: str) -> tuple[ReleaseState, ...]:
        """The state of every release file that the last of the specs asks for; the others are its bases'."""
        chain = tuple(specs)
        addresses = {name: url for spec in chain for name, url in spec.archives.items()}
        found = []
        for item in chain[-1].release_files:
            path = item.path.get(architecture)
            if path is not None:
                address = addresses.get(item.archive, "").rstrip("/")
                found.append(ReleaseState(item.name, path.partition("/")[0], *self._newest(address)))
        return tuple(found)

    def _newest(self, address: str) -> tuple[str | None, str | None, bool]:
        if not address.endswith(_FILES):
            return None, "its archive is no forge's releases", False
        if address not in self._known:
            self._known[address] = self._ask(f"{address.removesuffix(_FILES)}/releases/latest")
        return self._known[address]

    def _ask(self, url: str) -> tuple[str | None, str | None, bool]:
        def last_address() -> str:
            with self._transport.ask(url, method="HEAD") as response:
                return str(response.url)

        try:
            end = self._transport.insist(url, last_address)
        except Refusal as refusal:
            return None, str(refusal.of(url)), True
        tag = _TAG.search(urlsplit(end).path)
        return (unquote(tag[1]), None, False) if tag else (None, f"{url} leads to no release", True)


def is_newer(tag: str, than: str) -> bool:
    """Whether a tag names a later version; of tags that are no versions and no numbers, whether it is another."""
    from packaging.version import InvalidVersion, Version

    with contextlib.suppress(InvalidVersion):
        return Version(tag) > Version(than)
    built, before = (re.fullmatch(r"([^0-9]*)([0-9]+)", text) for text in (tag, than))  # llama.cpp's b10434
    if built and before and built[1] == before[1]:
        return int(built[2]) > int(before[2])
    return tag != than
