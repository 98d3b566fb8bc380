"""A flipped bit in any file of a store is found and named; repair puts right what can be had elsewhere."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from anklume_images.console import Console
from anklume_images.errors import FetchError, StoreError
from anklume_images.inputs.lockfile import Lock, save_lock
from anklume_images.store.channel_log import Place
from anklume_images.store.deltas import Delta, write_delta
from anklume_images.store.images import Images
from anklume_images.store.models import ModelRecord, ModelRecords
from anklume_images.store.repair import locked_files, repair
from anklume_images.store.store import Store
from anklume_images.store.sums import write_tree_sums
from anklume_images.store.verify import Sample, verify_store
from tests.support.blobs import put_blob
from tests.support.stored_images import put

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.inputs.lockfile import LockedFile
    from anklume_images.store.images import Image
    from anklume_images.store.verify import VerifyReport

ONE, TWO = "1.0-00000000000a", "2.0-00000000000b"
TREE = "c" * 32
PLACES = random.Random(7)  # noqa: S311  the same places each time
EACH = 15

# What of a damaged file's path, by its beginning, a line of the report has.
KINDS = {
    "blobs/": lambda path: path.name,
    "images/": lambda path: path.parts[-3],
    "channels/": lambda path: f"{path.parts[-3]}@{path.name}",
    "history/": lambda _: "history/channels.jsonl",
    "locks/": lambda path: path.name,
    "trees/": lambda _: TREE,
    "models/": lambda path: path.name,
    "schema": lambda _: "schema",
}


@dataclass
class Full:
    """A store that has a file of each kind."""

    store: Store

    @property
    def images(self) -> Images:
        return Images(self.store)

    def report(self) -> VerifyReport:
        return verify_store(self.store, self.images, [], "amd64", jobs=1)

    def files(self, begin: str) -> list[Path]:
        """Those whose path begins so, and that have something in them."""
        home = self.store.home
        paths = (path for path in sorted(home.rglob("*")) if path.is_file() and path.stat().st_size)
        return [path for path in paths if str(path.relative_to(home)).startswith(begin)]

    def copy(self, folder: Path) -> Full:
        shutil.copytree(self.store.home, folder, symlinks=True)
        return Full(Store(folder))


@pytest.fixture
def full(tmp_path: Path) -> Full:
    store = Store(tmp_path / "store")
    base = put(store, "debian", ONE, channels=("latest", "prod"), inputs=(b"an input", b"another"))
    put(store, "debian", TWO, inputs=(b"a third",))
    app = put(store, "app", ONE, base=base)
    write_delta(Images(store).folder(*app.key), Delta("0.9-000000000000", "d" * 64, 100))
    root = store.home / "trees" / TREE / "root"
    (root / "usr" / "bin").mkdir(parents=True)
    (root / "usr" / "bin" / "tool").write_bytes(b"a program" * 20)
    (root / "usr" / "a name with blanks").write_bytes(b"its text")
    (root / "bin").symlink_to("usr/bin")
    (root.parent / "tree.json").write_text(json.dumps({"name": "toolchain", "digest": TREE * 2}))
    write_tree_sums(root.parent)
    save_lock(store.home / "locks" / "debian" / "0123456789abcdef.json", Lock("debian", "amd64", "", 0, "1.0"))
    weights = put_blob(store.blobs, b"the weights of a model")
    ModelRecords(store).add(ModelRecord("llama:3b", weights, 22, "A model", "MIT", "made by hand"))
    full = Full(store)
    assert full.report().damaged == ()
    return full


@pytest.mark.parametrize("begin", KINDS)
def test_a_flipped_bit_is_found_and_named(begin: str, full: Full) -> None:
    paths = full.files(begin)
    assert paths
    for path in {*paths, *PLACES.choices(paths, k=EACH)}:
        before = path.read_bytes()
        for _ in range(max(3, EACH // len(paths))):
            place, bit = PLACES.randrange(len(before)), PLACES.randrange(8)
            changed = bytearray(before)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            name = KINDS[begin](path)
            try:
                lines = Full(Store(full.store.home)).report().damaged
            except StoreError as error:  # all that there is to a store that says that it is another
                assert begin in ("schema", "history/")
                lines = (str(error),)
            assert any(name in line for line in lines), (path, place, bit, lines)
        path.write_bytes(before)
    assert full.report().damaged == ()


@pytest.mark.parametrize("begin", [kind for kind in KINDS if kind not in ("schema", "locks/", "models/")])
def test_a_file_that_is_gone_is_found(begin: str, full: Full, tmp_path: Path) -> None:
    for number, path in enumerate(full.files(begin)):
        if path.name == "manifest.json" or (begin == "blobs/" and path.stat().st_size < 20):
            continue  # without the first there is no image; an input that is gone is fetched again
        if begin == "trees/" and path.name == "SHA256SUMS":
            continue  # a tree of an earlier program has none
        copy = full.copy(tmp_path / f"copy-{number}")
        (copy.store.home / path.relative_to(full.store.home)).unlink()
        name = KINDS[begin](path)
        lines = copy.report().damaged
        settled = begin == "channels/" and not lines  # where the last move has it: a kill would look the same
        assert settled or any(name in line for line in lines), (path, lines)
        assert not settled or copy.images.log.version(Place(*path.parts[-3:]))


def test_a_channel_that_was_moved_by_hand_is_found(full: Full) -> None:
    channel = full.store.home / "channels" / "debian" / "amd64" / "prod"
    channel.write_text(f"{TWO}\n")
    assert full.report().damaged == (f"channel debian@prod (amd64): it names '{TWO}', its last move '{ONE}'",)


def test_what_is_named_is_read_with_its_fingerprint_and_nothing_else(full: Full) -> None:
    other = full.images.resolve("debian", "amd64")
    full.store.blobs.path(other.rootfs.sha256).write_bytes(b"x")
    report = verify_store(full.store, full.images, ["app", f"debian@{ONE}"], "amd64")
    assert (report.checked, report.damaged) == (4, ())


def test_a_sample_reads_so_many(full: Full) -> None:
    count = len(list(full.store.blobs))
    for sample, read in ((Sample(count=2), 2), (Sample(count=1000), count), (Sample(part=0.5), round(count / 2))):
        assert verify_store(full.store, full.images, [], "amd64", sample=sample).checked == read
    assert Sample(part=0.0001).choose(["a", "b"]) in (["a"], ["b"])
    assert {tuple(Sample(count=1).choose(["a", "b"])) for _ in range(100)} == {("a",), ("b",)}


def test_it_changes_nothing(full: Full) -> None:
    before = {path: path.stat().st_mtime_ns for path in full.store.home.rglob("*")}
    assert full.report().damaged == ()
    assert {path: path.stat().st_mtime_ns for path in full.store.home.rglob("*")} == before


def test_a_later_document_is_replaced_without_damage_and_hides_none(full: Full) -> None:
    folder = full.images.folder(*full.images.resolve("app", "amd64").key)
    for size in (200, 300):
        write_delta(folder, Delta("0.9-000000000000", "d" * 64, size))
        assert full.report().damaged == ()
    (folder / "recipe.json").write_bytes(b"x")
    write_delta(folder, Delta("0.9-000000000000", "d" * 64, 400))
    assert full.report().damaged == (f"app@{ONE}: recipe.json or its hash in SHA256SUMS was changed",)


def test_a_model_whose_file_is_gone_is_found_and_had_again(full: Full, tmp_path: Path) -> None:
    other = full.copy(tmp_path / "other")
    (record,) = ModelRecords(full.store)
    full.store.blobs.remove(record.sha256)
    assert full.report().damaged == (f"model llama:3b: blob {record.sha256} is missing",)
    assert list(mend(full, other).values()) == [f"taken from {other.store.home}"]
    assert full.report().damaged == ()


def test_a_record_of_a_model_by_another_name_is_found(full: Full) -> None:
    (path,) = full.files("models/")
    path.rename(path.with_name("other.json"))
    assert full.report().damaged == ("models/other.json: is the record of llama:3b",)


def test_an_interrupt_ends_it_in_the_middle_of_a_blob(full: Full) -> None:
    size = 1 << 30
    blob = full.store.blobs.path("e" * 64)
    blob.parent.mkdir()
    with blob.open("wb") as stream:
        stream.truncate(size)
    read = 0

    class Interrupted(Console):
        """Is told of the first bytes, and has the process interrupted."""

        def advance(self, n: int) -> None:
            nonlocal read
            if not read:
                os.kill(os.getpid(), signal.SIGINT)
            read += n

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            verify_store(full.store, full.images, [], "amd64", progress=Interrupted(quiet=True), jobs=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert 0 < read < size


# -- repair


@pytest.fixture
def other(full: Full, tmp_path: Path) -> Full:
    """A second store with the same."""
    return full.copy(tmp_path / "other")


def mend(full: Full, *others: Full) -> dict[str, str]:
    report = full.report()
    done = repair(full.store, full.images, report.damage, [one.store for one in others])
    return {damage.text: outcome.done for damage, outcome in done}


def image_of(full: Full) -> Image:
    return full.images.resolve("app", "amd64")


def test_blobs_are_taken_from_another_store(full: Full, other: Full) -> None:
    image = image_of(full)
    full.store.blobs.path(image.rootfs.sha256).write_bytes(b"x")
    full.store.blobs.remove(image.metadata.sha256)
    assert set(mend(full, other).values()) == {f"taken from {other.store.home}"}
    assert full.report().damaged == ()
    assert not list((full.store.home / "scratch").iterdir())


def test_blobs_are_fetched_from_a_store_that_is_served(full: Full) -> None:
    image, asked = image_of(full), list[str]()
    sound = full.store.blobs.path(image.rootfs.sha256).read_bytes()
    for file in (image.rootfs, image.metadata):
        full.store.blobs.path(file.sha256).write_bytes(b"x")

    def served(sha256: str) -> str | None:
        assert not full.store.blobs.has(sha256)
        asked.append(sha256)
        return "https://other" if sha256 == image.rootfs.sha256 and put_blob(full.store.blobs, sound) else None

    done = repair(full.store, full.images, full.report().damage, served=served)
    assert {damage.blob: outcome.done for damage, outcome in done} == {
        image.rootfs.sha256: "fetched from https://other",
        image.metadata.sha256: "removed, to be fetched or built again",
    }
    assert len(asked) == 2


def test_what_is_damaged_there_too_is_not_taken(full: Full, other: Full) -> None:
    image = image_of(full)
    for one in (full, other):
        one.store.blobs.path(image.rootfs.sha256).write_bytes(b"x")
    assert list(mend(full, other).values()) == ["removed, to be fetched or built again"]
    assert not full.store.blobs.has(image.rootfs.sha256)
    assert other.store.blobs.path(image.rootfs.sha256).read_bytes() == b"x"


@pytest.mark.parametrize("name", ["manifest.json", "recipe.json", "delta", "SHA256SUMS"])
def test_documents_are_taken_from_another_store(name: str, full: Full, other: Full) -> None:
    folder = full.images.folder(*image_of(full).key)
    before = (folder / name).read_bytes()
    (folder / name).write_bytes(before[:-3])
    assert set(mend(full, other).values()) == {f"taken from {other.store.home}"}
    assert (folder / name).read_bytes() == before
    assert full.report().damaged == ()


def test_documents_that_nobody_has_stay_and_are_said(full: Full, other: Full) -> None:
    for one in (full, other):
        (one.images.folder(*image_of(one).key) / "recipe.json").write_bytes(b"x")
    report = full.report()
    ((_, outcome),) = repair(full.store, full.images, report.damage, [other.store])
    assert outcome.left
    assert full.report().damaged == report.damaged


def test_a_channel_is_put_where_its_log_has_it(full: Full) -> None:
    channel = full.store.home / "channels" / "debian" / "amd64" / "prod"
    for data in (b"\xff", b"", f"{TWO}\n".encode()):
        channel.write_bytes(data)
        assert list(mend(full).values()) == [f"names {ONE} again"]
        assert channel.read_text() == f"{ONE}\n"
        assert full.report().damaged == ()


def test_a_damaged_log_is_begun_anew_with_what_it_said_of_channels(full: Full) -> None:
    log = full.images.log.path
    log.write_bytes(log.read_bytes().replace(b'"number":1', b'"number":9'))
    channel = full.store.home / "channels" / "app" / "amd64" / "latest"
    channel.write_bytes(b"x\n")
    mend(full)
    assert full.report().damaged == ()
    assert channel.read_text() == f"{ONE}\n"
    assert {move.command for move in full.images.log.read().moves} == {"verify --repair"}


def test_a_damaged_tree_goes(full: Full) -> None:
    tool = full.store.home / "trees" / TREE / "root" / "usr" / "bin" / "tool"
    tool.write_bytes(b"another program")
    with full.store.lease() as lease:
        lease.add([TREE])
        assert list(mend(full).values()) == ["left as it is: a running command uses it"]
    assert list(mend(full).values()) == ["removed, to be unpacked again"]
    assert full.report().damaged == ()


def test_inputs_are_fetched_again(full: Full) -> None:
    image = full.images.resolve("debian@prod", "amd64")
    entries = full.images.document(image, "lock")["files"]
    names = [entry["sha256"] for entry in entries]
    assert set(names) <= set(locked_files(full.images))
    for sha256 in names:
        full.store.blobs.path(sha256).write_bytes(b"x")

    def fetch(name: str, file: LockedFile) -> None:
        assert name == "debian"
        assert not full.store.blobs.has(file.sha256)
        if file.sha256 != names[0]:
            raise FetchError("no mirror has it\nhere is why")
        put_blob(full.store.blobs, b"an input")

    done = {
        damage.blob: outcome for damage, outcome in repair(full.store, full.images, full.report().damage, (), fetch)
    }
    assert done[names[0]].done == "fetched again"
    assert done[names[1]].done == "removed; it could not be fetched: no mirror has it"
    assert full.report().damaged == ()
