"""Lock files: one spelling, an edit by hand is seen, and each architecture stands for itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.builder.trees import tree_names
from anklume_images.canonical import canonical
from anklume_images.errors import LockError
from anklume_images.inputs.lockfile import Deb, Index, Lock, ReleaseFile, Wheel, load_locks, save_lock
from anklume_images.specs.catalog import builtin_specs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOCK = Lock(
    name="app",
    architecture="amd64",
    request="a" * 64,
    epoch=1_700_000_000,
    upstream="1.0",
    indexes=(Index("debian", "trixie", "b" * 64, "2023-11-14T22:13:20Z"),),
    debs=(Deb("debian", "pool/c/curl.deb", "c" * 64, 5, "curl", "8.14", "amd64", "Package: curl\nDescription: naïve"),),
    wheels=(Wheel("pypi", "uv-1.whl", "d" * 64, 6, "uv", "1", tool=True),),
    files=(ReleaseFile("upstream", "v1/tool.tar.zst", "e" * 64, 7, "tool"),),
    base="f" * 64,
)
ARM = replace(LOCK, architecture="arm64")


def test_a_lock_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    save_lock(path, LOCK)
    assert load_locks(path) == {"amd64": LOCK}
    save_lock(path, ARM)
    assert load_locks(path) == {"amd64": LOCK, "arm64": ARM}
    save_lock(path, replace(LOCK, upstream="2.0"))
    assert load_locks(path)["amd64"].upstream == "2.0"
    assert load_locks(path)["arm64"] == ARM


def test_there_is_one_spelling(tmp_path: Path) -> None:
    for name, order in (("one", (LOCK, ARM)), ("two", (ARM, LOCK))):
        for lock in order:
            save_lock(tmp_path / name, lock)
    text = (tmp_path / "one").read_text()
    assert text == (tmp_path / "two").read_text()
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    assert "naïve" in text


def test_it_holds_everything_in_order() -> None:
    assert [entry.sha256[0] for entry in LOCK] == ["c", "d", "e"]


def test_no_file_is_no_lock(tmp_path: Path) -> None:
    assert load_locks(tmp_path / "lock.json") == {}


CHANGES: dict[str, Callable[[Lock], Lock]] = {
    "a package": lambda lock: replace(lock, debs=()),
    "a hash": lambda lock: replace(lock, files=(replace(lock.files[0], sha256="0" * 64),)),
    "the base": lambda lock: replace(lock, base=None),
    "the version": lambda lock: replace(lock, upstream="2"),
    "the architecture": lambda lock: replace(lock, architecture="arm64"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_content_changes_with_what_goes_into_the_image(what: str) -> None:
    changed = CHANGES[what](LOCK)
    assert changed.content() != LOCK.content()
    assert changed.digest() != LOCK.digest()


def test_content_does_not_change_with_newer_indexes_of_the_same_packages() -> None:
    newer = replace(LOCK, indexes=(replace(LOCK.indexes[0], date="2024-01-01T00:00:00Z"),), epoch=LOCK.epoch + 1)
    assert newer.content() == LOCK.content()
    assert newer.digest() != LOCK.digest()


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a hash": lambda part: part["debs"][0].update(sha256="0" * 64),
    "a size": lambda part: part["files"][0].update(size=8),
    "a path": lambda part: part["files"][0].update(path="v2/tool.tar.zst"),
    "the request": lambda part: part.update(request="0" * 64),
    "a package less": lambda part: part["debs"].clear(),
    "an index's date": lambda part: part["indexes"][0].update(date="2020-01-01T00:00:00Z"),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_by_hand_is_seen(what: str, tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    save_lock(path, LOCK)
    save_lock(path, ARM)
    edited(path, lambda document: EDITS[what](document["architectures"]["amd64"]))
    with pytest.raises(LockError, match="the part for amd64 was edited after it was locked") as caught:
        load_locks(path)
    assert caught.value.where == str(path)
    assert "anklume-images lock app" in str(caught.value.hint)
    # Locking again mends that part, and leaves the other as it was.
    save_lock(path, LOCK)
    assert load_locks(path) == {"amd64": LOCK, "arm64": ARM}


def test_spelling_alone_is_no_edit(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    save_lock(path, LOCK)
    edited(path, lambda _: None)
    assert load_locks(path) == {"amd64": LOCK}


BROKEN = {
    "nothing": "",
    "half": '{"schema": 1, "arch',
    "a list": "[]",
    "no digests": '{"schema": 1, "architectures": {}}',
    "another shape": '{"schema": 1, "architectures": {"amd64": {}}, "digests": {}}',
    "an unknown field": '{"schema": 1, "architectures": {"amd64": {"novelty": 1}}, "digests": {}}',
    "no text": "\udcff\udcfe",
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_lock_file_is_told_and_mended(what: str, tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    path.write_bytes(BROKEN[what].encode("utf-8", "surrogateescape"))
    with pytest.raises(LockError, match="not a lock file") as caught:
        load_locks(path)
    assert "anklume-images lock" in str(caught.value.hint)
    save_lock(path, LOCK)
    assert load_locks(path) == {"amd64": LOCK}


def test_a_later_schema_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    path.write_text('{"schema": 2}')
    with pytest.raises(LockError, match="lock of schema 2, this program knows 1") as caught:
        load_locks(path)
    assert "update anklume-images" in str(caught.value.hint)


def test_canonical_json_has_one_form() -> None:
    assert canonical({"b": [1, "é"], "a": None}) == '{"a":null,"b":[1,"é"]}'.encode()


def committed() -> list[Path]:
    trees = builtin_specs().parent / "anklume_images" / "trees"
    return [*sorted(builtin_specs().glob("*/lock*.json")), *(trees / name / "lock.json" for name in tree_names())]


@pytest.mark.parametrize("path", committed(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_committed_locks_are_sound_and_name_no_host(path: Path) -> None:
    locks = load_locks(path)
    assert locks
    for lock in locks.values():
        for entry in lock:
            assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
            assert entry.size is None or entry.size > 0
            assert not re.search(r"://|^/", entry.path), "an archive and a path below it"
            assert re.fullmatch(r"[a-z0-9-]+", entry.archive)
