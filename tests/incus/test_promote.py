"""From dev to staging to production over three Incus hosts, each in namespaces of its own, joined by cables."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images import linux
from anklume_images.cli.main import main
from anklume_images.errors import AnklumeError
from anklume_images.ship.promote import to_incus
from anklume_images.store.images import Images
from anklume_images.store.promotion_log import PromotionLog
from anklume_images.store.store import Store
from anklume_images.trust.revoked import Revocation, write_revocations
from launcher.private_incus.daemon import PrivateIncus
from tests.conftest import Cli
from tests.support import preloaded
from tests.support.cabled import cable, listens_at, write_remotes
from tests.support.killed import killed_at
from tests.support.launching import clear, images
from tests.support.tiny_store import put_tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anklume_images.store.images import Image


STEP = 40  # lines of code between one kill and the next
SPARE = 1 << 20  # bytes; the image has more


@dataclass
class Site:
    """Three hosts; `dev` and `prod` see `staging`, and not each other."""

    dev: PrivateIncus
    staging: PrivateIncus
    prod: PrivateIncus
    store: Path
    folder: Path

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        """Run `anklume-images promote … --json`, with each host a remote of the client's configuration."""
        hosts = {"dev": self.dev, "staging": self.staging, "prod": self.prod}
        config = write_remotes(self.folder / "client", hosts)
        words = ["--store", str(self.store), "promote", *arguments, "--json"]
        result = preloaded.run("anklume_images", words, env={"INCUS_CONF": str(config), "PATH": "/usr/bin:/bin"})
        assert result.returncode == code, result.stdout + result.stderr
        return json.loads(result.stdout) if not code else result.stderr


@pytest.fixture(scope="module")
def hosts(
    started: Callable[[str], PrivateIncus], incus_tree: Callable[[str], Path], disk: Path
) -> Iterator[tuple[PrivateIncus, PrivateIncus, PrivateIncus]]:
    small = disk / "prod"
    small.mkdir()
    linux.mount("tmpfs", small, "tmpfs", 0, "size=1g")  # so that a test can fill it
    with contextlib.ExitStack() as stack:
        stack.callback(linux.umount, small)
        prod = stack.enter_context(PrivateIncus(tree=incus_tree("incus-7"), home=small))
        dev, staging = started("incus-6"), started("incus-7")
        before = {host: listens_at(host) for host in (dev, staging)}
        cable(dev, staging, 1)
        cable(staging, prod, 2)
        for host, address in ((dev, "10.251.1.1"), (staging, ":8443"), (prod, "10.251.2.2")):
            listens_at(host, address)
        yield dev, staging, prod
        for host, address in before.items():
            listens_at(host, address)
        subprocess.run(["nsenter", "-t", str(dev.pid), "-n", "ip", "link", "del", "cable1a"], check=True)


@pytest.fixture
def site(hosts: tuple[PrivateIncus, PrivateIncus, PrivateIncus], tiny_rootfs: Path, tmp_path: Path) -> Iterator[Site]:
    store = Store(tmp_path / "store")
    put_tiny(store, tiny_rootfs, tmp_path, 1)
    others = {
        host: images(host) - {shown for name, shown in aliases(host).items() if name.startswith("tiny")}
        for host in hosts
    }
    for host in hosts:  # a server may end what a test that killed its client began
        clear(host, others[host])
    yield Site(*hosts, store.home, tmp_path)
    for host in hosts:
        clear(host, others[host])


def aliases(host: PrivateIncus) -> dict[str, str]:
    with host.client() as client:
        return client.aliases()


def latest(site: Site) -> Image:
    return Images(Store(site.store)).resolve("tiny")


def test_from_dev_to_production_and_nothing_else_of_a_target_changes(site: Site, tiny_rootfs: Path) -> None:
    first = latest(site)
    assert site("tiny", "--to", "dev:", "--channel", "dev")["sent"]
    assert aliases(site.dev) == {f"tiny/{first.version}": first.fingerprint, "tiny/dev": first.fingerprint}
    would = site("tiny@dev", "--from", "dev:", "--to", "staging:", "--channel", "staging", "--dry-run")
    assert (would["sent"], aliases(site.staging)) == (True, {})
    moved = site("tiny@dev", "--from", "dev:", "--to", "staging:", "--channel", "staging")
    assert moved["sent"]
    assert aliases(site.staging) == {f"tiny/{first.version}": first.fingerprint, "tiny/staging": first.fingerprint}
    with site.staging.client() as client:
        image = client.image(first.fingerprint)
        assert image is not None
        assert image.properties["os"] == "debian" or image.properties
    by_version = (f"tiny@{first.version}", "--from", "staging:", "--to", "prod:", "--dry-run")
    assert site(*by_version)["channel"] == "latest"
    site("tiny@staging", "--from", "staging:", "--to", "prod:", "--channel", "latest", "--why", "release 7")
    assert aliases(site.prod)["tiny"] == first.fingerprint
    with site.prod.client() as client:
        told = {alias["name"]: alias["description"] for alias in client.get("images/aliases", recursion=1)}
    assert told["tiny/latest"].endswith("Z release 7")

    second = put_tiny(Store(site.store), tiny_rootfs, site.folder, 2)
    site("tiny", "--to", "dev:", "--channel", "dev")
    site("tiny@dev", "--from", "dev:", "--to", "staging:", "--channel", "staging")
    there = aliases(site.prod)
    site("tiny@staging", "--from", "staging:", "--to", "prod:", "--channel", "candidate")
    after = aliases(site.prod)
    assert {name: after[name] for name in there if name != "tiny"} == {
        name: fingerprint for name, fingerprint in there.items() if name != "tiny"
    }
    assert after["tiny/candidate"] == after["tiny"] == second.fingerprint
    again = site("tiny@staging", "--from", "staging:", "--to", "prod:", "--channel", "candidate")
    assert (again["sent"], again["moved"]) == (False, [])
    refused = site("tiny@gone", "--from", "staging:", "--to", "prod:", code=1)
    assert "tiny/staging" in refused
    told = Cli(site.store).json("channel", "history", "tiny")["promotions"]
    ways = [(one["source"], one["target"], one["channel"], one["outcome"]) for one in told]
    assert ways[0] == (str(site.store), "dev:", "dev", "done")
    assert ways[2] == ("staging:", "prod:", "latest", "done")
    assert ways[-1] == ("staging:", "prod:", "gone", "failed")
    assert (told[2]["ref"], told[2]["fingerprint"], told[2]["why"]) == ("tiny@staging", first.fingerprint, "release 7")
    assert ["tiny/latest", None, first.fingerprint[:12]] in told[2]["moved"]


def test_an_image_that_boots_and_does_not_become_healthy_stays(
    site: Site, tiny_rootfs: Path, incus_tree: Callable[[str], Path]
) -> None:
    tree = incus_tree("incus-7").parent
    (site.store / "trees").mkdir()
    (site.store / "trees" / tree.name).symlink_to(tree)
    command = ["sh", "-c", "echo the model is missing; exit 1"]
    put_tiny(Store(site.store), tiny_rootfs, site.folder, 2, healthcheck={"command": command, "timeout": 1})
    refused = site("tiny", "--to", "dev:", "--channel", "dev", "--gate", "healthcheck", code=4)
    assert "did not come up healthy" in refused
    assert "the model is missing" in refused
    assert aliases(site.dev) == {}
    (told,) = Cli(site.store).json("channel", "history", "tiny")["promotions"]
    assert (told["outcome"], told["gates"], told["moved"]) == ("failed", ["healthcheck"], [])


def test_hosts_that_do_not_see_each_other_say_so(site: Site) -> None:
    site("tiny", "--to", "dev:", "--channel", "dev")
    refused = site("tiny@dev", "--from", "dev:", "--to", "prod:", code=1)
    assert "could not fetch the image" in refused
    assert "10.251.1.1" in refused
    assert aliases(site.prod) == {}


@pytest.mark.parametrize("known", [True, False], ids=["by its bytes", "by its version"])
def test_a_revoked_image_does_not_go_from_incus_to_incus(site: Site, known: bool) -> None:
    image = latest(site)
    site("tiny", "--to", "dev:", "--channel", "dev")
    entry = Revocation(*image.key, image.fingerprint if known else "", "a hole", "2026-01-02T03:04:05Z")
    write_revocations(site.store, [entry])
    for more in (("--dry-run",), ()):
        refused = site("tiny@dev", "--from", "dev:", "--to", "staging:", *more, code=4)
        assert "tiny@dev was revoked on 2026-01-02: a hole" in refused
    assert aliases(site.staging) == {}
    assert image.fingerprint not in images(site.staging)


@pytest.mark.parametrize("failing", ["tiny/prod", "tiny"])
def test_when_a_name_cannot_be_moved_all_stay_and_what_was_sent_goes(
    site: Site, tiny_rootfs: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    site("tiny", "--to", "prod:", "--channel", "prod")
    site("tiny", "--to", "prod:")
    before = aliases(site.prod)
    second = put_tiny(Store(site.store), tiny_rootfs, site.folder, 2)
    store = Store(site.store)
    with site.prod.client() as client:
        real = client.set_alias

        def set_alias(name: str, fingerprint: str, note: str = "") -> str | None:
            if name == failing and fingerprint == second.fingerprint:
                raise AnklumeError("the database is locked")
            return real(name, fingerprint, note)

        monkeypatch.setattr(client, "set_alias", set_alias)
        with pytest.raises(AnklumeError, match="locked"):
            to_incus(second, Images(store), store, client, "prod", None)
        assert client.image(second.fingerprint) is None
    assert aliases(site.prod) == before


def test_two_at_once_to_one_place_leave_no_mix(site: Site, tiny_rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the moves of one's names comes all of another one: the names agree, on the later of both."""
    store, first = Store(site.store), latest(site)
    second = put_tiny(store, tiny_rootfs, site.folder, 2)
    site("tiny", "--to", "prod:")  # the bare name is there
    with site.prod.client() as client, site.prod.client() as other:
        real = client.set_alias

        def set_alias(name: str, fingerprint: str, note: str = "") -> str | None:
            if name == "tiny" and fingerprint == first.fingerprint:
                monkeypatch.setattr(client, "set_alias", real)
                to_incus(second, Images(store), store, other, "prod", None)
            return real(name, fingerprint, note)

        monkeypatch.setattr(client, "set_alias", set_alias)
        to_incus(first, Images(store), store, client, "prod", None)
    names = aliases(site.prod)
    assert names["tiny"] == names["tiny/prod"] == second.fingerprint
    assert {names[f"tiny/{one.version}"] for one in (first, second)} == {first.fingerprint, second.fingerprint}


@pytest.mark.matrix
@pytest.mark.parametrize("source", [None, "dev:"], ids=["from the store", "from incus to incus"])
def test_it_is_killed_at_any_line(
    site: Site, tiny_rootfs: Path, monkeypatch: pytest.MonkeyPatch, source: str | None
) -> None:
    """The command: each name is of the old version or of the new one, whole, and the next run goes on from there."""
    config = write_remotes(site.folder / "client", {"dev": site.dev, "staging": site.staging})
    monkeypatch.setenv("INCUS_CONF", str(config))
    store, names = Store(site.store), ("tiny/latest", "tiny")

    def made(number: int) -> Image:
        image = put_tiny(store, tiny_rootfs, site.folder, number)
        if source:
            site("tiny", "--to", source)
        return image

    way = ["--from", source] if source else []
    command = partial(main, ["--store", str(store.home), "promote", "tiny", *way, "--to", "staging:"])
    before = made(2)
    command()
    after = made(3)
    line, kills, seen, afresh = 0, 0, set(), True
    with site.staging.client() as client:
        while True:
            line += STEP
            killed = killed_at(line, command)
            there = client.aliases()
            seen.add(tuple(there[name] == after.fingerprint for name in names))
            assert {there[name] for name in names} <= {before.fingerprint, after.fingerprint}, line
            assert all(client.image(fingerprint) for fingerprint in set(there.values())), line
            kills += killed
            if killed and there["tiny"] == before.fingerprint:
                afresh = False
                continue
            if afresh and not killed:
                break
            command()
            there = client.aliases()
            assert {there[name] for name in (*names, f"tiny/{after.version}")} == {after.fingerprint}
            before, after, afresh = after, made(kills + 3), True
    assert kills >= 30
    assert {(False, False), (True, True)} <= seen
    told, breaks = PromotionLog(store).read()
    assert ({"begun", "done"} <= {one.outcome for one in told}, breaks) == (True, ())


def test_a_target_that_is_full_says_so_and_takes_it_later(site: Site, tiny_rootfs: Path) -> None:
    """From a store, which sends it, and from another Incus, from which it is fetched."""
    site("tiny", "--to", "prod:", "--channel", "prod")
    put_tiny(Store(site.store), tiny_rootfs, site.folder, 2)
    site("tiny", "--to", "staging:", "--channel", "staging")
    before, ways = aliases(site.prod), (("tiny",), ("tiny@staging", "--from", "staging:"))
    assert site.prod.home is not None
    there = images(site.prod)
    with full(site.prod.home.parent / "ballast"):
        for way in ways:
            said = site(*way, "--to", "prod:", "--channel", "prod", code=1)
            assert "full" in said, said
        assert (aliases(site.prod), images(site.prod)) == (before, there)
    for way in ways:
        site(*way, "--to", "prod:", "--channel", "prod")
    assert aliases(site.prod)["tiny/prod"] == latest(site).fingerprint


@contextlib.contextmanager
def full(ballast: Path) -> Iterator[None]:
    """Nothing more fits beside this file but some kilobytes, which a database needs to say anything."""
    space = os.statvfs(ballast.parent)
    with ballast.open("wb") as out:
        os.posix_fallocate(out.fileno(), 0, space.f_bavail * space.f_bsize - SPARE)
    try:
        yield
    finally:
        ballast.unlink()
