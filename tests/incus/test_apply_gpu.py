"""The GPU policy in apply, upon simulated cards: before anything is touched, and once more after the start."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.ship.publish import ImageFiles, publish
from launcher.private_incus import fake_gpu as fakegpu
from tests.support.fake_cards import unplugged
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from tests.support.launching import Launcher

FIRST, SECOND = "0000:01:00.0", "0000:02:00.0"
HEAD = "project_name: {name}\nglobal:\n  addressing: {{base_octet: 10, zone_base: {zone}}}\n  gpu_policy: %s\n"
EXCLUSIVE, SHARED = HEAD % "exclusive", HEAD % "shared"
MACHINE = """\
domains:
  %s:
    machines:
      %s: {image: tiny, ephemeral: true, gpu: true, gpu_devices: [{pci: "%s"}]}
"""
RUNTIME = MACHINE.replace("gpu: true", "gpu: true, gpu_driver: runtime")


def cards(launcher: Launcher) -> dict[str, list[str]]:
    """Who holds each card, as the command says it."""
    document = launcher.json("gpu")
    return {card["pci"]: [holder["instance"] for holder in card["holders"]] for card in document["cards"]}


def test_machine_gets_its_card_and_no_other(tiny: Launcher) -> None:
    tiny.write(MACHINE % ("lab", "box", SECOND), head=EXCLUSIVE)
    tiny("apply")
    nodes = tiny.execute("lab", "box", "sh", "-c", "ls /dev").stdout.decode().split()
    assert "nvidia1" in nodes
    assert "nvidia0" not in nodes
    smi = ("sh", "/usr/lib/host-driver/bin/nvidia-smi")  # what links it is in Debian's images only
    assert tiny.execute("lab", "box", *smi).stdout.startswith(b"stand-in for nvidia-smi")
    assert cards(tiny) == {FIRST: [], SECOND: ["box"]}
    tiny.settled()
    tiny.write(MACHINE % ("lab", "box", FIRST), head=EXCLUSIVE)
    tiny("apply", "--yes")
    assert cards(tiny) == {FIRST: ["box"], SECOND: []}
    tiny.settled()
    tiny("destroy", "--yes")
    assert cards(tiny) == {FIRST: [], SECOND: []}
    with tiny.client() as client:
        assert client.get("network-acls") == []  # no claim is left


def test_no_card_is_named_and_there_are_two(tiny: Launcher) -> None:
    tiny.write(MACHINE.replace(', gpu_devices: [{pci: "%s"}]', "") % ("lab", "box"), head=EXCLUSIVE)
    said = tiny("apply", code=2).stderr
    assert FIRST in said
    assert SECOND in said


def test_exclusive_refuses_what_somebody_else_holds(tiny: Launcher) -> None:
    with tiny.client() as client:
        device = {"type": "gpu", "pci": FIRST}
        root = {"type": "disk", "path": "/", "pool": "default"}
        body = {"name": "by-hand", "source": {"type": "none"}, "devices": {"card": device, "root": root}}
        client.send("post", "instances", body)
    tiny.write(MACHINE % ("lab", "box", FIRST), head=EXCLUSIVE)
    said = tiny("apply", code=4).stderr
    for word in (FIRST, "by-hand", "project default", "gpu_policy: shared", SECOND):
        assert word in said
    with tiny.client() as client:
        assert [found["name"] for found in client.get("projects", recursion=1)] == ["default"]
    tiny.write(MACHINE % ("lab", "box", FIRST), head=SHARED)
    warned = tiny("apply")
    assert "share card" in warned.stderr
    assert "by-hand" in warned.stderr
    assert sorted(cards(tiny)[FIRST]) == ["box", "by-hand"]


def test_policy_counts_the_whole_file_whatever_is_selected(tiny: Launcher) -> None:
    both = MACHINE % ("lab", "box", FIRST) + (MACHINE % ("far", "cat", FIRST)).partition("\n")[2]
    tiny.write(both, head=EXCLUSIVE)
    said = tiny("apply", "--only", "box", code=4).stderr
    assert "box" in said
    assert "cat" in said
    tiny.write(both, head=SHARED)
    tiny("apply")
    assert sorted(cards(tiny)[FIRST]) == ["box", "cat"]


def test_the_runtime_brings_the_driver_and_the_hosts_own_replaces_it(tiny: Launcher) -> None:
    tiny.write(RUNTIME % ("lab", "box", FIRST), head=EXCLUSIVE)
    tiny("apply")
    assert tiny.execute("lab", "box", "sh", "/usr/bin/nvidia-smi").stdout.startswith(b"stand-in for nvidia-smi")
    tiny.settled()
    tiny.write(MACHINE % ("lab", "box", FIRST), head=EXCLUSIVE)
    (step,) = tiny.json("plan", code=3)["steps"]
    assert (step["name"], step["action"]) == ("box", "restart")
    assert {"config.nvidia.runtime", "devices.host-driver"} <= {change["key"] for change in step["changes"]}
    tiny("apply", "--yes")
    tiny.settled()


def test_image_of_others_gets_the_folder_the_variable_and_a_note(tiny: Launcher, image: ImageFiles) -> None:
    with tiny.client() as client:
        publish(replace(image, aliases=("others",)), client)
    others = MACHINE.replace("image: tiny", "os_image: others").replace("gpu: true", "gpu: true, gpu_driver: host")
    tiny.write(others % ("lab", "box", FIRST), head=EXCLUSIVE)
    assert "icd.d" in tiny("apply").stderr
    said = tiny.execute("lab", "box", "sh", "-c", "ls $LD_LIBRARY_PATH; nvidia-smi").stdout.decode()
    assert f"libcuda.so.{fakegpu.DRIVER}" in said
    assert "stand-in for nvidia-smi" in said
    tiny.settled()
    # The host's tool does more for such an image.
    tiny.write(others.replace(", gpu_driver: host", "") % ("lab", "box", FIRST), head=EXCLUSIVE)
    assert "nvidia.runtime" in str(tiny.json("plan", code=3))


@pytest.mark.parametrize("missing", ["usr/bin/nvidia-container-cli", "usr/share/lxc/hooks/nvidia"])
def test_host_without_the_container_tools_is_told_before_anything_is_touched(tiny: Launcher, missing: str) -> None:
    tiny.write(RUNTIME % ("lab", "box", FIRST), head=EXCLUSIVE)
    tiny.incus.run(["mv", f"/{missing}", f"/{missing}.away"], check=True)
    try:
        said = tiny("apply", code=4).stderr
    finally:
        tiny.incus.run(["mv", f"/{missing}.away", f"/{missing}"], check=True)
    assert missing.rpartition("/")[2] in said
    with tiny.client() as client:
        assert [found["name"] for found in client.get("projects", recursion=1)] == ["default"]


def test_card_that_goes_between_plan_and_start(tiny: Launcher) -> None:
    tiny.write(MACHINE % ("lab", "box", FIRST), head=EXCLUSIVE)
    terminal = Terminal(tiny.argv("apply"), env=tiny.environment())
    terminal.read_until(r"Go on\?")
    with unplugged(Path(f"/proc/{tiny.incus.pid}/root"), 0):
        terminal.type("y\n")
        assert terminal.end() == 1
        assert "machine box (project lab): Failed to start device" in terminal.text
        assert f"no device found): {FIRST}" in terminal.text
        assert "hint: incus info --resources lists the cards" in terminal.text
    until = time.monotonic() + 60  # Incus 7.0 looks for cards every ten seconds only
    while FIRST not in cards(tiny):
        assert time.monotonic() < until
        time.sleep(1)
    tiny("apply", "--yes")
    assert cards(tiny) == {FIRST: ["box"], SECOND: []}
    tiny.settled()


def test_two_files_race_for_one_card(tiny: Launcher, tmp_path: Path) -> None:
    """Eight launchers at once, each with a file of its own: exactly one gets the card, the others are told."""
    files = []
    for number in range(8):
        text = MACHINE % (f"d{number}", f"racer-{number}", FIRST)
        files.append(tiny.write(text, name=f"file-{number}", zone=100 + 5 * number, head=EXCLUSIVE))
    running = [tiny.start("apply", "--json", file=file) for file in files]
    outcomes = []
    for process in running:
        said, _ = process.communicate(timeout=120)
        assert "Traceback" not in said
        outcomes.append((process.returncode, said))
    codes = sorted(code for code, _ in outcomes)
    assert codes == [0, *[4] * 7], [said for code, said in outcomes if code not in (0, 4)]
    (winner,) = (json.loads(said[said.index("{") :]) for code, said in outcomes if code == 0)
    assert cards(tiny)[FIRST] == list(winner["machines"])
    for code, said in outcomes:
        assert code == 0 or FIRST in said
