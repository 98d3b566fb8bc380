"""What differs between two sets of packages: a line each, `name: 1 → 2, +13 KiB`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Entry", "PackageChange", "package_changes", "size_change"]


@dataclass(frozen=True)
class Entry:
    """A package of one side; `size` in bytes where it is known, `sha256` where the side names its file."""

    kind: str
    name: str
    version: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class PackageChange:
    """A package that came (no `old`), went (no `new`), or is another version; `bytes` is what that adds.

    Where both versions are the same, the file has other bytes.
    """

    kind: str
    name: str
    old: str | None
    new: str | None
    bytes: int | None

    def __str__(self) -> str:
        if self.old is None:
            text = f"{self.name}: {self.new} added"
        elif self.new is None:
            text = f"{self.name}: {self.old} removed"
        elif self.old == self.new:
            text = f"{self.name}: {self.old}, other bytes"
        else:
            text = f"{self.name}: {self.old} → {self.new}"
        return text if not self.bytes else f"{text}, {size_change(self.bytes)}"


def package_changes(before: Iterable[Entry], after: Iterable[Entry]) -> tuple[PackageChange, ...]:
    """The changes, sorted by kind and name."""
    old = {(entry.kind, entry.name): entry for entry in before}
    new = {(entry.kind, entry.name): entry for entry in after}
    found = []
    for key in sorted(old.keys() | new.keys()):
        one, other = old.get(key), new.get(key)
        if one and other and one.version == other.version and _same_file(one, other):
            continue
        versions = one.version if one else None, other.version if other else None
        found.append(PackageChange(*key, *versions, _grown(one, other)))
    return tuple(found)


def _same_file(one: Entry, other: Entry) -> bool:
    return one.sha256 is None or other.sha256 is None or one.sha256 == other.sha256


def _grown(one: Entry | None, other: Entry | None) -> int | None:
    sizes = [entry.size if entry else 0 for entry in (one, other)]
    return None if sizes[0] is None or sizes[1] is None else sizes[1] - sizes[0]


def size_change(count: int) -> str:
    """`+13 KiB`, `-1.2 MiB`."""
    size = abs(count)
    scale = next((power for power in range(3) if size < 1024 ** (power + 1)), 3)
    text = f"{size / 1024**scale:.{0 if scale < 2 else 1}f}"
    return f"{'-' if count < 0 else '+'}{text} {('B', 'KiB', 'MiB', 'GiB')[scale]}"
