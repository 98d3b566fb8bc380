"""A bundle that is damaged, cut or put together in another way: nothing of it is let in."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from anklume_images.bundle.index import header
from anklume_images.cli.bundle_import import verify
from anklume_images.cli.session import Session
from anklume_images.errors import FetchError, StoreError
from tests.support.blobs import put_blob
from tests.support.chance import seeded
from tests.unit.bundle.bundling import QUIET, Far, forged, full, members_of, refused, signed_index

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.publisher import Publisher


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
        *("metadata", "revoked.json", "images", "models", "infra", "tool", "deltas", "attestations", "blobs")
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


def test_a_document_that_is_too_large_and_sizes_that_lie(site: Path, believing: Far, tmp_path: Path) -> None:
    contents, files = members_of(site)
    first = contents.members[0]
    large = contents.model_copy(update={"members": (first.model_copy(update={"size": 1 << 30}), *contents.members[1:])})
    assert "larger than allowed" in str(refused(believing, forged(large, files, tmp_path / "w", honest=False)))
    blob = contents.members[-1]
    short = contents.model_copy(
        update={"members": (*contents.members[:-1], blob.model_copy(update={"size": blob.size - 1}))}
    )
    assert "no signed document" in str(refused(believing, forged(short, files, tmp_path / "w", honest=False)))
