"""Figures of the launcher: many machines at once, plans of many machines on a server and offline."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import requests

from anklume_images.console import Console
from anklume_images.store.store import Store
from launcher.apply.run import launch
from launcher.cli.session import Session
from launcher.prepare import prepare
from launcher.private_incus.daemon import GIBIBYTE, PrivateIncus
from tests.bench.many import IMAGES, write_infra
from tests.bench.measure import RUNS, figures, ratio, record, rounds, say, seconds
from tests.support.incus_images import make_rootfs
from tests.support.launching import Launcher, clear
from tests.support.tiny_store import put_tiny, write_specs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.measure import Bench

MACHINES = 10
DOMAINS, EACH = 20, 5


@contextlib.contextmanager
def _world(bench: Bench, **spec: Any) -> Iterator[Launcher]:
    """The command, with a store that has the image `tiny`, upon an Incus on btrfs, which is what the goals are for."""
    tree = bench.pipeline.tree(bench.incus).root
    with PrivateIncus(tree=tree, storage="btrfs", pool_size=60 * GIBIBYTE) as incus:
        place = bench.place()
        store = Store(place / "store")
        put_tiny(store, make_rootfs(incus, place / "tiny.squashfs"), place, 1, **spec)
        yield Launcher(incus, store.home, place, place / "infra.yml", write_specs(place / "specs"))


def ten(bench: Bench) -> None:
    """Ten machines of one image, against the incus client, one after another and all at once.

    Theirs: on the bridge of a domain, with the same address and filters. Ours: the command with that domain there, the
    same without starting Python, and the command from nothing, which makes project, bridge and rules too. Nobody waits
    for a healthcheck; the image is published, and unpacked in the pool, before. It is one that boots in a moment and
    does nothing then: ten systemds at once would mostly measure themselves, and are more than the kernel's usual
    fs.inotify.max_user_instances lets run.
    """
    with _world(bench, volumes=[]) as launcher:
        write_infra(launcher.file, 1, MACHINES, ("tiny",), config="")
        session, incus = _session(launcher), launcher.incus
        infra, image = session.infra(launcher.file), session.images().resolve("tiny")

        def launched(*kinds: str) -> None:
            with incus.client() as client:
                launch(infra, session.store(), client, session.console, kinds=kinds, wait=False)

        def there(action: Callable[[], object]) -> float:
            launched("image", "project", "acl", "network")
            return _until_cleared(incus, action)

        def theirs(end: str) -> float:
            line = f"incus launch --quiet {image.fingerprint} m$n --project d0 --storage default --network net-d0"
            for option in ("ipv4.address=10.100.0.$n", "security.mac_filtering=true", "security.ipv4_filtering=true"):
                line += f" --device eth0,{option}"
            line += f" </dev/null {end}"
            script = f"for n in $(seq {MACHINES}); do {line} done; wait"
            return there(lambda: incus.run(["sh", "-c", script], check=True))

        theirs(";")  # the first one unpacks the image into the pool
        one, all_ = f"{MACHINES} incus launch in turn", f"{MACHINES} incus launch at once"
        ours = {
            "anklume-launch": lambda: there(lambda: _command(launcher, "apply", "--no-wait")),
            "anklume-launch less the start of Python": lambda: there(launched),
            "anklume-launch from nothing": lambda: _until_cleared(
                incus, lambda: _command(launcher, "apply", "--no-wait")
            ),
        }
        found = rounds({one: lambda: theirs(";"), **ours, all_: lambda: theirs("&")})
    for name in ours:
        what = f"{MACHINES} machines on btrfs, {name}"
        ratio(f"{what} / {one}", "≤ 0.6", found[name], found[one])
        ratio(f"{what} / {all_}", "≤ 1", found[name], found[all_])


def _command(launcher: Launcher, *words: str) -> None:
    """Run a command as a person starts it; calling `launcher` forks one that has imported everything."""
    subprocess.run(launcher.argv(*words), env=launcher.environment(), check=True, capture_output=True)


def _until_cleared(incus: PrivateIncus, action: Callable[[], object]) -> float:
    """The seconds of something that ends with all machines running, which are removed then."""
    spent = seconds(action)
    with incus.client() as client:
        there = client.within(None).get("instances", recursion=1, **{"all-projects": "true"})
    assert [found["status"] for found in there] == ["Running"] * MACHINES
    clear(incus)
    return spent


def plan(bench: Bench) -> None:
    """Plans of 10 and of 100 running machines that find nothing to change: none has a volume, then each has one.

    Beside them what Incus needs when it is asked for everything whole, as `plan --deep` does and every plan once did:
    it works out who uses each network, rule and volume whenever it is asked for their configuration.
    """
    for volumes in ({"volumes": []}, {}):
        with _world(bench, **volumes) as launcher:
            for domains in (DOMAINS // 10, DOMAINS):
                _plan_of_many(launcher, domains, "none has a volume" if volumes else "each has a volume")


def _plan_of_many(launcher: Launcher, domains: int, which: str) -> None:
    write_infra(launcher.file, domains, EACH, ("tiny",))
    made = seconds(lambda: launcher("apply", "--no-wait"))
    sent: list[tuple[str, float]] = []

    def waited(*, deep: bool) -> float:
        sent.clear()
        with _requests(sent):
            _plan(launcher, deep=deep)
        return sum(spent for _, spent in sent)

    found = rounds(
        {
            "deep command": lambda: seconds(lambda: _command(launcher, "plan", "--deep")),
            "command": lambda: seconds(lambda: _command(launcher, "plan")),
            "deep": lambda: waited(deep=True),
            "quick": lambda: waited(deep=False),
        }
    )
    what = f"plan without changes of {domains * EACH} machines in {domains} domains, {which}"
    figures(f"{what}: the whole command", "≤ 1.5 s", found["command"])
    ratio("  the command / plan --deep", "-", found["command"], found["deep command"])
    ratio("  its requests / those of plan --deep", "≤ 0.5", found["quick"], found["deep"])
    longest = sorted(sent, key=lambda entry: -entry[1])[:3]
    slowest = ", ".join(f"{path.partition('?')[0]} {spent:.2f}" for path, spent in longest)
    say(f"  longest: {slowest}; requests: {len(sent)} (goal ≤ {6 + 3 * domains})")
    say(f"  all made and started in {made:.1f} s")


def _plan(launcher: Launcher, *, deep: bool) -> None:
    session = _session(launcher)
    infra = session.infra(launcher.file)
    with launcher.incus.client() as client:
        assert not prepare(infra, session.images(), client, deep=deep).plan.todo


def _session(launcher: Launcher) -> Session:
    """What the command makes of its options."""
    return Session((launcher.specs,) if launcher.specs else (), launcher.store, Console(quiet=True))


@contextlib.contextmanager
def _requests(sent: list[tuple[str, float]]) -> Iterator[None]:
    """Notes the requests that are sent meanwhile, those of connecting too, and the seconds of each."""
    send = requests.Session.send

    def timed(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        begun = time.monotonic()
        answer = send(session, request, **options)
        sent.append((request.path_url, time.monotonic() - begun))
        return answer

    with patch.object(requests.Session, "send", timed):
        yield


def offline(bench: Bench) -> None:
    """Files of 1,000 and of 10,000 machines, checked and planned without a server, each in a process of its own."""
    bench.pipeline.build(IMAGES)
    medians = {}
    for machines, goals in ((1_000, ("≤ 2 s", "< 150 MB")), (10_000, ("≤ 8 s", "< 200 MB"))):
        domains = machines // 20
        file = write_infra(bench.place() / "infra.yml", domains, 20, IMAGES)
        argv = [sys.executable, "-m", "tests.bench.many", str(file), str(bench.pipeline.store.home)]
        rows = [_measured(argv) for _ in range(RUNS)]
        what = f"{machines} machines in {domains} domains checked and planned offline, with imports"
        figures(what, goals[0], [row["seconds"] for row in rows])
        figures("  of that, on a CPU", "-", [row["cpu_seconds"] for row in rows])
        record(f"memory of planning {machines} machines offline", goals[1], [row["bytes"] / 1e6 for row in rows], "MB")
        medians[machines] = statistics.median(row["cpu_seconds"] for row in rows)
    record("10000 machines / 1000 machines, on a CPU", "≤ 11", [medians[10_000] / medians[1_000]], "")


def _measured(argv: list[str]) -> dict[str, float]:
    result = subprocess.run(argv, check=True, capture_output=True, text=True, env=os.environ)
    document: dict[str, float] = json.loads(result.stdout)
    return document
