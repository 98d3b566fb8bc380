"""The source packages of what is in an image: what whoever passes it on may have to offer, by many licences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anklume_images.evidence.contents import Contents
    from anklume_images.store.images import Image

__all__ = ["Source", "sources_of"]


@dataclass(frozen=True)
class Source:
    """A source of kind deb, wheel or file; `packages` are what is made of it, `built_in` those with parts of it."""

    kind: str
    name: str
    version: str
    packages: tuple[str, ...] = ()
    built_in: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()


def sources_of(image: Image, contents: Contents) -> tuple[Source, ...]:
    """Every source of an image, sorted; those of packages that a package contains parts of too (Built-Using)."""
    from packaging.utils import canonicalize_name

    packages: dict[tuple[str, str], set[str]] = {}
    built_in: dict[tuple[str, str], set[str]] = {}
    licences: dict[tuple[str, str], set[str]] = {}
    for deb in (contents.debs[p.name] for p in image.packages if p.kind == "deb" and p.name in contents.debs):
        source = deb.source, deb.source_version
        packages.setdefault(source, set()).add(deb.name)
        licences.setdefault(source, set()).update(deb.licences)
        for other in deb.built_using:
            built_in.setdefault(other, set()).add(deb.name)
    found = [
        Source("deb", *key, *(tuple(sorted(each.get(key, ()))) for each in (packages, built_in, licences)))
        for key in sorted(packages.keys() | built_in.keys())
    ]
    for package in image.packages:
        if package.kind == "wheel":
            wheel = contents.wheels.get(canonicalize_name(package.name))
            found.append(Source("wheel", package.name, package.version, (), (), wheel.licences if wheel else ()))
        elif package.kind == "file":
            found.append(Source("file", package.name, package.version))
    return tuple(found)
