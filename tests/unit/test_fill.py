"""Files into a folder that somebody else may write to: only what is missing, whole or not at all, past no link."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.errors import AnklumeError, StoreError
from anklume_images.ship import fill as module
from anklume_images.ship.fill import fill, missing_files
from anklume_images.store.models import ModelFile
from anklume_images.store.store import Store
from tests.support.blobs import put_blob

if TYPE_CHECKING:
    from pathlib import Path

CONTENT, SMALL = b"model" * 300_000, b"manifest"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.create()
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "volume"
    place.mkdir()
    return place


@pytest.fixture
def files(store: Store) -> tuple[ModelFile, ...]:
    sha256 = put_blob(store.blobs, CONTENT)
    return (
        ModelFile("blobs/a", sha256, len(CONTENT)),
        ModelFile("deep/er/manifest", hashlib.sha256(SMALL).hexdigest(), len(SMALL), SMALL),
    )


def bring(store: Store, folder: Path, files: tuple[ModelFile, ...], **options: Any) -> None:
    fill(folder, files, store.blobs.path, owner=os.getuid(), **options)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_what_is_missing_is_brought(store: Store, folder: Path, files: tuple[ModelFile, ...]) -> None:
    assert missing_files(folder / "nowhere", files) == files
    assert missing_files(folder, files) == files
    counted: list[int] = []
    bring(store, folder, files, advance=counted.append)
    assert everything(folder) == {"blobs/a": CONTENT, "deep/er/manifest": SMALL}
    assert sum(counted) == len(CONTENT) + len(SMALL)
    assert missing_files(folder, files) == ()
    assert (folder / "blobs/a").stat().st_mode & 0o7777 == 0o644
    assert (folder / "deep/er").stat().st_mode & 0o7777 == 0o755
    (folder / "blobs/a").write_bytes(CONTENT[:-1])
    (folder / "deep/er/manifest").write_bytes(SMALL[::-1])
    assert missing_files(folder, files) == files
    bring(store, folder, files)
    assert missing_files(folder, files) == ()


def test_what_a_killed_one_left_goes(store: Store, folder: Path, files: tuple[ModelFile, ...]) -> None:
    (folder / ".anklume-0123.part").write_bytes(b"half")
    (folder / ".anklume-of-somebody").write_bytes(b"kept")
    bring(store, folder, files[:1])
    assert set(everything(folder)) == {".anklume-of-somebody", "blobs/a"}


@pytest.mark.parametrize("kind", ["a folder's", "a file's", "the last one's"])
def test_a_link_leads_nowhere(
    store: Store, folder: Path, files: tuple[ModelFile, ...], tmp_path: Path, kind: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(CONTENT)
    if kind == "a folder's":
        (folder / "blobs").symlink_to(outside)
    elif kind == "a file's":
        (folder / "blobs").mkdir()
        (folder / "blobs/a").symlink_to(outside / "a")
    else:
        (folder / "blobs").mkdir()
        (folder / "blobs/a").mkdir()
        (folder / "blobs/a/x").touch()
    assert missing_files(folder, files[:1]) == files[:1]
    if kind == "a file's":
        bring(store, folder, files[:1])
        assert not (folder / "blobs/a").is_symlink()
    else:
        with pytest.raises(AnklumeError, match="no place for blobs/a"):
            bring(store, folder, files[:1])
    assert sorted(path.name for path in outside.iterdir()) == ["a"]
    assert list(folder.glob(".anklume-*")) == []


def test_a_fifo_is_no_file_and_holds_nobody_up(folder: Path, files: tuple[ModelFile, ...]) -> None:
    (folder / "blobs").mkdir()
    os.mkfifo(folder / "blobs/a")
    assert missing_files(folder, files[:1]) == files[:1]


def test_other_bytes_than_the_name_says_are_not_brought(
    store: Store, folder: Path, files: tuple[ModelFile, ...]
) -> None:
    store.blobs.path(files[0].sha256).write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(StoreError, match="other bytes"):
        bring(store, folder, files)
    store.blobs.remove(files[0].sha256)
    with pytest.raises(StoreError, match="no more"):
        bring(store, folder, files)
    assert everything(folder) == {}


def test_a_full_disk_is_told_and_leaves_nothing(
    store: Store, folder: Path, files: tuple[ModelFile, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "copy_hashed", full)
    with pytest.raises(AnklumeError, match=f"pool is full: blobs/a has {len(CONTENT):,} bytes"):
        bring(store, folder, files)
    assert everything(folder) == {}
