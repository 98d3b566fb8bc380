"""What documents of another store have to be: a signature says whose they are, not that they are sound.

They are checked where they come in, as what has come in is read by every later command.
"""

from __future__ import annotations

import re

from pydantic import TypeAdapter, ValidationError

from anklume_images.canonical import parsed
from anklume_images.errors import StoreError
from anklume_images.store.images import Image, parse_manifest
from anklume_images.store.roots import inputs_of

__all__ = ["check_document", "manifest_of"]

_HINT = "ask its owner"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TYPES = TypeAdapter(Image)


def manifest_of(data: bytes, where: str) -> Image:
    """The image of a manifest, each of whose values is what it has to be; StoreError."""
    try:
        _TYPES.validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise StoreError(f"not the manifest of an image: {place}: {first['msg']}", where=where, hint=_HINT) from None
    image = parse_manifest(data, where)
    files = (image.metadata, image.rootfs)
    sound = all(_SHA256.fullmatch(sha256) for sha256 in (image.fingerprint, *(file.sha256 for file in files)))
    sound &= all(file.size >= 0 for file in files)
    sound &= image.base is None or {"name", "version"} <= image.base.keys()
    if not sound:
        raise StoreError("a hash, a size or the base in this manifest is none", where=where, hint=_HINT)
    return image


def check_document(name: str, data: bytes, where: str) -> None:
    """StoreError for a document of an image that no command could read."""
    try:
        document = parsed(data)
        if not isinstance(document, dict):
            raise TypeError("it is no JSON object")  # noqa: TRY301  told as the others are
    except (ValueError, TypeError) as error:
        raise StoreError(f"not a document of an image: {error}", where=where, hint=_HINT) from None
    if name == "lock":
        inputs_of(document, where)
