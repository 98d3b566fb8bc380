"""The delta of an image: what turns the root file system of an earlier version into its own.

The delta itself is a blob; `delta` in the image's folder says from which version it starts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from anklume_images.canonical import parsed, what_is_wrong
from anklume_images.errors import StoreError
from anklume_images.store.sums import replace_document

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DELTA", "ContentsDelta", "Delta", "Packing", "read_delta", "write_delta"]

DELTA = "delta"  # no document of the image: it may come and go after those were signed


@dataclass(frozen=True)
class Packing:
    """How a squashfs is packed: `block` in bytes, zstd's `level`, the file system's `time` in seconds since 1970."""

    block: int
    level: int
    time: int


@dataclass(frozen=True)
class ContentsDelta:
    """A VCDIFF file in the blobs between what two squashfs files have in them; the later one is packed like this."""

    sha256: str
    size: int
    packing: Packing


@dataclass(frozen=True)
class Delta:
    """A VCDIFF file (RFC 3284) in the blobs; `base` is the version that it starts from, `size` in bytes.

    Where that does not save enough, `contents` is one for stores, which Incus knows nothing of.
    """

    base: str
    sha256: str
    size: int
    contents: ContentsDelta | None = None

    @property
    def blobs(self) -> tuple[str, ...]:
        """The sha256 of its files."""
        return (self.sha256, self.contents.sha256) if self.contents else (self.sha256,)


def read_delta(folder: Path) -> Delta | None:
    """The delta of the image in that folder, if it has one."""
    try:
        document = parsed((folder / DELTA).read_bytes())
        if contents := document.pop("contents", None):
            contents = ContentsDelta(**contents | {"packing": Packing(**contents["packing"])})
        return Delta(**document, contents=contents)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(
            f"not the description of a delta: {what_is_wrong(error)}", where=str(folder / DELTA), hint="remove it"
        ) from None


def write_delta(folder: Path, delta: Delta) -> None:
    """Note the delta of the image in that folder; call it with gc.lock held."""
    replace_document(folder, DELTA, json.dumps(asdict(delta), sort_keys=True, indent=1).encode() + b"\n")
