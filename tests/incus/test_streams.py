"""Stock `incus` launches from a served store: the same image by every name, and by a delta where it has the base."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.ship.certificate import read_certificate
from anklume_images.ship.delta_programs import programs_of
from anklume_images.ship.deltas import make_delta, pairs
from anklume_images.ship.index import listed_images, write_index
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from tests.support.tiny_store import put_tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anklume_images.incus.client import Incus
    from launcher.private_incus.daemon import PrivateIncus

PIN = "mkdir -p ~/.config/incus/servercerts && cat > ~/.config/incus/servercerts/anklume.crt"
PADDING = 8 << 20  # bytes that no compression makes fewer


@dataclass
class Served:
    """A store that is served in an Incus' network, as the remote `anklume` of the `incus` there."""

    store: Store
    incus: PrivateIncus
    log: Path
    facts: dict[str, Any]

    def run(self, *words: str, **options: Any) -> str:
        result = self.incus.run(["incus", *words], capture_output=True, text=True, **options)
        assert result.returncode == 0, result.stderr
        return str(result.stdout)

    def fetched(self) -> dict[str, int]:
        """The bytes that were sent of each blob, and the log is emptied."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        os.truncate(self.log, 0)
        return {path.rpartition("/")[2]: int(size) for _, _, path, _, size in lines if path.startswith("/blobs/")}


@pytest.fixture
def served(incus: PrivateIncus, client: Incus, tiny_rootfs: Path, tmp_path: Path) -> Iterator[Served]:
    store = Store(tmp_path / "store")
    put_tiny(store, padded(tiny_rootfs, tmp_path / "one", b""), tmp_path, 1)
    argv = [
        sys.executable,
        "-m",
        "anklume_images",
        "--store",
        str(store.home),
        "serve",
        "--port",
        "0",
        "--log",
        "--json",
    ]
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "settings")}
    with (tmp_path / "log").open("a") as log:
        server = subprocess.Popen(
            incus.command(argv, network_only=True), env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    with server, contextlib.ExitStack() as stack:
        stack.callback(server.kill)
        assert server.stdout is not None
        facts = json.loads(server.stdout.readline())
        one = Served(store, incus, tmp_path / "log", facts)
        one.run("remote", "add", "anklume", facts["url"], "--protocol", "simplestreams")
        stack.callback(one.run, "remote", "remove", "anklume")
        certificate = read_certificate(Path(facts["certificate"]), Path(facts["certificate"]))
        assert certificate.fingerprint == facts["fingerprint"]
        incus.run(["sh", "-c", PIN], input=certificate.pem.encode(), check=True)
        yield one


def padded(rootfs: Path, target: Path, more: bytes) -> Path:
    """The root file system with bytes behind it, which mounting passes over."""
    target.write_bytes(rootfs.read_bytes() + hashlib.shake_256(b"padding").digest(PADDING) + more)
    return target


def forget_index(served: Served) -> None:
    """Both the client and the daemon keep what they read of an index for an hour."""
    served.incus.run(["sh", "-c", 'rm -rf "$INCUS_DIR"/cache/* ~/.cache/incus'], check=True)


def fingerprints(listing: str) -> dict[str, str]:
    return {alias["name"]: image["fingerprint"] for image in json.loads(listing) for alias in image["aliases"]}


@pytest.mark.both_versions
def test_stock_incus_launches_from_it(
    served: Served, client: Incus, tiny_rootfs: Path, tmp_path: Path, incus_tree: Callable[[str], Path]
) -> None:
    images = Images(served.store)
    one = images.resolve("tiny")
    listed = fingerprints(served.run("image", "list", "anklume:", "--format", "json"))
    names = {"tiny", "tiny/latest", f"tiny/{one.version}"}
    assert {name: listed.get(name) for name in names} == dict.fromkeys(names, one.fingerprint)

    served.fetched()
    served.run("launch", "anklume:tiny", "first")
    assert client.get("instances/first")["config"]["volatile.base_image"] == one.fingerprint
    assert served.fetched() == {file.sha256: file.size for file in (one.metadata, one.rootfs)}
    served.run("launch", f"anklume:{one.fingerprint[:12]}", "again")
    assert served.fetched() == {}

    two = put_tiny(served.store, padded(tiny_rootfs, tmp_path / "two", b"more" * 1000), tmp_path, 2)
    images.set_channel("tiny", one.architecture, "prod", one.version)
    (pair,) = [pair for pair in pairs(listed_images(served.store, images), ()) if pair.later.version == two.version]
    report = make_delta(served.store, pair, lambda: programs_of(incus_tree("incus-7")))
    assert report.status == "made"
    assert report.size < PADDING // 100
    write_index(served.store)
    served.fetched()
    forget_index(served)
    served.run("launch", f"anklume:tiny/{two.version}", "second")
    assert client.get("instances/second")["config"]["volatile.base_image"] == two.fingerprint
    fetched = served.fetched()
    assert two.rootfs.sha256 not in fetched
    assert sum(fetched.values()) == two.metadata.size + report.size
