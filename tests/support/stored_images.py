"""Images and models put into a store without a build: their files are a few bytes, their documents are complete."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from anklume_images.inputs.lockfile import Lock, ReleaseFile
from anklume_images.store.images import Image, Images, Package, StoredFile
from anklume_images.store.models import ModelRecord, ModelRecords
from tests.support.blobs import put_blob

if TYPE_CHECKING:
    from anklume_images.store.store import Store


def put(
    store: Store,
    name: str,
    version: str = "1.0-000000000001",
    *,
    base: Image | None = None,
    channels: tuple[str, ...] = ("latest",),
    inputs: tuple[bytes, ...] = (),
    toolchain: str = "t" * 64,
    **changes: Any,
) -> Image:
    """Add an image whose files say its name and version, and the inputs that its lock names.

    `changes` are of the image.
    """
    store.create()
    blobs = store.blobs
    metadata, rootfs = f"metadata of {name} {version}".encode(), f"rootfs of {name} {version}".encode()
    files = [StoredFile(put_blob(blobs, data), len(data)) for data in (metadata, rootfs)]
    locked = tuple(
        ReleaseFile("own", f"input-{number}", put_blob(blobs, data), len(data), f"input-{number}")
        for number, data in enumerate(inputs)
    )
    image = Image(
        name=name,
        version=version,
        architecture="amd64",
        recipe=hashlib.sha256(version.encode()).hexdigest(),
        fingerprint=hashlib.sha256(metadata + rootfs).hexdigest(),
        metadata=files[0],
        rootfs=files[1],
        unpacked=1,
        epoch=0,
        description=f"The image {name}",
        toolchain=toolchain,
        base={"name": base.name, "version": base.version} if base else None,
        packages=tuple(Package("file", file.name, file.path) for file in locked),
        spec={
            "distribution": "debian",
            "healthcheck": None,
            "ports": [],
            "provides": [],
            "release": "trixie",
            "tags": [],
            "variables": {},
            "variant": None,
            "volumes": [],
        },
    )
    image = replace(image, **changes)
    lock = Lock(name, "amd64", "", 0, "1.0", files=locked)
    images = Images(store)
    images.add(image, {"lock.json": json.dumps(asdict(lock)).encode(), "recipe.json": b"{}", "sbom.cdx.json": b"{}"})
    for channel in channels:
        images.set_channel(name, "amd64", channel, version)
    return image


def put_model(store: Store, name: str, content: bytes = b"GGUF of a model", **changes: Any) -> ModelRecord:
    """Add a model whose file is no GGUF; `changes` are of its record."""
    store.create()
    record = ModelRecord(name, put_blob(store.blobs, content), len(content), **changes)
    ModelRecords(store).add(record)
    return record
