"""Who holds which card: every instance of every project, whichever way it gets at a card, running or not.

An instance holds a card as soon as its configuration would give it one: a stopped one takes it when it starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anklume_images.incus.values import is_true
from launcher.gpu.nodes import by_address, by_node, by_number, by_selector, mentioned
from launcher.gpu.vendors import VENDORS, of_vendor
from launcher.gpu_policy.parts import SELECTORS, mig_part, mode_of
from launcher.infra.security import is_privileged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from launcher.gpu.cards import Card
    from launcher.gpu_policy.parts import Mode

__all__ = ["Holder", "holders"]

_ALLOW = frozenset({"lxc.cgroup.devices.allow", "lxc.cgroup2.devices.allow"})
_LONGEST = 200  # letters of what gives an instance its card


@dataclass(frozen=True)
class Holder:
    """One instance that holds one card, or one part of it.

    `by` says in words what gives it the card (`device gpu0`, `raw.lxc`). `part` names the part that it holds, None
    the whole card. `autostart` says whether Incus starts it with itself.
    """

    card: Card
    project: str
    instance: str
    by: str
    mode: Mode
    running: bool = False
    autostart: bool = False
    vm: bool = False
    part: str | None = None

    @property
    def state(self) -> str:
        """Its state in a word or two."""
        if self.running:
            return "running"
        return "stopped, starts with Incus" if self.autostart else "stopped"


@dataclass(frozen=True)
class _Way:
    card: Card
    by: str
    mode: Mode
    part: str | None = None


def holders(cards: Iterable[Card], instances: Iterable[Mapping[str, Any]]) -> tuple[Holder, ...]:
    """Every hold on every card; `instances` as `GET /1.0/instances?recursion=1&all-projects=true` returns them."""
    cards = tuple(cards)
    holds = [holder for instance in instances for holder in _of_instance(cards, instance)]
    return tuple(
        sorted(holds, key=lambda holder: (holder.card.member, holder.card.pci, holder.project, holder.instance))
    )


def _of_instance(cards: Sequence[Card], instance: Mapping[str, Any]) -> Iterator[Holder]:
    config: Mapping[str, str] = instance.get("expanded_config") or instance.get("config") or {}
    devices: Mapping[str, Mapping[str, str]] = instance.get("expanded_devices") or instance.get("devices") or {}
    here = [card for card in cards if card.at(str(instance.get("location") or ""))]
    name = f"{instance.get('project', 'default')}/{instance['name']}"
    ways = [way for key, device in devices.items() for way in _by_device(here, name, key, device)]
    ways += _by_config(here, config)
    ways += _by_shared_node(here, devices, ways)
    for (card, mode, part), words in _together(ways).items():
        yield Holder(
            card=card,
            project=str(instance.get("project", "default")),
            instance=str(instance["name"]),
            by=_plain(", ".join(words)),
            mode=mode,
            running=instance.get("status") not in ("Stopped", "Error"),
            autostart=_starts(config),
            vm=instance.get("type") == "virtual-machine",
            part=part,
        )


def _together(ways: Iterable[_Way]) -> dict[tuple[Card, Mode, str | None], list[str]]:
    """One entry for each card and part; the first way to the whole card says how it is held."""
    modes: dict[tuple[Card, str | None], Mode] = {}
    words: dict[tuple[Card, str | None], list[str]] = {}
    for way in ways:
        modes.setdefault((way.card, way.part), way.mode)
        known = words.setdefault((way.card, way.part), [])
        if way.by not in known:
            known.append(way.by)
    return {(card, modes[card, part], part): words[card, part] for card, part in words}


def _plain(text: str) -> str:
    """Words that somebody else chose, fit for a terminal."""
    text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _starts(config: Mapping[str, str]) -> bool:
    wish = config.get("boot.autostart")
    return is_true(wish) or (wish in (None, "", "last-state") and config.get("volatile.last_state.power") == "RUNNING")


# Devices


def _by_device(cards: Sequence[Card], instance: str, name: str, device: Mapping[str, str]) -> Iterator[_Way]:
    kind = device.get("type")
    if kind == "gpu":
        yield from _by_gpu(cards, instance, name, device)
    elif kind == "pci":
        for card, part in by_address(cards, device.get("address", "")):
            yield _Way(card, f"device {name} (pci)", "pci", part)
    elif kind in ("unix-char", "disk"):
        for card in _by_node_device(cards, device):
            yield _Way(card, f"device {name} ({_node(device)})", "node")


def _by_gpu(cards: Sequence[Card], instance: str, name: str, device: Mapping[str, str]) -> Iterator[_Way]:
    mode = mode_of(device)
    part = None
    if mode == "mig":
        part = mig_part(device)
    elif mode != "physical":
        part = f"{instance}/{name}"  # Incus gives it a function of its own
    words = f"device {name}" if mode == "physical" else f"device {name} ({mode})"
    if not any(device.get(key) for key in SELECTORS):
        words += ", which names no card"
    for card in by_selector(cards, device):
        yield _Way(card, words, mode, part)


def _node(device: Mapping[str, str]) -> str:
    if device.get("major") and not device.get("source"):
        return f"{device['major']}:{device.get('minor', '')}"
    return device.get("source") or device.get("path", "")


def _by_node_device(cards: Sequence[Card], device: Mapping[str, str]) -> tuple[Card, ...]:
    if device.get("type") == "unix-char" and device.get("major") and not device.get("source"):
        return by_number(cards, device["major"], device.get("minor", ""))
    if device.get("type") == "disk" and device.get("pool"):
        return ()  # the source is a volume's name
    return by_node(cards, _node(device))


def _by_shared_node(
    cards: Sequence[Card], devices: Mapping[str, Mapping[str, str]], ways: Sequence[_Way]
) -> Iterator[_Way]:
    """A node that a maker's cards share (/dev/kfd) and no card's own: nobody can tell for which, so for all."""
    for vendor in VENDORS:
        vendor_cards = of_vendor(cards, vendor)
        if not vendor.shared_node or any(way.card in vendor_cards for way in ways):
            continue
        for name, device in devices.items():
            if device.get("type") in ("unix-char", "disk") and _node(device) == vendor.shared_node:
                yield from (_Way(card, f"device {name} ({vendor.shared_node})", "node") for card in vendor_cards)


# Configuration


def _by_config(cards: Sequence[Card], config: Mapping[str, str]) -> Iterator[_Way]:
    privileged = is_privileged(config)
    for line in str(config.get("raw.lxc", "")).splitlines():
        for card in _by_line(cards, line, privileged=privileged):
            yield _Way(card, "raw.lxc", "raw")
    for key in ("raw.qemu", "raw.qemu.conf"):
        for card in mentioned(cards, str(config.get(key, ""))):
            yield _Way(card, key, "raw")


def _by_line(cards: Sequence[Card], line: str, *, privileged: bool) -> tuple[Card, ...]:
    key, _, value = line.partition("=")
    key, value = key.strip(), value.strip()
    if key in _ALLOW:
        return _by_rule(cards, value, privileged=privileged)
    if key == "lxc.mount.entry" and value:
        return by_node(cards, value.split()[0])
    if key == "lxc.environment":
        name, _, chosen = value.partition("=")
        for vendor in VENDORS:
            if choose := vendor.selected_by.get(name):
                return choose(of_vendor(cards, vendor), chosen)
    return ()


def _by_rule(cards: Sequence[Card], rule: str, *, privileged: bool) -> tuple[Card, ...]:
    """The cards that a line of the devices cgroup allows: `c 195:0 rwm`, or `a` for all devices.

    All devices at once count only where the container may make the nodes itself, which needs a privileged one.
    """
    words = rule.split()
    if not words or (len(words) > 2 and not set(words[2]) & {"r", "w"}):
        return ()
    if words[0] == "a":
        return tuple(cards) if privileged else ()
    if words[0] != "c" or len(words) < 2:
        return ()
    major, _, minor = words[1].partition(":")
    if major == "*" and not privileged:
        return ()
    return by_number(cards, major, minor)
