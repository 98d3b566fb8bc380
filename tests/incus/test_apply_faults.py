"""What goes wrong around apply: each a clear error or a clean end, and the next run converges."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import IncusError
from anklume_images.incus.client import Incus
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from launcher.infra.names import MACHINE, OWNER, UNFINISHED
from launcher.private_incus.daemon import PrivateIncus
from launcher.private_incus.storage import MOUNT, POOL_SOURCE
from tests.support.instances import delete_image
from tests.support.launching import Launcher
from tests.support.restarted_incus import kill_daemon, restarting_tree
from tests.support.tiny_store import put_tiny, write_specs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MANY = "domains:\n  lab:\n    machines:\n" + "".join(
    f"      box-{number}: {{image: tiny, ephemeral: true}}\n" for number in range(6)
)
ONE = "domains:\n  lab:\n    machines:\n      box-0: {image: tiny, ephemeral: true}\n"
NOBODY = 65534


def test_no_incus(tiny: Launcher, tmp_path: Path) -> None:
    tiny.write(ONE)
    environment = tiny.environment() | {"INCUS_SOCKET": str(tmp_path / "unix.socket")}
    result = subprocess.run(tiny.argv("apply"), env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "no Incus daemon listens here" in result.stderr
    assert "hint:" in result.stderr


def test_socket_without_permission(tiny: Launcher) -> None:
    tiny.write(ONE)
    with tiny.client():  # what is imported by then need not be read as somebody else
        pass
    pid = os.fork()
    if pid == 0:
        os._exit(_as_nobody(tiny))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _as_nobody(launcher: Launcher) -> int:
    """Try to connect as an ordinary user: 0 when that is refused as it should be."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    try:
        Incus.connect(socket=launcher.incus.socket)
    except IncusError as error:
        return 0 if "ermission denied" in str(error) and error.hint else 1
    return 2


def test_pool_that_is_not_there(tiny: Launcher) -> None:
    tiny.write(ONE, head="project_name: {name}\nglobal: {{addressing: {{}}, storage_pool: fast}}\n")
    said = tiny("apply", code=1).stderr
    assert "no storage pool called fast; there are: default" in said


def test_full_pool(incus: PrivateIncus, tiny_rootfs: Path, tmp_path: Path) -> None:
    rootfs = tmp_path / "large.squashfs"
    with PrivateIncus(tree=incus._tree, home=tmp_path / "small", pool_size=192 << 20, storage="btrfs") as small:
        assert small.home is not None
        script = (
            "set -e; cd /tmp; unsquashfs -q -n -d r /srv/trial/tiny.squashfs; "
            "head -c 200M /dev/urandom > r/large; mksquashfs r /srv/trial/large.squashfs -quiet -no-progress -noD -noF"
        )
        (small.home / "tiny.squashfs").write_bytes(tiny_rootfs.read_bytes())
        small.run(["sh", "-c", script], check=True, capture_output=True)
        (small.home / "large.squashfs").rename(rootfs)
        store = Store(tmp_path / "store")
        large = put_tiny(store, rootfs, tmp_path, 1)
        launcher = Launcher(small, store.home, tmp_path, tmp_path / "infra.yml", write_specs(tmp_path / "specs"))
        launcher.write(ONE)
        said = launcher("apply", code=1).stderr
        assert "machine box-0 (project lab)" in said
        assert "o space left on device" in said or "out of disk space" in said
        assert "the storage pool or the disk is full" in said
        with launcher.client() as client:
            delete_image(client, large.fingerprint)
        put_tiny(store, tiny_rootfs, tmp_path, 2)
        # btrfs gives room back at its next commit, which is half a minute away at most.
        for command in ("filesystem sync", "subvolume sync -s 1", "filesystem sync"):
            small.run(["btrfs", *command.split(), MOUNT], check=True)
        launcher("apply")
        launcher.settled()


@pytest.fixture
def restarting(incus: PrivateIncus, tiny_rootfs: Path, tmp_path: Path) -> Iterator[Launcher]:
    """The launcher upon an Incus of its own, which starts again when its daemon is killed."""
    tree = restarting_tree(incus._tree, tmp_path / "tree")
    with PrivateIncus(tree=tree, home=tmp_path / "own") as own:
        store = Store(tmp_path / "store")
        put_tiny(store, tiny_rootfs, tmp_path, 1)
        yield Launcher(own, store.home, tmp_path, tmp_path / "infra.yml", write_specs(tmp_path / "specs"))


@pytest.mark.both_versions
def test_daemon_restarted_in_the_middle(restarting: Launcher) -> None:
    restarting.write(MANY)
    process = restarting.start("apply", "--json")
    own = restarting.incus
    until(lambda: len(own.run(["incus", "list", "--all-projects", "-f", "csv"], capture_output=True).stdout) > 0)
    kill_daemon(own)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "waiting for Incus, then going on" in said
    restarting.settled()
    with restarting.client() as client:
        found = client.get("instances", recursion=1, project="lab")
    assert [(entry["name"], entry["status"]) for entry in found] == [
        (f"box-{number}", "Running") for number in range(6)
    ]


def test_daemon_restarted_while_it_removes(restarting: Launcher) -> None:
    restarting.write(MANY)
    restarting("apply")
    with restarting.client() as client, restarting.start("destroy", "--yes") as process:
        until(lambda: len(client.get("instances", project="lab")) < 6)
        kill_daemon(restarting.incus)
        assert process.stdout is not None
        said = process.stdout.read()
    assert process.returncode == 0, said
    assert "waiting for Incus, then going on" in said
    with restarting.client() as client:
        assert client.get("instances", project="lab") == []
        assert client.get("network-acls") == []


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_machine_that_never_becomes_healthy(tiny: Launcher, tiny_rootfs: Path, tmp_path: Path) -> None:
    command = ["sh", "-c", "echo this is why > /dev/console; echo it is not well >&2; false"]
    check = {"command": command, "timeout": 1}
    put_tiny(Store(tiny.store), tiny_rootfs, tmp_path, 2, healthcheck=check)
    tiny.write(ONE)
    said = tiny("apply", code=1).stderr
    assert "box-0 is not healthy after 1 s: it is not well" in said
    assert "| this is why" in said  # it has no journal, so that is its console
    assert "anklume-launch" in said
    assert "logs INFRA box-0" in said
    tiny("apply", "--no-wait")  # it runs, and that is all there is to do
    tiny.settled()


def test_image_that_vanished(tiny: Launcher) -> None:
    tiny.write(ONE)
    tiny("apply")
    store = Store(tiny.store)
    (image,) = Images(store)
    with tiny.client() as client:
        delete_image(client, image.fingerprint)
    tiny.settled()  # no machine is to be made of it
    tiny("destroy", "--yes")
    assert "image" in [step["kind"] for step in tiny.json("plan", code=3)["steps"]]
    store.blobs.path(image.rootfs.sha256).unlink()
    said = tiny("apply", code=1).stderr
    assert "image " in said
    assert "Traceback" not in said
    Images(store).remove(image)
    said = tiny("apply", code=1).stderr
    assert "the store has no tiny@latest" in said
    assert "build tiny" in said


def test_two_applies_of_one_file_at_once(tiny: Launcher) -> None:
    tiny.write(MANY)
    both = [tiny.start("apply", "--json") for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    done = sorted(json.loads(text[text.index("{\n") :])["done"] for text in said)
    assert done[0] == 0
    assert done[1] > 0
    assert any("another command works on demo; waiting for it" in text for text in said)
    tiny.settled()


@pytest.mark.both_versions
def test_interrupted_and_run_again(tiny: Launcher) -> None:
    tiny.write(MANY)
    process = tiny.start("apply", "--json")
    with tiny.client() as client:
        until(lambda: len(client.get("instances", **{"all-projects": "true"})) > 0)
    os.kill(process.pid, 2)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted" in said
    tiny("apply")
    tiny.settled()


BEGUN = {OWNER: "demo", MACHINE: "box-0", UNFINISHED: "true"}
ROOT = {"root": {"type": "disk", "path": "/", "pool": "default"}}
HALVE = """\
set -e; cd {folder}/images/$1
btrfs property set . ro false
rm -r rootfs/usr/bin; [ "$2" = some ] || rm -r rootfs
"""


@pytest.mark.both_versions
@pytest.mark.parametrize("left", ["some", "nothing"])
def test_image_that_a_killed_daemon_unpacked_by_half(tiny: Launcher, left: str) -> None:
    """What such a daemon leaves: a volume that it takes for whole, and perhaps an instance made of it."""
    tiny.write(ONE)
    tiny("apply")
    tiny("destroy", "--yes", "--force-protected")
    fingerprint = Images(Store(tiny.store)).resolve("tiny").fingerprint
    with tiny.client() as client:
        halve = HALVE.format(folder=POOL_SOURCE)
        tiny.incus.run(["sh", "-c", halve, "sh", fingerprint, left], check=True)
        if left == "some":
            body = {"name": "box-0", "source": {"type": "image", "fingerprint": fingerprint}, "config": BEGUN}
            client.send("post", "instances", body | {"devices": ROOT}, params={"project": "lab"})
    tiny("apply")
    assert tiny.execute("lab", "box-0", "cat", "/etc/passwd").code == 0
    tiny.settled()
