"""The commands of trust, as processes: from keys that are made to an image that another store has, and loses again."""

from __future__ import annotations

import json
import os
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from anklume_images.store.images import Images
from anklume_images.store.models import ModelRecords
from anklume_images.store.store import Store
from anklume_images.trust.contents import signed_contents
from anklume_images.trust.keys import KeyRing
from anklume_images.trust.repository import Repository
from anklume_images.trust.revoked import Revocation, write_revocations
from tests.conftest import Cli
from tests.support.stored_images import put, put_model
from tests.support.terminal import Terminal

FIRST, SECOND = "1.0-00000000000a", "2.0-00000000000b"


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    return dict(os.environ) | {"ANKLUME_KEYS": str(tmp_path / "keys")}


@pytest.fixture
def theirs(tmp_path: Path) -> Cli:
    put(Store(tmp_path / "theirs"), "box", FIRST)
    return Cli(tmp_path / "theirs")


@pytest.fixture
def mine(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "mine")


def arch(*words: str) -> tuple[str, ...]:
    """Images made by hand are of amd64, whatever this host is."""
    return ("--arch", "amd64", *words)


def test_from_keys_to_an_image_elsewhere_and_its_revocation(
    theirs: Cli, mine: Cli, keys: dict[str, str], tmp_path: Path
) -> None:
    said = theirs("trust", "sign", env=keys).stdout
    own = theirs.json("trust", "show", env=keys)["own"]
    assert f"signed; fingerprint {own['fingerprint']}" in said
    assert [role["role"] for role in own["roles"]] == ["root", "targets", "snapshot", "timestamp"]
    assert all(key["here"] for role in own["roles"] for key in role["keys"])
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").glob("*.pem")} == {0o600}
    assert not list(theirs.store.rglob("*.pem"))
    assert "unchanged" in theirs("trust", "sign", env=keys).stdout

    place = str(theirs.store)
    refused = mine("pull", "box", "--from", place, check=False)
    assert refused.returncode == 1
    assert own["fingerprint"] in refused.stderr
    assert mine("trust", "accept", place, "--fingerprint", "0" * 64, check=False).returncode == 1
    mine("trust", "accept", place, "--fingerprint", own["fingerprint"])
    would = mine.json(*arch("pull", "box", "--dry-run"))
    assert would["images"][0]["bytes"] > 0
    assert mine.json("list") == []
    (had,) = mine.json(*arch("pull", "box"))["images"]
    assert (had["ref"], had["channel"], had["before"]) == (f"box@{FIRST}", "latest", None)
    assert mine("verify").returncode == 0

    put(Store(theirs.store), "box", SECOND)
    theirs("trust", "sign", env=keys)
    assert f"latest: {FIRST} → {SECOND}" in mine(*arch("pull")).stdout
    assert "was here" in mine(*arch("pull")).stdout
    assert mine(*arch("pull", f"box@{FIRST}", "--channel", "old")).returncode == 0
    assert {tuple(image["channels"]) for image in mine.json("list")} == {("latest",), ("old",)}

    assert theirs(*arch("revoke", "box"), env=keys, check=False).returncode == 2
    theirs(*arch("revoke", "box", "--why", "its sshd is open"), env=keys)
    refused = mine(*arch("pull", "box"), check=False)
    assert refused.returncode == 4
    assert "its sshd is open" in refused.stderr
    theirs(*arch("revoke", "box", "--undo"), env=keys)
    mine(*arch("pull", "box"))
    mine("trust", "forget", place)
    assert mine(*arch("pull", "box", "--from", place), check=False).returncode == 1


def test_a_team_and_a_key_that_leaves(theirs: Cli, keys: dict[str, str], tmp_path: Path) -> None:
    elsewhere = dict(os.environ) | {"ANKLUME_KEYS": str(tmp_path / "hers")}
    public = theirs("trust", "new-key", "anna", env=elsewhere).stdout.strip()
    said = theirs("trust", "init", "--strict", "--key", f"root={public}", "--key", f"targets={public}", env=keys)
    assert "root: 1 of 2 signatures; whoever has the key" in said.stderr
    assert theirs("trust", "show", env=keys).stdout.startswith("this store is not signed")
    said = theirs("trust", "sign", env=elsewhere)
    assert "targets: 1 of 2 signatures; whoever has the key" in said.stderr
    assert "then whoever has the keys of snapshot and timestamp" in said.stderr
    assert "1 more wanted" in theirs("trust", "show", env=keys).stdout
    assert "signed; fingerprint" in theirs("trust", "sign", env=keys).stdout
    roles = {role["role"]: role for role in theirs.json("trust", "show", env=keys)["own"]["roles"]}
    assert [roles[role]["version"] for role in ("root", "targets", "timestamp")] == [1, 1, 1]
    (hers,) = [key["id"] for key in roles["targets"]["keys"] if not key["here"]]

    leave = ("trust", "rotate", "targets", "--remove", hers[:8])
    assert "root: 1 of 2 signatures" in theirs(*leave, env=keys).stderr
    assert "targets: 0 of 2 signatures; whoever has one of the keys" in theirs("trust", "sign", env=elsewhere).stderr
    theirs("trust", "sign", env=keys)
    roles = {role["role"]: role for role in theirs.json("trust", "show", env=keys)["own"]["roles"]}
    assert roles["root"]["version"] == 2
    assert all(key["here"] for key in roles["targets"]["keys"])
    refused = theirs("trust", "rotate", "targets", "--no-new", env=keys, check=False)
    assert refused.returncode == 2
    assert "would want 2 signatures" in refused.stderr


def test_a_team_in_which_the_holder_of_the_snapshot_key_signs_first(
    theirs: Cli, mine: Cli, keys: dict[str, str], tmp_path: Path
) -> None:
    hers = dict(os.environ) | {"ANKLUME_KEYS": str(tmp_path / "hers")}
    public = theirs("trust", "new-key", "anna", env=hers).stdout.strip()
    theirs("trust", "init", "--strict", "--key", f"root={public}", "--key", f"targets={public}", env=keys)
    theirs("trust", "sign", env=hers)
    theirs("trust", "sign", env=keys)
    fingerprint = theirs.json("trust", "show", env=keys)["own"]["fingerprint"]
    mine("trust", "accept", str(theirs.store), "--fingerprint", fingerprint)
    put(Store(theirs.store), "box", SECOND)
    assert "targets: 1 of 2 signatures" in theirs("trust", "sign", env=keys).stderr
    said = theirs(*arch("promote", "box", "--to", str(tmp_path / "prod")), env=hers).stderr
    assert "the record of it is signed with what waits" in said
    told = theirs("trust", "sign", env=hers).stderr
    assert "snapshot: 0 of 1 signatures; whoever has the key" in told
    assert f"box@{FIRST}" in mine(*arch("pull", "box")).stdout
    assert "targets: 1 of 2 signatures" in theirs("trust", "sign", env=keys).stderr  # of the record, which is the next
    assert f"latest: {FIRST} → {SECOND}" in mine(*arch("pull")).stdout
    theirs("trust", "sign", env=hers)
    assert "warning" not in theirs("trust", "sign", env=keys).stderr


def test_a_revocation_for_which_the_key_is_elsewhere(
    theirs: Cli, mine: Cli, keys: dict[str, str], tmp_path: Path
) -> None:
    """It holds in its own store at once; others go on with what was signed, until it is."""
    put(Store(theirs.store), "box", SECOND)
    theirs("trust", "sign", env=keys)
    theirs(*arch("revoke", f"box@{FIRST}", "--why", "a hole"), env=keys)
    fingerprint = theirs.json("trust", "show", env=keys)["own"]["fingerprint"]
    mine("trust", "accept", str(theirs.store), "--fingerprint", fingerprint)
    stick = tmp_path / "stick"
    stick.mkdir()
    for path in (tmp_path / "keys").glob("targets-*.pem"):
        path.rename(stick / path.name)
    said = theirs(*arch("revoke", f"box@{SECOND}", "--why", "another"), env=keys).stderr
    assert "other stores hear of it when it is signed" in said
    assert "targets: 0 of 1 signatures; whoever has the key" in said
    assert theirs(*arch("promote", "box", "--to", str(tmp_path / "prod")), env=keys, check=False).returncode == 4
    assert f"box@{SECOND}" in mine(*arch("pull", "box")).stdout
    for path in stick.iterdir():
        path.rename(tmp_path / "keys" / path.name)
    theirs("trust", "sign", env=keys)
    assert mine(*arch("pull", "box"), check=False).returncode == 4


def listed(cli: Cli) -> set[tuple[str, str]]:
    """The products and versions that the store offers to Incus."""
    products = json.loads((cli.store / "streams/v1/images.json").read_text())["products"]
    return {(name, version) for name, product in products.items() for version in product["versions"]}


def test_what_a_contact_shows_to_be_revoked_is_offered_to_nobody_at_once(
    theirs: Cli, mine: Cli, keys: dict[str, str], tmp_path: Path
) -> None:
    """Whatever becomes of the rest: a pull, one by name, a dry run, an import of a bundle, a promotion."""
    put(Store(theirs.store), "other", FIRST)
    theirs("trust", "sign", env=keys)
    fingerprint = theirs.json("trust", "show")["own"]["fingerprint"]
    mine("trust", "accept", str(theirs.store), "--fingerprint", fingerprint)
    mine(*arch("pull", "box", "other"))
    bundle, place = tmp_path / "site.anklume", ("--from", str(theirs.store))
    prod = ("--to", str(tmp_path / "prod"))
    offered = listed(mine)
    assert len(offered) == 2
    ways = (
        (4, ("pull", "box")),
        (4, ("pull",)),
        (4, ("pull", "box", "--dry-run")),
        (0, ("pull", "other")),
        (0, ("promote", "other", *place, *prod)),
        (4, ("promote", "box", *place, *prod)),
        (0, ("bundle", "import", str(bundle))),
    )
    for code, way in ways:
        theirs(*arch("revoke", "box", "--why", "a hole"), env=keys)
        if "import" in way:
            theirs(*arch("bundle", "create", "other", "-o", str(bundle)), env=keys)
        ended = mine(*arch(*way), check=False)
        assert (ended.returncode, len(listed(mine))) == (code, 1), (way, ended.stderr)
        theirs(*arch("revoke", "box", "--undo"), env=keys)
        mine(*arch("pull"))
        assert listed(mine) == offered


def test_a_bundle_of_what_its_store_has_revoked_since_takes_it_from_the_offer(
    theirs: Cli, mine: Cli, keys: dict[str, str], tmp_path: Path
) -> None:
    """The bundle is from before the revocation, which this store hears of by another one's list."""
    theirs("trust", "sign", env=keys)
    fingerprint = theirs.json("trust", "show")["own"]["fingerprint"]
    bundle = tmp_path / "site.anklume"
    theirs(*arch("bundle", "create", "box", "-o", str(bundle)), env=keys)
    mine(*arch("bundle", "import", str(bundle), "--fingerprint", fingerprint))
    assert len(listed(mine)) == 1
    (image,) = Images(Store(mine.store))
    entry = Revocation(*image.key, image.fingerprint, "a hole", "2026-01-02T03:04:05Z")
    write_revocations(mine.store, [entry])
    assert mine(*arch("bundle", "import", str(bundle)), check=False).returncode == 4
    assert listed(mine) == set()


def test_a_revoked_image_does_not_keep_the_others_from_being_pulled(
    theirs: Cli, mine: Cli, keys: dict[str, str]
) -> None:
    """They are listed, with what they lack to be had, in a dry run too."""
    names = ("apple", "box", "cherry", "date")
    for name in names:
        put(Store(theirs.store), name, FIRST)
    record = put_model(Store(theirs.store), "toy")
    theirs("trust", "sign", env=keys)
    mine("trust", "accept", str(theirs.store), "--fingerprint", theirs.json("trust", "show")["own"]["fingerprint"])
    mine(*arch("pull", *names))
    for name in names:
        put(Store(theirs.store), name, SECOND)
    theirs("trust", "sign", env=keys)
    for name in ("apple", "cherry"):
        theirs(*arch("revoke", name, "--why", f"{name} is bad"), env=keys)
    theirs("revoke", "--model", "toy", "--why", "it lies", env=keys)
    for more in (("--dry-run",), ()):
        ended = mine(*arch("pull", *more, "--json"), check=False)
        assert ended.returncode == 4
        assert all(f"{name}@{SECOND} was revoked on " in ended.stderr for name in ("apple", "cherry"))
        rows = json.loads(ended.stdout)["images"]
        assert [row["ref"] for row in rows] == [f"{name}@{SECOND}" for name in names]
        assert [bool(row["revoked"]) for row in rows] == [True, False, True, False]
        assert [row["bytes"] > 0 for row in rows] == [False, True, False, True]
        assert f"apple@{SECOND}: revoked" in mine(*arch("pull", *more), check=False).stdout
    now = {f"{image['name']}@{image['version']}" for image in mine.json("list")}
    assert now == {f"{name}@{FIRST}" for name in names} | {f"{name}@{SECOND}" for name in ("box", "date")}
    for more in (("--dry-run",), ()):
        ended = mine("pull", "--model", "toy", *more, "--json", check=False)
        assert (ended.returncode, "toy was revoked on " in ended.stderr) == (4, True)
        (row,) = json.loads(ended.stdout)["models"]
        assert (row["sha256"], row["bytes"], "it lies" in row["revoked"]) == (record.sha256, 0, True)
    assert list(ModelRecords(Store(mine.store))) == []


def test_what_is_gone_can_be_revoked_as_others_may_have_it(theirs: Cli, mine: Cli, keys: dict[str, str]) -> None:
    """By its version, which a channel has named; by a fingerprint that this store knows, or by a whole one."""
    theirs("trust", "sign", env=keys)
    mine("trust", "accept", str(theirs.store), "--fingerprint", theirs.json("trust", "show")["own"]["fingerprint"])
    mine(*arch("pull", "box"))
    (image,) = mine.json("list")
    store = Store(theirs.store)
    gone = Images(store).resolve("box", "amd64")
    put(store, "box", SECOND)
    Images(store).remove(gone)
    theirs("trust", "sign", env=keys)
    assert theirs(*arch("revoke", "box@9.9", "--why", "a hole"), env=keys, check=False).returncode == 1
    for ref, named in ((gone.ref, f"{gone.ref} (amd64)"), (gone.fingerprint, f"fingerprint {gone.fingerprint[:12]}")):
        assert named in theirs(*arch("revoke", ref, "--why", "a hole"), env=keys).stdout
        mine(*arch("pull", "box"), check=False)
        refused = mine(*arch("promote", gone.ref, "--to", str(mine.store.parent / "prod")), check=False)
        assert (refused.returncode, "a hole" in refused.stderr) == (4, True), ref
        assert gone.fingerprint not in (mine.store / "streams/v1/images.json").read_text()
        assert theirs(*arch("revoke", ref[:64], "--undo"), env=keys).returncode == 0
        mine(*arch("pull", "box"))
        assert theirs(*arch("revoke", ref, "--undo"), env=keys, check=False).returncode == 1
    assert image["fingerprint"] == gone.fingerprint
    wrong = theirs(*arch("revoke", "0" * 12, "--why", "a hole"), env=keys, check=False)
    assert (wrong.returncode, "give all of its 64 digits" in wrong.stderr) == (1, True)
    known = Images(store).resolve("box", "amd64").fingerprint
    assert f"revoked: box@{SECOND} (amd64)" in theirs("revoke", known[:12], "--why", "a hole", env=keys).stdout


def test_a_model_that_is_gone_is_taken_back_or_revoked_by_its_hash(theirs: Cli, keys: dict[str, str]) -> None:
    record = put_model(Store(theirs.store), "toy")
    theirs("revoke", "--model", "toy", "--why", "it lies", env=keys)
    ModelRecords(Store(theirs.store)).remove("toy")
    assert "not revoked any more: model toy" in theirs("revoke", "--model", "toy", "--undo", env=keys).stdout
    assert theirs("revoke", "--model", "toy", "--why", "it lies", env=keys, check=False).returncode != 0
    assert record.sha256[:12] in theirs("revoke", "--model", record.sha256, "--why", "it lies", env=keys).stdout


def test_keys_that_replace_some_with_a_passphrase_have_one_too(
    theirs: Cli, keys: dict[str, str], tmp_path: Path
) -> None:
    secret = keys | {"ANKLUME_KEY_PASSPHRASE": "sesame"}
    theirs("trust", "init", "--passphrase", env=secret)
    theirs("trust", "rotate", "targets", env=secret)
    found = list((tmp_path / "keys").glob("*.pem"))
    assert len(found) == 4
    assert all(b"ENCRYPTED" in path.read_bytes() for path in found)
    theirs("trust", "rotate", "targets", "--no-new", "--threshold", "1", env=secret, check=False)
    assert len(list((tmp_path / "keys").glob("*.pem"))) == 4


def test_a_passphrase_can_be_had_by_replacing_keys(theirs: Cli, keys: dict[str, str], tmp_path: Path) -> None:
    theirs("trust", "sign", env=keys)
    theirs("trust", "rotate", "snapshot", "--passphrase", env=keys | {"ANKLUME_KEY_PASSPHRASE": "sesame"})
    assert {b"ENCRYPTED" in path.read_bytes() for path in (tmp_path / "keys").glob("snapshot-*.pem")} == {True}
    assert {b"ENCRYPTED" in path.read_bytes() for path in (tmp_path / "keys").glob("root-*.pem")} == {False}


@pytest.mark.parametrize("inside", ["keys", "../link/keys"])
def test_private_keys_are_in_no_store(theirs: Cli, keys: dict[str, str], tmp_path: Path, inside: str) -> None:
    (tmp_path / "link").symlink_to(theirs.store)
    folder = str(theirs.store / inside)
    for said in (
        theirs("trust", "sign", "--keys", folder, check=False),
        theirs("trust", "sign", env=keys | {"ANKLUME_KEYS": folder}, check=False),
    ):
        assert (said.returncode, "do not belong into a store" in said.stderr) == (1, True)
    assert not list(theirs.store.rglob("*.pem"))


def test_a_hint_on_what_the_owner_does_names_no_store_of_the_reader(theirs: Cli, mine: Cli) -> None:
    said = mine("trust", "accept", str(theirs.store), "--fingerprint", "0" * 64, check=False).stderr
    assert "its owner signs it (trust sign there)" in said


def test_renewing_takes_the_root_with_it_or_says_where_its_key_is(
    theirs: Cli, keys: dict[str, str], tmp_path: Path
) -> None:
    theirs("trust", "sign", env=keys)
    assert "signed" in theirs("trust", "sign", "--renew", env=keys).stdout
    own = theirs.json("trust", "show", env=keys)["own"]
    assert [role["version"] for role in own["roles"]] == [2, 2, 2, 2]
    assert [role["ends_soon"] for role in own["roles"]] == [False] * 4
    stick = tmp_path / "stick"
    stick.mkdir()
    for path in (tmp_path / "keys").glob("root-*.pem"):
        path.rename(stick / path.name)
    said = theirs("trust", "sign", "--renew", env=keys)
    assert f"root: not renewed, valid until {own['roles'][0]['expires'][:10]}" in said.stderr
    assert own["roles"][0]["keys"][0]["id"][:16] in said.stderr
    assert "signed" in said.stdout
    said = theirs("trust", "sign", "--renew", "--keys", str(stick), check=False)
    assert "targets: 0 of 1 signatures" in said.stderr
    assert theirs.json("trust", "show")["own"]["roles"][0]["version"] == 3


def test_a_root_that_ends_soon_is_told(theirs: Cli, keys: dict[str, str], tmp_path: Path) -> None:
    theirs("trust", "sign", env=keys)
    ring = KeyRing(tmp_path / "keys")
    earlier = Repository(theirs.store, ring, lambda: datetime.now(UTC) - timedelta(days=1826 - 20))
    earlier.sign_root(renew=True)
    for path in (tmp_path / "keys").glob("root-*.pem"):
        path.unlink()
    for command in ("show", "sign"):
        assert "warning: root: valid until" in theirs("trust", command, env=keys).stderr
    assert theirs.json("trust", "show", env=keys)["own"]["roles"][0]["ends_soon"] is True


def test_accepting_asks_at_a_terminal(theirs: Cli, mine: Cli, keys: dict[str, str]) -> None:
    theirs("trust", "sign", env=keys)
    fingerprint = theirs.json("trust", "show", env=keys)["own"]["fingerprint"]
    asked = mine("trust", "accept", str(theirs.store), check=False)
    assert (asked.returncode, fingerprint in asked.stderr) == (2, True)
    argv = [sys.executable, "-m", "anklume_images", "--store", str(mine.store), "trust", "accept", str(theirs.store)]
    terminal = Terminal(argv)
    terminal.read_until(fingerprint)
    terminal.read_until("owner says")
    terminal.type("y\n")
    assert terminal.end() == 0
    assert mine.json("trust", "show")["accepted"][0]["identity"] == fingerprint


def test_expired_metadata_by_name_and_date(theirs: Cli, mine: Cli, keys: dict[str, str]) -> None:
    theirs("trust", "sign", env=keys)
    fingerprint: Any = theirs.json("trust", "show", env=keys)["own"]["fingerprint"]
    mine("trust", "accept", str(theirs.store), "--fingerprint", fingerprint)
    for until, code in (("soon", 2), ("2020-01-01", 2), ("2999-12-31", 0)):
        said = mine("trust", "allow-expired", str(theirs.store), "--until", until, "--why", "no network", check=False)
        assert said.returncode == code, said.stderr
    assert "even if expired, until 2999-12-31" in mine("trust", "show").stdout
    (one,) = mine.json("trust", "show")["accepted"]
    assert (one["expired"]["why"], one["expired"]["uses"], one["expired"]["last"]) == ("no network", 0, None)
    earlier = Repository(theirs.store, KeyRing(Path(keys["ANKLUME_KEYS"])), lambda: datetime.now(UTC) - timedelta(91))
    earlier.publish(lambda: signed_contents(Store(theirs.store), Images(Store(theirs.store))), renew=True)
    for _ in range(2):
        assert "accepted until 2999-12-31" in mine(*arch("pull", "box")).stderr
    assert mine.json("trust", "show")["accepted"][0]["expired"]["uses"] == 2
    assert "used 2 times, last on" in mine("trust", "show").stdout
    assert mine("trust", "allow-expired", str(theirs.store), check=False).returncode == 2
    mine("trust", "allow-expired", str(theirs.store), "--never")
    assert mine.json("trust", "show")["accepted"][0]["expired"] is None
    assert mine(*arch("pull", "box"), check=False).returncode == 1
    assert mine("verify").returncode == 0
    shutil.rmtree(theirs.store)
    assert mine(*arch("pull", "box"), check=False).returncode == 1
