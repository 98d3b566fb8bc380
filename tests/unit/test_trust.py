"""Signed metadata: what is signed is believed; what is unsigned, old, mixed, or by replaced keys is not."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest
from tuf.api.metadata import Metadata

from anklume_images.errors import FetchError, StoreError
from anklume_images.ship.pull import pull, pull_model
from anklume_images.store.chain import caller
from anklume_images.store.images import Images, StoredFile
from anklume_images.store.models import ModelRecords, model_path
from anklume_images.store.override_log import OverrideLog
from anklume_images.store.store import Store
from anklume_images.trust.attest import add_attestation, attest, attested_by
from anklume_images.trust.contents import signed_contents
from anklume_images.trust.keys import KeyRing, read_public_key
from anklume_images.trust.origin import UntrustedError
from anklume_images.trust.origins import Origins
from anklume_images.trust.outcome import NoKeyError, Outcome
from anklume_images.trust.place import Place
from anklume_images.trust.repository import Repository
from anklume_images.trust.revoked import (
    Revocation,
    RevokedError,
    change_revocations,
    known_revocations,
    read_revocations,
    write_revocations,
)
from anklume_images.trust.roles import STRICT
from tests.support.blobs import put_blob
from tests.support.chance import seeded
from tests.support.faulty_mirror import Fault, FaultyMirror
from tests.support.publisher import FIRST, Publisher
from tests.support.stored_images import put, put_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.store.images import Image
    from anklume_images.trust.origin import Origin

SECOND = "2.0-00000000000b"


def have(origin: Origin, store: Store, ref: str = "box") -> Image:
    image, channel = origin.resolve(ref)
    return pull(origin, image, Images(store), store, channel=channel).image


def believe_and_have(theirs: Publisher, identity: str, store: Store) -> Image:
    origins = Origins(store)
    origins.accept(Place(here(theirs)), identity, "me@here")
    return have(origins.contact(here(theirs)), store)


def here(theirs: Publisher) -> str:
    return str(theirs.store.home)


def test_what_is_signed_is_had_once_with_its_documents_and_channel(
    theirs: Publisher, origins: Origins, mine: Store
) -> None:
    origin = origins.contact(here(theirs))
    image, channel = origin.resolve("box")
    assert (image.version, channel) == (FIRST, "latest")
    first = pull(origin, image, Images(mine), mine, channel=channel)
    assert first.new
    assert first.bytes == image.metadata.size + image.rootfs.size
    again = pull(origin, image, Images(mine), mine, channel=channel)
    assert (again.new, again.bytes, again.before) == (False, 0, FIRST)
    mine.blobs.path(image.rootfs.sha256).write_bytes(b"x" * image.rootfs.size)
    assert pull(origin, image, Images(mine), mine, channel="prod").bytes == image.rootfs.size
    assert Images(mine).resolve("box") == theirs.images.resolve("box")
    for name in ("lock", "recipe", "sbom.cdx"):
        assert Images(mine).document(image, name) == theirs.images.document(image, name)
    assert not list(mine.home.glob("images/box/*/*/../../base"))


def test_signing_again_changes_nothing_until_half_of_the_time_is_over(theirs: Publisher) -> None:
    entries = signed_contents(theirs.store, theirs.images)
    assert theirs.repository.publish(lambda: entries).written == {}
    theirs.now += timedelta(days=46)  # of 90
    assert set(theirs.repository.publish(lambda: entries).written) == {"snapshot", "timestamp"}
    assert set(theirs.repository.publish(lambda: entries, renew=True).written) == {"targets", "snapshot", "timestamp"}


def test_old_versions_of_metadata_go_but_the_last_ones(theirs: Publisher) -> None:
    for _ in range(5):
        theirs.sign(renew=True)
    names = {path.name for path in (theirs.store.home / "metadata").iterdir()}
    assert {name for name in names if "targets" in name} == {f"{n}.targets.json" for n in (4, 5, 6)}


def test_an_unsigned_store_and_one_that_nobody_accepted_are_refused(tmp_path: Path, theirs: Publisher) -> None:
    origins = Origins(Store(tmp_path / "other"))
    with pytest.raises(UntrustedError, match="nobody here has accepted the keys") as caught:
        origins.contact(here(theirs))
    assert theirs.repository.identity in caught.value.message
    with pytest.raises(UntrustedError, match="is not signed"):
        origins.contact(str(tmp_path / "nowhere"))
    with pytest.raises(UntrustedError, match="not the one that you named"):
        origins.accept(Place(here(theirs)), "0" * 64, "me@here")
    assert not list(origins)


def test_the_same_store_elsewhere_is_believed_and_another_at_its_place_is_not(
    tmp_path: Path, theirs: Publisher, origins: Origins
) -> None:
    copy = shutil.copytree(theirs.store.home, tmp_path / "copy")
    assert origins.contact(str(copy)).resolve("box")[0].version == FIRST
    other = Publisher(tmp_path / "elsewhere")
    other.put(FIRST)
    other.sign()
    shutil.rmtree(theirs.store.home)
    other.store.home.rename(theirs.store.home)
    with pytest.raises(UntrustedError):
        origins.contact(here(theirs))


def test_an_older_state_is_refused_once_a_newer_one_was_seen(
    tmp_path: Path, theirs: Publisher, origins: Origins, mine: Store
) -> None:
    old = shutil.copytree(theirs.store.home, tmp_path / "old")
    theirs.put(SECOND)
    theirs.sign()
    assert have(origins.contact(here(theirs)), mine).version == SECOND
    with pytest.raises(UntrustedError, match="older metadata than it did before"):
        origins.contact(str(old))


def test_metadata_past_its_time_is_refused_but_for_an_override_that_is_told_and_logged(
    theirs: Publisher, origins: Origins, mine: Store
) -> None:
    theirs.now -= timedelta(days=91)
    theirs.sign(renew=True)
    with pytest.raises(UntrustedError, match="past its time"):
        origins.contact(here(theirs))
    until = (datetime.now(UTC) + timedelta(days=3)).date().isoformat()
    origins.allow_expired(origins.only(), until, "no network until Monday", "me@here")
    origin = origins.contact(here(theirs))
    assert origin.resolve("box")[0].version == FIRST
    assert "no network until Monday" in origin.warnings[0]
    assert until in origin.warnings[0]
    origins.contact(here(theirs))
    first, second = origins.uses(origins.only())
    assert (first.place, first.until, first.why, first.by) == (
        here(theirs),
        until,
        "no network until Monday",
        "me@here",
    )
    assert first.user == caller()
    assert second.previous != first.previous
    origins.allow_expired(origins.only(), "2020-01-01", "long ago", "me@here")
    with pytest.raises(UntrustedError, match="past its time"):
        origins.contact(here(theirs))
    origins.forbid_expired(origins.only())
    with pytest.raises(StoreError, match="is not accepted here"):
        origins.forbid_expired(origins.only())
    assert len(origins.uses(origins.only())) == 2
    lines, breaks = OverrideLog(mine).read()
    assert [line.what for line in lines] == ["allowed", "used", "used", "allowed", "withdrawn"]
    assert breaks == ()


def test_what_is_not_logged_is_not_accepted(theirs: Publisher, origins: Origins, mine: Store) -> None:
    theirs.now -= timedelta(days=91)
    theirs.sign(renew=True)
    origins.allow_expired(origins.only(), "2999-12-31", "for ever", "me@here")
    (mine.home / "history/expired.jsonl").write_bytes(b"")
    with pytest.raises(StoreError, match="the log of expired metadata is damaged"):
        origins.contact(here(theirs))


def test_an_override_lets_no_older_state_in(tmp_path: Path, theirs: Publisher, origins: Origins) -> None:
    theirs.now -= timedelta(days=91)
    theirs.sign(renew=True)
    old = shutil.copytree(theirs.store.home, tmp_path / "old")
    theirs.sign(renew=True)
    origins.allow_expired(origins.only(), "2999-12-31", "for ever", "me@here")
    origins.contact(here(theirs))
    with pytest.raises(UntrustedError, match="older metadata"):
        origins.contact(str(old))


def mix(theirs: Publisher, role: str) -> None:
    """Put back the first version of a role's metadata under the name of the newest."""
    folder = theirs.store.home / "metadata"
    kept = (folder / f"1.{role}.json").read_bytes()
    theirs.put(SECOND)
    theirs.sign()
    (folder / f"2.{role}.json").write_bytes(kept)


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_metadata_of_two_states_is_refused(theirs: Publisher, origins: Origins, role: str) -> None:
    mix(theirs, role)
    with pytest.raises(UntrustedError, match="does not fit together"):
        origins.contact(here(theirs))


def files(store: Store) -> Iterator[Path]:
    """What of a store is signed, or hangs off it."""
    for pattern in ("metadata/*.json", "images/*/*/*/*.json", "blobs/sha256/*/*"):
        yield from sorted(store.home.glob(pattern))


def test_one_flipped_bit_anywhere_lets_nothing_in(theirs: Publisher, mine: Store, tmp_path: Path) -> None:
    """At 60 places, in each file once at least; each time with a store that saw nothing before."""
    chance, image, identity = seeded(), theirs.images.resolve("box"), theirs.repository.identity
    blobs = {theirs.store.blobs.path(file.sha256) for file in (image.metadata, image.rootfs)}
    paths = [path for path in files(theirs.store) if "blobs" not in path.parts or path in blobs]  # inputs stay there
    for number, path in enumerate([*paths, *chance.choices(paths, k=60 - len(paths))]):
        sound = path.read_bytes()
        # Bit 5 is left out: it makes a letter of a signature's hex a capital, which is the same signature.
        place, bit = chance.randrange(len(sound)), chance.choice((0, 1, 2, 3, 4, 6, 7))
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << bit]) + sound[place + 1 :])
        fresh = Store(tmp_path / f"fresh-{number}")
        fresh.create()
        with pytest.raises((StoreError, FetchError)) as caught:
            believe_and_have(theirs, identity, fresh)
        assert here(theirs) in f"{caught.value} {caught.value.hint}", (path, place, bit)
        assert not list(Images(fresh))
        assert not list(fresh.home.glob("channels/*"))
        path.write_bytes(sound)
    assert believe_and_have(theirs, identity, mine).version == FIRST


def test_a_document_that_was_not_signed_is_refused(theirs: Publisher, origins: Origins, mine: Store) -> None:
    image = theirs.images.resolve("box")
    folder = theirs.images.folder("box", FIRST, image.architecture)
    (folder / "recipe.json").write_bytes(b'{"other": 1}')
    with pytest.raises(UntrustedError, match=r"recipe\.json is not what was signed"):
        have(origins.contact(here(theirs)), mine)
    assert Images(mine).get("box", FIRST, image.architecture) is None


def test_a_stolen_key_is_replaced_and_what_it_signs_counts_no_more(
    tmp_path: Path, theirs: Publisher, origins: Origins, mine: Store
) -> None:
    have(origins.contact(here(theirs)), mine)
    thief = Publisher(tmp_path)  # who has all keys but the root's
    fresh = theirs.ring.make("targets")

    def change(root: Any) -> None:
        for keyid in list(root.roles["targets"].keyids):
            root.revoke_key(keyid, "targets")
        root.add_key(fresh, "targets")

    assert theirs.repository.edit_root(change).written["root"] == 2
    assert have(origins.contact(here(theirs)), mine).version == FIRST
    theirs.ring.path(fresh.keyid).rename(tmp_path / "out-of-reach.pem")  # type: ignore[union-attr]
    thief.put(SECOND)
    with pytest.raises(StoreError, match="no key of the role targets is here"):
        thief.repository.publish(lambda: signed_contents(thief.store, thief.images))
    assert origins.contact(here(theirs)).resolve("box")[0].version == FIRST


def test_a_stolen_timestamp_key_can_hold_back_but_not_change(theirs: Publisher, origins: Origins) -> None:
    """Whoever has it can sign a timestamp for a snapshot that was signed; one of their own does not count."""
    origins.contact(here(theirs))
    folder = theirs.store.home / "metadata"
    timestamp = Metadata[Any].from_file(str(folder / "timestamp.json"))
    snapshot = Metadata[Any].from_file(str(folder / "1.snapshot.json"))
    snapshot.signed.version = 2
    signers = theirs.ring.signers(theirs.repository.root().signed.roles["timestamp"].keyids)
    snapshot.sign(signers[0])
    snapshot.to_file(str(folder / "2.snapshot.json"))
    timestamp.signed.version, timestamp.signed.snapshot_meta.version = 2, 2
    timestamp.signed.snapshot_meta.length = timestamp.signed.snapshot_meta.hashes = None
    timestamp.sign(signers[0])
    timestamp.to_file(str(folder / "timestamp.json"))
    with pytest.raises(UntrustedError, match="signatures of its metadata do not hold"):
        origins.contact(here(theirs))


def test_a_root_key_that_was_replaced_signs_no_other_root(
    tmp_path: Path, theirs: Publisher, origins: Origins, mine: Store
) -> None:
    """The chain is followed by who saw the first root only; the thief has the old key of each role."""
    stolen = shutil.copytree(theirs.ring.folder, tmp_path / "stolen")
    fresh = theirs.ring.make("root")

    def change(root: Any) -> None:
        for keyid in list(root.roles["root"].keyids):
            root.revoke_key(keyid, "root")
        root.add_key(fresh, "root")

    assert theirs.repository.edit_root(change).written["root"] == 2
    copy = shutil.copytree(theirs.store.home, tmp_path / "copy")
    assert have(origins.contact(here(theirs)), mine).version == FIRST
    thief = KeyRing(stolen)
    forged = Metadata[Any].from_file(str(copy / "metadata/2.root.json"))
    forged.signed.version = 3
    forged.signatures.clear()
    old = Metadata[Any].from_file(str(copy / "metadata/1.root.json")).signed.roles["root"].keyids
    forged.sign(thief.signers(old)[0])
    forged.to_file(str(copy / "metadata/3.root.json"))
    for store in (mine, Store(tmp_path / "fresh")):
        believing = Origins(store)
        believing.accept(Place(str(copy)), theirs.repository.identity, "me@here")
        with pytest.raises(UntrustedError):
            believing.contact(str(copy))
    assert have(origins.contact(here(theirs)), mine).version == FIRST


def test_a_threshold_that_is_not_met_is_refused(tmp_path: Path, theirs: Publisher, origins: Origins) -> None:
    """One of two keys of the targets, and those of snapshot and timestamp, are in the wrong hands."""
    second = theirs.ring.make("second")

    def change(root: Any) -> None:
        root.add_key(second, "targets")
        root.roles["targets"].threshold = 2

    theirs.repository.edit_root(change)
    origins.contact(here(theirs))
    theirs.ring.path(second.keyid).rename(tmp_path / "out-of-reach.pem")  # type: ignore[union-attr]
    thief = Repository(theirs.store.home, KeyRing(theirs.ring.folder))
    theirs.put(SECOND)
    assert thief.publish(lambda: signed_contents(theirs.store, theirs.images)).missing == {"targets": 1}
    assert origins.contact(here(theirs)).resolve("box")[0].version == FIRST
    staged = thief.staged("targets")
    assert staged is not None
    thief._renewed(thief.root(), staged, renew=True)
    with pytest.raises(UntrustedError, match="signatures of its metadata do not hold"):
        origins.contact(here(theirs))


@dataclass
class Team:
    """Anna and Ben, who both have to sign for root and targets; what is signed often is signed by `online`."""

    store: Store
    anna: Repository
    ben: Repository
    online: Repository

    def sign(self, who: Repository, *, renew: bool = False) -> Outcome:
        return who.publish(lambda: signed_contents(self.store, Images(self.store)), renew=renew)


@pytest.fixture
def team(tmp_path: Path) -> Team:
    """On three hosts that share the store's folder; nothing but the root is signed yet."""
    store = Store(tmp_path / "shared")
    put(store, "box", FIRST)
    rings = {name: KeyRing(tmp_path / name) for name in ("anna", "ben", "online")}
    public = {name: ring.make(name) for name, ring in rings.items()}
    two, one = [public["anna"], public["ben"]], [public["online"]]
    team = Team(store, *(Repository(store.home, ring) for ring in rings.values()))
    begun = team.anna.init(STRICT, {"root": two, "targets": two, "snapshot": one, "timestamp": one})
    assert begun.missing == {"root": 1}
    assert not team.anna.exists
    assert team.ben.sign_root().written == {"root": 1}
    return team


@pytest.mark.parametrize("order", list(permutations(("anna", "ben", "online"))))
def test_a_team_signs_in_any_order(team: Team, mine: Store, order: tuple[str, ...]) -> None:
    """Whoever cannot do anything yet is told so; once each has signed, whoever has the last key lets it count."""
    origins, who = Origins(mine), {"anna": team.anna, "ben": team.ben, "online": team.online}
    origins.accept(Place(str(team.store.home)), team.anna.identity, "me")
    signed: set[str] = set()
    for name in (*order, "online"):
        with pytest.raises(UntrustedError, match="is not whole"):
            origins.contact(str(team.store.home))
        if name == "online" and len(signed) < 2:
            with pytest.raises(NoKeyError, match="of the role targets"):
                team.sign(team.online)
            continue
        outcome = team.sign(who[name])
        signed.add(name)
        if outcome.written:
            break
        assert outcome.missing == ({"targets": 1} if len(signed) < 2 else {"snapshot": 1}), order
        (keys,) = {wanted.keys for wanted in outcome.wanted.values()}
        assert all(who[name].keys.path(keyid) is None for keyid in keys)
    assert outcome.written == {"targets": 1, "snapshot": 1, "timestamp": 1}
    assert have(origins.contact(str(team.store.home)), mine).version == FIRST
    assert not list(team.store.home.glob("metadata/staged/*"))


def test_whoever_has_the_last_key_signs_first(tmp_path: Path, team: Team, mine: Store) -> None:
    """Anna has the keys of snapshot and timestamp too, and signs each change before Ben does."""
    for key in team.online.keys.folder.iterdir():
        shutil.copy(key, team.anna.keys.folder)
    origins = Origins(mine)
    origins.accept(Place(str(team.store.home)), team.anna.identity, "me")
    for version in (FIRST, SECOND):
        put(team.store, "box", version)
        assert team.sign(team.anna).missing == {"targets": 1}
        assert team.sign(team.ben).missing == {"snapshot": 1}
        assert set(team.sign(team.anna).written) == {"targets", "snapshot", "timestamp"}
        assert have(origins.contact(str(team.store.home)), mine).version == version


def test_signatures_of_others_are_kept_while_the_store_changes(team: Team, mine: Store) -> None:
    """What Anna signed is signed by Ben as it is; what has come since is the next that waits, for her."""
    team.sign(team.anna)
    put(team.store, "box", SECOND)
    assert team.sign(team.ben).missing == {"snapshot": 1}
    outcome = team.sign(team.online)
    assert (outcome.written["targets"], outcome.missing) == (1, {"targets": 2})
    origins = Origins(mine)
    origins.accept(Place(str(team.store.home)), team.anna.identity, "me")
    assert origins.contact(str(team.store.home)).resolve("box")[0].version == FIRST
    assert team.sign(team.ben).missing == {"targets": 1}
    put(team.store, "box", "3.0-00000000000c")
    assert team.sign(team.ben).missing == {"targets": 1}  # his own signature he can give again
    team.sign(team.anna)
    assert team.sign(team.online).written["targets"] == 2
    assert origins.contact(str(team.store.home)).resolve("box")[0].version == "3.0-00000000000c"


def test_a_root_is_renewed_by_those_who_have_its_keys(team: Team, mine: Store) -> None:
    """At 400 of its 365 days, when nobody believes the store any more."""
    team.sign(team.anna)
    team.sign(team.ben)
    team.sign(team.online)
    origins, here = Origins(mine), str(team.store.home)
    origins.accept(Place(here), team.anna.identity, "me")
    origins.contact(here)
    with pytest.MonkeyPatch.context() as patched:
        for one in (team.anna, team.ben, team.online):
            patched.setattr(one, "_now", lambda: datetime.now(UTC) - timedelta(days=400))
        assert team.anna.sign_root(renew=True).missing == {"root": 1}
        assert team.ben.sign_root().written["root"] == 2
        for one in (team.anna, team.ben, team.online):
            team.sign(one, renew=one is team.anna)
    for one in (team.anna, team.ben, team.online):
        team.sign(one, renew=one is team.anna)
    assert "root" in team.online.ending()
    with pytest.raises(UntrustedError, match=r"root\.json is expired") as caught:
        origins.contact(here)
    assert "trust sign --renew" in str(caught.value.hint)
    with pytest.raises(NoKeyError, match="of the role root"):
        team.online.sign_root(renew=True)
    assert team.anna.sign_root(renew=False) == Outcome()  # alone she can only begin it
    assert team.anna.sign_root(renew=True).missing == {"root": 1}
    assert team.ben.sign_root(renew=True).written == {"root": 3}
    assert team.online.ending() == {}
    assert origins.contact(here).resolve("box")[0].version == FIRST


def test_one_person_renews_the_root_by_the_way_at_half_of_its_time(theirs: Publisher) -> None:
    assert theirs.repository.sign_root() == Outcome()
    theirs.now += timedelta(days=912)  # of 1826
    assert theirs.repository.sign_root() == Outcome()
    theirs.now += timedelta(days=2)
    outcome = theirs.repository.sign_root()
    assert outcome.written["root"] == 2
    assert set(outcome.written) == {"root", "targets", "snapshot", "timestamp"}  # which were past their time
    theirs.now += timedelta(days=1826 - 29)
    assert "root" in theirs.repository.ending()


def test_the_end_of_a_signature_is_known_before(theirs: Publisher) -> None:
    assert theirs.repository.ending() == {}
    theirs.now += timedelta(days=61)  # of 90
    assert set(theirs.repository.ending()) == {"snapshot", "timestamp"}


def test_keys_that_others_can_read_or_that_want_a_passphrase(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(file: str) -> str:
        asked.append(file)
        return "wrong" if len(asked) == 1 else "sesame"

    ring = KeyRing(tmp_path / "keys")
    key = ring.make("root", "sesame")
    path = ring.path(key.keyid)
    assert path is not None
    assert b"ENCRYPTED" in path.read_bytes()
    with pytest.raises(StoreError, match="nobody can be asked"):
        KeyRing(ring.folder).signers([key.keyid])
    again = KeyRing(ring.folder, answer)
    with pytest.raises(StoreError, match="cannot be read"):
        again.signers([key.keyid])
    assert [signer.public_key.keyid for signer in again.signers([key.keyid])] == [key.keyid]
    path.chmod(0o640)
    with pytest.raises(StoreError, match="others can read"):
        KeyRing(ring.folder, answer).signers([key.keyid])
    with pytest.raises(StoreError, match="not a public key"):
        read_public_key(path)


def test_a_revoked_image_is_had_no_more_and_known_as_such(theirs: Publisher, origins: Origins, mine: Store) -> None:
    image = have(origins.contact(here(theirs)), mine)
    entry = Revocation("box", FIRST, image.architecture, image.fingerprint, "its sshd is open", "2026-01-02T03:04:05Z")
    write_revocations(theirs.store.home, [entry])
    theirs.sign()
    with pytest.raises(RevokedError, match=r"revoked on 2026-01-02: its sshd is open"):
        have(origins.contact(here(theirs)), mine)
    assert known_revocations(mine.home) == (entry,)
    origins.forget(origins.only())
    assert known_revocations(mine.home) == (entry,)
    with pytest.raises(UntrustedError):
        origins.contact(here(theirs))


def entry_of(image: Image, why: str = "its sshd is open") -> Revocation:
    return Revocation(image.name, image.version, image.architecture, image.fingerprint, why, "2026-01-02T03:04:05Z")


def revoke(publisher: Publisher, entry: Revocation) -> None:
    """As the command does, but for the signature."""
    change_revocations(publisher.store.home, lambda before: [*before, entry], signed=True)


def test_a_revocation_that_is_not_signed_yet_holds_at_home_and_hinders_no_reader(
    tmp_path: Path, theirs: Publisher, origins: Origins
) -> None:
    """The key of the targets is elsewhere when the second image is revoked."""
    first = theirs.images.resolve("box")
    revoke(theirs, entry_of(first))
    theirs.sign()
    second = theirs.put(SECOND)
    theirs.sign()
    hers = KeyRing(tmp_path / "hers")
    hers.folder.mkdir()
    kept = [path.rename(hers.folder / path.name) for path in theirs.ring.folder.glob("targets-*.pem")]
    repository = Repository(theirs.store.home, KeyRing(theirs.ring.folder))
    revoke(theirs, entry_of(second, "another hole"))
    with pytest.raises(NoKeyError):
        repository.publish(lambda: signed_contents(theirs.store, theirs.images))
    assert set(known_revocations(theirs.store.home)) == {entry_of(first), entry_of(second, "another hole")}
    origin = origins.contact(here(theirs))
    assert origin.revocations == (entry_of(first),)
    assert origin.resolve("box")[0].version == SECOND
    for path in kept:
        path.rename(theirs.ring.folder / path.name)
    theirs.sign()
    assert len(origins.contact(here(theirs)).revocations) == 2
    assert len(read_revocations(theirs.store.home)) == 2
    assert not list(theirs.store.home.glob("metadata/staged/*"))
    write_revocations(theirs.store.home, [], signed=True)
    assert len(known_revocations(theirs.store.home)) == 2  # until that is signed
    theirs.sign()
    assert known_revocations(theirs.store.home) == origins.contact(here(theirs)).revocations == ()


@pytest.mark.parametrize("published", ["older", "newer"])
def test_a_copy_with_revocations_of_another_day_is_read_by_what_its_metadata_names(
    tmp_path: Path, theirs: Publisher, origins: Origins, published: str
) -> None:
    image, copy = theirs.images.resolve("box"), tmp_path / "copy"
    revoke(theirs, entry_of(image))
    theirs.sign()
    older = (theirs.store.home / "revoked.json").read_bytes()
    if published == "newer":
        shutil.copytree(theirs.store.home, copy)
    revoke(theirs, entry_of(theirs.put(SECOND)))
    theirs.sign()
    if published == "newer":
        shutil.copy(theirs.store.home / "revoked.json", copy)
    else:
        shutil.copytree(theirs.store.home, copy)
        (copy / "revoked.json").write_bytes(older)
    assert len(origins.contact(str(copy)).revocations) == (1 if published == "newer" else 2)


def test_revocations_of_an_earlier_program_or_in_a_bundle_have_their_name_only(
    theirs: Publisher, origins: Origins
) -> None:
    revoke(theirs, entry_of(theirs.images.resolve("box")))
    theirs.sign()
    (copy,) = theirs.store.home.glob("metadata/*.revoked.json")
    for data in (b"{}", None):
        if data is None:
            copy.unlink()
        else:
            copy.write_bytes(data)
        assert len(origins.contact(here(theirs)).revocations) == 1
    path = theirs.store.home / "revoked.json"
    path.write_bytes(path.read_bytes().replace(b"sshd", b"nginx"))
    with pytest.raises(UntrustedError, match=r"revoked\.json is not what was signed"):
        origins.contact(here(theirs))


def test_a_store_that_an_earlier_program_signed_loses_no_revocation(theirs: Publisher, origins: Origins) -> None:
    """It has its list by the name only, which is taken for a signed one all the same."""
    revoke(theirs, entry_of(theirs.images.resolve("box")))
    theirs.sign()
    for second in ("another", "a third"):
        for copy in theirs.store.home.glob("metadata/*.revoked.json"):
            copy.write_bytes(b"damaged") if second == "another" else copy.unlink()
        revoke(theirs, entry_of(theirs.images.resolve("box"), second))
        theirs.sign()
        assert read_revocations(theirs.store.home) == origins.contact(here(theirs)).revocations
        assert not list(theirs.store.home.glob("metadata/staged/*"))
    assert len(known_revocations(theirs.store.home)) == 3


def test_lists_that_no_metadata_names_any_more_go(theirs: Publisher) -> None:
    for number in range(6):
        revoke(theirs, entry_of(theirs.images.resolve("box"), f"hole {number}"))
        theirs.sign()
    assert len(list(theirs.store.home.glob("metadata/*.revoked.json"))) == 3  # as many as there are targets


def test_a_kill_after_the_signature_leaves_revocations_that_the_next_one_settles(
    theirs: Publisher, origins: Origins, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = entry_of(theirs.images.resolve("box"), "a"), entry_of(theirs.images.resolve("box"), "b")
    revoke(theirs, first)
    theirs.sign()
    revoke(theirs, second)
    with monkeypatch.context() as patched:
        patched.setattr("anklume_images.trust.repository.settle_revocations", interrupted)
        with pytest.raises(KeyboardInterrupt):
            theirs.sign()
    assert len(origins.contact(here(theirs)).revocations) == len(known_revocations(theirs.store.home)) == 2
    assert len(read_revocations(theirs.store.home)) == 1
    theirs.sign()
    assert len(read_revocations(theirs.store.home)) == 2
    assert not list(theirs.store.home.glob("metadata/staged/*"))


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_of_two_revocations_at_once_none_is_lost(theirs: Publisher) -> None:
    image = theirs.images.resolve("box")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: revoke(theirs, entry_of(image, f"hole {number}")), range(20)))
    assert len(known_revocations(theirs.store.home)) == 20


def test_a_model_is_had_with_all_of_its_files_once(theirs: Publisher, origins: Origins, mine: Store) -> None:
    layer = StoredFile(put_blob(theirs.store.blobs, b"a template"), 10)
    put_model(theirs.store, "org/toy:1b", layers=(layer,), license="MIT", source="made by hand")
    with pytest.raises(StoreError) as unsigned:
        origins.contact(here(theirs)).model("org/toy:1b")
    assert unsigned.value.hint == "there are images: box; models: none"
    theirs.sign()
    origin = origins.contact(here(theirs))
    assert origin.models() == ["org/toy:1b"]
    record = origin.model("org/toy:1b")
    assert pull_model(origin, record, mine).bytes == 15 + 10
    assert list(ModelRecords(mine)) == [record] == list(ModelRecords(theirs.store))
    assert all(mine.blobs.verify(sha256) for sha256 in record.blobs())
    assert pull_model(origin, record, mine).bytes == 0
    other = put_model(theirs.store, "org/toy:1b", b"another")
    theirs.sign()
    origin = origins.contact(here(theirs))
    pull_model(origin, origin.model("org/toy:1b"), mine)
    assert list(ModelRecords(mine)) == [other]


def test_a_record_of_a_model_that_was_changed_or_renamed_is_not_believed(
    theirs: Publisher, origins: Origins, mine: Store
) -> None:
    put_model(theirs.store, "toy")
    theirs.sign()
    record = theirs.store.home / model_path("toy")
    record.write_bytes(record.read_bytes().replace(b'"license": ""', b'"license": "MIT"'))
    with pytest.raises(UntrustedError, match="is not what was signed"):
        origins.contact(here(theirs)).model("toy:latest")
    put_model(theirs.store, "toy")
    record.rename(theirs.store.home / model_path("large"))
    theirs.sign()
    with pytest.raises(UntrustedError, match="describes another model"):
        origins.contact(here(theirs)).model("large")
    for wrong in ({"sha256": "../../schema"}, {"size": -1}, {"name": 7}):
        record.write_text(json.dumps({"schema": 1, "model": {**RECORD, **wrong}}))
        theirs.sign()
        with pytest.raises(StoreError, match="not a model's record"):
            origins.contact(here(theirs)).model("toy")
    assert list(ModelRecords(mine)) == []


RECORD = {"name": "toy", "sha256": "0" * 64, "size": 1, "manifest": None, "layers": []}


def test_a_revoked_model_is_had_no_more(theirs: Publisher, origins: Origins, mine: Store) -> None:
    record = put_model(theirs.store, "toy")
    write_revocations(theirs.store.home, [Revocation("toy", "", "", record.sha256, "it lies", "2026-01-02T03:04:05Z")])
    theirs.sign()
    origin = origins.contact(here(theirs))
    with pytest.raises(RevokedError, match="toy was revoked on 2026-01-02: it lies"):
        pull_model(origin, origin.model("toy"), mine)
    assert list(ModelRecords(mine)) == []
    assert have(origin, mine).version == FIRST


def test_what_other_builders_attest_comes_with_an_image(
    tmp_path: Path, theirs: Publisher, origins: Origins, mine: Store
) -> None:
    image, ring = theirs.images.resolve("box"), KeyRing(tmp_path / "second")
    key = ring.make("builder")
    (signer,) = ring.signers([key.keyid])
    word = add_attestation(theirs.store.home, image, attest(image, signer, {"builder": "me@second"}), "file")
    theirs.sign()
    origin = origins.contact(here(theirs))
    assert pull(origin, image, Images(mine), mine, channel=None).attestations == 1
    assert attested_by(mine.home, image, [key]) == [key.keyid]

    add_attestation(mine.home, image, attest(image, signer, {"builder": "me@third"}), "file")
    have(origin, mine)
    assert len(list(mine.home.glob("attestations/box/*/*/*.json"))) == 2

    data = word.read_bytes()
    word.write_bytes(data.replace(b'"sig": "', b'"sig": "0'))
    fresh = Store(tmp_path / "fresh")
    fresh.create()
    with pytest.raises(UntrustedError, match="is not what was signed"):
        have(origin, fresh)
    assert not [*Images(fresh), *fresh.blobs, *fresh.home.glob("attestations/*")]
    word.unlink()  # as with a server from before they were served
    assert pull(origin, image, Images(fresh), fresh, channel=None).attestations == 0


def test_an_attestation_cannot_name_a_file_elsewhere(theirs: Publisher) -> None:
    envelope = {"payload": "", "payloadType": "x", "signatures": [{"keyid": "../../../../evil", "sig": "00"}]}
    with pytest.raises(StoreError, match="not an attestation"):
        add_attestation(theirs.store.home, theirs.images.resolve("box"), json.dumps(envelope).encode(), "file")


def test_over_http_what_arrived_is_kept_and_a_stall_or_a_lie_is_told(theirs: Publisher, mine: Store) -> None:
    image = theirs.images.resolve("box")
    blob = f"/blobs/sha256/{image.rootfs.sha256[:2]}/{image.rootfs.sha256}"
    with FaultyMirror() as mirror:
        for path in files(theirs.store):
            mirror.serve(f"/{path.relative_to(theirs.store.home)}", path.read_bytes())
        mirror.fault(blob, Fault(cut=3))
        origins = Origins(mine)
        origins.accept(Place(mirror.url), theirs.repository.identity, "me@here")
        assert have(origins.contact(mirror.url), mine).version == FIRST
        assert [request.range for request in mirror.requests if request.path == blob] == [None, "bytes=3-"]
        asked = [request.path for request in mirror.requests]
        assert asked.index(blob) > asked.index("/metadata/timestamp.json")


def test_a_place_that_is_no_store_address() -> None:
    with pytest.raises(StoreError, match="stores are read from folders and over https"):
        Place("ftp://example/x")
