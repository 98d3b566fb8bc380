"""Cards of AMD and Intel beside one of NVIDIA: simulated, with the null device as their nodes.

What computes is Mesa's software driver, by Vulkan, so that all that a host with such a card is asked for can come out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from launcher.observe.daemon import daemon_root
from launcher.private_incus import fake_gpu
from launcher.private_incus.daemon import PrivateIncus
from launcher.private_incus.init import HOME
from launcher.trial.tiny_gguf import tiny_gguf
from tests.hardware import steps
from tests.support.fake_cards import made_by
from tests.support.launching import Launcher, clear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CARD = fake_gpu.cards(2)[0]
NODE = f"/dev/dri/{CARD.drm[1]}"
GIB = 1 << 30
BOX = f"""\
domains:
  lab:
    machines:
      box:
        image: llama-server-mesa
        ephemeral: true
        gpu_devices: [{{pci: "{CARD.pci}"}}]
        gpu_memory: MEMORY
        vars: {{llama_server_extra_args: [--no-warmup]}}
"""
# llama.cpp passes over devices that are no cards, unless they are named.
SETTINGS = "[Service]\nEnvironment=GGML_VK_VISIBLE_DEVICES=0 VK_DRIVER_FILES=/usr/share/vulkan/icd.d/lvp_icd.json\n"
SECONDS = 300.0  # drivers compile programs for the CPU, which may have other work


@dataclass(frozen=True)
class Maker:
    """A maker of cards, its number on the PCI bus, its driver, the files in which that tells 16 GiB of memory."""

    name: str
    number: str
    driver: str
    files: dict[str, str]
    incus: str


MAKERS = {
    "AMD": Maker(
        "amd",
        "1002",
        "amdgpu",
        {"mem_info_vram_total": f"{16 * GIB}\n", "mem_info_vram_used": f"{GIB}\n"},
        "incus-7",
    ),
    "Intel": Maker("intel", "8086", "xe", {"tile0__physical_vram_size_bytes": f"{16 * GIB}\n"}, "incus-6"),
}


@pytest.fixture(scope="module", params=MAKERS)
def maker(request: pytest.FixtureRequest) -> str:
    """The first card's; the second is NVIDIA's."""
    return str(request.param)


@pytest.fixture(scope="module")
def host(incus_tree: Callable[[str], Path], disk: Path, maker: str) -> Iterator[PrivateIncus]:
    """A host of its own, as Incus remembers for a while what cards it has found."""
    one = MAKERS[maker]
    with PrivateIncus(tree=incus_tree(one.incus), home=disk / f"of-{one.name}", fake_gpus=2) as incus:
        root = daemon_root(str(incus.socket))
        assert root is not None
        assert not (root / "dev/kfd").exists()
        with made_by(root, CARD.index, one.number, one.driver, **one.files):
            yield incus


@pytest.fixture
def launcher(host: PrivateIncus, built: Callable[[str], Any], test_store: Path, tmp_path: Path) -> Iterator[Launcher]:
    """`anklume-launch` upon it."""
    built("llama-server-mesa")
    yield Launcher(host, test_store, tmp_path, tmp_path / "infra.yml")
    clear(host)


def inside(launcher: Launcher, *command: str) -> str:
    result = launcher.execute("lab", "box", *command)
    assert result.code == 0, result
    return result.stdout.decode()


def push(launcher: Launcher, content: bytes, path: str) -> None:
    assert launcher.incus.home is not None
    (launcher.incus.home / "pushed").write_bytes(content)
    argv = ["incus", "file", "push", "--quiet", "--create-dirs", "--mode=0644", "--project", "lab"]
    launcher.incus.run([*argv, f"{HOME}/pushed", f"box{path}"], check=True, capture_output=True)


def await_server(launcher: Launcher) -> None:
    end = time.monotonic() + SECONDS
    while launcher.execute("lab", "box", "/usr/lib/anklume/healthcheck").code:
        assert time.monotonic() < end
        time.sleep(0.2)


def test_what_a_host_with_such_a_card_is_asked_for(
    launcher: Launcher, maker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher.write(BOX.replace("MEMORY", "17GiB"))
    refused = launcher("plan", code=4).stderr
    assert "16.0 GiB" in refused
    assert CARD.pci in refused
    launcher.write(BOX.replace("MEMORY", "15GiB"))
    planned = launcher("plan", code=3)
    assert "llama-server-mesa" not in planned.stderr  # no word of a card that it cannot use
    launcher("apply", "--no-wait")
    assert inside(launcher, "stat", "-c", "%g %a", NODE) == "44 660\n"
    inside(launcher, "sh", "-c", "! test -e /dev/kfd && ! ls /dev/nvidia* /usr/lib/host-driver")
    push(launcher, tiny_gguf(), "/var/lib/models/tiny.gguf")
    push(launcher, SETTINGS.encode(), "/etc/systemd/system/llama-server.service.d/software.conf")
    inside(launcher, "systemctl", "daemon-reload")
    inside(launcher, "systemctl", "restart", "llama-server")
    await_server(launcher)

    # As `make test-gpu` looks at it.
    def asked(command: str, _file: str, *arguments: str, codes: tuple[int, ...]) -> Any:
        assert 0 in codes
        return launcher.json(command, *arguments)

    monkeypatch.setattr(steps, "launcher", asked)
    given = steps.Given("", "", "llama-server", MAKERS[maker].name, "", simulated=False)
    assert "layers are on a card: Vulkan0" in steps.verify(given)
    assert steps.doctor(given) == "no trouble found"
    checks = {check["name"]: check["evidence"] for check in launcher.json("verify")["checks"]}
    assert f"{NODE} opens for llama-server" in checks["gpu"]
    pid = inside(launcher, "systemctl", "show", "--property", "MainPID", "--value", "llama-server").strip()
    own = ("nsenter", "--target", pid, "--mount", "setpriv", "--reuid", "llama-server", "--regid", "llama-server")
    inside(launcher, *own, "--groups", "video", "sh", "-c", f"exec 3<>{NODE}")  # as the service sees its nodes
    assert "16.0 GiB" in checks["gpu"]

    inside(launcher, "chmod", "600", NODE)
    with pytest.raises(AssertionError, match="Permission denied"):
        steps.verify(given)
    failed = {check["name"] for check in launcher.json("verify", code=1)["checks"] if check["outcome"] == "failed"}
    assert failed == {"gpu"}
    (finding,) = [entry for entry in launcher.json("doctor", code=1)["findings"] if entry["severity"] == "error"]
    assert (finding["code"], finding["subject"]) == ("gpu-node", "box")
    inside(launcher, "chmod", "660", NODE)
    assert steps.doctor(given) == "no trouble found"


def test_a_server_on_the_cpu_hears_of_its_own_maker(launcher: Launcher, maker: str) -> None:
    """Mesa's drivers find nothing behind the null device."""
    launcher.write(BOX.replace("MEMORY", "15GiB"))
    launcher("apply", "--no-wait")
    push(launcher, tiny_gguf(), "/var/lib/models/tiny.gguf")
    await_server(launcher)
    (finding,) = [one for one in launcher.json("doctor", code=1)["findings"] if one["subject"] == "box"]
    assert finding["code"] == "engine-on-cpu"
    assert f"this {maker} card" in finding["cause"]
    assert "nvidia" not in str(finding).lower()
