"""How two images differ: packages, files, and what a person configured. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anklume_images.evidence.changes import Entry, PackageChange, package_changes
from anklume_images.store.images import SPEC_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from anklume_images.evidence.contents import Contents
    from anklume_images.store.images import Image

__all__ = ["ImageDiff", "SettingChange", "compare", "folded"]

# Of the image's own spec: what it puts in beside packages.
_OWN = ("description", "files", "templates", "contents")
_KEYED_BY = ("path", "name")  # what names the entry of a list


@dataclass(frozen=True)
class SettingChange:
    """A setting by its path (`variables.ollama_host.default`); None stands for one that is not there."""

    path: str
    old: Any
    new: Any


@dataclass(frozen=True)
class ImageDiff:
    """Everything that differs; files are paths, and `changed` those with another size, mode, owner, kind or target."""

    packages: tuple[PackageChange, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    settings: tuple[SettingChange, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing differs."""
        return not (self.packages or self.added or self.removed or self.changed or self.settings)


def compare(
    before: tuple[Image, Contents, Mapping[str, Any]], after: tuple[Image, Contents, Mapping[str, Any]]
) -> ImageDiff:
    """Compare two images; each side is its manifest, its contents and its recipe."""
    packages = package_changes(_entries(*before[:2]), _entries(*after[:2]))
    old, new = before[1].files, after[1].files
    changed = sorted(path for path in old.keys() & new.keys() if old[path] != new[path])
    settings = _settings("", _configuration(before[0], before[2]), _configuration(after[0], after[2]))
    return ImageDiff(
        packages,
        tuple(sorted(new.keys() - old.keys())),
        tuple(sorted(old.keys() - new.keys())),
        tuple(changed),
        tuple(settings),
    )


def _entries(image: Image, contents: Contents) -> Iterator[Entry]:
    from packaging.utils import canonicalize_name

    for package in image.packages:
        size = None
        if package.kind == "deb" and package.name in contents.debs:
            size = contents.debs[package.name].size
        elif package.kind == "wheel" and (wheel := contents.wheels.get(canonicalize_name(package.name))):
            size = wheel.size
        yield Entry(package.kind, package.name, package.version, size)


def _configuration(image: Image, recipe: Mapping[str, Any]) -> dict[str, Any]:
    own = recipe.get("spec") or {}
    found = {key: image.spec.get(key) for key in SPEC_KEYS} | {key: own.get(key) for key in _OWN}
    found["base"] = f"{image.base['name']}@{image.base['version']}" if image.base else None
    found["toolchain"] = image.toolchain[:12]
    found["definition"] = recipe.get("definition")  # what the shared parts of templates do shows here only
    return {key: _by_name(value) for key, value in found.items()}


def _by_name(value: Any) -> Any:
    """A list of things that have a name or a path as a mapping, so that one more does not change all after it."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, dict) for item in value):
        key = next((key for key in _KEYED_BY if all(key in item for item in value)), None)
        if key and len({item[key] for item in value}) == len(value):
            return {item[key]: {name: part for name, part in item.items() if name != key} for item in value}
    return value


def _settings(path: str, old: Any, new: Any) -> Iterator[SettingChange]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _settings(f"{path}.{key}" if path else key, old.get(key), new.get(key))
        return
    yield SettingChange(path, old, new)


def folded(paths: Iterable[str]) -> list[tuple[str, int]]:
    """Paths with those below another one of them left out, and how many each stands for."""
    found: list[tuple[str, int]] = []
    for path in sorted(paths, key=lambda path: path.split("/")):
        if found and path.startswith(f"{found[-1][0]}/"):
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((path, 1))
    return found
