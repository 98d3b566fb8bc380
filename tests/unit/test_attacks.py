"""Stores that were made to do harm, most of them well signed: refused, told why, and nothing of them stays."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.errors import AnklumeError, FetchError, StoreError
from anklume_images.ship.pull import pull
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from anklume_images.trust.contents import signed_contents
from anklume_images.trust.origin import UntrustedError
from anklume_images.trust.origins import Origins
from anklume_images.trust.place import Place
from anklume_images.trust.repository import Repository
from anklume_images.trust.revoked import Revocation, RevokedError, write_revocations
from anklume_images.trust.roles import ONE, ROLES
from tests.support.publisher import FIRST, Publisher
from tests.support.stored_images import put

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.store.images import Image

SECOND = "2.0-00000000000b"
DEEP = b'{"x": ' + b"[" * 100_000
MANIFEST = f"images/box/{FIRST}/amd64/manifest.json"


def have(origins: Origins, place: Path, ref: str = "box") -> Image:
    origin = origins.contact(str(place))
    image, channel = origin.resolve(ref, "amd64")
    store = Store(origins.folder.parent)
    return pull(origin, image, Images(store), store, channel=channel).image


def refused(theirs: Publisher, origins: Origins) -> AnklumeError:
    with pytest.raises((StoreError, FetchError)) as caught:
        have(origins, theirs.store.home)
    home = origins.folder.parent
    assert not [*home.glob("images/*"), *home.glob("channels/*"), *Store(home).blobs]
    return caught.value


# Documents, signed by their owner


CHANGES: tuple[dict[str, Any], ...] = (
    {"name": "other"},
    {"version": SECOND},
    {"rootfs": {"sha256": "../../../etc/passwd", "size": 3}},
    {"rootfs": {"sha256": "a" * 63 + "\n", "size": 3}},
    *({"rootfs": {"sha256": "a" * 64, "size": size}} for size in (None, "5", -1, True, 1.5, float("nan"))),
    *({"fingerprint": text} for text in ("../x", "", None)),
    *({"base": base} for base in ("x", {}, {"name": "box"}, {"name": 1, "version": 2})),
    {"epoch": "today"},
    {"unpacked": None},
    {"description": ["a"]},
    {"toolchain": 5},
    {"recipe": 5},
    {"packages": [{"kind": [], "name": {}, "version": 4}]},
    {"packages": 5},
    {"properties": {"os": 5}},
    {"spec": []},
    {"more": 1},
    {"schema": "1"},
)


def test_a_manifest_whose_values_are_none(theirs: Publisher, origins: Origins) -> None:
    path = theirs.store.home / MANIFEST
    sound = json.loads(path.read_bytes())
    for change in CHANGES:
        path.write_text(json.dumps(sound | change))
        theirs.sign()
        assert MANIFEST in str(refused(theirs, origins)), change


@pytest.mark.parametrize("name", ["manifest.json", "lock.json", "recipe.json", "revoked.json"])
def test_a_document_that_no_command_could_read(theirs: Publisher, origins: Origins, mine: Store, name: str) -> None:
    path = theirs.store.home / ("" if name == "revoked.json" else f"images/box/{FIRST}/amd64") / name
    wrong = [DEEP, b"[]", b"", b"\xff\xfe", b"5"]
    wrong += [] if name == "recipe.json" else [b'{"schema": 1, "revoked": [{"name": []}]}']  # a recipe may say anything
    for data in wrong:
        path.write_bytes(data)
        theirs.sign()
        assert name in str(refused(theirs, origins)), data[:40]
        assert not list(mine.home.glob("trust/*/revoked.json"))


def test_a_lock_that_names_no_files(theirs: Publisher, origins: Origins) -> None:
    for sha256 in ("../../x", "", None, 5):
        lock = {"debs": [], "wheels": [], "files": [{"sha256": sha256}]}
        (theirs.store.home / f"images/box/{FIRST}/amd64/lock.json").write_text(json.dumps(lock))
        theirs.sign()
        assert "lock.json" in str(refused(theirs, origins)), sha256


def test_a_document_that_is_said_to_be_endless_is_not_read(theirs: Publisher, origins: Origins) -> None:
    entries = signed_contents(theirs.store, theirs.images)
    entries[MANIFEST].length = 1 << 62
    theirs.repository.publish(lambda: entries)
    path = theirs.store.home / MANIFEST
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "larger than any document" in str(refused(theirs, origins))


def test_a_channel_that_names_what_is_no_version_of_its_image(theirs: Publisher, origins: Origins) -> None:
    """A version of another image, too: it is looked for under the channel's own."""
    put(theirs.store, "other", "9.0")
    entries = signed_contents(theirs.store, theirs.images)
    for custom in ([], "x", 5, {}, {"version": 5}, {"version": "../../x"}, {"version": "9.0"}):
        entries["channels/box/amd64/latest"].unrecognized_fields["custom"] = custom
        theirs.repository.publish(lambda: entries, renew=True)
        assert "has no box" in str(refused(theirs, origins)), custom


def test_names_that_no_channel_and_no_image_can_have_are_passed_over(theirs: Publisher, origins: Origins) -> None:
    entries = signed_contents(theirs.store, theirs.images)
    for name in ("..", "PROD", "a\nb", ".hidden", "", "x" * 300, "a/b", "pr\u00f4d", "pro\u0301d", "b\u043ex"):
        entries[f"channels/box/amd64/{name}"] = entries["channels/box/amd64/latest"]
        entries[f"images/{name}/{FIRST}/amd64/manifest.json"] = entries[MANIFEST]
        entries[f"images/box/{name}\n/amd64/manifest.json"] = entries[MANIFEST]
    theirs.repository.publish(lambda: entries)
    origin = origins.contact(str(theirs.store.home))
    assert origin.channels("box", "amd64") == {"latest": FIRST}
    assert origin.images() == [("box", FIRST, "amd64")]


# Metadata that nobody signed


def test_a_first_root_that_has_no_hash(theirs: Publisher, mine: Store) -> None:
    """Of two equal keys the last one counts, for everybody."""
    path, place = theirs.store.home / "metadata/1.root.json", Place(str(theirs.store.home))
    sound = path.read_bytes()
    for more in ('"x": 1.5', '"x": NaN', '"x": "\\ud800"', '"x": -Infinity', '"version": 7', '"_type": "targets"'):
        path.write_bytes(sound.replace(b'"signed":{', f'"signed":{{"version":1,{more},'.encode()))
        with pytest.raises(UntrustedError):
            Origins(mine).at(place)
        with pytest.raises(UntrustedError):
            Origins(mine).accept(place, "0" * 64, "me")


@pytest.mark.parametrize("name", ["1.root", "2.root", "timestamp", "1.snapshot", "1.targets"])
def test_metadata_that_is_none(theirs: Publisher, origins: Origins, mine: Store, name: str) -> None:
    path = theirs.store.home / f"metadata/{name}.json"
    if name == "1.root":
        shutil.rmtree(mine.home / "trust")  # where it was seen
    for data in (DEEP, b"[]", b"5", b"\xff", b'{"signed": {"x-anklume-store": 1}}', bytes(1 << 20)):
        path.write_bytes(data)
        refused(theirs, origins)


# Whose it is


def test_another_store_with_the_same_keys_is_not_this_one(theirs: Publisher, origins: Origins, tmp_path: Path) -> None:
    """Every signature of it holds, and its versions are higher."""
    other = Store(tmp_path / "other")
    put(other, "box", SECOND)
    root = theirs.repository.root().signed
    repository = Repository(other.home, theirs.ring, lambda: theirs.now - timedelta(days=1))
    repository.init(ONE, {role: [root.keys[keyid] for keyid in root.roles[role].keyids] for role in ROLES})
    for _ in range(3):
        repository.publish(lambda: signed_contents(other, Images(other)), renew=True)
    shutil.copy(theirs.store.home / "metadata/1.root.json", other.home / "metadata/1.root.json")
    with pytest.raises(UntrustedError, match="of another store"):
        have(origins, other.home)
    assert have(origins, theirs.store.home).version == FIRST  # which would be older than what was seen


def test_a_store_that_was_signed_before_its_metadata_said_whose_it_is(theirs: Publisher, origins: Origins) -> None:
    """Its owner signs it again, and need not change anything for that."""
    entries, repository = signed_contents(theirs.store, theirs.images), theirs.repository
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("anklume_images.trust.repository.STORE", "x-something")
        repository.publish(lambda: entries, renew=True)
    assert "trust sign" in str(refused(theirs, origins).hint)
    assert repository.publish(lambda: entries).written
    assert have(origins, theirs.store.home).version == FIRST
    assert not repository.publish(lambda: entries).written


def test_two_stores_that_were_accepted_at_one_place(theirs: Publisher, mine: Store, tmp_path: Path) -> None:
    """The one that was accepted last is believed there."""
    origins, place = Origins(mine), tmp_path / "place"
    for number in range(4):
        publisher = Publisher(tmp_path / f"publisher-{number}")
        publisher.put(FIRST)
        publisher.sign()
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(publisher.store.home, place)
        if number:
            with pytest.raises(UntrustedError):
                origins.contact(str(place))
        origins.accept(Place(str(place)), publisher.repository.identity, "me")
        assert have(origins, place).version == FIRST


def test_what_one_store_has_revoked_is_had_from_no_other(
    theirs: Publisher, origins: Origins, mine: Store, tmp_path: Path
) -> None:
    other = Publisher(tmp_path / "elsewhere")
    image = other.put(FIRST)
    other.sign()
    origins.accept(Place(str(other.store.home)), other.repository.identity, "me@here")
    entry = Revocation("box", FIRST, "amd64", image.fingerprint, "its sshd is open", "2026-01-02T03:04:05Z")
    write_revocations(theirs.store.home, [entry])
    theirs.sign()
    assert origins.contact(str(theirs.store.home)).revocations == (entry,)
    with pytest.raises(RevokedError, match="its sshd is open"):
        have(origins, other.store.home)
    assert not list(mine.blobs)


# Files of a folder that are none


@pytest.mark.parametrize("what", ["metadata/timestamp.json", "metadata/1.root.json", MANIFEST, "rootfs"])
def test_a_pipe_a_device_or_a_link_in_a_folder(theirs: Publisher, origins: Origins, mine: Store, what: str) -> None:
    image = theirs.images.resolve("box", "amd64")
    path = theirs.store.blobs.path(image.rootfs.sha256) if what == "rootfs" else theirs.store.home / what
    if "root.json" in what:
        shutil.rmtree(mine.home / "trust")  # where it was seen
    links = (partial(os.symlink, target) for target in ("/dev/zero", "/dev/tty", path, "/etc/passwd"))
    for make in (os.mkfifo, *links):
        path.unlink()
        make(path)
        with pytest.raises((StoreError, FetchError)):
            have(origins, theirs.store.home)
    assert not list(Images(mine))


def test_a_link_to_the_right_bytes_is_as_good_as_they_are(theirs: Publisher, origins: Origins, tmp_path: Path) -> None:
    image = theirs.images.resolve("box", "amd64")
    for path in (theirs.store.blobs.path(image.rootfs.sha256), theirs.store.home / MANIFEST):
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    assert asdict(have(origins, theirs.store.home)) == asdict(image)


@pytest.mark.parametrize("more", [b"x", bytes(4 << 20)])
def test_a_file_that_grows_while_it_is_read(
    theirs: Publisher, origins: Origins, mine: Store, more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = theirs.images.resolve("box", "amd64")
    path = theirs.store.blobs.path(image.rootfs.sha256)
    from anklume_images.inputs.partial import Partial

    append = Partial.append

    def grow(part: Partial, data: bytes) -> None:
        with path.open("ab") as stream:
            stream.write(more)
        append(part, data)

    monkeypatch.setattr(Partial, "append", grow)
    with pytest.raises(FetchError):
        have(origins, theirs.store.home)
    assert not list(Images(mine))
    assert not mine.blobs.has(image.rootfs.sha256)
