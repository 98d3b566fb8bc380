"""What real images say about themselves, read out of the files that were built."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anklume_images.errors import StoreError
from anklume_images.evidence.advisories import debian_key
from anklume_images.evidence.contents import contents_of, read_contents
from anklume_images.store.images import Images
from anklume_images.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anklume_images.builder.trees import Tree
    from anklume_images.evidence.contents import Contents
    from anklume_images.pipeline import Pipeline
    from anklume_images.store.images import Image
    from tests.conftest import Cli
    from tests.support.tiny import World

METADATA = "Name: Odd.Wheel\\nVersion: 2.0\\nLicense: MIT\\nRequires-Dist: other"
APP = f"""\
d=/opt/lib/site-packages; mkdir -p $d/odd_wheel-2.0.dist-info $d/inner/odd_wheel-1.0.dist-info
printf '{METADATA}\\n\\nText\\n' > $d/odd_wheel-2.0.dist-info/METADATA
printf 'a.py,sha256=x,100\\nb.py,,\\n"c,d.py",,23\\n' > $d/odd_wheel-2.0.dist-info/RECORD
printf 'Name: odd-wheel\\nVersion: 1.0\\n' > $d/inner/odd_wheel-1.0.dist-info/METADATA
mkdir -p /usr/lib/somewhere; printf 'VERSION_ID="13"\\n' > /usr/lib/somewhere/os-release
ln -s ../lib/somewhere/os-release /usr/lib/os-release; ln -s circle2 /circle; ln -s circle /circle2"""


@pytest.fixture(scope="module")
def inside(built: Callable[[str], Image], pipeline: Pipeline) -> Contents:
    """Debian's."""
    return contents_of(pipeline.store, built("debian"))


def test_packages_are_those_of_the_manifest(inside: Contents, built: Callable[[str], Image]) -> None:
    packages = built("debian").packages
    assert {name: deb.version for name, deb in inside.debs.items()} == {p.name: p.version for p in packages}
    libc = inside.debs["libc6"]
    assert libc.source == "glibc"
    assert libc.size > 5 << 20
    assert "LGPL-2.1-or-later" in libc.licences
    assert inside.debs["bash"].root == "essential"
    assert ("libc6",) in inside.debs["curl"].depends
    assert sum(bool(deb.licences) for deb in inside.debs.values()) > 0.8 * len(inside.debs)
    assert inside.release_number == "13"


def test_files_are_those_of_the_listing(inside: Contents, built: Callable[[str], Image]) -> None:
    regular = sum(entry.size for entry in inside.files.values() if entry.mode.startswith("-"))
    assert regular == built("debian").unpacked
    assert (inside.files["/bin"].mode[0], inside.files["/bin"].target) == ("l", "usr/bin")
    assert inside.files["/tmp"].mode == "drwxrwxrwt"


def test_wheels_and_links_are_found_as_a_machine_would(world: World) -> None:
    world.app("odd", APP.replace("\n", "; "))
    world.built("odd")
    images = Images(Store(world.store))
    image = images.resolve("odd")
    found = read_contents(Store(world.store).blobs.path(image.rootfs.sha256), ["Odd_Wheel", "absent"])
    (wheel,) = found.wheels.values()
    assert (wheel.name, wheel.version, wheel.size, wheel.requires) == ("odd-wheel", "2.0", 123, ("other",))
    assert wheel.licences == ("MIT",)
    assert found.release_number == "13"
    assert found.files["/circle"].target == "circle2"


def test_documents_of_an_image_built_before_there_were_all_are_made_anew(world: World) -> None:
    """Byte for byte those that a build makes now, out of the old one, the recipe, the lock and the files."""
    said = {name: world(name, "tiny-app").stdout for name in ("sbom", "provenance")}
    (folder,) = (world.store / "images" / "tiny-app").glob("*/*")
    (folder / "provenance.slsa.json").unlink()
    document = json.loads((folder / "sbom.cdx.json").read_text())
    for component in document["components"]:
        component.pop("licenses", None)
        component.pop("properties", None)
    (folder / "sbom.cdx.json").write_text(json.dumps(document))
    for name, text in said.items():
        assert world(name, "tiny-app").stdout == text
    rootfs = Store(world.store).blobs.path(Images(Store(world.store)).resolve("tiny-app").rootfs.sha256)
    rootfs.unlink()
    result = world("sbom", "tiny-app")
    assert json.loads(result.stdout) == document
    assert "warning: without licences and source packages" in result.stderr


def test_debians_bill_of_materials_has_licences_whenever_it_was_built(
    anklume: Cli, built: Callable[[str], Image]
) -> None:
    built("debian")
    components = {c["name"]: c for c in json.loads(anklume("sbom", "debian").stdout)["components"]}
    assert {"license": {"id": "GPL-3.0-or-later"}} in components["bash"]["licenses"]
    assert components["libc6"]["properties"][0]["value"].startswith("glibc@")


def test_provenance_names_every_input(anklume: Cli, pipeline: Pipeline, built: Callable[[str], Image]) -> None:
    image = built("debian")
    statement = json.loads(anklume("provenance", "debian").stdout)
    assert {"sha256": image.rootfs.sha256} in [subject["digest"] for subject in statement["subject"]]
    materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    digests = {entry["digest"]["sha256"] for entry in materials}
    assert {entry.sha256 for entry in pipeline.locks.get("debian")} < digests
    assert image.toolchain in digests


@pytest.mark.parametrize("size", [0, 50, 96, 5000, 1 << 20, -8192])
def test_a_file_that_is_cut_short_is_told(
    size: int, tmp_path: Path, built: Callable[[str], Image], pipeline: Pipeline
) -> None:
    place = tmp_path / "rootfs"
    place.write_bytes(pipeline.store.blobs.path(built("debian").rootfs.sha256).read_bytes()[:size])
    with pytest.raises(StoreError) as caught:
        read_contents(place)
    assert caught.value.where == str(place)


@pytest.mark.parametrize("place", [0, 20, 64, -40_000, -6000])
def test_another_byte_gives_an_answer_or_an_error(
    place: int, tmp_path: Path, built: Callable[[str], Image], pipeline: Pipeline
) -> None:
    """In the superblock, and in the tables, which are at the end."""
    data = bytearray(pipeline.store.blobs.path(built("debian").rootfs.sha256).read_bytes())
    data[place] ^= 0xFF
    (tmp_path / "rootfs").write_bytes(data)
    with contextlib.suppress(StoreError):
        read_contents(tmp_path / "rootfs")


def test_every_difference_is_told(world: World) -> None:
    one = world.built("tiny-app")["version"]
    world.app("tiny-app", "cp /etc/passwd /etc/copied; mkdir -p /srv/new; touch /srv/new/a; rm /etc/group")
    with (world.specs / "tiny-app" / "spec.yml").open("a") as spec:
        spec.write("ports: [80]\n")
    two = world.built("tiny-app")["version"]
    found = world.json("diff", f"tiny-app@{one}", f"tiny-app@{two}", rc=3)
    assert found["packages"] == [{"kind": "file", "name": "note", "old": "note.txt", "new": None, "bytes": None}]
    assert found["files"] == {"added": ["/srv", "/srv/new", "/srv/new/a"], "removed": ["/etc/group"], "changed": []}
    assert {"path": "ports", "old": [], "new": [80]} in found["settings"]
    lines = world("diff", f"tiny-app@{one}", f"tiny-app@{two}", rc=3).stdout.splitlines()
    assert {"  note: note.txt removed", "  + /srv (3 files)", "  - /etc/group", "  ports: [] → [80]"} <= set(lines)
    assert world("diff", "tiny-app", "tiny-app").stdout == "no differences\n"


def test_why(anklume: Cli, built: Callable[[str], Image]) -> None:
    built("llama-server")
    chains = anklume.json("why", "llama-server", "libssl3t64")["chains"]
    assert all(chain["path"][0] == chain["root"] and chain["path"][-1] == "libssl3t64" for chain in chains)
    assert "spec of debian" in {chain["reason"] for chain in chains}
    assert anklume.json("why", "llama-server", "llama.cpp-tools")["chains"][0]["reason"] == "spec of llama-server"
    assert "did you mean" in anklume("why", "llama-server", "libsl3t64", check=False).stderr


def test_everything_in_an_image_has_a_reason(
    pipeline: Pipeline, anklume: Cli, inside: Contents, built: Callable[[str], Image]
) -> None:
    from anklume_images.evidence.why import chains_to, roots_of

    image = built("debian")
    roots = roots_of(image, inside, [("debian", pipeline.images.document(image, "recipe")["spec"])])
    assert [name for name in inside.debs if not chains_to(name, image, inside, roots)] == []


def test_sources(anklume: Cli, inside: Contents, built: Callable[[str], Image]) -> None:
    built("debian")
    found = anklume.json("sources", "debian")
    assert sorted(name for source in found for name in source["packages"]) == sorted(inside.debs)
    (glibc,) = [source for source in found if source["name"] == "glibc"]
    assert {"libc6", "libc-bin"} <= set(glibc["packages"])
    assert "glibc" in anklume("sources", "debian").stdout


class TestScan:
    """`scan` against databases made for what is really installed."""

    def database(self, folder: Path, package: str, fixed: str | None, urgency: str = "high") -> Path:
        state: dict[str, Any] = {"status": "resolved" if fixed else "open", "urgency": urgency}
        state |= {"fixed_version": fixed} if fixed else {}
        path = folder / "debian.json"
        path.write_text(json.dumps({package: {"CVE-2026-1": {"description": "A hole", "releases": {"trixie": state}}}}))
        return path

    def test_a_hole_is_found_and_told(self, anklume: Cli, tmp_path: Path, built: Callable[[str], Image]) -> None:
        built("debian")
        path = self.database(tmp_path, "glibc", "99-1")
        result = anklume("scan", "debian", "--db", str(path), check=False)
        assert result.returncode == 3
        assert "CVE-2026-1" in result.stdout
        (found,) = json.loads(anklume("scan", "debian", "--db", str(path), "--json", check=False).stdout)["findings"]
        assert (found["package"], found["fixed"], found["severity"]) == ("glibc", "99-1", "high")
        assert "libc6" in found["packages"]

    def test_what_does_not_count_is_no_failure(
        self, anklume: Cli, tmp_path: Path, built: Callable[[str], Image]
    ) -> None:
        built("debian")
        path = self.database(tmp_path, "glibc", None, "low")
        answer = anklume.json("scan", "debian", "--db", str(path), "--severity", "medium")
        assert answer["findings"] == []
        assert answer["checked"]["deb"] > 50
        assert anklume.json("scan", "debian", "--db", str(path), "--fixed")["findings"] == []
        assert anklume("scan", "debian", "--db", str(path), check=False).returncode == 3

    def test_a_fixed_version_is_no_hole(self, anklume: Cli, tmp_path: Path, inside: Contents) -> None:
        path = self.database(tmp_path, "glibc", inside.debs["libc6"].source_version)
        assert anklume.json("scan", "debian", "--db", str(path))["findings"] == []

    def test_what_no_database_knows_is_said(self, anklume: Cli, tmp_path: Path, built: Callable[[str], Image]) -> None:
        built("debian")
        path = tmp_path / "osv.json"
        package = {"ecosystem": "PyPI", "name": "flask"}
        path.write_text(json.dumps({"id": "X-1", "affected": [{"package": package, "versions": ["1"]}]}))
        result = anklume("scan", "debian", "--db", str(path))
        assert "no database of these knows about: " in result.stderr

    def test_what_is_no_database_is_2(self, anklume: Cli, tmp_path: Path, built: Callable[[str], Image]) -> None:
        built("debian")
        (tmp_path / "x.json").write_text("nonsense")
        assert anklume("scan", "debian", "--db", str(tmp_path / "x.json"), check=False).returncode == 2

    def test_as_a_gate_it_keeps_an_image_back_whose_hole_is_fixed_elsewhere(
        self, anklume: Cli, tmp_path: Path, built: Callable[[str], Image]
    ) -> None:
        built("debian")
        asked = ("promote", "debian", "--to", str(tmp_path / "prod"), "--gate", "scan", "--db")
        refused = anklume(*asked, str(self.database(tmp_path, "curl", "99-1")), check=False)
        assert (refused.returncode, (tmp_path / "prod").exists()) == (4, False)
        assert "high CVE-2026-1: curl" in refused.stderr
        passed = anklume.json(*asked, str(self.database(tmp_path, "curl", None)), "--dry-run")
        assert passed["gates"][0].endswith("no vulnerability of severity medium or over that is fixed elsewhere")


# What Debian's policy allows, made of few characters so that versions are often alike.
PART = st.text("0123aZ.+~", max_size=6)
VERSION = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "0:", "1:"]),
    st.sampled_from("019"),
    PART,
    st.sampled_from(["", "-1", "-0~a", "-1+b1"]),
)


@pytest.fixture(scope="module")
def dpkg(toolchain: Tree) -> Callable[[list[tuple[str, str]]], list[int]]:
    """Compares pairs of versions with the toolchain's dpkg: -1, 0 or 1 each."""

    def compare(pairs: list[tuple[str, str]]) -> list[int]:
        script = """while read a b; do
            if dpkg --compare-versions $a lt $b; then echo -1; continue; fi
            if dpkg --compare-versions $a eq $b; then echo 0; else echo 1; fi
        done"""
        lines = "".join(f"{a} {b}\n" for a, b in pairs)
        argv = ["chroot", str(toolchain.root), "sh", "-c", script]
        said = subprocess.run(argv, input=lines, capture_output=True, text=True, check=True).stdout
        return [int(line) for line in said.split()]

    return compare


@given(pairs=st.lists(st.tuples(VERSION, VERSION), min_size=40, max_size=60))
@settings(max_examples=5)
def test_versions_are_ordered_as_dpkg_orders_them(
    pairs: list[tuple[str, str]], dpkg: Callable[[list[tuple[str, str]]], list[int]]
) -> None:
    keys = [(debian_key(a), debian_key(b)) for a, b in pairs]
    assert [(a > b) - (a < b) for a, b in keys] == dpkg(pairs)
