"""Apply and destroy killed at every request that they make: run again, they end the same, and nothing is lost."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import TYPE_CHECKING

from anklume_images.store.store import Store
from launcher.infra.names import UNFINISHED
from tests.support.launching import clear, images
from tests.support.suite import SAMPLE
from tests.support.tiny_store import put_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.launching import Launcher

INFRA = """\
domains:
  lab:
    profiles: {small: {config: {limits.processes: 500}}}
    machines:
      box: {image: tiny, profiles: [default, small], vars: {tiny_text: %s}}
"""
# Requests that change something, and whether the daemon gets that one still. Of one create: project, acl, network,
# profile, volume (and in 6.0 back to its snapshot, which goes), that it is filled, image, its alias, instance, and that
# it is finished.
CREATE = {6: 12, 7: 10}
# Image, its alias, stop, make anew, configure, start.
REPLACE = [(number, when) for number in range(1, 7) for when in ("before", "after")]
# Stop, unprotect, delete, then profile, network, acl; the project stays with its volume.
DESTROY = [(number, when) for number in range(1, 7) for when in ("before", "after")]


def killed(launcher: Launcher, number: int, when: str, command: str, *arguments: str) -> None:
    """Run it and see it killed at that request."""
    argv = launcher.argv(command, "--yes", *arguments)
    program = [sys.executable, "-m", "tests.support.launch_killed", str(number), when, *argv[3:]]
    result = subprocess.run(program, env=launcher.environment(), capture_output=True, text=True, check=False)
    assert result.returncode == -9, f"request {number} was not made: {result.stdout}{result.stderr}"


def release_of(launcher: Launcher) -> int:
    with launcher.client() as client:
        return client.server.release[0]


def share(launcher: Launcher, points: list[tuple[int, str]], *, full: bool) -> list[tuple[int, str]]:
    """Half of the points for each version, as the code is the same; unless `full`, a third of these, chosen anew."""
    release = release_of(launcher)
    own = [point for point in points if (release + point[0] + (point[1] == "after")) % 2]
    return own if full else sorted(random.sample(own, max(2, len(own) // SAMPLE)))


def only_ours_is_there(launcher: Launcher) -> None:
    """Nothing but what the file asks for is on the server."""
    with launcher.client() as client:
        everywhere = {"all-projects": "true"}
        assert [found["name"] for found in client.get("projects", recursion=1)] == ["default", "lab"]
        assert [found["name"] for found in client.get("instances", recursion=1, **everywhere)] == ["box"]
        volumes = client.get("storage-pools/default/volumes/custom", recursion=1, **everywhere)
        assert [found["name"] for found in volumes] == ["box-models"]
        networks = [found["name"] for found in client.get("networks", recursion=1) if found["managed"]]
        assert sorted(networks) == ["incusbr0", "net-lab"]
        assert [found["name"] for found in client.get("network-acls", recursion=1)] == ["anklume-lab"]


def test_apply_killed_while_it_creates(tiny: Launcher, full: bool) -> None:
    tiny.write(INFRA % "one")
    points = [(number + 1, when) for number in range(CREATE[release_of(tiny)]) for when in ("before", "after")]
    before = images(tiny.incus)
    for number, when in share(tiny, points, full=full):
        killed(tiny, number, when, "apply")
        tiny("apply")
        only_ours_is_there(tiny)
        assert tiny.json("plan")["steps"] == []
        assert tiny.execute("lab", "box", "cat", "/root/models/link").stdout == b"begun\n"
        tiny("destroy", "--yes", "--force-protected", "--volumes", "box-models")
        clear(tiny.incus, before)


def test_machine_that_was_made_and_used_is_kept(tiny: Launcher) -> None:
    """Killed when its machine runs, before the mark of an unfinished one is off."""
    tiny.write(INFRA % "one")
    killed(tiny, CREATE[release_of(tiny)] - 1, "after", "apply")
    assert tiny.execute("lab", "box", "sh", "-c", "echo kept > /root/file").code == 0
    with tiny.client() as client:
        assert client.get("instances/box", project="lab")["config"][UNFINISHED] == "true"
        client.send("put", "instances/box/state", {"action": "stop", "force": True}, params={"project": "lab"})
    tiny("apply")
    assert tiny.execute("lab", "box", "cat", "/root/file").stdout == b"kept\n"
    tiny.settled()


def test_apply_killed_while_it_replaces(tiny: Launcher, tiny_rootfs: Path, tmp_path: Path, full: bool) -> None:
    tiny.write(INFRA % "one")
    tiny("apply")
    tiny.execute("lab", "box", "sh", "-c", "echo kept > /root/models/file")
    for turn, (number, when) in enumerate(share(tiny, REPLACE, full=full)):
        newer = put_tiny(Store(tiny.store), tiny_rootfs, tmp_path, turn + 2)
        tiny.write(INFRA % f"turn-{turn}")
        killed(tiny, number, when, "apply", "--replace")
        tiny("apply", "--replace", "--yes")
        assert tiny.json("plan", "--replace")["steps"] == []
        only_ours_is_there(tiny)
        with tiny.client() as client:
            config = client.get("instances/box", project="lab")["config"]
        assert config["volatile.base_image"] == newer.fingerprint
        assert config["user.anklume.tiny_text"] == f"turn-{turn}"
        assert tiny.execute("lab", "box", "cat", "/root/models/file").stdout == b"kept\n"


def test_destroy_killed(tiny: Launcher, full: bool) -> None:
    tiny.write(INFRA % "one")
    tiny("apply")
    tiny.execute("lab", "box", "sh", "-c", "echo kept > /root/models/file")
    for number, when in share(tiny, DESTROY, full=full):
        killed(tiny, number, when, "destroy", "--force-protected")
        tiny("destroy", "--yes", "--force-protected")
        with tiny.client() as client:
            assert client.get("instances", **{"all-projects": "true"}) == []
            assert client.get("network-acls") == []
            assert [name for name in client.get("networks") if "net-lab" in name] == []
        tiny("apply")
        assert tiny.execute("lab", "box", "cat", "/root/models/file").stdout == b"kept\n"
