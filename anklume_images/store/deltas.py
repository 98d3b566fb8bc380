"""The delta of an image: what turns the root file system of an earlier version into its own.

The delta itself is a blob; `delta` in the image's folder says from which version it starts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from anklume_images.errors import StoreError
from anklume_images.store.sums import replace_document

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DELTA", "Delta", "read_delta", "write_delta"]

DELTA = "delta"  # no document of the image: it may come and go after those were signed


@dataclass(frozen=True)
class Delta:
    """A VCDIFF file (RFC 3284) in the blobs; `base` is the version that it starts from, `size` in bytes."""

    base: str
    sha256: str
    size: int


def read_delta(folder: Path) -> Delta | None:
    """The delta of the image in that folder, if it has one."""
    try:
        return Delta(**json.loads((folder / DELTA).read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"not the description of a delta: {error!r}", where=str(folder / DELTA), hint="remove it"
        ) from None


def write_delta(folder: Path, delta: Delta) -> None:
    """Note the delta of the image in that folder; call it with gc.lock held."""
    replace_document(folder, DELTA, json.dumps(asdict(delta), sort_keys=True, indent=1).encode() + b"\n")
