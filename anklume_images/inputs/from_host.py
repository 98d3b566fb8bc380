"""A package without files that stands for what the host of an instance provides, such as its driver's libraries.

dpkg and apt then know that it is there, in the build and in the instance. It follows from the spec alone, so no lock
has it; the bytes are the same each time.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anklume_images.specs.model import Spec

__all__ = ["HostPackage", "host_package"]

_VERSION = "1"


@dataclass(frozen=True)
class HostPackage:
    """The package of one image; `provides` has names of packages and the versions that the host has at least."""

    name: str
    provides: Mapping[str, str]
    version: str = _VERSION

    @property
    def control(self) -> str:
        """Its control paragraph (deb-control(5))."""
        provides = ", ".join(f"{name} (= {version})" for name, version in sorted(self.provides.items()))
        return (
            f"Package: {self.name}\nVersion: {self.version}\nArchitecture: all\nMulti-Arch: foreign\n"
            "Maintainer: anklume-images <anklume-images@localhost>\n"
            f"Section: misc\nPriority: optional\nProvides: {provides}\n"
            "Description: stands for what this machine's host provides\n"
            " It has no files: those that it provides are the host's, and are there when the machine runs.\n"
        )

    def deb(self, epoch: int) -> bytes:
        """The package itself (deb(5)); not compressed, it is nothing but ASCII."""
        members = {
            "debian-binary": b"2.0\n",
            "control.tar": _tar({"control": self.control.encode()}, epoch),
            "data.tar": _tar({}, epoch),
        }
        return b"!<arch>\n" + b"".join(_member(name, data, epoch) for name, data in members.items())

    def stanza(self, epoch: int) -> str:
        """Its paragraph in an archive's Packages file, but for `Filename`."""
        deb = self.deb(epoch)
        return f"{self.control}Size: {len(deb)}\nSHA256: {hashlib.sha256(deb).hexdigest()}"


def host_package(spec: Spec) -> HostPackage | None:
    """The package for what a spec says its instances have from their host; None where it says nothing."""
    provides = spec.debian.from_host if spec.debian else {}
    return HostPackage(f"{spec.name}-from-host", provides) if provides else None


def _tar(files: Mapping[str, bytes], epoch: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        folder = tarfile.TarInfo("./")
        folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o755, epoch
        archive.addfile(folder)
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mode, member.mtime = len(data), 0o644, epoch
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _member(name: str, data: bytes, epoch: int) -> bytes:
    """A file of an ar archive; each begins at an even byte."""
    head = f"{name:<16}{epoch:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n"
    return head.encode() + data + b"\n" * (len(data) % 2)
