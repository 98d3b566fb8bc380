"""Figures of images that travel: between two Incuses, and what is sent of a version that changes one package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images.ship.certificate import certificate_for
from anklume_images.ship.delta_programs import program_of
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from launcher.private_incus.daemon import PrivateIncus
from tests.bench.measure import RUNS, memory_of, peak, ratio, rounds, say, seconds, share
from tests.bench.streams import served
from tests.support.cabled import cable, listens_at, write_remotes
from tests.support.example_store import linked_store
from tests.support.incus_images import make_rootfs
from tests.support.instances import delete_image
from tests.support.tiny_store import put_tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anklume_images.store.images import Image
    from tests.bench.measure import Bench

_ROOT = Path(__file__).resolve().parents[2]
_LARGE = "open-webui"
_SIZES = (266 << 20, 2 << 30)
_PROGRAM = [sys.executable, "-m", "anklume_images", "--quiet"]
_MOVING = {"bundle", "promote", "pull"}
# Stands in for ssh to another host, and counts what is sent there.
_SSH = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift 2
PATH={bin}:$PATH ANKLUME_KEYS={keys}
export PATH ANKLUME_KEYS
case "$1" in *"bundle import"*) tee {sent} | sh -c "$1" ;; *) sh -c "$1" ;; esac
"""


def promotion(bench: Bench) -> None:
    """An image from one Incus to another: the command, and `incus image copy`, which has the target pull it too.

    One is of the size of an application's image, one of that of an image with the libraries of a GPU's maker.
    """
    tree = bench.pipeline.tree(bench.incus).root
    with PrivateIncus(tree=tree) as dev, PrivateIncus(tree=tree) as prod:
        cable(dev, prod, 1)
        listens_at(dev, "10.251.1.1")
        place = bench.place()
        environment = os.environ | {"INCUS_CONF": str(write_remotes(place / "client", {"dev": dev, "prod": prod}))}
        store = Store(place / "store")
        rootfs = make_rootfs(dev, place / "rootfs")
        for number, size in enumerate(_SIZES):
            with rootfs.open("ab") as out:
                while out.tell() < size:
                    out.write(os.urandom(1 << 20))
            image = put_tiny(store, rootfs, place, number)
            _copies(image, store, program_of(tree, "incus"), prod, environment)


def _copies(
    image: Image, store: Store, incus: tuple[str, ...], target: PrivateIncus, environment: Mapping[str, str]
) -> None:
    command = [*_PROGRAM, "--store", str(store.home), "promote"]
    _, uploaded = peak([*command, image.name, "--to", "dev:", "--channel", "dev"], environment)
    peaks: dict[str, list[int]] = {"promote": [], "copy": []}

    def copied(name: str, argv: list[str]) -> float:
        took = seconds(lambda: peaks[name].append(peak(argv, environment)[1]))
        with target.client() as client:
            delete_image(client, image.fingerprint)
        return took

    ours = [*command, f"{image.name}@dev", "--from", "dev:", "--to", "prod:", "--channel", "prod"]
    theirs = [*incus, "image", "copy", f"dev:{image.fingerprint}", "prod:", "--quiet"]
    rows = rounds({"promote": lambda: copied("promote", ours), "copy": lambda: copied("copy", theirs)})
    name = f"incus image copy / promote of {image.rootfs.size >> 20} MiB from Incus to Incus"
    ratio(name, "≥ 0.95", rows["copy"], rows["promote"])
    _memory({"promote to Incus": uploaded, "promote from Incus to Incus": max(peaks["promote"])})


def changed(bench: Bench) -> None:
    """Two versions of the example `nginx`, the later one with a package more, by every way to a host with the first."""
    bench.pipeline.build(["debian"])
    with linked_store(bench.pipeline, [bench.pipeline.images.resolve("debian")]) as home:
        origin = _Origin(bench, home)
        origin.build_two()
        whole = origin.later.metadata.size + origin.later.rootfs.size
        for name, way in origin.ways().items():
            rows = []
            for _ in range(RUNS):
                far = origin.far()
                rows.append(way(far))
                assert Images(far).resolve("box") == origin.later
                assert far.blobs.verify(origin.later.rootfs.sha256)
            share(f"{name} of a version with one package more, bytes sent", "≤ 15 %", rows, whole)
        say("promote to an Incus, from a store or from an Incus: 100 %, as Incus takes and sends whole images")
        _memory(origin.peaks)


class _Origin:
    """A signed store with two versions of an image, and the ways from there to another store."""

    def __init__(self, bench: Bench, home: Path) -> None:
        self._bench = bench
        self._home = home
        self._environment = os.environ | {"ANKLUME_KEYS": str(home.parent / "keys")}
        self._fingerprint = ""
        self.peaks: dict[str, int] = {}

    @property
    def later(self) -> Image:
        return Images(Store(self._home)).resolve("box")

    def build_two(self) -> None:
        """Build the first version, and the second from a spec with a package more."""
        specs = self._bench.place()
        spec = specs / "box/spec.yml"
        shutil.copytree(_ROOT / "examples/specs/nginx", spec.parent, ignore=shutil.ignore_patterns("lock.json"))
        text = spec.read_text().replace("name: nginx", "name: box", 1)
        for packages in ("      - nginx\n", "      - nginx\n      - nano\n"):
            spec.write_text(text.replace("      - nginx\n", packages, 1))
            for command in ("lock", "build"):
                self._run("--specs", specs, "--store", self._home, command, "box")
            images = Images(Store(self._home))
            if packages.count("-") == 1:
                first = images.resolve("box")
                images.set_channel("box", first.architecture, "first", first.version, command="channel set")
        self._run("--store", self._home, "trust", "sign")
        shown = self._run("--store", self._home, "trust", "show", "--json")
        self._fingerprint = json.loads(shown)["own"]["fingerprint"]

    def far(self) -> Store:
        """A store that has the first version, and a tree with xdelta3."""
        far = Store(self._bench.place() / "store")
        far.create()
        (far.home / "trees").symlink_to(self._home / "trees")
        self._accept(far, str(self._home))
        self._run("--store", far.home, "pull", "box@first", "--channel", "latest")
        return far

    def ways(self) -> dict[str, Callable[[Store], int]]:
        """Each brings the later version to another store, and says how many bytes were sent."""
        return {
            "promote over ssh": self._over_ssh,
            "bundle create --for a host": self._by_bundle,
            "pull over https": self._over_https,
            "pull from a folder": self._from_folder,
        }

    def _over_ssh(self, far: Store) -> int:
        folder = self._bench.place()
        ssh, sent = folder / "ssh", folder / "sent"
        ssh.write_text(_SSH.format(bin=Path(sys.executable).parent, keys=folder / "keys", sent=sent))
        ssh.chmod(0o755)
        environment = self._environment | {"PATH": f"{folder}:{os.environ['PATH']}"}
        self._run("--store", self._home, "promote", "box", "--to", f"ssh://far{far.home}", environment=environment)
        return sent.stat().st_size

    def _by_bundle(self, far: Store) -> int:
        folder = self._bench.place()
        bundle, needs = folder / "bundle", folder / "needs"
        self._run("--store", far.home, "bundle", "needs", "-o", needs)
        self._run("--store", self._home, "bundle", "create", "box", "--for", needs, "-o", bundle)
        self._run("--store", far.home, "bundle", "import", bundle)
        return bundle.stat().st_size

    def _over_https(self, far: Store) -> int:
        certificate = certificate_for(self._bench.place() / "serve.pem", ["127.0.0.1"])
        with served(self._home, certificate.chain) as port:
            place = f"https://127.0.0.1:{port}"
            self._run("--store", far.home, "trust", "forget", str(self._home))
            self._accept(far, place)
            return self._pulled(far, place)

    def _from_folder(self, far: Store) -> int:
        return self._pulled(far, str(self._home))

    def _pulled(self, far: Store, place: str) -> int:
        (row,) = json.loads(self._run("--store", far.home, "pull", "box", "--from", place, "--json"))["images"]
        return int(row["bytes"])

    def _accept(self, far: Store, place: str) -> None:
        self._run("--store", far.home, "trust", "accept", place, "--fingerprint", self._fingerprint)

    def _run(self, *words: str | Path, environment: Mapping[str, str] | None = None) -> str:
        output, most = peak([*_PROGRAM, *words], environment or self._environment)
        command = str(words[2])
        if command in _MOVING:
            name = f"{command} {words[3]}" if command == "bundle" else command
            self.peaks[name] = max(self.peaks.get(name, 0), most)
        return output


def memory(bench: Bench) -> None:
    """The commands that move an image of some hundred megabytes, or look at all of it."""
    pipeline = bench.pipeline
    image = pipeline.build([_LARGE])[-1].image
    assert image is not None
    peaks: dict[str, int] = {}
    with linked_store(pipeline, [image]) as home:
        environment = os.environ | {"ANKLUME_KEYS": str(home.parent / "keys")}

        def run(store: Path, *words: str) -> str:
            output, most = peak([*_PROGRAM, "--store", store, *words], environment)
            name = " ".join(words[: 2 if words[0] == "bundle" else 1])
            peaks[name] = max(peaks.get(name, 0), most)
            return output

        run(home, "trust", "sign")
        fingerprint = json.loads(run(home, "trust", "show", "--json"))["own"]["fingerprint"]
        del peaks["trust"]
        promoted, pulled, carried = (bench.place() / "store" for _ in range(3))
        run(home, "promote", _LARGE, "--to", str(promoted))
        subprocess.run(
            [*_PROGRAM, "--store", pulled, "trust", "accept", home, "--fingerprint", fingerprint], check=True
        )
        del environment["ANKLUME_KEYS"]
        run(pulled, "pull", _LARGE, "--from", str(home))
        environment["ANKLUME_KEYS"] = str(home.parent / "keys")
        bundle = str(bench.place() / "bundle")
        run(home, "bundle", "create", _LARGE, "-o", bundle)
        run(carried, "bundle", "import", bundle, "--fingerprint", fingerprint)
        run(carried, "verify")
        run(carried, "gc")
    _memory(peaks)


def _memory(peaks: dict[str, int]) -> None:
    for name, most in peaks.items():
        memory_of(f"the largest process of {name}", "< 200 MiB", most)
