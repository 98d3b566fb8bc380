"""What an image says about itself: bill of materials, provenance, sources, why a package is there, how two differ."""

from __future__ import annotations

import json
from dataclasses import replace
from email import message_from_string
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from anklume_images.errors import StoreError
from anklume_images.evidence.changes import Entry, package_changes, size_change
from anklume_images.evidence.contents import FileEntry
from anklume_images.evidence.diff import compare, folded
from anklume_images.evidence.licences import debian_licences, wheel_licences
from anklume_images.evidence.provenance import make_provenance
from anklume_images.evidence.sbom import digests_of, digests_of_document, make_sbom
from anklume_images.evidence.sources import sources_of
from anklume_images.evidence.why import chains_to, roots_of
from anklume_images.inputs.lockfile import Deb, ReleaseFile, Wheel
from anklume_images.store.images import Package
from anklume_images.store.store import Store
from tests.support.contents import contents, deb, wheel
from tests.support.stored_images import put

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.evidence.contents import Contents
    from anklume_images.inputs.lockfile import LockedFile
    from anklume_images.store.images import Image

ONE = "1.0-00000000000a"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


class TestBillOfMaterials:
    """CycloneDX 1.6, complete and the same each time."""

    INPUTS: tuple[LockedFile, ...] = (
        Deb("debian", "pool/c/curl.deb", "a" * 64, 1, "curl", "8.14.1-2", "amd64", ""),
        Deb("debian", "pool/t/tzdata.deb", "b" * 64, 1, "tzdata", "1:2026a-0+deb13u1", "all", ""),
        Wheel("pypi", "Flask-3.1.whl", "c" * 64, 1, "flask", "3.1"),
        ReleaseFile("upstream", "v1/tool.tar.zst", "d" * 64, 1, "tool"),
    )

    CONTENTS = contents(
        deb("curl", "8.14.1-2", source="curl", licences=("curl", "GPL-2.0-or-later")),
        deb("tzdata", "1:2026a-0+deb13u1", architecture="all", source="tzdata", source_version="2026a-0+deb13u1"),
        wheel("flask", "3.1", licences=("BSD-3-Clause OR MIT",)),
    )

    def make(self, image: Image) -> bytes:
        return make_sbom(image, digests_of(self.INPUTS), self.CONTENTS)

    @pytest.fixture
    def image(self, store: Store) -> Image:
        packages = (
            Package("deb", "curl", "8.14.1-2"),
            Package("deb", "tzdata", "1:2026a-0+deb13u1"),
            Package("wheel", "flask", "3.1"),
            Package("file", "tool", "v1/tool.tar.zst"),
        )
        return replace(put(store, "debian", ONE), packages=packages)

    def components(self, image: Image) -> dict[str, Any]:
        document = json.loads(self.make(image))
        return {component["name"]: component for component in document["components"]}

    def test_every_package_has_its_hash(self, image: Image) -> None:
        found = {name: component["hashes"] for name, component in self.components(image).items()}
        assert found == {
            name: [{"alg": "SHA-256", "content": letter * 64}]
            for name, letter in zip(("curl", "tzdata", "flask", "tool"), "abcd", strict=True)
        }

    def test_every_package_has_its_url(self, image: Image) -> None:
        assert {name: component["purl"] for name, component in self.components(image).items()} == {
            "curl": "pkg:deb/debian/curl@8.14.1-2?arch=amd64",
            "tzdata": "pkg:deb/debian/tzdata@1:2026a-0%2Bdeb13u1?arch=all",
            "flask": "pkg:pypi/flask@3.1",
            "tool": "pkg:generic/tool@v1/tool.tar.zst",
        }

    def test_what_no_lock_names_has_no_hash(self, image: Image) -> None:
        other = replace(image, packages=(Package("deb", "curl", "9.0-1"),))
        assert "hashes" not in self.components(other)["curl"]

    def test_what_the_host_provides_is_not_called_a_part_of_it(self, image: Image) -> None:
        other = replace(image, packages=(*image.packages, Package("host", "libx.so.1", "550")))
        found = self.components(other)
        assert [name for name, component in found.items() if component.get("scope") == "optional"] == ["libx.so.1"]
        assert "its host provides" in found["libx.so.1"]["description"]
        assert not any("description" in component for name, component in found.items() if name != "libx.so.1")

    def test_it_says_whose_it_is_and_what_depends_on_what(self, image: Image) -> None:
        document = json.loads(self.make(image))
        assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
        component = document["metadata"]["component"]
        assert (component["name"], component["version"], component["type"]) == ("debian", ONE, "container")
        references = {component["bom-ref"] for component in document["components"]}
        assert len(references) == 4
        (root,) = [entry for entry in document["dependencies"] if entry["ref"] == component["bom-ref"]]
        assert set(root["dependsOn"]) == references

    def test_it_is_the_same_each_time(self, image: Image) -> None:
        first = self.make(image)
        assert make_sbom(image, digests_of(self.INPUTS[::-1]), self.CONTENTS) == first
        assert b"timestamp" not in first
        other = self.make(replace(image, recipe="e" * 64))
        assert json.loads(other)["serialNumber"] != json.loads(first)["serialNumber"]

    def test_licences_are_those_that_packages_state(self, image: Image) -> None:
        found = self.components(image)
        assert found["curl"]["licenses"] == [
            {"license": {"id": "GPL-2.0-or-later"}},
            {"license": {"id": "curl"}},
        ]
        assert found["flask"]["licenses"] == [{"expression": "BSD-3-Clause OR MIT"}]
        assert "licenses" not in found["tzdata"]
        assert "licenses" not in found["tool"]

    def test_packages_depend_on_what_they_need(self, image: Image) -> None:
        inside = contents(
            deb("curl", "8.14.1-2", needs="tzdata, absent"),
            deb("tzdata", provides=("zone",)),
            wheel("flask", "3.1", "x"),
        )
        found = {d["ref"]: d.get("dependsOn", []) for d in json.loads(make_sbom(image, {}, inside))["dependencies"]}
        assert found["deb/curl@8.14.1-2"] == ["deb/tzdata@1:2026a-0+deb13u1"]
        assert found["wheel/flask@3.1"] == []

    def test_a_name_that_is_no_identifier_is_a_name(self, image: Image) -> None:
        odd = contents(deb("curl", "8.14.1-2", licences=("public-domain",)))
        (found,) = (c for c in json.loads(make_sbom(image, {}, odd))["components"] if c["name"] == "curl")
        assert found["licenses"] == [{"license": {"name": "public-domain"}}]

    def test_a_package_has_its_source(self, image: Image) -> None:
        assert self.components(image)["tzdata"]["properties"] == [
            {"name": "anklume:source", "value": "tzdata@2026a-0+deb13u1"}
        ]

    def test_the_hashes_can_be_taken_from_it_again(self, image: Image) -> None:
        document = json.loads(self.make(image))
        assert digests_of_document(document) == digests_of(self.INPUTS)


COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: something
Comment: License: not this one

Files: *
Copyright: somebody
License: GPL-2+ or Artistic, and Expat

Files: debian/*
License: LGPL-2.1
 This text names License: nothing.

License: Expat
 Permission is hereby granted

Files: x
License: GFDL-NIV-1.3+ and/or BSD-3-clause
License: public-domain
"""


def test_debians_licences_have_their_spdx_names() -> None:
    assert debian_licences(COPYRIGHT) == (
        "Artistic-1.0",
        "BSD-3-Clause",
        "GFDL-1.3-no-invariants-or-later",
        "GPL-2.0-or-later",
        "LGPL-2.1-only",
        "MIT",
        "public-domain",
    )


def test_a_licence_that_is_not_stated_for_machines_is_not_guessed() -> None:
    assert debian_licences("This is free software.\nLicense: GPL-2+\n") == ()
    assert debian_licences("") == ()


MPL = "Classifier: License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: MIT OR Apache-2.0\nLicense: BSD\n", ("MIT OR Apache-2.0",)),
        ("License: mit\n", ("MIT",)),
        ("License: Apache License, Version 2.0\n", ("Apache-2.0",)),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\n", ("MIT",)),
        (
            f"License: {'a whole text ' * 20}\nClassifier: License :: OSI Approved\n{MPL}\n",
            ("MPL-2.0",),
        ),
        ("Name: nothing\n", ()),
    ],
)
def test_a_wheels_licence(metadata: str, expected: tuple[str, ...]) -> None:
    assert wheel_licences(message_from_string(metadata)) == expected


class TestProvenance:
    """SLSA v1 in an in-toto statement."""

    RECIPE: ClassVar[dict[str, Any]] = {
        "schema": 1,
        "packer": 1,
        "compression": "zstd-12",
        "epoch": 0,
        "definition": "image: {}",
        "spec": {"name": "app"},
        "base": "b" * 64,
    }
    LOCK: ClassVar[dict[str, Any]] = {
        "indexes": [{"archive": "debian", "suite": "trixie", "sha256": "1" * 64, "date": "2026-01-01T00:00:00Z"}],
        "debs": [{"archive": "debian", "path": "pool/c/curl.deb", "sha256": "a" * 64}],
        "wheels": [],
        "files": [{"archive": "own", "path": "v1/tool.tar.zst", "sha256": "d" * 64}],
    }

    @pytest.fixture
    def image(self, store: Store) -> Image:
        return put(store, "app", ONE, base=put(store, "debian", ONE))

    def test_it_names_what_was_made(self, image: Image) -> None:
        statement = json.loads(make_provenance(image, self.RECIPE, self.LOCK))
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
        assert [subject["digest"]["sha256"] for subject in statement["subject"]] == [
            image.metadata.sha256,
            image.rootfs.sha256,
            image.fingerprint,
        ]

    def test_it_names_everything_that_went_in(self, image: Image) -> None:
        predicate = json.loads(make_provenance(image, self.RECIPE, self.LOCK))["predicate"]
        definition = predicate["buildDefinition"]
        found = {entry["digest"]["sha256"] for entry in definition["resolvedDependencies"]}
        assert found == {image.recipe, image.toolchain, "b" * 64, "1" * 64, "a" * 64, "d" * 64}
        assert definition["externalParameters"]["spec"] == {"name": "app"}
        assert definition["internalParameters"]["definition"] == "image: {}"
        assert predicate["runDetails"]["builder"]["id"]

    def test_it_is_the_same_each_time(self, image: Image) -> None:
        assert make_provenance(image, self.RECIPE, self.LOCK) == make_provenance(image, self.RECIPE, self.LOCK)


class TestSources:
    """The source packages of what is in an image."""

    def test_binary_packages_are_put_together(self, store: Store) -> None:
        image = replace(
            put(store, "app", ONE),
            packages=(
                *(Package("deb", name, "1") for name in ("libc6", "libc-bin", "busybox")),
                Package("wheel", "Flask", "3.1"),
                Package("file", "tool", "v1/tool.tar"),
            ),
        )
        inside = contents(
            deb("libc6", "2.41-1+b1", source="glibc", source_version="2.41-1", licences=("LGPL-2.1-or-later",)),
            deb("libc-bin", "2.41-1+b1", source="glibc", source_version="2.41-1", licences=("MIT",)),
            deb("busybox", built_using=(("glibc", "2.40-9"),)),
            wheel("flask", "3.1", licences=("BSD-3-Clause",)),
        )
        found = {(source.name, source.version): source for source in sources_of(image, inside)}
        assert found["glibc", "2.41-1"].packages == ("libc-bin", "libc6")
        assert found["glibc", "2.41-1"].licences == ("LGPL-2.1-or-later", "MIT")
        assert (found["glibc", "2.40-9"].packages, found["glibc", "2.40-9"].built_in) == ((), ("busybox",))
        assert (found["Flask", "3.1"].kind, found["Flask", "3.1"].licences) == ("wheel", ("BSD-3-Clause",))
        assert found["tool", "v1/tool.tar"].kind == "file"


class TestWhy:
    """Which root pulled a package in."""

    SPEC: ClassVar[dict[str, Any]] = {"debian": {"packages": ["nginx"]}}

    @pytest.fixture
    def image(self, store: Store) -> Image:
        packages = (Package("deb", "nginx", "1"), Package("deb", "libc6", "1"), Package("file", "tool", "t"))
        return replace(put(store, "app", ONE), packages=packages)

    def chains(self, name: str, image: Image, inside: Contents, spec: dict[str, Any] | None = None) -> list[Any]:
        roots = roots_of(image, inside, [("app", spec or self.SPEC)])
        return [(chain.path, chain.root.reason) for chain in chains_to(name, image, inside, roots)]

    def test_the_shortest_way_from_each_root(self, image: Image) -> None:
        inside = contents(
            deb("nginx", needs="nginx-common,libc6"),
            deb("nginx-common", needs="libc6"),
            deb("bash", needs="libtinfo6", root="essential"),
            deb("libtinfo6", needs="libc6"),
            deb("libc6"),
        )
        assert self.chains("libc6", image, inside) == [
            (("nginx", "libc6"), "spec of app"),
            (("bash", "libtinfo6", "libc6"), "Debian itself: essential"),
        ]

    def test_what_was_asked_for_is_its_own_reason(self, image: Image) -> None:
        assert self.chains("nginx", image, contents(deb("nginx"))) == [(("nginx",), "spec of app")]

    def test_of_alternatives_the_one_that_is_there_counts(self, image: Image) -> None:
        inside = contents(deb("nginx", needs="exim | mail"), deb("postfix", provides=("mail",)), deb("unasked"))
        assert self.chains("postfix", image, inside) == [(("nginx", "postfix"), "spec of app")]
        assert self.chains("unasked", image, inside) == []

    def test_a_circle_ends(self, image: Image) -> None:
        inside = contents(deb("nginx", needs="a"), deb("a", needs="b"), deb("b", needs="a"))
        assert self.chains("b", image, inside) == [(("nginx", "a", "b"), "spec of app")]

    def test_wheels_and_their_extras(self, image: Image) -> None:
        inside = contents(
            wheel("server", "1", "Web-Core[fast]>=1", 'plain; extra == "fast"'),
            wheel("plain"),
            wheel("web-core", "1", 'quick; extra == "fast"', 'other; extra == "slow"', 'win; os_name == "nt"'),
            wheel("quick"),
            wheel("other"),
            wheel("win"),
        )
        spec = {
            "python": {"requires": ["Server==1"], "requirements": "r.txt"},
            "contents": {"r.txt": "# x\nother\n-x\n"},
        }
        assert self.chains("Quick", image, inside, spec) == [(("server", "web-core", "quick"), "spec of app")]
        assert self.chains("other", image, inside, spec) == [(("other",), "spec of app")]
        assert self.chains("win", image, inside, spec) == []
        assert self.chains("plain", image, inside, spec) == [], "nobody asks for that extra of the server"

    @pytest.mark.parametrize(("python", "there"), [("3.9", True), ("3.13", False)])
    def test_markers_ask_about_the_images_python(self, python: str, there: bool, image: Image) -> None:
        marker = 'needed; python_version < "3.11" and platform_machine == "x86_64"'
        inside = contents(deb("any"), wheel("server", "1", marker, python=python), wheel("needed"))
        spec = {"python": {"requires": ["server"]}}
        assert bool(self.chains("needed", image, inside, spec)) is there

    def test_a_release_file_is_a_root(self, image: Image) -> None:
        spec = {"release_files": [{"name": "tool"}]}
        assert self.chains("tool", image, contents(), spec) == [(("tool",), "spec of app")]

    def test_the_nearest_name_is_told(self, image: Image) -> None:
        with pytest.raises(StoreError) as caught:
            self.chains("ngnix", image, contents(deb("nginx")))
        assert "'nginx'" in str(caught.value.hint)


def test_a_line_for_each_package() -> None:
    before = [
        Entry("deb", "curl", "1-1", 1000 << 10),
        Entry("deb", "gone", "2-1", 5 << 20),
        Entry("deb", "same", "1", 1),
        Entry("wheel", "rebuilt", "1", 10, "a" * 64),
        Entry("file", "tool", "v1"),
    ]
    after = [
        Entry("deb", "curl", "1-2", 1013 << 10),
        Entry("deb", "new", "3-1", 100),
        Entry("deb", "same", "1", 1),
        Entry("wheel", "rebuilt", "1", 10, "b" * 64),
        Entry("file", "tool", "v2"),
    ]
    assert [str(change) for change in package_changes(before, after)] == [
        "curl: 1-1 → 1-2, +13 KiB",
        "gone: 2-1 removed, -5.0 MiB",
        "new: 3-1 added, +100 B",
        "tool: v1 → v2",
        "rebuilt: 1, other bytes",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "+0 B"), (-1023, "-1023 B"), (1024, "+1 KiB"), (-(3 << 30), "-3.0 GiB"), (5 << 40, "+5120.0 GiB")],
)
def test_sizes_of_changes(count: int, text: str) -> None:
    assert size_change(count) == text


class TestDiff:
    """Files and settings of two images."""

    def side(self, image: Image, files: dict[str, FileEntry], spec: dict[str, Any], **own: Any) -> Any:
        return replace(image, spec=image.spec | spec), contents(files=files), {"spec": own}

    def test_files(self, store: Store) -> None:
        image = put(store, "app", ONE)
        one, other = FileEntry("-rw-r--r--", "0:0", 1), FileEntry("-rw-r--r--", "0:0", 2)
        link = FileEntry("lrwxrwxrwx", "0:0", target="a")
        before = {"/same": one, "/gone": one, "/size": one, "/kind": one, "/mode": one}
        after = {"/same": one, "/new": one, "/size": other, "/kind": link, "/mode": FileEntry("-rwxr-xr-x", "0:0", 1)}
        found = compare(self.side(image, before, {}), self.side(image, after, {}))
        assert (found.added, found.removed, found.changed) == (("/new",), ("/gone",), ("/kind", "/mode", "/size"))
        assert not found.empty

    def test_settings_are_told_by_their_paths(self, store: Store) -> None:
        image = put(store, "app", ONE)
        port = {"type": "port", "default": 80}
        before = self.side(
            image, {}, {"variables": {"port": port}, "ports": [80]}, templates=[{"path": "/a", "mode": "0644"}]
        )
        after = self.side(
            image,
            {},
            {"variables": {"port": port | {"default": 81}, "name": port}, "ports": [81]},
            templates=[{"path": "/0", "mode": "0644"}, {"path": "/a", "mode": "0600"}],
        )
        found = {change.path: (change.old, change.new) for change in compare(before, after).settings}
        assert found == {
            "variables.port.default": (80, 81),
            "variables.name": (None, port),
            "ports": ([80], [81]),
            "templates./a.mode": ("0644", "0600"),
            "templates./0": (None, {"mode": "0644"}),
        }

    def test_an_image_is_like_itself(self, store: Store) -> None:
        side = self.side(put(store, "app", ONE), {"/a": FileEntry("-", "0:0")}, {"ports": [1]}, description="x")
        assert compare(side, side).empty

    def test_what_lies_below_is_folded(self) -> None:
        paths = ["/a/b", "/a", "/a/b/c", "/a.txt", "/z/1", "/z/2"]
        assert folded(paths) == [("/a", 3), ("/a.txt", 1), ("/z/1", 1), ("/z/2", 1)]
