"""What the drivers of a machine's cards say of their memory: evidence beside the engine's own words, never a verdict.

NVIDIA's tool lists the processes that compute. On the host it lists those of containers too, and a process' cgroup
tells whose it is. Inside a container it may list nothing. AMD's driver tells in sysfs how much of a card is in use.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images.console import human_size
from anklume_images.errors import IncusError
from launcher.gpu.memory import read_memory
from launcher.gpu.nodes import by_selector
from launcher.gpu.nvidia_smi import PROCESSES, ask_processes, parse_processes
from launcher.observe.daemon import daemon_root

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anklume_images.incus.client import Incus
    from launcher.engines.probe import GuestLike
    from launcher.gpu.cards import Card
    from launcher.observe.instances import InstanceState

__all__ = ["card_memory", "held_by"]


def card_memory(
    incus: Incus, inside: GuestLike, seen: InstanceState, unit: str, cards: Sequence[Card]
) -> tuple[str, ...]:
    """What is known of the memory that a unit of a machine holds on its cards; `cards` are the host's."""
    own = list(dict.fromkeys(card for device in seen.gpus for card in by_selector(cards, device)))
    said = []
    if any(card.is_nvidia for card in own) and (held := _held(incus, inside, seen, unit)):
        said.append(f"nvidia-smi: {unit} has {human_size(held)}")
    root = daemon_root(incus.address) if any(not card.is_nvidia for card in own) else None
    for card in own:
        total, used = read_memory(root, card) if root is not None and not card.is_nvidia else (None, None)
        if total is not None and used is not None:
            said.append(f"{card.pci}: {human_size(used)} of {human_size(total)} in use")
    return tuple(said)


def _held(incus: Incus, inside: GuestLike, seen: InstanceState, unit: str) -> int:
    """Bytes by nvidia-smi, of the host where that is this one, else of the machine."""
    held = 0
    if incus.address.startswith("/"):
        held = held_by(unit, ask_processes(), _cgroup, _payload(seen))
    if not held:
        with contextlib.suppress(IncusError):
            told = inside.run("nvidia-smi", *PROCESSES)
            processes = parse_processes(told.stdout.decode(errors="replace")) if told.code == 0 else {}
            held = held_by(unit, processes, lambda pid: _cgroup_inside(inside, pid))
    return held


def held_by(unit: str, processes: Mapping[int, int], cgroup: Callable[[int], str], container: str = "") -> int:
    """The memory of those processes whose cgroup is the unit's, in this container where one is named."""
    start = re.escape(f"/{container}/") if container else "/"
    wanted = re.compile(rf"{start}(?:.*/)?{re.escape(unit)}\.service(?:/|$)", re.MULTILINE)
    return sum(held for pid, held in processes.items() if wanted.search(cgroup(pid)))


def _payload(seen: InstanceState) -> str:
    """The name of the cgroup of a container's processes, as LXC calls it for Incus."""
    return f"lxc.payload.{seen.instance if seen.project == 'default' else f'{seen.project}_{seen.instance}'}"


def _cgroup(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cgroup_inside(inside: GuestLike, pid: int) -> str:
    return inside.run("cat", f"/proc/{pid}/cgroup").stdout.decode(errors="replace")
