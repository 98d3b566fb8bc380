"""The store: blobs by content, leases and scratch that end with their owner, one schema."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import StoreError
from anklume_images.files import write_atomic
from anklume_images.store.store import Store, unless_held
from tests.support.blobs import put_blob

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTE = b"a note\n"
NAME = hashlib.sha256(NOTE).hexdigest()

# Holds a lease and a scratch folder until it is killed, or its input ends.
HOLDER = """
import sys
from pathlib import Path
from anklume_images.store.store import Store
store = Store(Path(sys.argv[1]))
with store.lease() as lease, store.scratch("work") as scratch:
    lease.add(sys.argv[2:])
    (scratch / "half-done").write_text("x")
    print(scratch, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.create()
    return store


@contextlib.contextmanager
def holder(store: Store, *names: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process upon the store, and its scratch."""
    argv = [sys.executable, "-c", HOLDER, str(store.home), *names]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_blob_is_named_by_its_content(store: Store) -> None:
    assert put_blob(store.blobs, NOTE) == NAME
    path = store.blobs.path(NAME)
    assert path == store.home / "blobs" / "sha256" / NAME[:2] / NAME
    assert path.read_bytes() == NOTE
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(store.blobs) == [NAME]
    assert store.blobs.has(NAME)
    assert store.blobs.has(NAME, len(NOTE))
    assert not store.blobs.has(NAME, len(NOTE) + 1)
    assert not store.blobs.has("0" * 64)


def test_verify_reads_the_bytes(store: Store) -> None:
    put_blob(store.blobs, NOTE)
    assert store.blobs.verify(NAME)
    store.blobs.path(NAME).write_bytes(b"A note\n")
    assert store.blobs.has(NAME, len(NOTE)), "the size is as it was"
    assert not store.blobs.verify(NAME)
    assert store.blobs.remove(NAME) == len(NOTE)
    assert not store.blobs.verify(NAME)
    assert store.blobs.remove(NAME) == 0


def test_atomic_writing_leaves_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "file"
    write_atomic(path, b"old", 0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"old", 0o600)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(path, b"new")
    assert files(tmp_path) == ["folder/file"]
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_modes_do_not_depend_on_the_umask(store: Store, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "file", b"")
        put_blob(store.blobs, NOTE)
    finally:
        os.umask(before)
    for path in (tmp_path / "file", store.blobs.path(NAME)):
        assert path.stat().st_mode & 0o777 == 0o644


def test_nothing_is_made_until_something_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert list(store.blobs) == []
    assert store.leased() == set()
    assert store.sweep() == 0
    assert not store.home.exists()


@pytest.mark.parametrize(
    ("schema", "message", "hint"),
    [
        ("3\n", "of schema 3, this program knows up to 2", "update anklume-images"),
        ("0\n", "not a store", "--store"),
        ("2", "not a store", "--store"),
        ("1.5", "not a store", "--store"),
        ("", "not a store", "--store"),
        ("\udcff", "not a store", "--store"),
    ],
)
def test_other_schemas_are_refused(schema: str, message: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "schema").write_bytes(schema.encode("utf-8", "surrogateescape"))
    with pytest.raises(StoreError, match=message) as caught:
        Store(tmp_path)
    assert caught.value.where == str(tmp_path)
    assert hint in str(caught.value.hint)


def test_a_folder_with_something_else_in_it_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "Documents").mkdir()
    with pytest.raises(StoreError, match="this is not a store: it holds Documents and no schema"):
        Store(tmp_path).create()
    assert [path.name for path in tmp_path.iterdir()] == ["Documents"]


def test_a_fresh_disk_and_what_a_kill_left_are_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".schema.x1y2").write_text("")
    Store(tmp_path).create()
    assert (tmp_path / "schema").read_text() == "2\n"


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="this is not a store: Not a directory") as caught:
        Store(tmp_path / "file" / "store")
    assert caught.value.hint == "name another with --store"
    with pytest.raises(StoreError, match="the store cannot be made: ") as caught:
        Store(Path("/proc/nowhere/store")).create()
    assert caught.value.hint == "name another with --store"


def test_many_make_the_same_store_at_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def make() -> None:
        try:
            store = Store(tmp_path / "store")
            with store.lease() as lease, store.scratch("x"):
                lease.add(["a"])
                put_blob(store.blobs, NOTE)
        except BaseException as error:  # noqa: BLE001  told below
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert files(tmp_path / "store") == [f"blobs/sha256/{NAME[:2]}/{NAME}", "gc.lock", "schema"]


def test_a_lease_keeps_names_while_it_lives(store: Store) -> None:
    with store.lease() as lease:
        lease.add(["a", "b"])
        lease.add(name for name in ("c",))
        with store.lease() as other:
            other.add(["d"])
            assert store.leased() == {"a", "b", "c", "d"}
        assert store.leased() == {"a", "b", "c"}
    assert store.leased() == set()
    assert files(store.home / "leases") == []


def test_leases_of_other_processes_count_until_they_end(store: Store) -> None:
    with holder(store, "a", "b") as (process, scratch):
        assert store.leased() == {"a", "b"}
        assert store.sweep() == 0
        assert (scratch / "half-done").exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (scratch / "half-done").exists(), "nobody cleared it up"
        assert len(files(store.home / "leases")) == 1
        assert store.sweep() == 1
        assert not scratch.exists()
        assert files(store.home / "leases") == []
    assert store.leased() == set()


def test_scratch_goes_at_the_end_whatever_happens(store: Store) -> None:
    with pytest.raises(ValueError, match="oh"), store.scratch("work") as scratch:  # noqa: PT012
        (scratch / "folder").mkdir()
        (scratch / "folder" / "file").write_text("x")
        raise ValueError("oh")
    assert list((store.home / "scratch").iterdir()) == []


def test_scratch_whose_owner_was_killed_early_goes_too(store: Store) -> None:
    (store.home / "scratch" / "work-x" / "deep").mkdir(parents=True)
    assert store.sweep() == 1
    assert list((store.home / "scratch").iterdir()) == []


def test_registering_waits_for_gc(store: Store) -> None:
    """What a lease names after gc has looked at the leases must not be taken for unneeded by that gc."""
    with store.lease() as lease:
        registered = threading.Event()

        def register() -> None:
            lease.add(["a"])
            registered.set()

        thread = threading.Thread(target=register)
        with store.guarded(exclusively=True):
            thread.start()
            assert not registered.wait(0.2)
            assert store.leased() == set()
        assert registered.wait(10)
        thread.join()
        assert store.leased() == {"a"}


def test_readers_do_not_wait_for_each_other(store: Store) -> None:
    with store.guarded(), store.guarded():
        pass


def test_a_lock_file_tells_whether_somebody_holds_it(tmp_path: Path) -> None:
    with unless_held(tmp_path / "gone") as free:
        assert not free
    path = tmp_path / "lock"
    path.touch()
    with unless_held(path) as free:
        assert free
        with unless_held(path) as again:
            assert not again
    with path.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        with unless_held(path) as free:
            assert not free
