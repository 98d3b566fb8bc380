"""Bundles: what was put in comes out, and nothing does of one that is damaged, old, forged or for another host."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from anklume_images.bundle.checked import Opened, check
from anklume_images.bundle.gather import Chosen, gather
from anklume_images.bundle.index import BundledImage, BundleError, Contents, Member, header
from anklume_images.bundle.infra import InfraLock, keep_lock
from anklume_images.bundle.needs import read_inventory, take_inventory
from anklume_images.bundle.parts import PartsSink, Sink, Source, check_name, check_parts, parts_of
from anklume_images.bundle.reader import BundleReader
from anklume_images.bundle.receive import Received, receive
from anklume_images.bundle.tool import Tool
from anklume_images.bundle.writer import write_bundle
from anklume_images.canonical import canonical
from anklume_images.cli.bundle_import import inspect, verify
from anklume_images.cli.session import Session
from anklume_images.console import Console
from anklume_images.errors import AnklumeError, FetchError, PolicyError, StoreError
from anklume_images.ship.by_delta import SignedDelta, keep_deltas
from anklume_images.ship.pull import RevokedError, pull
from anklume_images.store.images import Images
from anklume_images.store.models import ModelRecord, ModelRecords
from anklume_images.store.noted import write_noted
from anklume_images.store.store import Store
from anklume_images.trust.attest import add_attestation, attest, attested_by
from anklume_images.trust.origin import UntrustedError
from anklume_images.trust.origins import Origins
from anklume_images.trust.place import Place
from anklume_images.trust.revoked import Revocation, write_revocations
from tests.conftest import Cli
from tests.support.blobs import put_blob
from tests.support.chance import seeded
from tests.support.publisher import Publisher
from tests.support.stored_images import put_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anklume_images.bundle.needs import Inventory

FIRST, SECOND = "1.0-00000000000a", "2.0-00000000000b"
MODEL = b"GGUF of a model" * 5000
QUIET = Console(quiet=True)


@dataclass
class Far:
    """The host that a bundle is for."""

    store: Store

    @property
    def images(self) -> Images:
        return Images(self.store)

    def take(self, path: Path | str, fingerprint: str | None = None) -> Received:
        source = Source.at(str(path))
        with contextlib.closing(source), self.store.scratch("test") as scratch:
            opened = Opened(BundleReader(source), scratch / "bundle")
            origins = Origins(self.store)
            if fingerprint:
                origins.accept(opened.place, fingerprint, "me@here")
            checked = check(opened, origins.at(opened.place), self.store.home)
            return receive(opened, checked, self.images, self.store, QUIET)

    def has_nothing(self) -> bool:
        return not [*self.images, *ModelRecords(self.store)] and not list(self.store.home.glob("channels/*"))


@pytest.fixture
def theirs(tmp_path: Path) -> Publisher:
    publisher = Publisher(tmp_path)
    publisher.put(FIRST)
    put_model(publisher.store, "org/toy:1b", MODEL, license="MIT")
    publisher.sign()
    return publisher


@pytest.fixture
def far(tmp_path: Path) -> Far:
    store = Store(tmp_path / "far")
    store.create()
    return Far(store)


def everything(theirs: Publisher, *refs: str) -> Chosen:
    images = tuple(theirs.images.resolve(ref, "amd64") for ref in refs or ("box",))
    return Chosen(images, tuple(ModelRecords(theirs.store)))


def make(theirs: Publisher, path: Path, chosen: Chosen | None = None, inventory: Inventory | None = None) -> Contents:
    with theirs.store.lease() as lease:
        gathered = gather(theirs.store, theirs.repository, chosen or everything(theirs), lease, inventory)
        write_bundle(gathered, Sink(path), QUIET)
    return gathered.contents


@pytest.fixture
def site(theirs: Publisher, tmp_path: Path) -> Path:
    make(theirs, tmp_path / "site.anklume")
    return tmp_path / "site.anklume"


# What it is


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


def revoke(publisher: Publisher, fingerprint: str) -> None:
    entry = Revocation("box", FIRST, "amd64", fingerprint, "its sshd is open", "2026-01-02T03:04:05Z")
    write_revocations(publisher.store.home, [entry])
    publisher.sign()


def test_what_other_builders_attest_is_in_it(theirs: Publisher, far: Far, tmp_path: Path) -> None:
    image = theirs.images.resolve("box", "amd64")
    signer = theirs.ring.labelled("builder")
    add_attestation(theirs.store.home, image, attest(image, signer, {"builder": "me@second"}), "file")
    theirs.sign()
    make(theirs, tmp_path / "site.anklume")
    far.take(tmp_path / "site.anklume", theirs.repository.identity)
    assert attested_by(far.store.home, image, [signer.public_key]) == [signer.public_key.keyid]


# Damage


def refused(far: Far, path: Path, fingerprint: str | None = None) -> AnklumeError:
    with pytest.raises((StoreError, FetchError)) as caught:
        far.take(path, fingerprint)
    assert far.has_nothing()
    return caught.value


@pytest.fixture
def believing(theirs: Publisher, far: Far) -> Far:
    """Which has accepted the store before."""
    Origins(far.store).accept(Place(str(theirs.store.home)), theirs.repository.identity, "me@here")
    return far


def test_one_flipped_bit_at_200_places(theirs: Publisher, believing: Far, tmp_path: Path) -> None:
    """Of a bundle with files of each kind: in each once at least, its header and its padding included.

    Found by import, and by verify, which is asked less often. What one run has left of a file is there in the next, and
    hides no damage.
    """
    chance, path = seeded(), tmp_path / "site.anklume"
    contents, made = full(theirs, path)
    kept = put_blob(believing.store.blobs, theirs.store.blobs.path(made).read_bytes())  # no xdelta is wanted
    sound, wrong, offsets = path.read_bytes(), tmp_path / "wrong.anklume", [0]
    for one in (None, *contents.members):
        size = len(contents.to_bytes()) if one is None else one.size
        offsets.append(offsets[-1] + len(header(one.path if one else "bundle.json", size)) + size + -size % 512)
    session = Session((), believing.store.home, "amd64", QUIET)
    places = [chance.randrange(first, last) for first, last in pairwise(offsets)]
    assert {one.path.partition("/")[0] for one in contents.members} == {
        *("metadata", "revoked.json", "images", "models", "infra", "tool", "deltas", "blobs")
    }
    places += chance.sample(range(len(sound)), 200 - len(places))
    for number, place in enumerate(places):
        data = bytearray(sound)
        data[place] ^= 1 << chance.randrange(8)
        wrong.write_bytes(data)
        error = refused(believing, wrong)
        assert error.where, (place, error)
        if number < len(offsets) or number % 4 == 0:
            found = CliRunner().invoke(verify, [str(wrong)], obj=session).exception
            assert isinstance(found, StoreError | FetchError), (place, found)
            assert str(error) == str(found), place
        for sha256 in believing.store.blobs:
            if sha256 != kept and chance.random() < 0.5:
                believing.store.blobs.remove(sha256)
    assert CliRunner().invoke(verify, [str(path)], obj=session).exit_code == 0
    assert believing.take(path).infra == ("lab",)


def full(theirs: Publisher, path: Path) -> tuple[Contents, str]:
    """A bundle with files of each kind, and what its delta makes."""
    store, image = theirs.store, theirs.images.resolve("box", "amd64")
    lock = json.dumps({"project": "lab", "machines": {"a": {"image": f"box@{FIRST}", "architecture": "amd64"}}})
    keep_lock(store, InfraLock("lab", (), (), lock.encode()))
    wheel, package = b"PK a wheel", b"a package"
    tool = Tool(
        "1.0-amd64",
        wheels={"tool-1.0-py3-none-any.whl": put_blob(store.blobs, wheel)},
        blobs={put_blob(store.blobs, package): len(package)},
    )
    write_noted(store.home, store.home / tool.path, tool.to_bytes())
    data = b"a delta"
    delta = SignedDelta(image.metadata.sha256, image.rootfs.sha256, put_blob(store.blobs, data), len(data))
    keep_deltas(store, [delta])
    other = Revocation("box", "0.9", "amd64", "0" * 64, "its sshd is open", "2026-01-02T03:04:05Z")
    write_revocations(store.home, [other])
    theirs.sign()
    chosen = everything(theirs)
    return make(theirs, path, Chosen(chosen.images, chosen.models, ("lab",), tool, (delta,))), image.rootfs.sha256


def test_a_cut_or_longer_one(site: Path, believing: Far, tmp_path: Path) -> None:
    sound, wrong = site.read_bytes(), tmp_path / "wrong.anklume"
    for data in (
        *(sound[:length] for length in (0, 1, 511, 512, 5000, len(sound) // 2, len(sound) - 1025, len(sound) - 1)),
        sound + b"\0",
        sound + sound,
        gzip.compress(sound),
        bytes(len(sound)),
    ):
        wrong.write_bytes(data)
        refused(believing, wrong)


def members_of(site: Path) -> tuple[Contents, dict[str, bytes]]:
    with contextlib.closing(Source.at(str(site))) as source:
        reader = BundleReader(source)
        return reader.contents, {member.path: reader.data(member) for member in reader}


def forged(contents: Contents, files: dict[str, bytes], path: Path, *, honest: bool = True) -> Path:
    """Write such a bundle; with `honest`, its index is about these files."""
    if honest:
        found = tuple(
            Member(path=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data)) for name, data in files.items()
        )
        contents = contents.model_copy(update={"members": found})
    index = contents.to_bytes()
    out = io.BytesIO()
    for name, data in {"bundle.json": index, **files}.items():
        out.write(header(name, len(data)) + data + bytes(-len(data) % 512))
    path.write_bytes(out.getvalue() + bytes(1024))
    return path


def test_another_order_than_was_said(site: Path, believing: Far, tmp_path: Path) -> None:
    contents, files = members_of(site)
    names = list(files)
    names[-1], names[-2] = names[-2], names[-1]
    assert "something else" in str(
        refused(believing, forged(contents, {name: files[name] for name in names}, tmp_path / "w", honest=False))
    )
    first = {names[-1]: files[names[-1]]} | files
    assert "not in its place" in str(refused(believing, forged(contents, first, tmp_path / "w")))


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "images/../../x.json",
        "images/box/../x/lock.json",
        "metadata/../schema",
        "metadata/root.json",
        "schema",
        "channels/box/amd64/latest",
        "blobs/sha256/ab/" + "c" * 64,
        "tool/wheels/../x.whl",
        "models/.hidden.json",
        "trees/x/root/bin/sh",
        "x" * 900,
        "images/box\n/1/amd64/lock.json",
        "",
    ],
)
def test_paths_that_no_bundle_has(site: Path, believing: Far, tmp_path: Path, path: str) -> None:
    contents, files = members_of(site)
    assert "has no place in a bundle" in str(refused(believing, forged(contents, {path: b"x"} | files, tmp_path / "w")))


def test_a_file_that_is_in_it_twice(site: Path, believing: Far, tmp_path: Path) -> None:
    contents, files = members_of(site)
    twice = contents.model_copy(update={"members": (contents.members[0], *contents.members)})
    assert "twice" in str(refused(believing, forged(twice, files, tmp_path / "w", honest=False)))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_links_devices_and_folders(site: Path, believing: Far, tmp_path: Path, kind: bytes) -> None:
    """In the place of a file, and of the index."""
    contents, _ = members_of(site)
    for name in (contents.members[0].path, "bundle.json"):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        index = contents.to_bytes()
        start = header("bundle.json", len(index)) + index + bytes(-len(index) % 512)
        data = (b"" if name == "bundle.json" else start) + info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
        (tmp_path / "w").write_bytes(data)
        refused(believing, tmp_path / "w")


def test_an_index_that_is_none(site: Path, believing: Far, tmp_path: Path) -> None:
    """Too large, too deep, of another format, without its digest, with more files than any."""
    contents, _ = members_of(site)
    document = json.loads(contents.to_bytes())["bundle"]
    many = [{"path": f"models/{number}.json", "sha256": "0" * 64, "size": 0} for number in range(100_001)]
    wrong = [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"bundle": ' + b"9" * 10_000 + b"}",
        b"\xff\xfe",
        signed_index(document | {"format": 2}),
        signed_index(document | {"more": 1}),
        signed_index(document | {"members": many}),
        signed_index(document)[:-4] + b'0"}',
        json.dumps(json.loads(contents.to_bytes()), indent=1).encode(),
    ]
    for index in wrong:
        (tmp_path / "w").write_bytes(header("bundle.json", len(index)) + index + bytes(-len(index) % 512 + 1024))
        refused(believing, tmp_path / "w")
    (tmp_path / "w").write_bytes(header("bundle.json", 33 << 20) + bytes(4096))
    refused(believing, tmp_path / "w")


@pytest.mark.parametrize("change", ["digest", "spelling", "store"])
def test_an_index_that_was_changed_though_all_files_are_right(
    site: Path, believing: Far, tmp_path: Path, change: str
) -> None:
    contents, files = members_of(site)
    index = contents.to_bytes()
    other = {
        "digest": index[:-4] + (b"00" if index[-4:-2] != b"00" else b"11") + index[-2:],
        "spelling": index.replace(b'{"bundle":', b'{"bundle": '),
        "store": contents.model_copy(update={"store": "0" * 64}).to_bytes(),
    }[change]
    out = io.BytesIO()
    for name, data in {"bundle.json": other, **files}.items():
        out.write(header(name, len(data)) + data + bytes(-len(data) % 512))
    (tmp_path / "w").write_bytes(out.getvalue() + bytes(1024))
    refused(believing, tmp_path / "w")


def signed_index(document: dict[str, object]) -> bytes:
    return canonical({"bundle": document, "digest": hashlib.sha256(canonical(document)).hexdigest()})


def test_a_document_that_is_too_large_and_sizes_that_lie(site: Path, believing: Far, tmp_path: Path) -> None:
    contents, files = members_of(site)
    first = contents.members[0]
    large = contents.model_copy(update={"members": (first.model_copy(update={"size": 1 << 30}), *contents.members[1:])})
    assert "too large" in str(refused(believing, forged(large, files, tmp_path / "w", honest=False)))
    blob = contents.members[-1]
    short = contents.model_copy(
        update={"members": (*contents.members[:-1], blob.model_copy(update={"size": blob.size - 1}))}
    )
    assert "no signed document" in str(refused(believing, forged(short, files, tmp_path / "w", honest=False)))


# Forgery, and age


def test_documents_and_blobs_that_nobody_signed(site: Path, believing: Far, tmp_path: Path) -> None:
    contents, files = members_of(site)
    path = f"images/box/{FIRST}/amd64/manifest.json"
    changed = files | {path: files[path].replace(b"The image box", b"The image Box")}
    assert isinstance(refused(believing, forged(contents, changed, tmp_path / "w")), UntrustedError)
    data = b"something of mine"
    name = hashlib.sha256(data).hexdigest()
    assert "no signed document" in str(
        refused(believing, forged(contents, files | {f"blobs/sha256/{name[:2]}/{name}": data}, tmp_path / "w"))
    )
    assert "no signed document" in str(
        refused(
            believing,
            forged(contents, {**dict(list(files.items())[:-3]), "tool/wheels/x.whl": b"x"}, tmp_path / "w"),
        )
    )
    other = contents.model_copy(update={"images": (BundledImage(name="other", version="1", architecture="amd64"),)})
    assert isinstance(refused(believing, forged(other, files, tmp_path / "w")), UntrustedError)


def signed(theirs: Publisher, path: Path, documents: dict[str, bytes], **named: tuple[str, ...] | str) -> Path:
    """A bundle of such documents, all of them signed, and of nothing else."""
    for name, data in documents.items():
        (theirs.store.home / name).parent.mkdir(exist_ok=True)
        (theirs.store.home / name).write_bytes(data)
    theirs.sign()
    folder = theirs.store.home / "metadata"
    metadata = {f"metadata/{name}": (folder / name).read_bytes() for name in theirs.repository.files()}
    contents = Contents(store=theirs.repository.identity, members=()).model_copy(update=named)
    return forged(contents, metadata | documents, path)


OUTSIDE = "../../../../../../../../../../../etc/passwd"


def test_a_signed_model_that_is_a_file_of_the_host(theirs: Publisher, believing: Far, tmp_path: Path) -> None:
    """Whose removal would remove that file."""
    for change in ({"sha256": OUTSIDE}, {"size": "5"}, {"layers": [{"sha256": OUTSIDE, "size": 1}]}, {"license": []}):
        model = asdict(ModelRecord("evil", "0" * 64, os.stat("/etc/passwd").st_size)) | change
        document = {"schema": 1, "model": model, "digest": hashlib.sha256(canonical(model)).hexdigest()}
        bundle = signed(theirs, tmp_path / "w", {"models/evil.json": json.dumps(document).encode()}, models=("evil",))
        assert "not a model's record" in str(refused(believing, bundle)), change


def test_signed_documents_that_no_command_could_read(theirs: Publisher, believing: Far, tmp_path: Path) -> None:
    tool = {"schema": 1, "name": "evil", "pythons": [], "trees": [], "wheels": {}}
    machine = {"image": {}, "architecture": "amd64", "models": {}}
    delta = {"earlier": "1" * 64, "later": "0" * 64, "sha256": "2" * 64}
    places: tuple[tuple[str, dict[str, Any], list[dict[str, Any]]], ...] = (
        ("models/evil.json", {"models": ("evil",)}, []),
        (
            "infra/evil.json",
            {"infra": ("evil",)},
            [
                {"project": "evil", "machines": {"a": machine}},
                {"project": 5, "machines": {"a": machine | {"image": "a@b"}}},
            ],
        ),
        (
            "tool/evil.json",
            {"tool": "evil"},
            [tool | {"blobs": {"0" * 64: "5"}}, tool | {"blobs": {"../../x": 5}}, tool | {"blobs": {}, "trees": [5]}],
        ),
        (f"deltas/{'0' * 64}.json", {"deltas": ("0" * 64,)}, [delta | {"size": True}]),
    )
    for path, named, documents in places:
        wrong = [b'{"x":' + b"[" * 50_000, b"[]", b"", b"\xff", *(json.dumps(one).encode() for one in documents)]
        for data in wrong:
            assert path in str(refused(believing, signed(theirs, tmp_path / "w", {path: data}, **named))), data[:40]


def test_an_index_that_names_one_image_a_thousand_times(site: Path, believing: Far, tmp_path: Path) -> None:
    contents, files = members_of(site)
    many = contents.model_copy(update={"images": contents.images * 1000})
    assert "names something twice" in str(refused(believing, forged(many, files, tmp_path / "w", honest=False)))


def test_documents_that_would_fill_a_disk_before_a_signature_is_read(
    site: Path, believing: Far, tmp_path: Path
) -> None:
    contents, files = members_of(site)
    many = (Member(path=f"metadata/{n}.root.json", sha256="0" * 64, size=32 << 20) for n in range(1, 34))
    wrong = forged(contents.model_copy(update={"members": tuple(many)}), files, tmp_path / "w", honest=False)
    assert "too large for what they are" in str(refused(believing, wrong))


def test_names_in_an_index_that_nobody_signed_move_no_cursor(site: Path, believing: Far, tmp_path: Path) -> None:
    contents, files = members_of(site)
    wrong = forged(contents.model_copy(update={"models": ("\x1b[2Jevil\x9b1A\r",)}), files, tmp_path / "w")
    session = Session((), believing.store.home, "amd64", Console())
    for more in ([], ["--json"]):
        shown = CliRunner().invoke(inspect, [str(wrong), *more], obj=session).output
        assert "evil" in shown
        assert not [character for character in shown if character != "\n" and not character.isprintable()]


def test_a_file_that_changes_between_check_and_import(site: Path, believing: Far) -> None:
    """Every byte counts as it is when it is taken; what was checked before is not read again."""
    place = site.read_bytes().index(b"rootfs of box")
    with contextlib.closing(Source.at(str(site))) as source, believing.store.scratch("test") as scratch:
        opened = Opened(BundleReader(source), scratch / "bundle")
        checked = check(opened, Origins(believing.store).at(opened.place), believing.store.home)
        with site.open("r+b") as stream:
            stream.write(bytes(4096))
            stream.seek(place)
            stream.write(b"ROOTFS")
        with pytest.raises(BundleError, match="is damaged"):
            receive(opened, checked, believing.images, believing.store, QUIET)
    assert believing.has_nothing()


def test_keys_that_nobody_accepted_and_another_fingerprint(site: Path, far: Far, theirs: Publisher) -> None:
    assert theirs.repository.identity in str(refused(far, site))
    assert "not the one that you named" in str(refused(far, site, "0" * 64))


def test_one_from_an_older_day(site: Path, far: Far, theirs: Publisher, tmp_path: Path) -> None:
    theirs.put(SECOND)
    theirs.sign()
    make(theirs, tmp_path / "new.anklume")
    far.take(tmp_path / "new.anklume", theirs.repository.identity)
    with pytest.raises(UntrustedError, match="older metadata than it did before"):
        far.take(site)
    assert far.images.resolve("box", "amd64").version == SECOND


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_one_that_is_put_together_of_two_days(
    site: Path, theirs: Publisher, believing: Far, tmp_path: Path, role: str
) -> None:
    old = members_of(site)[1]
    theirs.put(SECOND)
    theirs.sign()
    make(theirs, tmp_path / "new.anklume")
    contents, files = members_of(tmp_path / "new.anklume")
    name = next(path for path in files if path.startswith("metadata/") and path.endswith(f"{role}.json"))
    files[name] = old[name.replace("/2.", "/1.")]
    assert isinstance(refused(believing, forged(contents, files, tmp_path / "w")), UntrustedError)


def test_one_past_its_time_and_an_override_by_fingerprint(theirs: Publisher, far: Far, tmp_path: Path) -> None:
    theirs.now -= timedelta(days=91)
    theirs.sign(renew=True)
    make(theirs, tmp_path / "site.anklume")
    assert "past its time" in str(refused(far, tmp_path / "site.anklume", theirs.repository.identity))
    origins = Origins(far.store)
    origins.allow_expired(origins.known(theirs.repository.identity[:16]), "2999-12-31", "no network", "me@here")
    far.take(tmp_path / "site.anklume")
    assert far.images.resolve("box", "amd64").version == FIRST


def test_what_was_revoked_since(site: Path, far: Far, theirs: Publisher) -> None:
    for what in (theirs.images.resolve("box", "amd64"), *ModelRecords(theirs.store)):
        entry = Revocation("box", FIRST, "amd64", what.fingerprint, "a hole", "2026-01-02T03:04:05Z")
        write_revocations(far.store.home, [entry])
        with pytest.raises(RevokedError, match="a hole"):
            far.take(site, theirs.repository.identity)
        assert far.has_nothing()


# For one host


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


# Parts


@pytest.fixture
def parts(theirs: Publisher, tmp_path: Path) -> list[Path]:
    sink = PartsSink(tmp_path / "site.anklume", 20_000)
    with theirs.store.lease() as lease:
        write_bundle(gather(theirs.store, theirs.repository, everything(theirs), lease), sink, QUIET)
    return sink.written


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
        check_name(name)


def test_no_parts_stay_of_one_that_failed(theirs: Publisher, tmp_path: Path) -> None:
    image = theirs.images.resolve("box", "amd64")
    theirs.store.blobs.path(image.rootfs.sha256).write_bytes(b"x" * image.rootfs.size)
    sink = PartsSink(tmp_path / "site.anklume", 5_000)
    with pytest.raises(StoreError), theirs.store.lease() as lease:
        write_bundle(gather(theirs.store, theirs.repository, everything(theirs), lease), sink, QUIET)
    assert not list(tmp_path.glob("*site*"))


# Resumed


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
