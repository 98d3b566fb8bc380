"""What becomes of an image that was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from anklume_images.errors import AnklumeError
    from anklume_images.store.images import Image

__all__ = ["Result", "Status"]

Status = Literal["present", "missing", "built", "failed"]


@dataclass(frozen=True)
class Result:
    """What became of one image, or what it is now; `missing` is one that is to be built.

    A failed one has an `error`, and a missing one whose lock has to be made anew. `seconds` covers its own build only.
    """

    name: str
    status: Status
    seconds: float = 0.0
    image: Image | None = None
    error: AnklumeError | None = None
