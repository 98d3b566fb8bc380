"""A private Incus: starts from a tree, is a real one, and refuses clearly."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import HostError, IncusError
from anklume_images.ship.publish import ImageFiles, publish
from launcher.private_incus import fake_gpu as fakegpu
from launcher.private_incus.daemon import PrivateIncus
from launcher.private_incus.state_directory import PREFIX
from tests.support.incus_images import make_image
from tests.support.incus_leftovers import leftovers, nothing_left
from tests.support.instances import create_instance, start_instance

if TYPE_CHECKING:
    from collections.abc import Callable

    from anklume_images.incus.client import Incus


def test_each_version_is_the_one_of_its_tree(started: Callable[[str], PrivateIncus]) -> None:
    for name, release in (("incus-6", (6, 0)), ("incus-7", (7, 0))):
        with started(name).client() as client:
            assert client.server.release[:2] == release


def test_pool_network_and_profile_are_there(incus: PrivateIncus, client: Incus) -> None:
    pool = client.get("storage-pools/default")
    assert pool["driver"] == incus.storage
    bridge = client.get("networks/incusbr0")
    assert bridge["config"]["ipv4.nat"] == "false"
    assert set(client.get("profiles/default")["devices"]) == {"root", "eth0"}


def test_storage_is_btrfs_where_the_kernel_has_it(incus: PrivateIncus) -> None:
    known = "btrfs" in Path("/proc/filesystems").read_text().split()
    assert incus.storage == ("btrfs" if known else "dir")


def test_container_boots_from_a_published_image(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    create_instance(client, "c1", fingerprint=image.fingerprint, config={"user.kind": "test"})
    start_instance(client, "c1")
    result = client.execute(
        "c1", ["sh", "-c", "id -u; echo $COLOUR; echo bad >&2; exit 7"], environment={"COLOUR": "red"}
    )
    assert (result.code, result.stdout, result.stderr) == (7, b"0\nred\n", b"bad\n")
    client.stop("c1")
    assert client.get("instances/c1")["status"] == "Stopped"


def test_long_output_of_a_command_arrives_whole(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    create_instance(client, "c1", fingerprint=image.fingerprint)
    start_instance(client, "c1")
    for _ in range(5):
        result = client.execute("c1", ["seq", "100000"])
        assert result.stdout == "".join(f"{number}\n" for number in range(1, 100001)).encode()


def test_command_that_does_not_end_is_given_up(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    create_instance(client, "c1", fingerprint=image.fingerprint)
    start_instance(client, "c1")
    with pytest.raises(IncusError, match="did not end within 1 s"):
        client.execute("c1", ["sleep", "600"], timeout=1)


def test_long_operation_is_waited_for(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    create_instance(client, "c1", fingerprint=image.fingerprint)
    start_instance(client, "c1")
    # Longer than one request for the operation's end.
    assert client.execute("c1", ["sh", "-c", "sleep 7; echo done"]).stdout == b"done\n"


def test_unknown_command_is_an_error(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    create_instance(client, "c1", fingerprint=image.fingerprint)
    start_instance(client, "c1")
    with pytest.raises(IncusError, match="Command not found") as caught:
        client.execute("c1", ["no-such-command"])
    assert caught.value.hint


def test_simulated_cards_are_listed(client: Incus) -> None:
    cards = client.get("resources")["gpu"]["cards"]
    assert [card["pci_address"] for card in cards] == [card.pci for card in fakegpu.cards(2)]
    assert {card["nvidia"]["model"] for card in cards} == {fakegpu.MODEL}
    assert {card["driver_version"] for card in cards} == {fakegpu.DRIVER}


def test_container_gets_the_card_that_it_names(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    card = fakegpu.cards(2)[1]
    gpu = {"type": "gpu", "gputype": "physical", "pci": card.pci}
    create_instance(client, "c1", fingerprint=image.fingerprint, devices={"gpu0": gpu})
    start_instance(client, "c1")
    nodes = client.execute("c1", ["sh", "-c", "cd /dev; ls -d nvidia* dri/*"]).stdout.decode().split()
    assert "nvidia1" in nodes
    assert "nvidia0" not in nodes
    assert f"dri/{card.drm[1]}" in nodes


def test_nvidia_runtime_calls_the_stand_in(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    gpu = {"type": "gpu", "gputype": "physical", "pci": fakegpu.cards(1)[0].pci}
    config = {"nvidia.runtime": "true"}
    create_instance(client, "c1", fingerprint=image.fingerprint, devices={"gpu0": gpu}, config=config)
    start_instance(client, "c1")
    assert fakegpu.DRIVER in client.execute("c1", ["nvidia-smi"]).stdout.decode()


def test_missing_card_is_refused_with_a_hint(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    gpu = {"type": "gpu", "gputype": "physical", "pci": "0000:7f:00.0"}
    create_instance(client, "c1", fingerprint=image.fingerprint, devices={"gpu0": gpu})
    with pytest.raises(IncusError, match=r"0000:7f:00\.0") as caught:
        start_instance(client, "c1")
    assert "incus info --resources" in str(caught.value.hint)


def test_two_at_once_from_one_tree(incus_tree: Callable[[str], Path], home: Path) -> None:
    tree = incus_tree("incus-6")
    with (
        PrivateIncus(tree=tree, home=home, hostname="one") as one,
        PrivateIncus(tree=tree, home=home, hostname="two") as two,
    ):
        names = [incus.run(["hostname"], capture_output=True, text=True).stdout for incus in (one, two)]
        assert names == ["one\n", "two\n"]
    assert nothing_left(home)


def test_daemon_holds_nothing_of_the_host_open(incus: PrivateIncus) -> None:
    assert incus.home is not None
    children = Path(f"/proc/{incus.pid}/task/{incus.pid}/children").read_text().split()
    daemon = next(pid for pid in children if b"incusd" in Path(f"/proc/{pid}/cmdline").read_bytes())
    held = set()
    for entry in Path(f"/proc/{daemon}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the daemon closes some while we look
            held.add(os.readlink(entry))
    assert "/srv/trial/incusd.log" in held
    assert not [path for path in held if str(incus.home) in path or path == "/srv/trial"]


def test_tree_is_not_written_to(incus_tree: Callable[[str], Path], home: Path) -> None:
    tree = incus_tree("incus-6")

    def state() -> dict[str, tuple[int, int]]:
        found = {}
        for folder, _, files in os.walk(tree):
            for path in (folder, *(os.path.join(folder, name) for name in files)):
                status = os.lstat(path)
                found[path] = (status.st_ctime_ns, status.st_ino)
        return found

    before = state()
    with PrivateIncus(tree=tree, home=home) as incus:
        incus.run(["sh", "-c", "echo changed > /etc/os-release; touch /usr/bin/new"], check=True)
    assert state() == before


def test_plain_directories_on_demand(incus_tree: Callable[[str], Path], home: Path, image: ImageFiles) -> None:
    with PrivateIncus(tree=incus_tree("incus-7"), home=home, storage="dir") as incus, incus.client() as client:
        assert client.get("storage-pools/default")["driver"] == "dir"
        publish(image, client)
        create_instance(client, "c1", fingerprint=image.fingerprint)
        start_instance(client, "c1")
        assert client.execute("c1", ["id", "-u"]).stdout == b"0\n"
    assert nothing_left(home)


def test_full_pool_says_so(incus_tree: Callable[[str], Path], home: Path, image: ImageFiles) -> None:
    fill = "mkdir big; yes | head -c 400M > big/file; mksquashfs big /srv/trial/big.squashfs -quiet -comp zstd"
    with PrivateIncus(tree=incus_tree("incus-6"), home=home, storage="btrfs", pool_size=300 << 20) as incus:
        incus.run(["sh", "-c", f"cd /tmp; {fill}"], check=True, stdout=subprocess.DEVNULL)
        assert incus.home is not None
        large = make_image(incus.home, incus.home / "big.squashfs")
        with incus.client() as client:
            publish(large, client)
            with pytest.raises(IncusError) as caught:
                create_instance(client, "c1", fingerprint=large.fingerprint)
            assert "full" in str(caught.value.hint)
            assert client.get("instances", recursion=1) == []


def test_exit_code_and_signal_of_a_command_inside(incus: PrivateIncus) -> None:
    assert incus.run(["sh", "-c", "exit 3"]).returncode == 3
    assert incus.run(["sh", "-c", "kill -9 $$"]).returncode == 137
    assert incus.run(["no-such-program"], stderr=subprocess.DEVNULL).returncode == 127


def test_network_inside_is_not_the_hosts(incus: PrivateIncus) -> None:
    inside = incus.run(["cat", "/proc/net/dev"], network_only=True, capture_output=True, text=True).stdout
    assert "incusbr0" in inside
    assert "incusbr0" not in Path("/proc/net/dev").read_text()


def test_daemon_that_ends_gives_its_last_lines(incus_tree: Callable[[str], Path], home: Path) -> None:
    # A stand-in tree: incusd is a script, the rest is the real one.
    tree = home / "tree"
    (tree / "usr/libexec/incus").mkdir(parents=True)
    real = incus_tree("incus-6")
    for name in ("bin", "lib", "lib64"):
        subprocess.run(["cp", "-a", real / "usr" / name, tree / "usr"], check=True)
        (tree / name).symlink_to(f"usr/{name}")
    (tree / "etc").mkdir()
    for name in ("passwd", "group"):
        (tree / "etc" / name).write_text("")
    daemon = tree / "usr/libexec/incus/incusd"
    daemon.write_text("#!/bin/sh\necho the database is broken\nexit 1\n")
    daemon.chmod(0o755)
    with pytest.raises(IncusError, match="the database is broken"), PrivateIncus(tree=tree, home=home, storage="dir"):
        pytest.fail("it did not start")
    assert nothing_left(home)


def test_folder_without_incus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no Incus in this tree"), PrivateIncus(tree=tmp_path, home=tmp_path):
        pytest.fail("there is none")
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


def test_nothing_is_left_after_a_plain_end(incus_tree: Callable[[str], Path], home: Path, image: ImageFiles) -> None:
    for name in ("incus-6", "incus-7"):
        with PrivateIncus(tree=incus_tree(name), home=home, fake_gpus=1) as incus, incus.client() as client:
            publish(image, client)
            create_instance(client, "c1", fingerprint=image.fingerprint)
            start_instance(client, "c1")
            assert all(leftovers(home)[kind] for kind in ("folders", "loop devices", "processes"))
        assert nothing_left(home)
