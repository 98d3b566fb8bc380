"""Promotion between stores, and its gates: what may move, and that a channel moves last or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.errors import AnklumeError, StoreError
from anklume_images.evidence.findings import Finding
from anklume_images.evidence.scan import Scan
from anklume_images.ship.aliases import aliases_of
from anklume_images.ship.between_incus import is_version
from anklume_images.ship.gates import GateError, reproduced, scanned
from anklume_images.ship.promote import into_store, model_into_store
from anklume_images.ship.ssh import SshError, host_of, piped
from anklume_images.store.images import Images, Package
from anklume_images.store.models import ModelRecords
from anklume_images.store.promotion_log import HEAD as PROMOTIONS
from anklume_images.store.promotion_log import Promotion, PromotionLog
from anklume_images.store.store import Store
from anklume_images.store.verify import verify_store
from anklume_images.trust.attest import add_attestation, attest, read_attestation
from anklume_images.trust.contents import signed_contents
from anklume_images.trust.keys import KeyRing, read_public_key
from anklume_images.trust.origins import Origins
from anklume_images.trust.place import Place
from anklume_images.trust.repository import Repository
from anklume_images.trust.revoked import read_revocations, write_revocations
from anklume_images.trust.roles import ONE, ROLES
from tests.conftest import Cli
from tests.support import preloaded
from tests.support.killed import killed_at, started
from tests.support.stored_images import put, put_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anklume_images.store.images import Image

FIRST, SECOND = "1.0-00000000000a", "2.0-00000000000b"


@pytest.fixture
def dev(tmp_path: Path) -> Store:
    store = Store(tmp_path / "dev")
    put(store, "box", FIRST)
    return store


@pytest.fixture
def prod(tmp_path: Path) -> Store:
    return Store(tmp_path / "prod")


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    return dict(os.environ) | {"ANKLUME_KEYS": str(tmp_path / "keys")}


def channels(store: Store) -> dict[str, str]:
    return Images(store).channels("box", "amd64")


def test_an_image_with_its_documents_and_channel_and_the_record_of_it(
    dev: Store, prod: Store, keys: dict[str, str]
) -> None:
    cli = Cli(dev.home)
    put(prod, "other", FIRST)
    word = attest(Images(dev).resolve("box", "amd64"), KeyRing(dev.home.parent / "second").labelled("builder"), {})
    add_attestation(dev.home, Images(dev).resolve("box", "amd64"), word, "file")
    asked = ("--arch", "amd64", "promote", "box", "--to", str(prod.home), "--channel", "prod", "--why", "release 7")
    would = cli.json(*asked, "--dry-run", env=keys)
    assert (would["sent"], would["moved"]) == (True, [["box@prod", None, FIRST]])
    assert channels(prod) == {}
    did = cli.json(*asked, env=keys)
    assert did == would | {"dry_run": False}
    assert channels(prod) == {"prod": FIRST}
    image = Images(dev).resolve("box", "amd64")
    assert Images(prod).documents(image) == Images(dev).documents(image)
    assert [path.read_bytes() for path in prod.home.glob("attestations/box/*/amd64/*.json")] == [word]
    (move,) = [json.loads(line) for line in (prod.home / "history/channels.jsonl").read_text().splitlines()][1:]
    assert (move["command"], move["why"], move["to"]) == ("promote", "release 7", FIRST)
    again = cli.json(*asked, env=keys)
    assert (again["sent"], again["moved"]) == (False, [])
    assert channels(dev) == {"latest": FIRST}
    assert Cli(prod.home)("verify").returncode == 0


def test_a_signed_target_is_signed_again_or_its_channel_goes_back(
    dev: Store, prod: Store, keys: dict[str, str], tmp_path: Path
) -> None:
    put(prod, "box", SECOND, channels=("prod",))
    theirs = Cli(prod.home)
    theirs("trust", "sign", env=keys)
    asked = ("--arch", "amd64", "promote", "box", "--to", str(prod.home), "--channel", "prod")
    shutil.move(tmp_path / "keys", tmp_path / "away")
    refused = Cli(dev.home)(*asked, env=keys, check=False)
    assert refused.returncode == 1
    assert "key" in refused.stderr
    assert channels(prod) == {"prod": SECOND}
    shutil.move(tmp_path / "away", tmp_path / "keys")
    Cli(dev.home)(*asked, env=keys)
    assert channels(prod) == {"prod": FIRST}
    fingerprint = theirs.json("trust", "show", env=keys)["own"]["fingerprint"]
    reader = Cli(tmp_path / "reader")
    reader("trust", "accept", str(prod.home), "--fingerprint", fingerprint)
    assert f"box@{FIRST}" in reader("--arch", "amd64", "pull", "box@prod").stdout


def test_a_damaged_file_of_the_target_is_sent_again(dev: Store, prod: Store) -> None:
    asked = ("--arch", "amd64", "promote", "box", "--to", str(prod.home))
    Cli(dev.home)(*asked, "--channel", "dev")
    rootfs = Images(dev).resolve("box", "amd64").rootfs
    prod.blobs.path(rootfs.sha256).write_bytes(b"x" * rootfs.size)
    Cli(dev.home)(*asked, "--channel", "prod")
    assert Cli(prod.home)("verify").returncode == 0


@pytest.mark.parametrize("before", [None, SECOND])
def test_a_failure_at_the_end_leaves_the_old_channel(dev: Store, prod: Store, before: str | None) -> None:
    if before:
        put(prod, "box", before, channels=("prod",))

    def fails() -> None:
        raise StoreError("the stick with the key is gone")

    image = Images(dev).resolve("box", "amd64")
    with pytest.raises(StoreError, match="stick"):
        into_store(image, Images(dev), Images(prod), prod, channel="prod", why="", sign=fails, progress=None)
    assert channels(prod) == ({"prod": before} if before else {})


@pytest.mark.parametrize("before", [None, b"another"])
def test_a_model_that_cannot_be_signed_leaves_its_name_to_what_it_was(
    dev: Store, prod: Store, before: bytes | None
) -> None:
    record = put_model(dev, "toy")
    prod.create()
    there = [put_model(prod, "toy", before)] if before else []

    def fails() -> None:
        raise StoreError("the stick with the key is gone")

    with pytest.raises(StoreError, match="stick"):
        model_into_store(record, dev, prod, sign=fails, progress=None)
    assert list(ModelRecords(prod)) == there


def test_a_model_to_a_signed_store(dev: Store, prod: Store, keys: dict[str, str], tmp_path: Path) -> None:
    cli, record = Cli(dev.home), put_model(dev, "toy")
    other = put_model(prod, "toy", b"another")
    Cli(prod.home)("trust", "sign", env=keys)
    asked = ("promote", "toy", "--model", "--to", str(prod.home))
    would = cli.json(*asked, "--dry-run", env=keys)
    assert would == {
        "model": "toy",
        "sha256": record.sha256,
        "sent": True,
        "replaced": True,
        "waits": [],
        "dry_run": True,
    }
    assert list(ModelRecords(prod)) == [other]
    assert cli.json(*asked, env=keys) == would | {"dry_run": False}
    reader = Store(tmp_path / "reader")
    reader.create()
    origins = Origins(reader)
    origins.accept(Place(str(prod.home)), Repository(prod.home, KeyRing(tmp_path / "keys")).identity, "me")
    assert origins.contact(str(prod.home)).model("toy") == record
    for options in (("--channel", "prod"), ("--to", "remote:")):
        assert cli(*asked, *options, env=keys, check=False).returncode == 2


THIRD = "3.0-00000000000c"


def signed(store: Store, ring: KeyRing) -> Repository:
    repository = Repository(store.home, ring)
    repository.init(ONE, {role: [ring.make(role)] for role in ROLES})
    repository.publish(lambda: signed_contents(store, Images(store)))
    return repository


def as_signed(store: Store, repository: Repository, reader: Path) -> str | None:
    """Where somebody who believes the store sees the channel `prod`."""
    other = Store(reader)
    other.create()
    origins = Origins(other)
    origins.accept(Place(str(store.home)), repository.identity, "me")
    return origins.contact(str(store.home)).channels("box", "amd64").get("prod")


@pytest.mark.parametrize("fails", [False, True])
def test_another_one_in_between_is_not_undone(dev: Store, prod: Store, tmp_path: Path, fails: bool) -> None:
    """Of two at once the later one stands, signed; also where the earlier one then fails and goes back."""
    put(dev, "box", THIRD, channels=())
    put(prod, "box", SECOND, channels=("prod",))
    repository, images, theirs = signed(prod, KeyRing(tmp_path / "keys")), Images(dev), Images(prod)

    def promote(version: str, sign: Callable[[], object]) -> None:
        image = images.resolve(f"box@{version}", "amd64")
        into_store(image, images, theirs, prod, channel="prod", why="", sign=sign, progress=None)

    def sign() -> None:
        repository.publish(lambda: signed_contents(prod, theirs))

    def another_first() -> None:
        promote(THIRD, sign)
        if fails:
            raise StoreError("the stick with the key is gone")
        sign()

    with pytest.raises(StoreError, match="stick") if fails else contextlib.nullcontext():
        promote(FIRST, another_first)
    assert channels(prod) == {"prod": THIRD}
    assert as_signed(prod, repository, tmp_path / "reader") == THIRD


def test_two_at_once_into_the_same_channel(dev: Store, prod: Store, tmp_path: Path) -> None:
    """Processes of their own: at the end the channel names one of both, that one is signed, and the log has both."""
    put(dev, "box", THIRD, channels=())
    put(prod, "box", SECOND, channels=("prod",))
    repository = signed(prod, KeyRing(tmp_path / "keys"))
    gate, go = os.pipe()

    def promote(version: str) -> None:
        os.read(gate, 1)
        images, theirs = Images(dev), Images(prod)
        image = images.resolve(f"box@{version}", "amd64")
        into_store(
            image, images, theirs, prod, channel="prod", why="", progress=None,
            sign=lambda: repository.publish(lambda: signed_contents(prod, theirs)),
        )  # fmt: skip

    children = [started(partial(promote, version)) for version in (FIRST, THIRD)]
    os.write(go, b"12")
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert channels(prod)["prod"] in (FIRST, THIRD)
    assert as_signed(prod, repository, tmp_path / "reader") == channels(prod)["prod"]
    assert verify_store(prod, Images(prod), [], "amd64", jobs=1).damaged == ()
    moves = [move.after for move in Images(prod).log.read().moves if move.place.channel == "prod"]
    assert sorted(filter(None, moves[1:])) == [FIRST, THIRD]


def promotions(cli: Cli) -> list[dict[str, Any]]:
    """What the log of the store tells of the promotions of `box`."""
    return list(cli.json("channel", "history", "box")["promotions"])


def test_the_store_that_it_is_done_with_has_a_record_of_it_which_is_signed(
    dev: Store, prod: Store, keys: dict[str, str], tmp_path: Path
) -> None:
    cli, image = Cli(dev.home), Images(dev).resolve("box", "amd64")
    cli("trust", "sign", env=keys)
    ring = KeyRing(tmp_path / "second")
    word = tmp_path / "word"
    word.write_bytes(attest(image, ring.labelled("builder"), {}))
    cli("--arch", "amd64", "attest", "box", "--add", str(word))
    (pub,) = ring.folder.glob("*.pub")
    put(dev, "later", FIRST)
    asked = ("--arch", "amd64", "promote", "box", "--to", str(prod.home), "--channel", "prod")
    gate = ("--gate", "reproduced", "--builder", str(pub))
    cli(*asked, "--dry-run", env=keys)
    assert promotions(cli) == []
    cli(*asked, *gate, "--why", "release 7", env=keys)
    (one,) = promotions(cli)
    assert (one["ref"], one["fingerprint"], one["why"]) == (image.ref, image.fingerprint, "release 7")
    assert (one["source"], one["target"], one["channel"]) == (str(dev.home), str(prod.home), "prod")
    assert (one["outcome"], one["moved"]) == ("done", [["box@prod", None, FIRST]])
    assert one["gates"][0].startswith("reproduced: built with the same bytes by ")
    assert all(one[key] for key in ("user", "host", "time"))
    reader = Store(tmp_path / "reader")
    reader.create()
    origins = Origins(reader)
    origins.accept(Place(str(dev.home)), Repository(dev.home, KeyRing(tmp_path / "keys")).identity, "me")
    log = dev.home / "history/promotions.jsonl"
    assert cli.json("channel", "history", "box")["signed"] == {"moves": 1, "promotions": 2}
    origin = origins.contact(str(dev.home))
    assert origin.document(PROMOTIONS) == (dev.home / PROMOTIONS).read_bytes()
    assert [name for name, _, _ in origin.images()] == ["box"]  # what else is new is signed when somebody signs it

    log.unlink()
    (dev.home / PROMOTIONS).unlink()
    with PromotionLog(dev).recorded(Promotion(image.ref, "amd64", None, "here", "there", "prod")):
        pass  # one who has no key writes another log, whose chain is whole
    forged = cli("channel", "history", "box", check=False)
    assert (forged.returncode, "is not the log that was signed" in forged.stderr) == (1, True)
    assert "is not the log that was signed" in cli(*asked, env=keys).stderr  # so that it is not signed by the way
    assert cli("channel", "history", "box", check=False).returncode == 1


def test_a_store_that_is_not_signed_says_that_its_record_is_not_either(
    dev: Store, prod: Store, keys: dict[str, str]
) -> None:
    cli, note = Cli(dev.home), "this store is not signed, so the record of it is not either"
    asked = ("--arch", "amd64", "promote", "box", "--to", str(prod.home), "--channel", "prod")
    assert note not in cli(*asked, "--dry-run", env=keys).stderr
    assert note in cli(*asked, env=keys).stderr
    assert cli.json("channel", "history", "box")["signed"] is None
    cli("trust", "sign", env=keys)
    assert cli.json("channel", "history", "box")["signed"] == {"moves": 1, "promotions": 2}
    assert note not in cli(*asked, env=keys).stderr


def test_a_gate_that_is_not_passed_stops_it_and_is_told(
    dev: Store, prod: Store, keys: dict[str, str], tmp_path: Path
) -> None:
    cli = Cli(dev.home)
    KeyRing(tmp_path / "second").make("builder")
    (pub,) = (tmp_path / "second").glob("*.pub")
    asked = ("--arch", "amd64", "promote", "box", "--to", str(prod.home), "--gate", "reproduced", "--builder", str(pub))
    refused = cli(*asked, env=keys, check=False)
    assert (refused.returncode, prod.home.exists()) == (4, False)
    (one,) = promotions(cli)
    assert (one["outcome"], one["gates"], one["moved"]) == ("failed", ["reproduced"], [])
    assert "no builder that you named has attested" in one["problem"]
    assert "failed: no builder" in cli("channel", "history", "box").stdout


def test_a_record_that_was_changed_is_found_and_nothing_moves_before_it_is_mended(
    dev: Store, prod: Store, keys: dict[str, str]
) -> None:
    cli = Cli(dev.home)
    asked = ("--arch", "amd64", "promote", "box", "--to", str(prod.home))
    cli(*asked, "--why", "release 7", env=keys)
    log = dev.home / "history/promotions.jsonl"
    log.write_bytes(log.read_bytes().replace(b"release 7", b"release 8"))
    told = cli("channel", "history", "box", "--json", check=False)
    assert (told.returncode, {one["log"] for one in json.loads(told.stdout)["breaks"]}) == (1, {str(log)})
    refused = cli(*asked, "--channel", "prod", env=keys, check=False)
    assert (refused.returncode, channels(prod)) == (1, {"latest": FIRST})
    assert "promotions.jsonl: line 2" in cli("verify", check=False).stdout
    cli("verify", "--repair")
    assert promotions(cli) == []
    cli(*asked, "--channel", "prod", env=keys)
    assert channels(prod) == {"latest": FIRST, "prod": FIRST}


def test_a_record_is_killed_at_any_line(dev: Store) -> None:
    """A promotion that was begun is told, whenever it ends; the next one is recorded all the same."""
    log = PromotionLog(dev)
    asked = Promotion(f"box@{FIRST}", "amd64", None, "here", "prod:", "prod", ("scan",))

    def done() -> None:
        with log.recorded(asked) as ended:
            ended(replace(asked, moved=(("box/prod", None, FIRST),)))

    line, killed, seen = 0, True, set()
    while killed:
        line += 11
        killed = killed_at(line, done)
        told, breaks = log.read()
        assert not breaks
        seen.add(told[-1].outcome if told else None)
    done()
    told, breaks = log.read()
    assert (told[-1].outcome, told[-1].moved, breaks) == ("done", (("box/prod", None, FIRST),), ())
    assert {"begun", "done"} <= seen


def promoted(dev: Store, prod: Store, repository: Repository) -> None:
    """Into a signed store, as the command does it."""
    images, theirs = Images(dev), Images(prod)
    image = images.resolve("box", "amd64")
    theirs.settle()

    def sign() -> None:
        repository.publish(lambda: signed_contents(prod, theirs))

    into_store(image, images, theirs, prod, channel="prod", why="", sign=sign, progress=None)


def test_it_is_killed_at_any_line(dev: Store, prod: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The channel names the old version or the new one, whole either way, and doing it again ends it."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    put(prod, "box", SECOND, channels=("prod",))
    ring = KeyRing(tmp_path / "keys")
    repository = signed(prod, ring)
    line, killed, seen = 0, True, set()
    while killed:
        line += 29
        copy = tmp_path / f"copy-{line}"
        shutil.copytree(prod.home, copy, symlinks=True)
        other, theirs = Store(copy), Repository(copy, ring)
        killed = killed_at(line, partial(promoted, dev, other, theirs))
        Images(other).settle()
        version = channels(other)["prod"]
        assert version in (FIRST, SECOND)
        assert Images(other).present("box", version, "amd64")
        assert verify_store(other, Images(other), [], "amd64", jobs=1).damaged == ()
        reader = Store(tmp_path / f"reader-{line}")
        reader.create()
        origins = Origins(reader)
        origins.accept(Place(str(copy)), repository.identity, "me")
        seen.add((version, origins.contact(str(copy)).channels("box", "amd64")["prod"]))
        promoted(dev, other, theirs)
        assert channels(other) == {"prod": FIRST}
        assert origins.contact(str(copy)).channels("box", "amd64")["prod"] == FIRST
        shutil.rmtree(copy)
    assert line > 30 * 29
    assert {(SECOND, SECOND), (FIRST, FIRST)} <= seen <= {(SECOND, SECOND), (FIRST, SECOND), (FIRST, FIRST)}


def test_a_damaged_file_or_a_revoked_image_does_not_go(dev: Store, prod: Store, keys: dict[str, str]) -> None:
    cli, image = Cli(dev.home), Images(dev).resolve("box", "amd64")
    asked = ("--arch", "amd64", "promote", "box", "--to", str(prod.home))
    blob = dev.blobs.path(image.rootfs.sha256)
    sound = blob.read_bytes()
    blob.write_bytes(sound[:-1] + b"x")
    assert cli(*asked, env=keys, check=False).returncode == 1
    assert Images(prod).get("box", FIRST, "amd64") is None
    blob.write_bytes(sound)
    cli("--arch", "amd64", "revoke", "box", "--why", "a hole", env=keys)
    refused = cli(*asked, env=keys, check=False)
    assert (refused.returncode, "a hole" in refused.stderr) == (4, True)
    (revoked,) = read_revocations(dev.home)
    (dev.home / "revoked.json").unlink()
    write_revocations(prod.home, [replace(revoked, why="another hole")])  # by the target
    refused = cli(*asked, env=keys, check=False)
    assert (refused.returncode, "another hole" in refused.stderr) == (4, True)
    assert Images(prod).get("box", FIRST, "amd64") is None


@pytest.mark.parametrize("command", [("publish", "box"), ("promote", "box", "--to", "local:")])
def test_a_revoked_image_goes_to_no_incus(dev: Store, keys: dict[str, str], command: tuple[str, ...]) -> None:
    """Which is not even asked: none is here."""
    cli = Cli(dev.home)
    cli("--arch", "amd64", "revoke", "box", "--why", "a hole", env=keys)
    nowhere = keys | {"INCUS_SOCKET": str(dev.home / "none")}
    refused = cli("--arch", "amd64", *command, env=nowhere, check=False)
    assert (refused.returncode, f"box@{FIRST} was revoked on " in refused.stderr) == (4, True), refused.stderr


def test_which_alias_of_an_incus_is_a_version() -> None:
    assert [is_version(alias) for alias in ("b9000-3801ba31f2c4", FIRST)] == [True, True]
    assert [is_version(alias) for alias in ("latest", "release-candidate", "staging-b9000")] == [False] * 3


def test_what_an_incus_calls_an_image() -> None:
    assert aliases_of("box", FIRST, ["latest"]) == (f"box/{FIRST}", "box/latest", "box")
    assert aliases_of("box", FIRST, ["prod"], []) == (f"box/{FIRST}", "box/prod")
    assert aliases_of("box", FIRST, ["prod"], ["box"]) == (f"box/{FIRST}", "box/prod", "box")


@pytest.fixture
def image(dev: Store) -> Image:
    return Images(dev).resolve("box", "amd64")


def test_another_builders_word_counts_when_it_is_theirs_and_about_these_bytes(
    dev: Store, image: Image, tmp_path: Path
) -> None:
    ring = KeyRing(tmp_path / "second")
    signer = ring.labelled("builder")
    (pub,) = ring.folder.glob("*.pub")
    known = [read_public_key(pub)]
    with pytest.raises(GateError, match="no builder that you named has attested"):
        reproduced(image, dev.home, known)
    data = attest(image, signer, {"builder": "me@second", "finished": "2026-01-02T03:04:05Z"})
    assert add_attestation(dev.home, image, data, "file").is_file()
    assert signer.public_key.keyid[:16] in reproduced(image, dev.home, known)
    with pytest.raises(GateError):
        reproduced(image, dev.home, [KeyRing(tmp_path / "third").make("builder")])

    other = put(dev, "box", SECOND)
    with pytest.raises(StoreError, match="not about"):
        add_attestation(dev.home, other, data, "file")
    forged = json.loads(data)
    forged["payload"] = json.loads(attest(other, signer, {}))["payload"]
    add_attestation(dev.home, other, json.dumps(forged).encode(), "file")
    with pytest.raises(GateError):
        reproduced(other, dev.home, known)
    with pytest.raises(AnklumeError, match="not an attestation"):
        read_attestation(b"{}", "file")
    assert KeyRing(ring.folder).labelled("builder").public_key.keyid == known[0].keyid


def test_a_known_vulnerability_that_is_fixed_elsewhere_stops_it(
    monkeypatch: pytest.MonkeyPatch, dev: Store, image: Image
) -> None:
    """What is in an image, and what databases say, have tests of their own: here it is what the gate makes of it."""
    found = Finding("CVE-2026-1", "high", "deb", "openssl", "3.5.1-1", "3.5.2-1", ("libssl3t64",), "a hole")
    open_still = Finding("CVE-2026-2", "critical", "deb", "bash", "5.2-1", None, ("bash",), "another")
    verdict = Scan((found, open_still), {"deb": 7, "wheel": 0}, (), ())
    monkeypatch.setattr("anklume_images.evidence.scan.scan_image", lambda *_: verdict)
    with pytest.raises(GateError, match=r"high CVE-2026-1: openssl 3\.5\.1-1, fixed in 3\.5\.2-1") as caught:
        scanned(image, dev, [], "medium")
    assert "CVE-2026-2" not in caught.value.message
    assert scanned(image, dev, [], "critical").startswith("7 packages")


def test_databases_that_know_nothing_of_the_image_are_no_pass(
    monkeypatch: pytest.MonkeyPatch, dev: Store, image: Image
) -> None:
    with_wheel = replace(image, packages=(Package("deb", "bash", "5"), Package("wheel", "flask", "3")))
    files = ("release file tool",)
    for checked, unchecked in (({"deb": 7, "wheel": 0}, ("1 wheels",)), ({"deb": 0, "wheel": 1}, ("7 packages",))):
        verdict = Scan((), checked, (*unchecked, *files), ())
        monkeypatch.setattr("anklume_images.evidence.scan.scan_image", lambda *_, verdict=verdict: verdict)
        with pytest.raises(GateError, match=unchecked[0]):
            scanned(with_wheel, dev, [], "medium")
    verdict = Scan((), {"deb": 7, "wheel": 1}, files, ())
    monkeypatch.setattr("anklume_images.evidence.scan.scan_image", lambda *_: verdict)
    assert scanned(with_wheel, dev, [], "medium").endswith("not checked: release file tool")


@pytest.mark.parametrize(
    "options", [("--gate", "reproduced"), ("--gate", "scan"), ("--from", "one:", "--gate", "healthcheck")]
)
def test_a_gate_that_lacks_what_it_judges_by(dev: Store, prod: Store, options: tuple[str, ...]) -> None:
    target = "two:" if "one:" in options else str(prod.home)
    said = Cli(dev.home)("--arch", "amd64", "promote", "box", "--to", target, *options, check=False)
    assert said.returncode == 2, said.stderr


IMAGES_ALONE = ("--channel", "--why", "--gate")
IGNORED = ("--builder", "--db", "--severity", "--fingerprint")


@pytest.mark.parametrize(
    ("option", "model"),
    [*((option, ()) for option in IGNORED), *((one, ("--model",)) for one in IMAGES_ALONE + IGNORED)],
)
def test_an_option_that_would_be_ignored_is_refused(
    dev: Store, prod: Store, tmp_path: Path, option: str, model: tuple[str, ...]
) -> None:
    """Also where its value is the default one."""
    put_model(dev, "box")
    file = tmp_path / "file"
    file.write_bytes(b"")
    values = {"--severity": "medium", "--gate": "healthcheck", "--builder": str(file), "--db": str(file)}
    options = ("--dry-run", option, values.get(option, "prod"), *model)
    said = Cli(dev.home)("--arch", "amd64", "promote", "box", "--to", str(prod.home), *options, check=False)
    assert (said.returncode, option in said.stderr) == (2, True), said.stderr


@pytest.mark.parametrize("gate", ["healthcheck", "scan"])
def test_what_another_gate_judges_by_is_refused(dev: Store, prod: Store, tmp_path: Path, gate: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    options = ("--gate", gate, "--builder", str(file), *(("--db", str(file)) if gate == "scan" else ()))
    said = Cli(dev.home)("--arch", "amd64", "promote", "box", "--to", str(prod.home), *options, check=False)
    assert (said.returncode, "--builder" in said.stderr) == (2, True), said.stderr


@pytest.mark.parametrize("model", [(), ("--model",)])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--to", "https://host:8444"), "anklume-images pull"),
        (("--to", "http://me:secret@host/store"), "ssh://HOST/FOLDER"),
        (("--to", "file:///srv/store"), "as a path"),
        (("--to", "SSH://host/store"), "ssh://HOST/FOLDER"),
        (("--to", "prod", "--from", "ftp://host/store"), "not read by ftp://"),
    ],
)
def test_an_address_that_nothing_can_be_sent_to_is_refused_and_nothing_is_made(
    dev: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], told: str, model: tuple[str]
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    put_model(dev, "box")
    said = Cli(dev.home)("--arch", "amd64", "promote", "box", *options, *model, check=False)
    assert (said.returncode, told in " ".join(said.stderr.split())) == (2, True), said.stderr
    assert "secret" not in said.stderr
    assert list(folder.iterdir()) == []
    assert promotions(Cli(dev.home)) == []


@pytest.mark.parametrize("target", ["folder", "incus"])
def test_a_name_that_no_channel_may_have_is_refused_before_anything_is_copied(
    dev: Store, prod: Store, target: str
) -> None:
    """No Incus is here to be asked."""
    to = {"folder": str(prod.home), "incus": "local:"}[target]
    cli = Cli(dev.home)
    said = cli("--arch", "amd64", "promote", "box", "--to", to, "--channel", "Prod X", check=False)
    assert (said.returncode, "not the name of a channel: 'Prod X'" in " ".join(said.stderr.split())) == (2, True)
    assert not prod.home.exists()
    assert promotions(cli) == []
    for way in (("pull", "box"), ("bundle", "import", "none")):
        assert cli(*way, "--channel", "Prod X", check=False).returncode == 2


def reachable(way: str, store: Store) -> tuple[str, ...]:
    return {"here": (), "folder": ("--from", str(store.home)), "ssh": ("--from", f"ssh://far{store.home}")}[way]


@pytest.mark.parametrize("way", ["here", "folder", "ssh"])
def test_a_version_that_looks_like_a_channel_is_none(
    dev: Store, prod: Store, keys: dict[str, str], tmp_path: Path, way: str
) -> None:
    version, env = "b9000-3801ba31f2c4", far(tmp_path, keys)
    put(dev, "box", version, channels=("staging",))
    Cli(dev.home)("trust", "sign", env=env)
    ours = Cli(dev.home if way == "here" else tmp_path / "site")
    if way != "here":
        fingerprint = Cli(dev.home).json("trust", "show", env=env)["own"]["fingerprint"]
        ours("trust", "accept", str(dev.home), "--fingerprint", fingerprint)
    asked = ("--to", str(prod.home), *reachable(way, dev))
    assert ours.json("--arch", "amd64", "promote", f"box@{version}", *asked, env=env)["channel"] == "latest"
    ours("--arch", "amd64", "promote", "box@staging", *asked, env=env)
    assert channels(prod) == {"latest": version, "staging": version}


@pytest.mark.parametrize("way", ["folder", "ssh"])
def test_a_dry_run_from_another_store_copies_nothing(
    dev: Store, prod: Store, keys: dict[str, str], tmp_path: Path, way: str
) -> None:
    """And says what is then done, which is offered by this store, too."""
    env, site = far(tmp_path, keys), Store(tmp_path / "site")
    ours = Cli(site.home)
    Cli(dev.home)("trust", "sign", env=env)
    fingerprint = Cli(dev.home).json("trust", "show", env=env)["own"]["fingerprint"]
    ours("trust", "accept", str(dev.home), "--fingerprint", fingerprint)
    asked = ("--arch", "amd64", "promote", "box", "--to", str(prod.home), *reachable(way, dev))
    would = ours.json(*asked, "--dry-run", env=env)
    assert (would["sent"], would["moved"]) == (True, [["box@latest", None, FIRST]])
    assert not [*Images(site).listed(), *site.home.glob("blobs/sha256/*/*")]
    assert not prod.home.exists()
    gated = ("--gate", "reproduced", "--builder", str(next((tmp_path / "keys").glob("*.pub"))))
    refused = ours(*asked, "--dry-run", *gated, env=env, check=False)
    assert (refused.returncode, "pull it first" in " ".join(refused.stderr.split())) == (2, True), refused.stderr
    assert ours.json(*asked, env=env) == would | {"dry_run": False}
    assert offered(site, f"box/{FIRST}")
    assert ours(*asked, "--dry-run", *gated, env=env, check=False).returncode == 4
    Cli(dev.home)("--arch", "amd64", "revoke", "box", "--why", "a hole", env=env)
    refused = ours(*asked, "--dry-run", env=env, check=False)
    assert (refused.returncode, "a hole" in refused.stderr) == ((4, True) if way == "folder" else (0, False))


SSH = """#!/bin/sh
# Stands in for ssh: what it is to run on the other host runs here, as a login shell there would run it.
echo "$@" >> {log}
while [ "$1" != -- ]; do shift; done
shift 2
ANKLUME_KEYS={keys} exec sh -c "$1"
"""


def far(tmp_path: Path, keys: dict[str, str]) -> dict[str, str]:
    """The environment in which ssh reaches another host, whose keys are in `their-keys`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    preloaded.write_program(folder / "anklume-images", "anklume_images")
    (folder / "ssh").write_text(SSH.format(log=tmp_path / "log", keys=tmp_path / "their-keys"))
    (folder / "ssh").chmod(0o755)
    return keys | {"PATH": f"{folder}:{os.environ['PATH']}"}


def offered(store: Store, alias: str) -> list[str]:
    """Which versions Incus finds in the store by a name."""
    products = json.loads((store.home / "streams/v1/images.json").read_text())["products"]
    return [one for found in products.values() if alias in found["aliases"].split(",") for one in found["versions"]]


@pytest.mark.parametrize("over_ssh", [True, False])
def test_what_cannot_be_signed_on_the_other_side_is_as_it_was_there(
    dev: Store, prod: Store, keys: dict[str, str], tmp_path: Path, over_ssh: bool
) -> None:
    """The channel, the name of a model, and what Incus is offered; done again with the key, it is done."""
    env, theirs = far(tmp_path, keys), tmp_path / "their-keys"
    here, there = Cli(dev.home), Cli(prod.home)
    here("trust", "sign", env=keys)
    put(prod, "box", SECOND, channels=("prod",))
    before, record = put_model(prod, "toy", b"another"), put_model(dev, "toy")
    there("trust", "sign", env=keys | {"ANKLUME_KEYS": str(theirs)})
    names = offered(prod, "box/prod")
    assert names
    to = ("--to", f"ssh://far{prod.home}") if over_ssh else ("--to", str(prod.home), "--keys", str(theirs))
    asked = ("--arch", "amd64", "promote", "box", *to, "--channel", "prod")
    other = ("--arch", "amd64", "promote", "box", *to, "--channel", "new")
    model = ("promote", "toy", "--model", *to)
    theirs.rename(tmp_path / "away")
    for way in (asked, other, model):
        refused = here(*way, env=env, check=False)
        assert (refused.returncode, "no key of the role targets" in refused.stderr) == (1, True), refused.stderr
        assert channels(prod) == {"prod": SECOND}
        assert list(ModelRecords(prod)) == [before]
        assert (offered(prod, "box/prod"), offered(prod, "box/new")) == (names, [])
    assert {(one["outcome"], *one["moved"]) for one in promotions(here)} == {("failed",)}
    (tmp_path / "away").rename(theirs)
    for way in (asked, other, model):
        here(*way, env=env)
    assert channels(prod) == {"prod": FIRST, "new": FIRST}
    assert list(ModelRecords(prod)) == [record]
    assert promotions(here)[-1]["outcome"] == "done"


@pytest.mark.parametrize("cut", ["while it sends", "when it was sent"])
def test_a_connection_that_breaks_leaves_the_other_side_old_or_new_and_signed(
    dev: Store, prod: Store, keys: dict[str, str], tmp_path: Path, cut: str
) -> None:
    env, theirs = far(tmp_path, keys), tmp_path / "their-keys"
    here, there = Cli(dev.home), Cli(prod.home)
    here("trust", "sign", env=keys)
    put(prod, "box", SECOND, channels=("prod",))
    there("trust", "sign", env=keys | {"ANKLUME_KEYS": str(theirs)})
    fingerprint = there.json("trust", "show")["own"]["fingerprint"]
    reader = Cli(tmp_path / "reader")
    reader("trust", "accept", str(prod.home), "--fingerprint", fingerprint)
    asked = ("--arch", "amd64", "promote", "box", "--to", f"ssh://far{prod.home}", "--channel", "prod")
    ssh = tmp_path / "bin/ssh"
    whole = ssh.read_text()
    breaks = {"while it sends": 'head -c 3000 | sh -c "$1"; exit 255', "when it was sent": 'sh -c "$1" >&-; exit 255'}
    broken = f'case "$1" in *"bundle import"*) export ANKLUME_KEYS={theirs}; {breaks[cut]} ;; esac\n'
    ssh.write_text(whole.replace("ANKLUME_KEYS=", f"{broken}ANKLUME_KEYS="))
    refused = here(*asked, env=env, check=False)
    assert (refused.returncode, promotions(here)[-1]["outcome"]) == (1, "failed"), refused.stderr
    there_now = SECOND if cut == "while it sends" else FIRST
    reader("--arch", "amd64", "pull", "box@prod")
    assert channels(prod) == channels(Store(reader.store)) == {"prod": there_now}
    ssh.write_text(whole)
    here(*asked, env=env)
    reader("--arch", "amd64", "pull", "box@prod")
    assert channels(prod) == channels(Store(reader.store)) == {"prod": FIRST}


@pytest.mark.parametrize("over_ssh", [True, False])
def test_a_target_that_wants_signatures_of_others_is_said_to_wait(
    dev: Store, prod: Store, keys: dict[str, str], tmp_path: Path, over_ssh: bool
) -> None:
    env, theirs = far(tmp_path, keys), tmp_path / "their-keys"
    here, there, their = Cli(dev.home), Cli(prod.home), keys | {"ANKLUME_KEYS": str(tmp_path / "their-keys")}
    annas = keys | {"ANKLUME_KEYS": str(tmp_path / "annas")}
    here("trust", "sign", env=keys)
    put(prod, "box", SECOND, channels=("prod",))
    public = there("trust", "new-key", "anna", env=annas).stdout.strip()
    there("trust", "init", "--strict", "--key", f"root={public}", "--key", f"targets={public}", env=their)
    for one in (annas, their, annas, their):
        there("trust", "sign", env=one)
    fingerprint = there.json("trust", "show", env=their)["own"]["fingerprint"]
    reader = Cli(tmp_path / "reader")
    reader("trust", "accept", str(prod.home), "--fingerprint", fingerprint)
    reader("--arch", "amd64", "pull", "box@prod")
    record = put_model(dev, "toy")
    to = ("--to", f"ssh://far{prod.home}") if over_ssh else ("--to", str(prod.home), "--keys", str(theirs))
    asked = ("--arch", "amd64", "promote", "box", *to, "--channel", "prod")
    did = here(*asked, "--json", env=env)
    waits = json.loads(did.stdout)["waits"]
    assert "targets: 1 of 2 signatures; whoever has" in waits[0]
    assert "not signed yet, so others do not see it: targets: 1 of 2" in did.stderr
    assert here(*asked, env=env).stdout.strip().endswith("; not signed yet")
    told = promotions(here)[0]
    assert (told["outcome"], told["moved"]) == ("staged", [["box@prod", SECOND, FIRST]])
    assert "targets: 1 of 2 signatures" in told["problem"]
    assert "staged: not signed yet" in here("channel", "history", "box").stdout
    model = here("promote", "toy", "--model", *to, env=env)
    assert model.stdout.strip().endswith("; not signed yet")
    assert list(ModelRecords(prod)) == [record]
    assert channels(prod)["prod"] == FIRST
    reader("--arch", "amd64", "pull", "box@prod")
    assert channels(Store(reader.store)) == {"prod": SECOND}
    for one in (annas, their, annas, their):
        there("trust", "sign", env=one)
    reader("--arch", "amd64", "pull", "box@prod")
    assert channels(Store(reader.store)) == {"prod": FIRST}


def test_a_store_on_another_host_takes_and_gives_what_is_lacking_over_ssh(
    dev: Store, prod: Store, keys: dict[str, str], tmp_path: Path
) -> None:
    env = far(tmp_path, keys)
    folder, log, theirs = tmp_path / "bin", tmp_path / "log", tmp_path / "their-keys"
    here, there = Cli(dev.home), Cli(prod.home)
    asked = ("--arch", "amd64", "promote", "box", "--to", f"ssh://me@far:2022{prod.home}", "--channel", "prod")
    unsigned = here(*asked, env=env, check=False)
    assert (unsigned.returncode, "trust sign" in unsigned.stderr) == (2, True)
    here("trust", "sign", env=keys)
    did = here.json(*asked, "--why", "it's time", env=env)
    assert (did["sent"], did["moved"]) == (True, [["box@prod", None, FIRST]])
    assert channels(prod) == {"prod": FIRST}
    assert log.read_text().startswith("-p 2022 -- me@far anklume-images --store")
    there("trust", "sign", env=dict(os.environ) | {"ANKLUME_KEYS": str(theirs)})
    put(dev, "box", SECOND)
    would = here.json(*asked, "--dry-run", env=env)
    assert (would["sent"], would["moved"], channels(prod)) == (True, [["box@prod", FIRST, SECOND]], {"prod": FIRST})
    assert here.json(*asked, env=env) == would | {"dry_run": False}
    own = there.json("trust", "show")["own"]
    assert own["roles"][1]["version"] == 2
    would = here.json(*asked, "--dry-run", env=env)
    assert (would["sent"], would["moved"]) == (False, [])
    assert [one["target"] for one in promotions(here)] == [f"ssh://me@far:2022{prod.home}"] * 2
    record = put_model(dev, "box")  # as an image is called, too
    model = ("promote", "box", "--model", *asked[4:6])
    would = here.json(*model, "--dry-run", env=env)
    assert (would["sent"], list(ModelRecords(prod))) == (True, [])
    assert here.json(*model, env=env) == would | {"dry_run": False}
    assert list(ModelRecords(prod)) == [record]
    assert here.json(*model, "--dry-run", env=env)["sent"] is False

    site = Store(tmp_path / "site")
    back = ("--arch", "amd64", "promote", "box@prod", "--from", f"ssh://far{prod.home}", "--to", str(site.home))
    third = Cli(tmp_path / "third")
    strange = third(*back, env=env, check=False)
    assert (strange.returncode, own["fingerprint"] in strange.stderr) == (2, True)
    assert third.json(*back, "--fingerprint", own["fingerprint"], env=env)["sent"]
    assert channels(site) == {"prod": SECOND}
    assert channels(Store(third.store)) == {}
    assert Images(site).documents(Images(site).resolve("box@prod", "amd64"))
    third("promote", "box", "--model", *back[4:], env=env)
    assert list(ModelRecords(site)) == [record]
    (folder / "ssh").write_text("#!/bin/sh\necho 'no route to host' >&2\nexit 255\n")
    refused = here(*asked, env=env, check=False)
    assert (refused.returncode, "no route to host" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("source", "sink", "told"),
    [
        ("echo no such image >&2; exit 1", "cat; echo cut off >&2; exit 1", "no such image"),
        ("yes; exit 141", "echo no space left >&2; exit 1", "no space left"),
        ("exit 0", "cat; echo no space left >&2; exit 1", "no space left"),
        ("echo no such image >&2; exit 1", "cat", "no such image"),
    ],
)
def test_of_two_that_fail_the_one_is_told_that_failed_first(source: str, sink: str, told: str) -> None:
    with pytest.raises(SshError, match=told):
        piped(["sh", "-c", source], ["sh", "-c", sink])


@pytest.mark.parametrize("url", ["ssh://", "ssh://host", "ssh://host/", "ssh://me:secret@host/x", "ssh://host:x/y"])
def test_what_names_no_store_on_another_host(url: str) -> None:
    with pytest.raises(StoreError):
        host_of(url)
