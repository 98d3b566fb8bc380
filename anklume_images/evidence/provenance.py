"""How an image came about: SLSA provenance v1 in an in-toto statement, the same bytes for the same recipe.

It follows from the image's manifest, recipe and lock alone, so that it can be made for any image that has these. No
time and no host is in it: they do not enter a build. It is not signed by itself.

    https://slsa.dev/spec/v1.0/provenance   https://github.com/in-toto/attestation/tree/main/spec/v1
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anklume_images.store.images import Image

__all__ = ["BUILDER", "BUILD_TYPE", "make_provenance"]

BUILD_TYPE = "anklume:sealed-build:1"
BUILDER = "anklume:anklume-images"


def make_provenance(image: Image, recipe: Mapping[str, Any], lock: Mapping[str, Any]) -> bytes:
    """The statement about an image; `recipe` and `lock` are the documents that it was built from."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": f"{image.ref}/incus.tar.xz", "digest": {"sha256": image.metadata.sha256}},
            {"name": f"{image.ref}/rootfs.squashfs", "digest": {"sha256": image.rootfs.sha256}},
            {"name": image.ref, "digest": {"sha256": image.fingerprint}},  # Incus': of both files, one after the other
        ],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "name": image.name,
                    "version": image.version,
                    "architecture": image.architecture,
                    "spec": recipe.get("spec"),
                },
                "internalParameters": {
                    key: recipe.get(key) for key in ("schema", "packer", "compression", "epoch", "definition")
                },
                "resolvedDependencies": list(_dependencies(image, recipe, lock)),
            },
            "runDetails": {"builder": {"id": BUILDER}, "metadata": {"invocationId": image.recipe}},
        },
    }
    return json.dumps(statement, sort_keys=True, indent=1).encode() + b"\n"


def _dependencies(image: Image, recipe: Mapping[str, Any], lock: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What went in. Recipe, base and toolchain are named by the hashes that name them everywhere."""
    yield {"name": f"recipe of {image.ref}", "digest": {"sha256": image.recipe}}
    yield {"name": "toolchain", "uri": "anklume:tree:toolchain", "digest": {"sha256": image.toolchain}}
    if image.base and recipe.get("base"):
        ref = f"{image.base['name']}@{image.base['version']}"
        yield {"name": f"recipe of {ref}", "uri": f"anklume:image:{ref}", "digest": {"sha256": recipe["base"]}}
    for index in lock.get("indexes", ()):
        name = f"{index['archive']} {index['suite']} InRelease"
        yield {"name": name, "digest": {"sha256": index["sha256"]}, "annotations": {"date": index["date"]}}
    for kind in ("debs", "wheels", "files"):
        for entry in lock.get(kind, ()):
            uri = f"anklume:input:{entry['archive']}/{entry['path']}"
            yield {"name": entry["path"].rpartition("/")[2], "uri": uri, "digest": {"sha256": entry["sha256"]}}
