"""Newer inputs are shown first and written when asked: of Debian's suites, of releases, of what cannot be reached."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.architectures import host_architecture
from anklume_images.inputs.lockfile import load_locks, save_lock
from anklume_images.inputs.releases import is_newer
from tests.support.faulty_mirror import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.tiny import World

ARCH = host_architecture()
SPEC = """\
name: {name}
description: A stand-in image
version: "1.0"
from: {base}
architectures: [{arch}]
{more}
"""


def write(world: World, name: str, more: str, *, base: str = "tiny", lock: bool = True) -> Path:
    """Write a spec and lock it; its lock file."""
    folder = world.specs / name
    folder.mkdir()
    (folder / "spec.yml").write_text(SPEC.format(name=name, base=base, arch=ARCH, more=more))
    (folder / "distrobuilder.yaml.j2").write_text('{% extends "_image.yaml.j2" %}\n')
    if lock:
        world("--arch", ARCH, "lock", name)
    return folder / "lock.json"


class Forge:
    """Releases on the mirror, as GitHub has them."""

    def __init__(self, world: World, project: str) -> None:
        self.world = world
        self.prefix = f"{project}/releases"
        self.spec = (
            f"archives: {{forge: {world.mirror.url}/{self.prefix}/download}}\ninputs:\n  files:\n"
            f"    - {{name: tool, archive: forge, path: {{{ARCH}: v1.9/tool.tar}}, checksums: v1.9/SHA256SUMS}}\n"
        )

    def release(self, tag: str, body: bytes) -> None:
        self.world.serve(f"{self.prefix}/download/{tag}/tool.tar", body)
        sums = f"{hashlib.sha256(body).hexdigest()}  tool.tar\n"
        self.world.serve(f"{self.prefix}/download/{tag}/SHA256SUMS", sums.encode())

    def latest(self, tag: str) -> None:
        self.world.serve(f"{self.prefix}/tag/{tag}", b"a page")
        to = Fault(status=302, headers={"Location": f"/{self.prefix}/tag/{tag}"})
        self.world.mirror.fault(f"/{self.prefix}/latest", always=to)


@pytest.fixture
def forge(fresh: World, request: pytest.FixtureRequest) -> Forge:
    forge = Forge(fresh, request.node.name)
    forge.release("v1.9", b"a tool")
    forge.latest("v1.9")
    return forge


def only(answer: dict[str, Any], key: str = "updates") -> dict[str, Any]:
    (entry,) = answer[key]
    return dict(entry)


def test_a_release_with_other_bytes_is_shown_and_written_when_asked(forge: Forge) -> None:
    world = forge.world
    lock = write(world, "app", forge.spec)
    before = lock.read_bytes()
    assert only(world.json("--arch", ARCH, "update", "app"))["changed"] is False
    assert world.json("outdated", "app")["outdated"] == []
    forge.release("v1.9", b"a tool, made once more")
    entry = only(world.json("--arch", ARCH, "update", "app", rc=3))
    change = {"kind": "file", "name": "tool", "old": "v1.9/tool.tar", "new": "v1.9/tool.tar", "bytes": 16}
    assert (entry["changed"], entry["written"], entry["packages"]) == (True, False, [change])
    assert lock.read_bytes() == before
    result = world("--arch", ARCH, "update", "app", rc=3)
    assert result.stdout.splitlines() == [
        f"app ({ARCH}): newer inputs",
        "  tool: v1.9/tool.tar, other bytes, +16 B",
    ]
    assert "update --write" in result.stderr
    assert only(world.json("--arch", ARCH, "update", "app", "--write"))["written"] is True
    assert lock.read_bytes() != before
    assert only(world.json("--arch", ARCH, "update", "app"))["changed"] is False


def test_a_newer_release_is_told(forge: Forge) -> None:
    world = forge.world
    write(world, "app", forge.spec)
    forge.latest("v1.10")
    (release,) = only(world.json("--arch", ARCH, "update", "app", rc=3))["releases"]
    assert (release["tag"], release["newest"], release["outdated"]) == ("v1.9", "v1.10", True)
    row = {"name": "app", "kind": "release", "input": "tool", "locked": "v1.9", "newest": "v1.10"}
    assert world.json("outdated", "app", rc=3)["outdated"] == [row]
    assert ["app", "release", "tool", "v1.9", "v1.10"] in [
        line.split() for line in world("outdated", "app", rc=3).stdout.splitlines()
    ]


def test_a_forge_that_does_not_answer_is_told_and_stops_nobody(forge: Forge) -> None:
    world = forge.world
    write(world, "app", forge.spec)
    note = hashlib.sha256(world.bodies["note.txt"]).hexdigest()
    write(
        world,
        "other",
        f"archives: {{own: {world.mirror.url!r}}}\ninputs:\n  files:\n"
        f"    - {{name: note, archive: own, path: {{{ARCH}: note.txt}}, sha256: {{{ARCH}: {note}}}}}\n",
    )
    world.mirror.fault(f"/{forge.prefix}/latest", always=Fault(status=403))
    answer = world.json("--arch", ARCH, "update", "app", "other", rc=1)
    app, other = answer["updates"]
    assert (app["releases"][0]["newest"], app["releases"][0]["unreachable"]) == (None, True)
    assert "403 Forbidden" in app["releases"][0]["reason"]
    assert (other["changed"], other["error"], other["releases"][0]["unreachable"]) == (False, None, False)
    result = world("outdated", "app", "other", rc=1)
    assert "403 Forbidden" in result.stderr
    asked = [request for request in world.mirror.requests if request.path == f"/{forge.prefix}/latest"]
    assert len(asked) == 2, "once for each command"


def test_an_image_that_cannot_be_resolved_stops_no_other(forge: Forge) -> None:
    world = forge.world
    write(world, "app", forge.spec)
    write(world, "gone", forge.spec)
    (world.specs / "gone" / "spec.yml").write_text(
        SPEC.format(name="gone", base="tiny", arch=ARCH, more=forge.spec.replace("v1.9", "v0.1"))
    )
    forge.release("v1.9", b"another tool")
    gone, app = world.json("--arch", ARCH, "update", "gone", "app", "--write", rc=1)["updates"]
    assert "v0.1/SHA256SUMS" in gone["error"]
    assert (app["written"], app["error"]) == (True, None)


def test_newer_packages_of_debian(fresh: World) -> None:
    """Against the real archive, with a lock that says an older version than it has."""
    suites = "inputs: {debian: {suites: [{archive: debian, suite: trixie}], packages: [%s]}}\n"
    path = write(fresh, "plain", suites % "hostname")
    child = write(fresh, "child", suites % "jq", base="plain", lock=False)
    lock = load_locks(path)[ARCH]
    old = [replace(deb, version="0.1-1", sha256="0" * 64) if deb.package == "hostname" else deb for deb in lock.debs]
    save_lock(path, replace(lock, debs=tuple(deb for deb in old if deb.package != "libc6")))
    before = path.read_bytes()
    plain, above = fresh.json("--arch", ARCH, "update", "plain", "child", rc=3)["updates"]
    changes = {change["name"]: (change["old"], change["new"]) for change in plain["packages"]}
    versions = {deb.package: deb.version for deb in lock.debs}
    assert changes == {"hostname": ("0.1-1", versions["hostname"]), "libc6": (None, versions["libc6"])}
    names = {change["name"] for change in above["packages"]}
    assert "jq" in names
    assert "libc6" not in names, "resolved upon the base's new lock, which brings it"
    assert (path.read_bytes(), child.exists()) == (before, False)
    result = fresh("--arch", ARCH, "update", "plain", "--write")
    assert f"  hostname: 0.1-1 → {versions['hostname']}" in result.stdout.splitlines()
    assert "child" in result.stderr, "is to be locked after it"
    assert load_locks(path)[ARCH].content() == lock.content()


@pytest.mark.parametrize(
    ("tag", "than", "newer"),
    [
        ("v0.33.0", "v0.32.7", True),
        ("v0.32.7", "v0.32.7", False),
        ("v0.32.10", "v0.32.7", True),
        ("v0.33.0-rc1", "v0.33.0", False),
        ("b10488", "b10434", True),
        ("b10488", "b10488", False),
        ("b9000", "b10434", False),
        ("nightly", "b10434", True),
    ],
)
def test_tags(tag: str, than: str, newer: bool) -> None:
    assert is_newer(tag, than) is newer
