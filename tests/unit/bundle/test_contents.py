"""What was put into a bundle comes out: all of it, what one host lacks, in parts, and resumed."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.bundle.gather import gather
from anklume_images.bundle.index import BundleError, header
from anklume_images.bundle.needs import read_inventory, take_inventory
from anklume_images.bundle.parts import PartsSink, Source, check_parts, check_path, parts_of
from anklume_images.bundle.reader import BundleReader
from anklume_images.bundle.writer import write_bundle
from anklume_images.errors import AnklumeError, PolicyError, StoreError
from anklume_images.ship.pull import pull
from anklume_images.store.models import ModelRecords
from anklume_images.store.store import Store
from anklume_images.trust.attest import add_attestation, attest, attested_by
from anklume_images.trust.origins import Origins
from anklume_images.trust.place import Place
from tests.conftest import Cli
from tests.support.blobs import put_blob
from tests.support.publisher import Publisher
from tests.unit.bundle.bundling import FIRST, MODEL, QUIET, SECOND, Far, everything, make, refused, revoke

if TYPE_CHECKING:
    from collections.abc import Callable


def test_it_comes_out_as_it_went_in(theirs: Publisher, far: Far, site: Path) -> None:
    image = theirs.images.resolve("box", "amd64")
    received = far.take(site, theirs.repository.identity)
    assert far.images.resolve("box", "amd64") == image
    assert received.bytes == image.metadata.size + image.rootfs.size + len(MODEL)
    assert [(one.new, one.channels) for one in received.images] == [(True, {"latest": None})]
    assert [(one.record.name, one.state) for one in received.models] == [("org/toy:1b", "new")]
    assert list(ModelRecords(far.store)) == list(ModelRecords(theirs.store))
    for name in ("lock", "recipe", "sbom.cdx"):
        assert far.images.document(image, name) == theirs.images.document(image, name)
    again = far.take(site)
    assert (again.bytes, again.images[0].new, again.images[0].channels, again.models[0].state) == (0, False, {}, "here")


def test_incus_finds_an_imported_image_in_the_index(theirs: Publisher, site: Path, tmp_path: Path) -> None:
    Cli(tmp_path / "far")("bundle", "import", str(site), "--fingerprint", theirs.repository.identity)
    image = theirs.images.resolve("box", "amd64")
    assert image.fingerprint in (tmp_path / "far/streams/v1/images.json").read_text()


def test_a_newer_version_moves_the_channel_and_an_older_one_by_its_version_does_not(
    theirs: Publisher, far: Far, tmp_path: Path, site: Path
) -> None:
    far.take(site, theirs.repository.identity)
    theirs.put(SECOND)
    theirs.sign()
    make(theirs, tmp_path / "old.anklume", everything(theirs, f"box@{FIRST}"))
    assert far.take(tmp_path / "old.anklume").images[0].channels == {}
    make(theirs, tmp_path / "new.anklume")
    assert far.take(tmp_path / "new.anklume").images[0].channels == {"latest": FIRST}
    assert far.images.resolve("box", "amd64").version == SECOND


def test_the_same_content_makes_the_same_bytes_which_tar_reads_and_which_are_a_store(
    theirs: Publisher, tmp_path: Path, site: Path, far: Far
) -> None:
    make(theirs, tmp_path / "again.anklume")
    assert (tmp_path / "again.anklume").read_bytes() == site.read_bytes()
    folder = tmp_path / "unpacked"
    folder.mkdir()
    subprocess.run(["tar", "-xf", site, "-C", folder, "--no-same-owner"], check=True)
    origins = Origins(far.store)
    origins.accept(Place(str(folder)), theirs.repository.identity, "me@here")
    origin = origins.contact(str(folder))
    image, channel = origin.resolve("box", "amd64")
    assert pull(origin, image, far.images, far.store, channel=channel).bytes > 0


def test_headers_are_the_same_with_every_python() -> None:
    """One that is usual and one whose size and path are too long for it."""
    usual = header(f"blobs/sha256/aa/{'a' * 64}", 5)
    large = header(f"images/x/{'y' * 150}/amd64/lock.json", 9 << 30)
    assert (len(usual), len(large)) == (512, 1536)
    assert hashlib.sha256(usual + large).hexdigest() == (
        "42b41fdb19b4fc56ae3585bb221b63393fda51c7cb075c06f81089e56d49c007"
    )


def test_its_size_is_known_before_it_is_written(site: Path) -> None:
    with contextlib.closing(Source.at(str(site))) as source:
        assert BundleReader(source).contents.size == site.stat().st_size


def test_a_damaged_file_of_the_store_makes_no_bundle(theirs: Publisher, tmp_path: Path) -> None:
    image = theirs.images.resolve("box", "amd64")
    theirs.store.blobs.path(image.rootfs.sha256).write_bytes(b"x" * image.rootfs.size)
    with pytest.raises(StoreError, match="damaged"):
        make(theirs, tmp_path / "site.anklume")
    assert not list(tmp_path.glob("*site*"))
    theirs.store.blobs.remove(image.rootfs.sha256)
    with pytest.raises(StoreError, match="lacks a file"):
        make(theirs, tmp_path / "site.anklume")


def test_what_is_not_signed_or_was_revoked_makes_no_bundle(theirs: Publisher, tmp_path: Path) -> None:
    theirs.put(SECOND)
    with pytest.raises(StoreError, match="is not signed"):
        make(theirs, tmp_path / "site.anklume")
    for what in (theirs.images.resolve("box", "amd64"), *ModelRecords(theirs.store)):
        revoke(theirs, what.fingerprint)
        with pytest.raises(PolicyError, match="its sshd is open"):
            make(theirs, tmp_path / "site.anklume")


def test_what_other_builders_attest_is_in_it(theirs: Publisher, far: Far, tmp_path: Path) -> None:
    image = theirs.images.resolve("box", "amd64")
    signer = theirs.ring.labelled("builder")
    add_attestation(theirs.store.home, image, attest(image, signer, {"builder": "me@second"}), "file")
    theirs.sign()
    make(theirs, tmp_path / "site.anklume")
    far.take(tmp_path / "site.anklume", theirs.repository.identity)
    assert attested_by(far.store.home, image, [signer.public_key]) == [signer.public_key.keyid]


def test_what_a_host_has_is_left_out_and_missed_by_another(
    theirs: Publisher, far: Far, site: Path, tmp_path: Path
) -> None:
    far.take(site, theirs.repository.identity)
    (tmp_path / "needs.json").write_bytes(take_inventory(far.store).to_bytes())
    inventory = read_inventory(tmp_path / "needs.json")
    second = theirs.put(SECOND)
    theirs.sign()
    contents = make(theirs, tmp_path / "update.anklume", inventory=inventory)
    assert sorted(member.sha256 for member in contents.members if member.kind == "blob") == sorted(
        file.sha256 for file in (second.metadata, second.rootfs)
    )
    assert far.take(tmp_path / "update.anklume").bytes == second.metadata.size + second.rootfs.size
    other = Far(Store(tmp_path / "other"))
    assert "leaves out a file that this host lacks" in str(
        refused(other, tmp_path / "update.anklume", theirs.repository.identity)
    )
    assert not list(other.store.blobs)


def test_a_bundle_for_a_host_that_saw_a_newer_state_is_not_made(theirs: Publisher, far: Far, tmp_path: Path) -> None:
    old = shutil.copytree(theirs.store.home, tmp_path / "old/theirs")
    shutil.copytree(tmp_path / "keys", tmp_path / "old/keys")
    theirs.sign(renew=True)
    make(theirs, tmp_path / "new.anklume")
    far.take(tmp_path / "new.anklume", theirs.repository.identity)
    assert old.is_dir()
    with pytest.raises(BundleError, match="has seen a newer state"):
        make(Publisher(tmp_path / "old"), tmp_path / "w", inventory=take_inventory(far.store))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 1, "blobs": {"a": "x"}, "seen": {}}', '{"schema": 2}'])
def test_a_file_that_is_no_inventory(tmp_path: Path, text: str) -> None:
    (tmp_path / "needs.json").write_text(text)
    with pytest.raises(BundleError):
        read_inventory(tmp_path / "needs.json")


def test_parts_make_the_whole_whichever_is_named(parts: list[Path], theirs: Publisher, far: Far, site: Path) -> None:
    whole = site.read_bytes()
    site.unlink()
    *files, sums = parts
    assert len(files) > 3
    assert max(part.stat().st_size for part in files) == 20_000
    assert b"".join(part.read_bytes() for part in files) == whole
    subprocess.run(["sha256sum", "--check", "--quiet", sums.name], cwd=sums.parent, check=True)
    assert parts_of(site) == parts_of(files[2]) == files
    far.take(files[1], theirs.repository.identity)
    assert far.images.resolve("box", "amd64").version == FIRST


def test_a_damaged_part_and_a_missing_one_are_named(parts: list[Path], believing: Far) -> None:
    files = parts[:-1]
    data = bytearray(files[1].read_bytes())
    data[100] ^= 1
    files[1].write_bytes(data)
    assert [part for part, wrong in check_parts(files) if wrong] == [files[1]]
    assert refused(believing, files[0]).where == f"{files[0]} to {files[-1].name}"
    files[-1].unlink()
    assert files[-1].name in str(refused(believing, files[0]))


@pytest.mark.parametrize("name", ["a:b", "con.anklume", "x.", "what?", "a\\b", "LPT1", "x" * 300])
def test_names_that_fat_and_ntfs_do_not_take(name: str) -> None:
    with pytest.raises(AnklumeError, match="FAT and NTFS"):
        check_path(Path("/nowhere") / name)


@pytest.mark.parametrize("folder", ["/", "there"])
def test_a_folder_in_place_of_a_file(tmp_path: Path, folder: str) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(AnklumeError, match="is a folder"):
        check_path(tmp_path / folder)


def test_a_damaged_file_of_the_host_is_no_reason_to_leave_it_out(theirs: Publisher, far: Far, site: Path) -> None:
    image = theirs.images.resolve("box", "amd64")
    put_blob(far.store.blobs, theirs.store.blobs.path(image.rootfs.sha256).read_bytes())
    far.store.blobs.path(image.rootfs.sha256).write_bytes(b"x" * image.rootfs.size)
    assert far.take(site, theirs.repository.identity).bytes == image.metadata.size + image.rootfs.size + len(MODEL)
    assert far.store.blobs.verify(image.rootfs.sha256)


def test_no_parts_stay_of_one_that_failed(theirs: Publisher, tmp_path: Path) -> None:
    image = theirs.images.resolve("box", "amd64")
    theirs.store.blobs.path(image.rootfs.sha256).write_bytes(b"x" * image.rootfs.size)
    sink = PartsSink(tmp_path / "site.anklume", 5_000)
    with pytest.raises(StoreError), theirs.store.lease() as lease:
        write_bundle(gather(theirs.store, theirs.repository, everything(theirs), lease), sink, QUIET)
    assert not list(tmp_path.glob("*site*"))


def test_what_arrived_before_a_cut_is_not_written_again(
    site: Path, believing: Far, tmp_path: Path, theirs: Publisher
) -> None:
    """A model of which half has arrived: its partial file goes on, whatever its second half is worth."""
    (tmp_path / "cut").write_bytes(site.read_bytes()[: -len(MODEL) // 2])
    refused(believing, tmp_path / "cut")
    (partial,) = believing.store.home.glob("partial/*.part")
    arrived = partial.stat().st_size
    assert 0 < arrived < len(MODEL)
    inode = partial.stat().st_ino
    believing.take(site)
    (record,) = ModelRecords(theirs.store)
    assert believing.store.blobs.path(record.sha256).stat().st_ino == inode
    assert believing.store.blobs.verify(record.sha256)


def test_damage_where_an_earlier_run_has_the_bytes_is_found_too(site: Path, believing: Far, tmp_path: Path) -> None:
    sound, wrong = site.read_bytes(), tmp_path / "wrong.anklume"
    wrong.write_bytes(sound[: -len(MODEL) // 2])
    refused(believing, wrong)
    place = sound.index(MODEL)
    wrong.write_bytes(sound[:place] + b"g" + sound[place + 1 :])
    assert "is damaged" in str(refused(believing, wrong))
    believing.take(site)


def test_a_wrong_beginning_of_an_earlier_run_is_thrown_away(site: Path, believing: Far, theirs: Publisher) -> None:
    (record,) = ModelRecords(theirs.store)
    partial = believing.store.blobs.partial / f"{record.sha256}.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"rubbish")
    refused(believing, site)
    believing.take(site)
    assert believing.store.blobs.verify(record.sha256)


def test_a_full_disk_is_told_before_anything_is_written(
    site: Path, believing: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Callable[[Path], object] = lambda _path: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1 << 16)  # type: ignore[attr-defined]  # noqa: E731
    monkeypatch.setattr("anklume_images.bundle.receive.shutil.disk_usage", usage)
    assert "too full" in str(refused(believing, site))
    assert not list(believing.store.blobs)
