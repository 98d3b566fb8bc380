"""The software bill of materials of an image: CycloneDX 1.6 JSON, the same bytes for the same recipe.

Package URLs follow the purl specification's types `deb`, `pypi` and `generic`. Packages depend on what they say they
need, as far as it is there; the image on all. A package's licences are those that it states itself; the source package
of a .deb is its property `anklume:source`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from anklume_images.evidence.why import deb_graph, wheel_graph

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License
    from packageurl import PackageURL

    from anklume_images.evidence.contents import Contents, InstalledDeb, InstalledWheel
    from anklume_images.inputs.lockfile import LockedFile
    from anklume_images.store.images import Image, Package

__all__ = ["Digests", "digests_of", "digests_of_document", "make_sbom"]

Digests = dict[tuple[str, str, str], str]
"""The sha256 of each input by kind, name and version."""


def digests_of(inputs: Iterable[LockedFile]) -> Digests:
    """The digests of an image's inputs: those of its own and its bases' locks."""
    return {_identity(entry): entry.sha256 for entry in inputs}


def digests_of_document(sbom: Mapping[str, Any]) -> Digests:
    """The digests that a bill of materials of ours states."""
    found: Digests = {}
    for component in sbom.get("components", ()):
        kind = component["bom-ref"].partition("/")[0]
        for digest in component.get("hashes", ()):
            found[kind, component["name"], component["version"]] = digest["content"]
    return found


def make_sbom(image: Image, digests: Digests, contents: Contents) -> bytes:
    """Describe every deb, wheel and release file of an image, and what it is to find on its host."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentScope, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packaging.utils import canonicalize_name

    def component(kind: str, name: str, version: str) -> Component:
        sha256 = digests.get((kind, name, version))
        deb = contents.debs.get(name) if kind == "deb" else None
        wheel = contents.wheels.get(canonicalize_name(name)) if kind == "wheel" else None
        return Component(
            type=ComponentType.FILE if kind == "file" else ComponentType.LIBRARY,
            name=name,
            version=version,
            bom_ref=f"{kind}/{name}@{version}",
            # Which is CycloneDX's word for what is not installed.
            scope=ComponentScope.OPTIONAL if kind == "host" else None,
            description="not in the image: its host provides this version or a newer one" if kind == "host" else None,
            purl=_purl(kind, name, version, deb.architecture if deb else image.architecture),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else (),
            licenses=_licenses(deb or wheel),
            properties=[Property(name="anklume:source", value=f"{deb.source}@{deb.source_version}")] if deb else (),
        )

    root = Component(type=ComponentType.CONTAINER, name=image.name, version=image.version, bom_ref=image.ref)
    components = [component(package.kind, package.name, package.version) for package in image.packages]
    bom = Bom(components=components, serial_number=uuid5(NAMESPACE_URL, f"anklume:{image.recipe}"))
    bom.metadata.component = root
    bom.register_dependency(root, components)
    graphs = {"deb": deb_graph(contents), "wheel": wheel_graph(contents, ())}
    by_name = {(p.kind, _known_as(p)): c for p, c in zip(image.packages, components, strict=True)}
    for (kind, name), component_ in by_name.items():
        needed = (by_name.get((kind, other)) for other in sorted(graphs.get(kind, {}).get(name, ())))
        bom.register_dependency(component_, [other for other in needed if other and other is not component_])
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"].pop("timestamp", None)  # the one thing in it that is not of the recipe
    return json.dumps(document, sort_keys=True, indent=1).encode() + b"\n"


def _known_as(package: Package) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(package.name) if package.kind == "wheel" else package.name


def _licenses(package: InstalledDeb | InstalledWheel | None) -> list[License]:
    """An expression where it is all there is, as the format wants it; else identifiers and names."""
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
    from cyclonedx.spdx import is_expression, is_supported_id

    stated = package.licences if package else ()
    if len(stated) == 1 and not is_supported_id(stated[0]) and is_expression(stated[0]):
        return [LicenseExpression(stated[0])]
    return [DisjunctiveLicense(id=name) if is_supported_id(name) else DisjunctiveLicense(name=name) for name in stated]


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
