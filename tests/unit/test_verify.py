"""A flipped bit in any file of a store is found and named; repair puts right what can be had elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.bundle.infra import InfraLock, keep_lock
from anklume_images.bundle.tool import Tool
from anklume_images.console import Console
from anklume_images.errors import FetchError, StoreError
from anklume_images.inputs.lockfile import Lock, save_lock
from anklume_images.ship.by_delta import SignedDelta, keep_deltas
from anklume_images.ship.index import write_index
from anklume_images.store import channel_log
from anklume_images.store.deltas import Delta, write_delta
from anklume_images.store.images import Images
from anklume_images.store.models import ModelRecord, ModelRecords
from anklume_images.store.noted import noted, write_noted
from anklume_images.store.promotion_log import Promotion, PromotionLog
from anklume_images.store.repair import locked_files, repair
from anklume_images.store.store import Store
from anklume_images.store.sums import write_tree_sums
from anklume_images.store.verify import Sample, verify_store
from anklume_images.trust.attest import add_attestation, attest
from anklume_images.trust.origins import Origins
from anklume_images.trust.place import Place
from anklume_images.trust.revoked import Revocation, write_revocations
from tests.support.blobs import put_blob
from tests.support.chance import seeded
from tests.support.publisher import Publisher
from tests.support.stored_images import put

if TYPE_CHECKING:
    from anklume_images.inputs.lockfile import LockedFile
    from anklume_images.store.images import Image
    from anklume_images.store.verify import VerifyReport

ONE, TWO = "1.0-00000000000a", "2.0-00000000000b"
TREE = "c" * 32
ROOT = Path(__file__).resolve().parents[2]

# What of a damaged file's path, by its beginning, a line of the report has.
KINDS = {
    "blobs/": lambda path: path.name,
    "images/": lambda path: path.parts[-3],
    "channels/": lambda path: f"{path.parts[-3]}@{path.name}",
    "history/": lambda path: f"history/{path.stem}.jsonl",
    "locks/": lambda path: path.name,
    "trees/": lambda _: TREE,
    "models/": lambda path: path.name,
    "schema": lambda _: "schema",
    **dict.fromkeys(("metadata/", "infra/", "tool/", "deltas/", "attestations/", "trust/"), lambda path: path.name),
    **dict.fromkeys(("streams/", "cache/", "index.html", "revoked.json", "SHA256SUMS"), lambda path: path.name),
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


@pytest.fixture
def whole(full: Full, tmp_path: Path) -> Full:
    """With what a store has that is signed, believes another, and was made a bundle of."""
    store, now = full.store, "2026-01-02T03:04:05Z"
    theirs = Publisher(tmp_path)
    theirs.put(ONE)
    theirs.sign()
    origins, place = Origins(store), Place(str(theirs.store.home))
    accepted = origins.accept(place, theirs.repository.identity, "me@here")
    origins.allow_expired(accepted, "2999-12-31", "no network", "me@here")
    with PromotionLog(store).recorded(Promotion(f"app@{ONE}", "amd64", image_of(full).fingerprint, "a", "b", "prod")):
        pass
    write_revocations(theirs.store.home, [Revocation("box", ONE, "amd64", "0" * 64, "a hole", now)])
    theirs.sign()
    origins.contact(place.url)
    write_revocations(store.home, [Revocation("debian", ONE, "amd64", "0" * 64, "a hole", now)])
    add_attestation(store.home, image_of(full), attest(image_of(full), theirs.ring.labelled("builder"), {}), "")
    lock = {"project": "lab", "machines": {"a": {"image": f"app@{ONE}", "architecture": "amd64"}}}
    keep_lock(store, InfraLock("lab", (), (), json.dumps(lock).encode()))
    keep_deltas(store, [SignedDelta("0" * 64, "1" * 64, put_blob(store.blobs, b"a delta"), 7)])
    tool = Tool("1.0-amd64")
    write_noted(store.home, store.home / tool.path, tool.to_bytes())
    own = Publisher(tmp_path, store)
    own.sign()
    write_index(store)
    assert full.report().damaged == ()
    return full


def test_one_flipped_bit_at_200_places_is_found_and_named(whole: Full) -> None:
    """In each file once at least. Every kind that the page on the store names is there, but for logs and work."""
    chance, home, paths = seeded(), whole.store.home, whole.files("")
    there = {path.relative_to(home).parts[0] for path in paths}
    assert {path.name for path in paths if path.parent == home / "history"} == {
        f"{log}.{kind}" for log in ("channels", "promotions", "expired") for kind in ("jsonl", "head")
    }
    assert there == {begin.rstrip("/") for begin in KINDS}
    page = (ROOT / "docs/reference/store.md").read_text().partition("\nA version is")[0]
    work = {"partial", "logs", "failed", "building", "leases", "scratch", "gc.lock", "index.lock"}
    assert set(re.findall(r"^\| `([\w.]+)", page, re.MULTILINE)) == there | work
    for path in [*paths, *chance.choices(paths, k=max(0, 200 - len(paths)))]:
        before, begin = path.read_bytes(), next(one for one in KINDS if str(path.relative_to(home)).startswith(one))
        place, bit = chance.randrange(len(before)), chance.randrange(8)
        path.write_bytes(before[:place] + bytes([before[place] ^ 1 << bit]) + before[place + 1 :])
        name = KINDS[begin](path)
        try:
            lines = Full(Store(home)).report().damaged
        except StoreError as error:  # all that there is to a store that says that it is another
            assert begin in ("schema", "history/")
            lines = (str(error),)
        assert any(name in line for line in lines), (path, place, bit, lines)
        path.write_bytes(before)
    assert whole.report().damaged == ()


def test_what_is_for_others_is_written_again(whole: Full) -> None:
    home = whole.store.home
    for name in (
        "streams/v1/images.json",
        "streams/v1/index.json",
        "index.html",
        "cache/index.json",
        "cache/images.json",
    ):
        sound = (home / name).read_bytes()
        (home / name).write_bytes(sound + b" ")
        assert set(mend(whole).values()) == {"removed, to be written again"}, name
        write_index(whole.store)
        assert (home / name).read_bytes() == sound
        assert whole.report().damaged == ()


def test_what_nobody_else_has_stays_and_is_said(whole: Full) -> None:
    path = whole.store.home / "revoked.json"
    path.write_bytes(path.read_bytes().replace(b"a hole", b"a mole"))
    assert whole.report().damaged == ("revoked.json or its hash in SHA256SUMS was changed",)
    assert list(mend(whole).values()) == ["left as it is"]


def test_documents_that_were_removed_or_written_by_an_earlier_program_are_no_damage(whole: Full) -> None:
    home = whole.store.home
    (home / "infra/lab.json").unlink()
    (home / "SHA256SUMS").rename(home / "old")
    assert whole.report().damaged == ()
    (home / "old").rename(home / "SHA256SUMS")
    assert whole.report().damaged == ()


def test_a_damaged_file_is_not_taken_for_good_by_who_writes_beside_it(whole: Full) -> None:
    home = whole.store.home
    path = next(home.glob("trust/*/first.json"))
    path.write_bytes(path.read_bytes() + b" ")
    before = whole.report().damaged
    assert str(path.relative_to(home)) in before[0]
    with noted(home, path.parent):
        (path.parent / "more.json").write_bytes(b"{}")
        assert whole.report().damaged == ()  # a kill here leaves it unsaid
    assert whole.report().damaged == before


@pytest.mark.parametrize("begin", ["blobs/", "images/", "channels/", "history/", "trees/"])
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
        assert not settled or copy.images.log.version(channel_log.Place(*path.parts[-3:]))


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


def test_an_image_that_a_channel_names_is_taken_from_another_store(full: Full, other: Full) -> None:
    image = image_of(full)
    shutil.rmtree(full.images.folder(*image.key).parents[1])
    full.store.blobs.remove(image.rootfs.sha256)
    (left,) = mend(full).values()
    assert "`channel rm`" in left
    assert list(mend(full, other).values()) == [f"taken from {other.store.home}"]
    assert (image_of(full), full.report().damaged) == (image, ())


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
