"""A bundle that nobody signed, that lies, is old or was revoked: nothing of it is let in."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from anklume_images.bundle.checked import Opened, check
from anklume_images.bundle.index import BundledImage, BundleError, Member
from anklume_images.bundle.parts import Source
from anklume_images.bundle.reader import BundleReader
from anklume_images.bundle.receive import receive
from anklume_images.canonical import canonical
from anklume_images.cli.bundle_import import inspect
from anklume_images.cli.session import Session
from anklume_images.console import Console
from anklume_images.store.models import ModelRecord, ModelRecords
from anklume_images.trust.origin import UntrustedError
from anklume_images.trust.origins import Origins
from anklume_images.trust.revoked import Revocation, RevokedError, write_revocations
from tests.unit.bundle.bundling import FIRST, QUIET, SECOND, Far, forged, make, members_of, refused, signed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.publisher import Publisher


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
    assert "larger than allowed" in str(refused(believing, wrong))


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
