"""Lists of mirrors as apt has them, apt-transport-mirror(1): an address a line, metadata after a tab.

An archive's address that begins with `mirror+` is one of these; it is read when it is first needed, and once.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from anklume_images.inputs.answers import Attempt, Refusal
from anklume_images.inputs.python_index import local_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anklume_images.inputs.access import Access
    from anklume_images.inputs.transport import Transport

__all__ = ["MirrorLists", "parse_mirror_list"]

_PREFIX = "mirror+"
_LIMIT = 4 << 20
_SCHEMES = {"http", "https", "file", "copy"}


class MirrorLists:
    """The lists that were read so far; safe to share among threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: dict[str, tuple[str, ...] | Attempt] = {}

    def expand(
        self, bases: Iterable[str], transport: Transport, access: Access, failures: list[Attempt]
    ) -> Iterator[str]:
        """The addresses, a list of mirrors replaced by what it lists; one that cannot be read goes to `failures`."""
        for base in bases:
            if not base.startswith(_PREFIX):
                yield base
                continue
            listed = self._listed(base, transport, access)
            if isinstance(listed, Attempt):
                failures.append(listed)
            else:
                yield from listed

    def _listed(self, base: str, transport: Transport, access: Access) -> tuple[str, ...] | Attempt:
        with self._lock:
            if base not in self._read:
                self._read[base] = _read_list(base, transport, access)
            return self._read[base]


def parse_mirror_list(text: str, *, local: bool = True) -> tuple[str, ...]:
    """The mirrors of a list that carry packages, those of the lowest `priority:` first, else in the list's order.

    Only a list on this host (`local`) may name addresses on this host.
    """
    mirrors: list[tuple[int, str]] = []
    for line in text.splitlines():
        uri, _, metadata = line.strip().partition("\t")
        scheme, _, rest = uri.partition(":")
        scheme = scheme.lower()
        if uri.startswith("#") or scheme not in _SCHEMES or (scheme in {"file", "copy"} and not local):
            continue
        tags = [word.partition(":")[::2] for word in metadata.split()]
        kinds = {value for key, value in tags if key == "type"}
        if kinds and "deb" not in kinds:
            continue  # for indexes only
        numbers = [int(value) for key, value in tags if key == "priority" and value.isdecimal()]
        address = f"file:///{rest.lstrip('/')}" if scheme in {"file", "copy"} else f"{scheme}:{rest}"
        mirrors.append((numbers[0] if numbers else sys.maxsize, address.rstrip("/")))
    return tuple(dict.fromkeys(address for _, address in sorted(mirrors, key=lambda entry: entry[0])))


def _read_list(base: str, transport: Transport, access: Access) -> tuple[str, ...] | Attempt:
    address = base.removeprefix(_PREFIX)
    path = local_path(address)
    try:
        text = path.read_bytes() if path else transport.read(address, _LIMIT, access=access)[0]
    except Refusal as refusal:
        return replace(refusal.of(base), gone=False)
    except OSError as error:
        return Attempt(base, error.strerror or "cannot be read")
    listed = parse_mirror_list(text.decode(errors="replace"), local=path is not None)
    if not listed:
        packed = urlsplit(address).path.endswith((".gz", ".xz", ".bz2", ".zst", ".lz4", ".lzma"))
        return Attempt(base, "is compressed, which is not supported" if packed else "lists no mirror that can be asked")
    return listed
