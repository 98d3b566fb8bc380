"""A store and specs with one image that boots in a moment: `tiny`, in as many versions as a test wants.

Nothing of it is built: the root file system is that of `incus_images`, under a spec and a manifest like any other's.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from anklume_images.architectures import host_architecture
from anklume_images.store.images import Image, Images, StoredFile
from tests.support.blobs import put_file
from tests.support.incus_images import make_image

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.store.store import Store

SPEC = """\
name: tiny
description: A tiny image that boots in a moment
version: "1.0"
from: debian
provides: [tiny]
tags: [small]
variables:
  tiny_text: {type: string, default: hello, description: Some text}
  tiny_secret: {type: string, secret: true, description: Something to keep}
volumes:
  - {path: /root/models, kind: models}
healthcheck: {command: ["true"], timeout: 20}
"""


def write_specs(folder: Path) -> Path:
    """The folder for `--specs`."""
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny/spec.yml").write_text(SPEC)
    (folder / "tiny/distrobuilder.yaml.j2").write_text('{% extends "_image.yaml.j2" %}\n')
    return folder


def put_tiny(store: Store, rootfs: Path, folder: Path, number: int, **changes: Any) -> Image:
    """Add the version `1.<number>`, and point `latest` at it; `changes` are of its spec."""
    store.create()
    files = make_image(folder, rootfs)
    metadata, root = (_stored(store, path) for path in (files.metadata, files.rootfs))
    recipe = hashlib.sha256(f"tiny {number}".encode()).hexdigest()
    image = Image(
        name="tiny",
        version=f"1.{number}-{recipe[:12]}",
        architecture=host_architecture(),
        recipe=recipe,
        fingerprint=files.fingerprint,
        metadata=metadata,
        rootfs=root,
        unpacked=1 << 20,
        epoch=0,
        description="A tiny image that boots in a moment",
        toolchain="t" * 64,
        spec={
            "distribution": "debian",
            "healthcheck": {"command": ["true"], "timeout": 20},
            "ports": [],
            "provides": ["tiny"],
            "release": "trixie",
            "tags": ["small"],
            "variables": {
                "tiny_text": {"type": "string", "default": "hello", "description": "Some text", "secret": False},
                "tiny_secret": {"type": "string", "default": None, "description": "Some secret", "secret": True},
            },
            "variant": None,
            "volumes": [{"path": "/root/models", "kind": "models"}],
        }
        | changes,
    )
    documents = {"lock.json": b"{}", "recipe.json": json.dumps({}).encode(), "sbom.cdx.json": b"{}"}
    images = Images(store)
    images.add(image, documents)
    images.set_channel("tiny", image.architecture, "latest", image.version)
    return image


def _stored(store: Store, path: Path) -> StoredFile:
    return StoredFile(put_file(store.blobs, path), path.stat().st_size)
