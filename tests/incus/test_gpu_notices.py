"""What a plan and a try say of cards that are no use, or not free, upon simulated cards."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.console import Console
from anklume_images.errors import PolicyError
from anklume_images.models.importing import import_file
from anklume_images.store.store import Store
from launcher.cli.session import Session
from launcher.private_incus import fake_gpu as fakegpu
from launcher.private_incus.daemon import PrivateIncus
from launcher.trial.tiny_gguf import tiny_gguf
from launcher.trial.trial import TrialOptions, trial
from tests.incus.test_models import ROLES, VARIABLES, VOLUMES, write_specs
from tests.support.incus_leftovers import nothing_left
from tests.support.tiny_store import put_tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.launching import Launcher

FIRST, SECOND = fakegpu.cards(2)
HEAD = """\
project_name: {name}
global:
  addressing: {{base_octet: 10, zone_base: {zone}}}
  gpu_policy: exclusive
"""
FILE = """\
domains:
  lab:
    machines:
      box: {image: tiny, gpu: true, gpu_devices: [{pci: "%s"}]%s}
"""


def said_of_cards(launcher: Launcher) -> list[str]:
    """The plan's notices that name a card, or the size of one."""
    notices: list[str] = launcher.json("plan", code=3)["notices"]
    return [notice for notice in notices if notice.startswith("box: ")]


@pytest.mark.parametrize(
    ("gpus", "warned"),
    [({"amd": ["vulkan"]}, True), ({}, True), ({"nvidia": ["vulkan"]}, False), (None, False)],
    ids=["of another maker", "of none", "of this one", "not said"],
)
def test_plan_warns_of_a_card_that_the_image_cannot_use(
    tiny: Launcher, tiny_rootfs: Path, gpus: dict[str, list[str]] | None, warned: bool
) -> None:
    put_tiny(Store(tiny.store), tiny_rootfs, tiny.folder, 2, gpus=gpus)
    tiny.write(FILE % (SECOND.pci, ""), head=HEAD)
    notices = said_of_cards(tiny)
    assert len(notices) == warned
    assert all(word in notice for notice in notices for word in ("tiny", "NVIDIA", SECOND.pci))


@pytest.mark.parametrize(("memory", "warned"), [("1 MiB", True), ("4 MiB", False)])
def test_plan_warns_of_a_model_that_is_larger_than_its_machines_card(
    tiny: Launcher, tiny_rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str, warned: bool
) -> None:
    """The host's nvidia-smi, which tells the memory, is a stand-in; behind the model's tensors are zeros."""
    store = Store(tiny.store)
    variables = {name: {"type": kind, "default": None, "secret": False} for name, kind in VARIABLES.items()}
    put_tiny(store, tiny_rootfs, tmp_path, 2, provides=ROLES, variables=variables, volumes=VOLUMES)
    (tmp_path / "small.gguf").write_bytes(tiny_gguf() + bytes(2 << 20))
    import_file(store, tmp_path / "small.gguf", "small:1b", progress=Console(quiet=True))
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    row = f"0000{FIRST.pci}, {FIRST.uuid}, {fakegpu.MODEL}, {memory}, 0 MiB, {fakegpu.DRIVER}"
    program.write_text(f'#!/bin/sh\ncase "$1" in --query-gpu=*) echo "{row}";; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    world = replace(tiny, specs=write_specs(tmp_path / "models-specs"))
    world.write(FILE % (FIRST.pci, ', vars: {llama_server_model: "small:1b"}'), head=HEAD)
    notices = said_of_cards(world)
    assert len(notices) == warned
    assert all("small:1b has 2.5 MiB, and its card 1.0 MiB" in notice for notice in notices)


def test_a_try_refuses_a_card_that_a_machine_of_the_hosts_own_incus_has(
    tiny: Launcher,
    incus_tree: Callable[[str], Path],
    test_store: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another private Incus stands in for the host's own; that of the try has the same cards, as it would real ones."""
    incus_tree("incus-7")
    Store(tiny.store).create()
    (tiny.store / "trees").symlink_to(test_store / "trees")
    with tiny.client() as client:
        root = {"type": "disk", "path": "/", "pool": "default"}
        devices = {"card": {"type": "gpu", "pci": FIRST.pci}, "root": root}
        client.send("post", "instances", {"name": "by-hand", "source": {"type": "none"}, "devices": devices})

    def with_cards(**keys: Any) -> PrivateIncus:
        return PrivateIncus(**keys | {"fake_gpus": 2, "borrowed": {}})

    monkeypatch.setattr("launcher.trial.trial.PrivateIncus", with_cards)
    monkeypatch.setenv("TMPDIR", str(home))
    monkeypatch.setenv("INCUS_SOCKET", str(tiny.incus.socket))
    monkeypatch.setenv("INCUS_CONF", str(tmp_path / "client"))
    monkeypatch.delenv("INCUS_REMOTE", raising=False)
    assert tiny.specs is not None
    session = Session((tiny.specs,), tiny.store, Console())

    def launched(card: fakegpu.FakeCard) -> list[str]:
        file = session.infra(tiny.write(FILE % (card.pci, ""), head=HEAD))
        with trial(session.pipeline(offline=True), file, TrialOptions(offline=True), session.console) as found:
            return sorted(found.places)

    with pytest.raises(PolicyError, match=f"{FIRST.pci}.*by-hand of project default of {tiny.incus.socket}"):
        launched(FIRST)
    assert launched(SECOND) == ["box"]
    assert nothing_left(home)
