"""The wheels that a host without a network installs the tool from: locked for its Python, the tool's own made here."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from anklume_images import __version__
from anklume_images.bundle.own_wheel import locked_requirements, make_wheel, required
from anklume_images.bundle.tool import Tool
from anklume_images.errors import LockError
from anklume_images.inputs.fetch import fetch
from anklume_images.inputs.mirrors import PYPI, Sources
from anklume_images.inputs.python import lock_wheels
from anklume_images.inputs.transport import Transport
from anklume_images.specs.keys import PythonInputs, VersionRule
from anklume_images.specs.model import Spec
from anklume_images.store.blobs import hash_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from anklume_images.inputs.fetch import Progress
    from anklume_images.inputs.lockfile import Lock, Wheel
    from anklume_images.settings import Settings
    from anklume_images.store.store import Lease, Store

__all__ = ["PYTHONS", "make_tool"]

PYTHONS = {"3.11": "bookworm", "3.12": "bookworm", "3.13": "trixie"}
"""Pythons that the wheels are for, each with the Debian whose libc is the oldest that it is found with."""

# What installs the rest where a Python has no pip. It is not part of the tool, so its lock is here.
_PIP = "pip==25.3"
_PIP_SHA256 = "9655943313a94722b7774661c21049070f6bbb0a1516bf02f7c8d5d9201514cd"
_PIN = re.compile(r"(?m)^([A-Za-z0-9._-]+==[^ \\\n]+)(?: ; ([^\\\n]+?))? *\\?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def make_tool(
    store: Store, architecture: str, trees: Mapping[str, Lock], lease: Lease, settings: Settings, progress: Progress
) -> Tool:
    """Have all wheels in the store; `trees` are locks whose packages are there.

    HostError where the tool's own wheel cannot be made.
    """
    requirements = locked_requirements()
    locked = requirements.read_text(encoding="utf-8")
    wheels: dict[str, Wheel] = {}
    sources = Sources.of_host(settings)
    with store.scratch("wheels") as scratch:
        own = make_wheel(scratch)
        requires = required(own)

        def lock(python: str) -> tuple[Wheel, ...]:
            return lock_wheels(
                _asked(own.parent, python, PYTHONS[python], (*requires, _PIP), locked),
                architecture,
                places=sources.python(),
                transport=Transport(sources.access(PYPI)),
                cache=scratch / "uv",
            )

        with ThreadPoolExecutor() as pool:  # most of it is waiting for the index
            for found in pool.map(lock, PYTHONS):
                wheels |= {wheel.path.rpartition("/")[2]: wheel for wheel in found}
        _check(wheels.values(), locked, requirements)
        lease.add(wheel.sha256 for wheel in wheels.values())
        fetch(wheels.values(), store.blobs, sources, progress=progress)
        sha256 = hash_file(own)
        lease.add([sha256])
        store.blobs.adopt(own, sha256)
    files = {own.name: sha256} | {name: wheel.sha256 for name, wheel in wheels.items()}
    blobs = {deb.sha256: deb.size for lock in trees.values() for deb in lock.debs}
    name = f"anklume-images-{__version__}-{architecture}"
    return Tool(name, tuple(PYTHONS), tuple(trees), dict(sorted(files.items())), dict(sorted(blobs.items())))


def _asked(folder: Path, python: str, release: str, requires: tuple[str, ...], locked: str) -> Spec:
    pins = tuple(f"{match[1]}{f' ; {match[2]}' if match[2] else ''}" for match in _PIN.finditer(locked))
    inputs = PythonInputs(version=python, requires=requires, constraints=pins)
    return Spec(
        name="tool",
        folder=folder,
        variant=None,
        description="The tool itself",
        version=VersionRule(literal="0"),
        base=None,
        distribution="debian",
        release=release,
        default=False,
        python=inputs,
    )


def _check(wheels: Iterable[Wheel], locked: str, requirements: Path) -> None:
    known = {_PIP_SHA256, *_HASH.findall(locked)}
    if strange := sorted(wheel.path for wheel in wheels if wheel.sha256 not in known):
        raise LockError(
            f"the index has other wheels than were locked: {', '.join(strange)}",
            where=str(requirements),
            hint="find out why; once you know, lock again: make requirements",
        )
