"""The software bill of materials of an image: CycloneDX 1.6 JSON, the same bytes for the same recipe.

Package URLs follow the purl specification's types `deb`, `pypi` and `generic`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    from anklume_images.inputs.lockfile import LockedFile
    from anklume_images.store.images import Image

__all__ = ["make_sbom"]


def make_sbom(image: Image, inputs: Iterable[LockedFile], architecture: str) -> bytes:
    """Describe every deb, wheel and release file of an image, and what it is to find on its host.

    `inputs` are those of its own and its bases' locks.
    """
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentScope, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    root = Component(type=ComponentType.CONTAINER, name=image.name, version=image.version, bom_ref=image.ref)
    entries = {_identity(entry): entry for entry in inputs}

    def component(kind: str, name: str, version: str) -> Component:
        entry = entries.get((kind, name, version))
        return Component(
            type=ComponentType.FILE if kind == "file" else ComponentType.LIBRARY,
            name=name,
            version=version,
            bom_ref=f"{kind}/{name}@{version}",
            # Which is CycloneDX's word for what is not installed.
            scope=ComponentScope.OPTIONAL if kind == "host" else None,
            description="not in the image: its host provides this version or a newer one" if kind == "host" else None,
            purl=_purl(kind, name, version, getattr(entry, "architecture", architecture)),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=entry.sha256)] if entry else (),
        )

    components = [component(package.kind, package.name, package.version) for package in image.packages]
    bom = Bom(components=components, serial_number=uuid5(NAMESPACE_URL, f"anklume:{image.recipe}"))
    bom.metadata.component = root
    bom.register_dependency(root, components)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"].pop("timestamp", None)  # the one thing in it that is not of the recipe
    return json.dumps(document, sort_keys=True, indent=1).encode() + b"\n"


def _identity(entry: LockedFile) -> tuple[str, str, str]:
    from anklume_images.inputs.lockfile import Deb, ReleaseFile, Wheel

    if isinstance(entry, Deb):
        return ("deb", entry.package, entry.version)
    if isinstance(entry, Wheel):
        return ("wheel", entry.package, entry.version)
    assert isinstance(entry, ReleaseFile)  # noqa: S101  the lock has three kinds
    return ("file", entry.name, entry.path)


def _purl(kind: str, name: str, version: str, architecture: str) -> PackageURL:
    from packageurl import PackageURL

    if kind == "deb":
        return PackageURL("deb", "debian", name, version, {"arch": architecture})
    if kind == "wheel":
        return PackageURL("pypi", None, name, version)
    return PackageURL("generic", None, name, version)
