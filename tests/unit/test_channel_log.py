"""Channels move with a line in the log; what is changed in the log, or killed while it is written, is found."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from functools import partial
from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import StoreError
from anklume_images.store.chain import Head
from anklume_images.store.channel_log import Move, Place
from anklume_images.store.gc import Wants, collect, reasons
from anklume_images.store.generations import ROLLBACK, TAKEN_BACK, generations, versions
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from tests.support.killed import killed_at, started
from tests.support.stored_images import put

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = [f"{number}.0-00000000000a" for number in (1, 2, 3)]
ONE, TWO, THREE = VERSIONS
PROD = Place("debian", "amd64", "prod")
LINES = random.Random(4)  # noqa: S311  the same each time


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with three versions of an image, and `prod` at the first."""
    store = Store(tmp_path / "store")
    for version in VERSIONS:
        put(store, "debian", version, channels=())
    Images(store).set_channel("debian", "amd64", "prod", ONE, command="channel set", why="the first")
    return store


@pytest.fixture
def images(store: Store) -> Images:
    return Images(store)


def move(images: Images, version: str, command: str = "channel set", channel: str = "prod") -> Move | None:
    return images.set_channel("debian", "amd64", channel, version, command=command, why="")


def test_every_move_is_told(store: Store, images: Images) -> None:
    move(images, TWO, "build", "latest")
    move(images, THREE)
    images.remove_channel("debian", "amd64", "latest", command="channel rm", why="no need")
    history = images.log.read()
    assert not history.breaks
    told = [(one.number, str(one.place), one.before, one.after, one.command, one.why) for one in history.moves]
    assert told == [
        (1, "debian@prod (amd64)", None, ONE, "channel set", "the first"),
        (2, "debian@latest (amd64)", None, TWO, "build", ""),
        (3, "debian@prod (amd64)", ONE, THREE, "channel set", ""),
        (4, "debian@latest (amd64)", TWO, None, "channel rm", "no need"),
    ]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", one.time) for one in history.moves)
    assert all(one.user and one.host == os.uname().nodename for one in history.moves)
    assert images.channels("debian", "amd64") == {"prod": THREE}


def test_lines_are_canonical_and_chained(images: Images) -> None:
    move(images, TWO)
    lines = images.log.path.read_bytes().splitlines(keepends=True)
    documents = [json.loads(line) for line in lines]
    assert lines == [
        (json.dumps(document, sort_keys=True, separators=(",", ":")) + "\n").encode() for document in documents
    ]
    assert documents[0]["previous"] == "0" * 64
    assert documents[1]["previous"] == hashlib.sha256(lines[0]).hexdigest()
    head = Head(2, len(b"".join(lines)), hashlib.sha256(lines[1]).hexdigest())
    assert images.log.head_path.read_bytes() == head.document()


def test_what_is_so_already_is_no_move(images: Images) -> None:
    assert move(images, ONE) is None
    assert len(images.log.read().moves) == 1
    assert images.remove_channel("debian", "amd64", "other") is None


@pytest.mark.parametrize("name", ["", "Prod", "1st", "a/b", "..", ".new", "pro d", "prod\n", "-x"])
def test_what_is_no_channels_name(name: str, images: Images) -> None:
    with pytest.raises(StoreError, match="not the name of a channel"):
        images.set_channel("debian", "amd64", name, ONE)


def test_who_calls_by_sudo_is_named(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "alice")
    done = move(images, TWO)
    assert done
    assert done.user == "alice as root"


# -- changed by somebody else


def test_a_flipped_bit_is_found_wherever_it_is(store: Store, images: Images) -> None:
    for version in (TWO, THREE, TWO):
        move(images, version)
    for path in (images.log.path, images.log.head_path):
        before = path.read_bytes()
        for _ in range(100):
            place, bit = LINES.randrange(len(before)), LINES.randrange(8)
            changed = bytearray(before)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            breaks = images.log.read().breaks
            assert breaks, (path.name, place, bit)
            if path == images.log.path:
                line = before[:place].count(b"\n") + 1
                assert any(abs(one.line - line) <= 1 for one in breaks), (place, bit, breaks)
        path.write_bytes(before)
    assert not images.log.read().breaks


@pytest.mark.parametrize("gone", range(4))
def test_a_missing_line_is_found(gone: int, images: Images) -> None:
    for version in (TWO, THREE, TWO):
        move(images, version)
    lines = images.log.path.read_bytes().splitlines(keepends=True)
    del lines[gone]
    images.log.path.write_bytes(b"".join(lines))
    assert images.log.read().breaks


def test_lines_that_are_exchanged_are_found(images: Images) -> None:
    for version in (TWO, THREE, TWO):
        move(images, version)
    lines = images.log.path.read_bytes().splitlines(keepends=True)
    lines[1], lines[2] = lines[2], lines[1]
    images.log.path.write_bytes(b"".join(lines))
    assert {one.line for one in images.log.read().breaks} >= {2, 3}


@pytest.mark.parametrize("name", ["path", "head_path"])
def test_a_file_of_the_log_that_is_gone_is_found(name: str, images: Images) -> None:
    getattr(images.log, name).unlink()
    assert images.log.read().breaks
    with pytest.raises(StoreError, match="the log of the channels' moves is damaged"):
        move(images, TWO)
    assert images.channels("debian", "amd64") == {"prod": ONE}


def test_a_damaged_end_takes_no_more_lines(images: Images) -> None:
    data = images.log.path.read_bytes()
    images.log.path.write_bytes(data.replace(b"the first", b"the FIRST"))
    with pytest.raises(StoreError, match="the log of the channels' moves is damaged") as caught:
        move(images, TWO)
    assert "--repair" in str(caught.value.hint)


def test_a_broken_log_is_put_aside_and_begun_anew(images: Images) -> None:
    move(images, TWO)
    data = images.log.path.read_bytes()
    images.log.path.write_bytes(data.replace(b"the first", b"the FIRST"))
    images.log.begin(command="verify --repair", why="the log was damaged")
    history = images.log.read()
    assert not history.breaks
    assert [(one.place, one.before, one.after, one.command) for one in history.moves] == [
        (PROD, None, TWO, "verify --repair")
    ]
    kept = sorted(path.name.partition(".broken")[0] for path in images.log.path.parent.glob("*.broken-*"))
    assert kept == ["channels.head", "channels.jsonl"]
    move(images, THREE)
    assert not images.log.read().breaks


# -- killed


def whole(store: Store, before: str, after: str) -> str:
    """The channel names the old version or the new one; one more command, and the log says the same."""
    images = Images(store)
    assert images.log.version(PROD) in (before, after)
    images.settle()
    history = images.log.read()
    assert not history.breaks
    now = images.log.version(PROD)
    assert now in (before, after)
    assert history.last()[PROD].after == now
    assert images.log.path.stat().st_size == json.loads(images.log.head_path.read_bytes())["size"]
    return now


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is killed loses no file that it wrote: only a host that stops would."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.mark.usefixtures("unsynced")
def test_a_move_is_killed_at_any_line(store: Store, tmp_path: Path) -> None:
    came, line, ended = set(), -2, False
    while not ended:
        line += 3
        copy = tmp_path / f"copy-{line}"
        shutil.copytree(store.home, copy)
        other = Store(copy)
        ended = not killed_at(line, partial(move, Images(other), TWO))
        came.add(whole(other, ONE, TWO))
        if not ended:
            move(Images(other), THREE)
            assert whole(other, TWO, THREE) == THREE
        shutil.rmtree(copy)
    assert came == {ONE, TWO}
    assert line > 50


def test_moves_of_several_processes_are_all_told(store: Store, images: Images) -> None:
    def often(channel: str) -> None:
        for number in range(20):
            assert move(Images(store), (TWO, THREE)[number % 2], channel=channel)

    children = [started(partial(often, channel)) for channel in ("dev", "staging", "test")]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    history = images.log.read()
    assert (len(history.moves), history.breaks) == (61, ())
    assert images.channels("debian", "amd64") == {"dev": THREE, "prod": ONE, "staging": THREE, "test": THREE}


def test_a_line_that_was_written_in_part_does_not_count(store: Store, images: Images) -> None:
    move(images, TWO)
    for part in (b"{", b'{"architecture":"amd64"', b"x" * 1000 + b"\n"):
        with images.log.path.open("ab") as stream:
            stream.write(part)
        assert not images.log.read().breaks
        assert images.log.unsettled()
        move(images, THREE if images.log.version(PROD) == TWO else TWO)
        assert not images.log.read().breaks
        assert b"xx" not in images.log.path.read_bytes()


def test_a_full_disk_leaves_channel_and_log_as_they_were(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = os.fsync
    for good in range(3):
        left = good

        def fsync(descriptor: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(28, "No space left on device")
            synced(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            with pytest.raises(OSError, match="No space left"):
                move(images, TWO)
        assert images.log.version(PROD) == ONE
        images.settle()
        history = images.log.read()
        assert not history.breaks
        assert history.last()[PROD].after == images.log.version(PROD) == ONE


# -- older stores


def as_of_schema_1(store: Store) -> None:
    shutil.rmtree(store.home / "history")
    for path in store.home.glob("images/*/*/*/SHA256SUMS"):
        path.unlink()
    (store.home / "schema").write_text("1\n")


def test_an_older_store_is_read_as_it_is(store: Store) -> None:
    as_of_schema_1(store)
    images = Images(Store(store.home))
    assert images.resolve("debian@prod", "amd64").version == ONE
    assert images.log.read().moves == ()
    assert (store.home / "schema").read_text() == "1\n"


def test_a_dry_run_leaves_an_older_store_as_it_is(store: Store) -> None:
    as_of_schema_1(store)
    other = Store(store.home)
    assert len(collect(other, Images(other), Wants(), dry_run=True).removed) > 0
    assert reasons(other, Images(other), Images(other).resolve("debian@prod", "amd64")) == ["channel prod"]
    assert (store.home / "schema").read_text() == "1\n"
    assert not (store.home / "history").exists()


def test_an_older_store_is_migrated_at_the_first_write(store: Store) -> None:
    as_of_schema_1(store)
    images = Images(Store(store.home))
    move(images, TWO)
    assert (store.home / "schema").read_text() == "2\n"
    assert [(one.command, one.before, one.after) for one in images.log.read().moves] == [
        ("migration", None, ONE),
        ("channel set", ONE, TWO),
    ]
    assert len(list(store.home.glob("images/*/*/*/SHA256SUMS"))) == 3


@pytest.mark.usefixtures("unsynced")
def test_a_migration_is_killed_at_any_line(store: Store, tmp_path: Path) -> None:
    as_of_schema_1(store)
    lines = range(1, 1000, 11)
    for line in lines:
        copy = tmp_path / f"copy-{line}"
        shutil.copytree(store.home, copy)
        killed = killed_at(line, Store(copy).create)
        assert Images(Store(copy)).resolve("debian@prod", "amd64").version == ONE
        Store(copy).create()
        images = Images(Store(copy))
        assert (copy / "schema").read_text() == "2\n"
        assert [(one.place, one.after) for one in images.log.read().moves] == [(PROD, ONE)]
        assert not images.log.read().breaks
        assert len(list(copy.glob("images/*/*/*/SHA256SUMS"))) == 3
        shutil.rmtree(copy)
        if not killed:
            break
    assert line > 50
    assert not killed


# -- what a channel can go back to


def moves(*told: tuple[str | None, str]) -> list[Move]:
    """Moves of one channel: the version, and the command."""
    found: list[Move] = []
    for after, command in told:
        before = found[-1].after if found else None
        found.append(Move(len(found) + 1, "", "", "", "", command, "", PROD, before, after))
    return found


def test_versions_come_in_their_order() -> None:
    assert versions(moves(("1", "set"), ("2", "set"), ("3", "set"))) == ("1", "2", "3")
    assert versions(moves(("1", "set"), ("2", "set"), ("1", "set"))) == ("2", "1")
    assert versions([]) == ()


def test_a_second_rollback_goes_back_further() -> None:
    told = moves(("1", "set"), ("2", "set"), ("3", "set"), ("2", ROLLBACK))
    assert versions(told) == ("1", "2")
    assert versions([*told, *moves(("1", ROLLBACK))]) == ("1",)
    assert versions(moves(("1", "set"), ("2", "promote"), ("1", TAKEN_BACK))) == ("1",)


def test_a_channel_that_was_removed_begins_anew() -> None:
    assert versions(moves(("1", "set"), (None, "rm"), ("2", "set"))) == ("2",)


def test_generations_are_the_last_ones_and_what_was_left() -> None:
    told = moves(("1", "set"), ("2", "set"), ("3", "set"))
    assert generations(told, 1) == {"3"}
    assert generations(told, 2) == {"2", "3"}
    assert generations(told, 3) == {"1", "2", "3"}
    back = moves(("1", "set"), ("2", "set"), ("3", "set"), ("2", ROLLBACK))
    assert generations(back, 2) == {"1", "2", "3"}
    assert generations(back, 1) == {"2"}
    assert generations([], 2) == set()
