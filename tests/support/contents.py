"""What could be in an image, for tests of what is made of it."""

from __future__ import annotations

from typing import Any

from anklume_images.evidence.contents import Contents, InstalledDeb, InstalledWheel


def deb(name: str, version: str = "1.0-1", needs: str = "", **more: Any) -> InstalledDeb:
    """An installed package; `needs` are groups as dpkg writes them, without versions: `a, b | c`."""
    groups = tuple(tuple(word.strip() for word in group.split("|")) for group in needs.split(",") if group)
    values: dict[str, Any] = {
        "architecture": "amd64",
        "source": name,
        "source_version": version,
        "size": 12 << 10,
        "root": None,
        "depends": groups,
        "provides": (),
        "built_using": (),
    }
    return InstalledDeb(name, version, **(values | more))


def wheel(name: str, version: str = "1.0", *requires: str, **more: Any) -> InstalledWheel:
    """An installed wheel."""
    return InstalledWheel(name, version, **({"size": 1000, "requires": requires} | more))


def contents(*packages: InstalledDeb | InstalledWheel, **more: Any) -> Contents:
    """Contents with these packages."""
    debs = {each.name: each for each in packages if isinstance(each, InstalledDeb)}
    wheels = {each.name: each for each in packages if isinstance(each, InstalledWheel)}
    return Contents(debs, wheels, more.pop("files", {}), **more)
