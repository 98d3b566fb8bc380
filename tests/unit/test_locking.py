"""Which lock counts: the committed one while it answers what is asked, or one that was resolved anew in its place."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from anklume_images.builder.trees import load_tree_spec
from anklume_images.errors import InvalidFileError, LockError
from anklume_images.inputs.lockfile import Deb, Lock, Wheel, load_locks, save_lock
from anklume_images.locking import TOOLCHAIN, Locks, is_tree
from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

ROOT_SPEC = """\
name: root
description: A root image
version: {package: base-files}
distribution: debian
release: trixie
inputs: {debian: {suites: [{archive: debian, suite: trixie}]}}
"""
APP_SPEC = """\
name: app
description: An application
version: "1.0"
from: root
inputs: {debian: {suites: [{archive: debian, suite: trixie}], packages: [curl]}}
variants:
  large:
    version: {python: Big-Thing}
    inputs: {python: {version: "3.13", requires: [big-thing]}}
"""


def deb(name: str, version: str = "1.0-1") -> Deb:
    return Deb("debian", f"pool/{name}.deb", (name.encode().hex() + "0" * 64)[:64], 1, name, version, "amd64", "")


class Folder:
    """A folder of specs, a store, and the locks of both."""

    def __init__(self, place: Path) -> None:
        self.specs = place / "specs"
        for name, text in (("root", ROOT_SPEC), ("app", APP_SPEC)):
            (self.specs / name).mkdir(parents=True)
            (self.specs / name / "spec.yml").write_text(text)
            (self.specs / name / "distrobuilder.yaml.j2").write_text("")
        self.store = Store(place / "store")

    @property
    def locks(self) -> Locks:
        """Read anew each time, as each command does."""
        return Locks(self.store, Catalog.load([self.specs]), "amd64")

    def lock(self, name: str, *debs: Deb, base: str | None = None) -> Lock:
        return Lock(name, "amd64", self.locks.request(name), 0, "1.0", debs=debs, base=base)

    def commit(self, name: str, *debs: Deb) -> Lock:
        base = self.locks.catalog.get(name).base
        lock = self.lock(name, *debs, base=self.locks.get(base).content() if base else None)
        save_lock(self.locks.path(name), lock)
        return lock


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_the_committed_lock_counts(folder: Folder) -> None:
    root = folder.commit("root", deb("base-files"))
    app = folder.commit("app", deb("curl"))
    assert folder.locks.get("root") == root
    assert folder.locks.get("app") == app
    assert folder.locks.path("app-large").name == "lock-large.json"


def test_no_lock_is_told_with_the_command(folder: Folder) -> None:
    with pytest.raises(LockError, match="root is not locked for amd64") as caught:
        folder.locks.get("root")
    assert caught.value.hint == "run: anklume-images lock root"
    assert caught.value.where == str(folder.specs / "root" / "lock.json")


def test_a_lock_of_another_architecture_is_none(folder: Folder) -> None:
    lock = folder.commit("root")
    with pytest.raises(LockError, match="root is not locked for arm64"):
        Locks(folder.store, Catalog.load([folder.specs]), "arm64").get("root")
    assert folder.locks.get("root") == lock


def test_a_changed_spec_makes_its_lock_stale(folder: Folder) -> None:
    folder.commit("root")
    folder.commit("app", deb("curl"))
    spec = folder.specs / "app" / "spec.yml"
    spec.write_text(spec.read_text().replace("packages: [curl]", "packages: [curl, jq]"))
    assert folder.locks.get("root")
    with pytest.raises(LockError, match="the spec of app changed since it was locked") as caught:
        folder.locks.get("app")
    assert caught.value.hint == "run: anklume-images lock app"


def test_a_description_is_not_asked_of_an_archive(folder: Folder) -> None:
    lock = folder.commit("root")
    spec = folder.specs / "root" / "spec.yml"
    spec.write_text(spec.read_text().replace("A root image", "Another text"))
    assert folder.locks.get("root") == lock


def test_a_base_locked_anew_makes_its_childrens_locks_stale(folder: Folder) -> None:
    folder.commit("root", deb("base-files", "1"))
    folder.commit("app", deb("curl"))
    folder.commit("root", deb("base-files", "1"), deb("more"))
    with pytest.raises(LockError, match="the base of app was locked anew since") as caught:
        folder.locks.get("app")
    assert caught.value.hint == "run: anklume-images lock app"


def test_newer_indexes_of_the_same_packages_change_nothing(folder: Folder) -> None:
    old = folder.commit("root", deb("base-files"))
    folder.commit("app", deb("curl"))
    assert not folder.locks.save(replace(old, epoch=old.epoch + 5))
    assert folder.locks.get("root") == old
    assert folder.locks.save(replace(old, debs=(deb("base-files", "2"),), upstream="2"))
    assert folder.locks.get("root").upstream == "2"


def test_saving_mends_a_lock_edited_by_hand(folder: Folder) -> None:
    lock = folder.commit("root", deb("base-files"))
    path = folder.locks.path("root")
    path.write_text(path.read_text().replace("pool/", "lake/"))
    with pytest.raises(LockError, match="edited"):
        folder.locks.get("root")
    assert folder.locks.save(lock)
    assert folder.locks.get("root") == lock


def test_a_refreshed_lock_stands_in_for_the_committed_one(folder: Folder) -> None:
    committed = folder.commit("root", deb("base-files", "1"))
    fresh = folder.lock("root", deb("base-files", "2"))
    path = folder.locks.keep(fresh)
    assert path.parent == folder.store.home / "locks" / "root"
    assert folder.locks.get("root") == folder.locks.refreshed("root") == fresh
    assert load_locks(folder.locks.path("root"))["amd64"] == committed


def test_it_stands_in_for_no_other(folder: Folder) -> None:
    folder.commit("root", deb("base-files", "1"))
    folder.locks.keep(folder.lock("root", deb("base-files", "2")))
    third = folder.commit("root", deb("base-files", "3"))
    assert folder.locks.get("root") == third
    assert folder.locks.refreshed("root") is None


def test_it_counts_no_more_when_the_spec_changed(folder: Folder) -> None:
    folder.commit("root")
    folder.locks.keep(folder.lock("root", deb("base-files", "2")))
    spec = folder.specs / "root" / "spec.yml"
    spec.write_text(spec.read_text().replace("suite: trixie", "suite: forky"))
    with pytest.raises(LockError, match="the spec of root changed"):
        folder.locks.get("root")


def test_a_refreshed_base_makes_its_childrens_locks_stale(folder: Folder) -> None:
    folder.commit("root", deb("base-files", "1"))
    folder.commit("app", deb("curl"))
    folder.locks.keep(folder.lock("root", deb("base-files", "1"), deb("more")))
    with pytest.raises(LockError, match="the base of app was locked anew since"):
        folder.locks.get("app")
    child = folder.lock("app", deb("curl"), base=folder.locks.get("root").content())
    folder.locks.keep(child)
    assert folder.locks.get("app") == child


def test_the_version_follows_its_rule(folder: Folder) -> None:
    from anklume_images.locking import _upstream

    def upstream(name: str, lock: Lock, *installed: Deb) -> str:
        return _upstream(folder.locks.catalog.get(name), lock, installed)

    lock = folder.lock("root", deb("base-files", "1:13.8+deb13u2"), deb("curl", "8"))
    assert upstream("root", lock) == "13.8"
    assert upstream("root", folder.lock("root"), deb("base-files", "13.8-2")) == "13.8"
    assert upstream("app", folder.lock("app")) == "1.0"
    wheel = Wheel("pypi", "big_thing-2.1.whl", "d" * 64, 1, "big-thing", "2.1")
    assert upstream("app-large", replace(lock, wheels=(wheel,))) == "2.1"
    with pytest.raises(LockError, match="the version of app-large is to be that of Big-Thing") as caught:
        upstream("app-large", lock)
    assert caught.value.where == str(folder.specs / "app" / "spec.yml")


def test_trees_are_locked_too(folder: Folder) -> None:
    assert is_tree(TOOLCHAIN)
    assert not is_tree("root")
    locks = Locks(folder.store, Catalog.load([builtin_specs()]), "amd64")
    names = {deb.package for deb in locks.get(TOOLCHAIN).debs}
    assert {"distrobuilder", "debootstrap", "squashfs-tools", "apt", "zstd", "xz-utils"} <= names


def test_what_is_wrong_in_a_tree_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anklume_images.builder.trees.SPECS", tmp_path)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "tree.yml").write_text(
        "name: odd\nrelease: trixie\nsuites: [{archive: debian, suite: trixie}]\npackages: [Bad]\n"
    )
    with pytest.raises(InvalidFileError) as caught:
        load_tree_spec("odd")
    assert [(p.line, p.code, p.path) for p in caught.value.problems] == [
        (2, "unknown-key", "release"),
        (4, "wrong-value", "packages[0]"),
    ]
    with pytest.raises(LockError, match="no tree is called none"):
        load_tree_spec("none")
