"""Figures of the launcher: many machines at once, plans of many machines on a server and offline."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import requests

from anklume_images.console import Console
from anklume_images.ship.publish import publish
from anklume_images.ship.verb import image_files
from anklume_images.store.store import Store
from launcher.apply.prepare import prepare
from launcher.session import Launch
from launcher.trial.private import GIBIBYTE, PrivateIncus
from tests.bench.many import IMAGES, write_infra
from tests.bench.measure import RUNS, figures, ratio, rounds, say, seconds
from tests.rig.incus_images import make_rootfs
from tests.rig.launching import Launcher, clear
from tests.rig.tiny_store import put_tiny, write_specs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bench.measure import Bench

MACHINES = 10
DOMAINS, EACH = 20, 5


@contextlib.contextmanager
def _incus(bench: Bench) -> Iterator[PrivateIncus]:
    """One on btrfs, which is what the goals are for."""
    tree = bench.pipeline.tree(bench.incus).root
    with PrivateIncus(tree=tree, storage="btrfs", pool_size=60 * GIBIBYTE) as incus:
        yield incus


def ten(bench: Bench) -> None:
    """Ten machines of Debian from nothing, against the incus client, one after another and all at once.

    Theirs: the default project, profile and bridge, all there before. Ours makes the project, bridge and its rules
    too. Nobody waits for a healthcheck, and the image is published and unpacked in the pool before.
    """
    pipeline = bench.pipeline
    image = pipeline.build(["debian"])[-1].image
    assert image is not None
    with _incus(bench) as incus:
        place = bench.place()
        launcher = Launcher(incus, pipeline.store.home, place, place / "infra.yml")
        write_infra(launcher.file, 1, MACHINES, ("debian",))
        with incus.client() as client:
            publish(image_files(image, pipeline.images, pipeline.store), client)

        def theirs(line: str) -> float:
            script = f"for n in $(seq {MACHINES}); do {line}; done; wait"
            spent = seconds(lambda: incus.run(["sh", "-c", script], capture_output=True, check=True))
            _running(incus)
            clear(incus)
            return spent

        def ours() -> float:
            spent = seconds(lambda: launcher("apply", "--no-wait"))
            _running(incus)
            clear(incus)
            return spent

        command = f"incus launch --quiet {image.fingerprint} m$n </dev/null"
        theirs(command)  # the first one unpacks the image into the pool
        one, all_ = f"{MACHINES} incus launch in turn", f"{MACHINES} incus launch at once"
        found = rounds({"apply": ours, one: lambda: theirs(command), all_: lambda: theirs(f"{command} &")})
    what = f"{MACHINES} machines of debian on btrfs by anklume-launch"
    ratio(f"{what} / {one}", "≤ 0.6", found["apply"], found[one])
    ratio(f"{what} / {all_}", "≤ 1", found["apply"], found[all_])


def _running(incus: PrivateIncus) -> None:
    with incus.client() as client:
        there = client.within(None).get("instances", recursion=1, **{"all-projects": "true"})
    assert [found["status"] for found in there] == ["Running"] * MACHINES


def plan(bench: Bench) -> None:
    """A plan of many running machines that finds nothing to change, and the requests that it takes."""
    with _incus(bench) as incus:
        place = bench.place()
        store = Store(place / "store")
        put_tiny(store, make_rootfs(incus, place / "tiny.squashfs"), place, 1)
        specs = write_specs(place / "specs")
        launcher = Launcher(incus, store.home, place, place / "infra.yml", specs)
        write_infra(launcher.file, DOMAINS, EACH, ("tiny",))
        made = seconds(lambda: launcher("apply", "--no-wait"))
        command = [seconds(lambda: launcher("plan")) for _ in range(RUNS)]
        inside: list[float] = []
        for _ in range(RUNS):
            with _counted() as requested:
                inside.append(seconds(lambda: _plan(launcher, Launch((specs,), store.home, Console(quiet=True)))))
    what = f"{DOMAINS * EACH} machines in {DOMAINS} domains"
    figures(f"plan without changes of {what}, the whole command", "≤ 1 s", command)
    figures("  of that: file, store, server and comparison", "-", inside)
    say(f"  requests: {len(requested)} (goal ≤ {6 + 3 * DOMAINS}); all made and started in {made:.1f} s")


def _plan(launcher: Launcher, launch: Launch) -> None:
    infra = launch.infra(launcher.file)
    with launcher.incus.client() as client:
        assert not prepare(infra, launch.images(), client).plan.todo


@contextlib.contextmanager
def _counted() -> Iterator[list[str]]:
    """The requests that are sent meanwhile, those of connecting too."""
    sent: list[str] = []
    send = requests.Session.send

    def counting(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        sent.append(str(request.url))
        return send(session, request, **options)

    with patch.object(requests.Session, "send", counting):
        yield sent


def offline(bench: Bench) -> None:
    """Files of 1,000 and of 3,000 machines, checked and planned without a server, each time in a process of its own."""
    bench.pipeline.build(IMAGES)
    medians = {}
    for domains in (100, 300):
        file = write_infra(bench.place() / "infra.yml", domains, 10, IMAGES)
        argv = [sys.executable, "-m", "tests.bench.many", str(file), str(bench.pipeline.store.home)]
        rows = [_measured(argv) for _ in range(RUNS)]
        what = f"{domains * 10} machines in {domains} domains checked and planned offline, with imports"
        goals = ("≤ 2 s", "< 150 MB") if domains == 100 else ("-", "-")
        figures(what, goals[0], [row["seconds"] for row in rows])
        say(f"  peak memory {max(row['bytes'] for row in rows) / 1e6:.0f} MB (goal {goals[1]}); {rows[0]['steps']} steps")
        medians[domains] = statistics.median(row["seconds"] for row in rows)
    say(f"  three times the machines take {medians[300] / medians[100]:.2f} times as long (goal: linear)")


def _measured(argv: list[str]) -> dict[str, float]:
    result = subprocess.run(argv, check=True, capture_output=True, text=True, env=os.environ)
    document: dict[str, float] = json.loads(result.stdout)
    return document
