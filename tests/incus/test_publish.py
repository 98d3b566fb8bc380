"""Publishing: whole or not at all, once, over the socket and over HTTPS, in flat memory."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.cli.main import main
from anklume_images.errors import IncusError, StoreError
from anklume_images.ship.naming import AliasChange
from anklume_images.ship.publish import ImageFiles, publish
from anklume_images.store.store import Store
from launcher.private_incus.certificate import make_client_certificate
from tests.support.incus_images import make_image
from tests.support.incus_publish import argument
from tests.support.killed import killed_at
from tests.support.launching import clear, images
from tests.support.tiny_store import put_tiny

if TYPE_CHECKING:
    from collections.abc import Callable

    from anklume_images.incus.client import Incus
    from launcher.private_incus.daemon import Endpoint, PrivateIncus

ROOT = Path(__file__).resolve().parents[2]
FLAT = 32 << 10  # KiB: what an upload of 500 MiB may need more than one of 1.5
SECONDS = 30.0
STEP = 20  # lines of code between one kill and the next


def run_publish(
    image: ImageFiles,
    connect: dict[str, Any],
    *,
    die_at: float | str | None = None,
    within: PrivateIncus | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tests.support.incus_publish", argument(image, connect, die_at)]
    if within is not None:
        argv = within.command(argv, network_only=True)
    env = {**os.environ, **(environment or {})}
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def over_https(endpoint: Endpoint, server_cert: Path | None = None) -> dict[str, Any]:
    return {
        "https": endpoint.url,
        "cert": endpoint.cert,
        "key": endpoint.key,
        "server_cert": server_cert or endpoint.server_cert,
    }


@pytest.fixture(scope="session")
def endpoints() -> dict[int, Endpoint]:
    return {}


@pytest.fixture
def endpoint(incus: PrivateIncus, endpoints: dict[int, Endpoint]) -> Endpoint:
    if incus.pid not in endpoints:
        endpoints[incus.pid] = incus.https()
    return endpoints[incus.pid]


def test_image_arrives_with_aliases_and_properties(client: Incus, image: ImageFiles) -> None:
    seen: list[tuple[int, int]] = []
    report = publish(image, client, lambda sent, total: seen.append((sent, total)))
    assert report.imported
    assert {change.name for change in report.aliases_changed} == {"tiny", "tiny/latest"}
    there = client.image(image.fingerprint)
    assert there is not None
    assert there.properties["kind"] == "test"
    assert there.aliases == ("tiny", "tiny/latest")
    assert not client.get(f"images/{image.fingerprint}")["public"]
    assert seen[-1][0] == seen[-1][1] > image.rootfs.stat().st_size


def test_second_time_changes_nothing(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    seen: list[int] = []
    report = publish(image, client, lambda sent, _: seen.append(sent))
    assert (report.imported, report.aliases_changed, report.properties_changed) == (False, (), ())
    assert seen == []


def test_alias_and_properties_of_an_image_that_is_there_are_put_right(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    changed = dataclasses.replace(image, aliases=("tiny", "other"), properties={"kind": "changed", "new": "ä & ="})
    report = publish(changed, client)
    assert report.aliases_changed == (AliasChange("other", None, image.fingerprint),)
    assert report.properties_changed == ("kind", "new")
    there = client.image(image.fingerprint)
    assert there is not None
    assert (there.properties["kind"], there.properties["new"]) == ("changed", "ä & =")
    assert there.properties["os"] == "tiny"  # of the image's own metadata


def test_properties_survive_their_spelling(client: Incus, image: ImageFiles) -> None:
    spelled = dataclasses.replace(image, properties={"description": "a + b & c = d; ü %20"})
    publish(spelled, client)
    there = client.image(image.fingerprint)
    assert there is not None
    assert there.properties["description"] == "a + b & c = d; ü %20"


def test_publishers_at_once_make_one_alias(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    connections = [client.another() for _ in range(8)]
    with ThreadPoolExecutor(len(connections)) as pool:
        for number in range(10):
            again = dataclasses.replace(image, aliases=(f"alias-{number}",))
            reports = list(pool.map(partial(publish, again), connections))
            made = [change for report in reports for change in report.aliases_changed]
            assert made == [AliasChange(f"alias-{number}", None, image.fingerprint)]
    for connection in connections:
        connection.close()


def test_alias_moves_to_the_newer_image(client: Incus, image: ImageFiles, tiny_rootfs: Path, tmp_path: Path) -> None:
    publish(image, client)
    newer = make_image(tmp_path, tiny_rootfs, aliases=("tiny/latest",))
    report = publish(newer, client)
    assert report.aliases_changed == (AliasChange("tiny/latest", image.fingerprint, newer.fingerprint),)
    assert client.aliases() == {"tiny": image.fingerprint, "tiny/latest": newer.fingerprint}


@pytest.mark.parametrize("named", [False, True], ids=["nameless", "named by another"])
def test_when_an_alias_cannot_be_moved_all_stay_and_what_was_sent_goes(
    client: Incus, image: ImageFiles, tiny_rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """Unless somebody else has named it meanwhile: then it is theirs."""
    publish(image, client, note="me 2026-01-02 release 7")
    newer = make_image(tmp_path, tiny_rootfs, aliases=("new", "tiny/latest", "tiny"))
    before, notes, real = client.aliases(), client.alias_notes(), client.set_alias
    assert set(notes.values()) == {"me 2026-01-02 release 7"}

    def set_alias(name: str, fingerprint: str, description: str = "") -> str | None:
        if (name, fingerprint) == ("tiny", newer.fingerprint):
            if named:
                real("theirs", fingerprint)
            raise IncusError("the database is locked")
        return real(name, fingerprint, description)

    monkeypatch.setattr(client, "set_alias", set_alias)
    with pytest.raises(IncusError, match="locked"):
        publish(newer, client)
    assert client.aliases() == before | ({"theirs": newer.fingerprint} if named else {})
    assert client.alias_notes() == notes | ({"theirs": ""} if named else {})
    assert (client.image(newer.fingerprint) is not None) == named


def test_a_dry_run_says_what_a_run_then_does(
    client: Incus, image: ImageFiles, tiny_rootfs: Path, tmp_path: Path
) -> None:
    publish(image, client)
    before = client.aliases()
    newer = make_image(tmp_path, tiny_rootfs, aliases=("tiny/latest", "new"))
    would = publish(newer, client, dry_run=True)
    assert (client.aliases(), client.image(newer.fingerprint)) == (before, None)
    assert publish(newer, client) == would
    assert publish(newer, client, dry_run=True) == dataclasses.replace(would, imported=False, aliases_changed=())


@pytest.mark.parametrize("part", ["metadata", "rootfs"])
def test_flipped_byte_is_refused_before_anything_is_sent(
    part: str, client: Incus, image: ImageFiles, tmp_path: Path
) -> None:
    damaged = bytearray(getattr(image, part).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    copy = tmp_path / f"damaged-{part}"
    copy.write_bytes(damaged)
    seen: list[int] = []
    wrong = dataclasses.replace(image, **{part: copy})
    with pytest.raises(StoreError, match=image.fingerprint):
        publish(wrong, client, lambda sent, _: seen.append(sent))
    assert seen == []
    assert client.image(image.fingerprint) is None


def test_server_refuses_what_changed_after_the_check(client: Incus, image: ImageFiles, tmp_path: Path) -> None:
    other = tmp_path / "other.squashfs"
    other.write_bytes(image.rootfs.read_bytes() + b"\0" * 4096)
    before = set(client.get("images"))
    with pytest.raises(IncusError, match=r"(?i)fingerprint"):
        client.import_image(image.metadata, other, fingerprint=image.fingerprint)
    assert set(client.get("images")) == before


def test_over_https_with_the_pinned_certificate(
    incus: PrivateIncus, endpoint: Endpoint, client: Incus, image: ImageFiles
) -> None:
    nowhere = {"REQUESTS_CA_BUNDLE": "/nonexistent", "CURL_CA_BUNDLE": "/nonexistent"}
    first = json.loads(run_publish(image, over_https(endpoint), within=incus, environment=nowhere).stdout)
    assert first["imported"] is True
    second = json.loads(run_publish(image, over_https(endpoint), within=incus).stdout)
    assert second["imported"] is False
    assert client.image(image.fingerprint) is not None


def test_over_https_another_certificate_is_refused(
    incus: PrivateIncus, endpoint: Endpoint, client: Incus, image: ImageFiles, tmp_path: Path
) -> None:
    wrong = make_client_certificate(tmp_path / "wrong")[0]
    report = json.loads(run_publish(image, over_https(endpoint, wrong), within=incus).stdout)
    assert "not the pinned one" in report["error"]
    assert report["hint"]
    assert client.image(image.fingerprint) is None


def test_over_https_an_unknown_client_is_refused(
    incus: PrivateIncus, endpoint: Endpoint, image: ImageFiles, tmp_path: Path
) -> None:
    cert, key, _ = make_client_certificate(tmp_path / "stranger")
    report = json.loads(run_publish(image, over_https(endpoint) | {"cert": cert, "key": key}, within=incus).stdout)
    assert "does not know this client's certificate" in report["error"]


def test_unreachable_address_is_told(endpoint: Endpoint, image: ImageFiles) -> None:
    # From a network without routes.
    argv = [sys.executable, "-m", "tests.support.incus_publish", argument(image, over_https(endpoint))]
    answer = subprocess.run(["unshare", "--net", *argv], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "no answer" in json.loads(answer.stdout)["error"]


@pytest.mark.parametrize("transport", ["socket", "https"])
def test_memory_stays_flat(
    transport: str,
    incus: PrivateIncus,
    endpoint: Endpoint,
    client: Incus,
    image: ImageFiles,
    large_rootfs: Path,
    tmp_path: Path,
) -> None:
    large = make_image(tmp_path, large_rootfs)
    connect = {"socket": incus.socket} if transport == "socket" else over_https(endpoint)
    within = incus if transport == "https" else None
    small_peak = json.loads(run_publish(image, connect, within=within).stdout)["peak"]
    answer = json.loads(run_publish(large, connect, within=within).stdout)
    assert answer["imported"] is True
    assert answer["peak"] < small_peak + FLAT


def uploads(incus: PrivateIncus) -> list[str]:
    """The files of images that are on their way or whole, below the daemon's own folder."""
    assert incus.home is not None
    return sorted(path.name for path in (incus.home / "state/images").iterdir())


@pytest.mark.matrix
@pytest.mark.parametrize("die_at", [0.0, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0, "before-alias"])
def test_killed_publish_leaves_no_half_image(
    die_at: float | str, incus: PrivateIncus, client: Incus, image: ImageFiles, large_rootfs: Path, tmp_path: Path
) -> None:
    publish(image, client)
    before = uploads(incus)
    large = make_image(tmp_path, large_rootfs, aliases=("tiny",))
    killed = run_publish(large, {"socket": incus.socket}, die_at=die_at)
    assert killed.returncode == -signal.SIGKILL
    assert client.aliases()["tiny"] == image.fingerprint
    whole = [*before, large.fingerprint, f"{large.fingerprint}.rootfs"]

    def settled() -> bool:
        busy = [o for kind in client.get("operations", recursion=1).values() for o in kind if o["status"] == "Running"]
        there = client.image(large.fingerprint) is not None
        return not busy and uploads(incus) == (sorted(whole) if there else before)

    wait_until(settled)
    report = publish(large, client)
    assert report.aliases_changed == (AliasChange("tiny", image.fingerprint, large.fingerprint),)
    assert uploads(incus) == sorted(whole)


def test_it_is_killed_at_any_line(
    started: Callable[[str], PrivateIncus], tiny_rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command, from a store: each name is of the old version or of the new one; the next run goes on from there."""
    incus, store = started("incus-7"), Store(tmp_path / "store")
    there = images(incus)
    monkeypatch.setenv("INCUS_SOCKET", str(incus.socket))
    command = partial(main, ["--store", str(store.home), "publish", "tiny"])
    before = put_tiny(store, tiny_rootfs, tmp_path, 0)
    command()
    after = put_tiny(store, tiny_rootfs, tmp_path, 1)
    line, kills, seen, afresh = 0, 0, set(), True
    with incus.client() as client:
        while True:
            line += STEP
            killed = killed_at(line, command)
            names = client.aliases()
            seen.add(tuple(names[name] == after.fingerprint for name in ("tiny/latest", "tiny")))
            assert {names[name] for name in ("tiny/latest", "tiny")} <= {before.fingerprint, after.fingerprint}, line
            assert all(client.image(fingerprint) for fingerprint in set(names.values())), line
            kills += killed
            if killed and names["tiny"] == before.fingerprint:
                afresh = False
                continue
            if afresh and not killed:
                break
            command()
            names = client.aliases()
            assert {names[name] for name in ("tiny", "tiny/latest", f"tiny/{after.version}")} == {after.fingerprint}
            before, after, afresh = after, put_tiny(store, tiny_rootfs, tmp_path, kills + 1), True
        clear(incus, there)
    assert kills >= 30
    assert {(False, False), (True, True)} <= seen


def test_two_at_once_both_succeed(incus: PrivateIncus, client: Incus, large_rootfs: Path, tmp_path: Path) -> None:
    large = make_image(tmp_path, large_rootfs)
    argv = [sys.executable, "-m", "tests.support.incus_publish", argument(large, {"socket": incus.socket})]
    both = [subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    reports = [json.loads(process.communicate()[0]) for process in both]
    assert [report.get("error") for report in reports] == [None, None]
    assert client.image(large.fingerprint) is not None


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)
