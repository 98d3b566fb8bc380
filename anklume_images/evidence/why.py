"""Why a package is in an image: the shortest way to it from each thing that somebody asked for."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anklume_images.architectures import MACHINES
from anklume_images.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from anklume_images.evidence.contents import Contents, InstalledWheel
    from anklume_images.store.images import Image

__all__ = ["Chain", "Root", "chains_to", "deb_graph", "roots_of", "wheel_graph"]


@dataclass(frozen=True)
class Root:
    """Something that is there for its own sake; `reason` says whose spec asks for it, or that Debian does."""

    kind: str
    name: str
    reason: str


@dataclass(frozen=True)
class Chain:
    """A root, and the packages from it to the one that was asked about, both included."""

    root: Root
    path: tuple[str, ...]


def roots_of(image: Image, contents: Contents, specs: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[Root, ...]:
    """What the image and its bases ask for; `specs` are their names and the specs of their recipes, own first.

    Tools that are there while building only are no roots.
    """
    found: dict[tuple[str, str], Root] = {}
    for name, spec in specs:
        for root in _asked(name, spec):
            found.setdefault((root.kind, root.name), root)
    for deb in contents.debs.values():
        if deb.root:
            found.setdefault(("deb", deb.name), Root("deb", deb.name, f"Debian itself: {deb.root}"))
    if "apt" in contents.debs:
        found.setdefault(("deb", "apt"), Root("deb", "apt", "in every root image"))
    for package in image.packages:
        if package.kind == "file":
            found.setdefault(("file", package.name), Root("file", package.name, "release file"))
    return tuple(found.values())


def _asked(name: str, spec: Mapping[str, Any]) -> Iterator[Root]:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    for package in (spec.get("debian") or {}).get("packages", ()):
        yield Root("deb", package, f"spec of {name}")
    python = spec.get("python") or {}
    lines = [*python.get("requires", ()), *python.get("without_dependencies", ())]
    lines += spec.get("contents", {}).get(python.get("requirements"), "").splitlines()
    for line in lines:
        try:
            yield Root("wheel", canonicalize_name(Requirement(line.partition("#")[0].strip()).name), f"spec of {name}")
        except InvalidRequirement:
            continue  # blank, a comment, an option
    for file in spec.get("release_files", ()):
        yield Root("file", file["name"], f"spec of {name}")


def chains_to(name: str, image: Image, contents: Contents, roots: Iterable[Root]) -> tuple[Chain, ...]:
    """The shortest way from each root to a package, the shortest first; StoreError when the image has no such one."""
    from packaging.utils import canonicalize_name

    target = next((kind for kind in _kinds(name, image, contents)), None)
    if target is None:
        from anklume_images.nearest import nearest

        close = nearest(name, sorted({package.name for package in image.packages}))
        hint = f"did you mean '{close}'?" if close else f"anklume-images show --json {image.ref} lists them"
        raise StoreError(f"{image.ref} has no package {name}", hint=hint)
    if target == "wheel":
        name = canonicalize_name(name)
    graph = wheel_graph(contents, roots) if target == "wheel" else deb_graph(contents) if target == "deb" else {}
    onward = _towards(name, graph)
    chains = []
    for root in roots:
        if root.kind == target and root.name in onward:
            path = [root.name]
            while path[-1] != name:
                path.append(onward[path[-1]])
            chains.append(Chain(root, tuple(path)))
    return tuple(sorted(chains, key=lambda chain: (len(chain.path), chain.path)))


def _kinds(name: str, image: Image, contents: Contents) -> Iterator[str]:
    from packaging.utils import canonicalize_name

    if name in contents.debs:
        yield "deb"
    if canonicalize_name(name) in contents.wheels:
        yield "wheel"
    if any(package.kind == "file" and package.name == name for package in image.packages):
        yield "file"


def _towards(name: str, graph: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """For each package that leads to `name`, the next one on a shortest way."""
    users: dict[str, list[str]] = {}
    for user in sorted(graph):
        for needed in graph[user]:
            users.setdefault(needed, []).append(user)
    onward = {name: name}
    left = deque([name])
    while left:
        here = left.popleft()
        for user in users.get(here, ()):
            if user not in onward:
                onward[user] = here
                left.append(user)
    return onward


def deb_graph(contents: Contents) -> dict[str, set[str]]:
    """Who depends on whom, as far as it is installed; a name that is only provided leads to those that provide it."""
    providers: dict[str, list[str]] = {}
    for deb in contents.debs.values():
        for virtual in deb.provides:
            providers.setdefault(virtual, []).append(deb.name)
    graph: dict[str, set[str]] = {}
    for deb in contents.debs.values():
        graph[deb.name] = set()
        for name in (name for group in deb.depends for name in group):
            graph[deb.name].update([name] if name in contents.debs else providers.get(name, ()))
    return graph


def wheel_graph(contents: Contents, roots: Iterable[Root]) -> dict[str, set[str]]:
    """Who requires whom; an extra's requirements count where somebody asks for that extra."""
    graph: dict[str, set[str]] = {name: set() for name in contents.wheels}
    left = [(root.name, "") for root in roots if root.kind == "wheel"] + [(name, "") for name in contents.wheels]
    seen = set(left)
    architectures = (deb.architecture for deb in contents.debs.values())
    machine = next((MACHINES[each] for each in architectures if each in MACHINES), "")
    while left:
        name, extra = left.pop()
        if name not in contents.wheels:
            continue
        for needed, extras in _required(contents.wheels[name], machine, extra):
            if needed in contents.wheels:
                graph[name].add(needed)
                new = {(needed, wanted) for wanted in extras} - seen
                seen |= new
                left += sorted(new)
    return graph


def _environment(wheel: InstalledWheel, machine: str) -> dict[str, str]:
    """What a marker may ask about (PEP 508), of the image's Python: an answer must not depend on this host's."""
    version = wheel.python or "3.11"
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{version}.0",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": "linux",
    }


def _required(wheel: InstalledWheel, machine: str, extra: str) -> Iterator[tuple[str, set[str]]]:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    for line in wheel.requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate(_environment(wheel, machine) | {"extra": extra}):
            yield canonicalize_name(requirement.name), {"", *requirement.extras}
