"""The GPU policy as far as a file alone can answer for it: who would hold which card.

Two machines hold the same card unless both name different ones, or run on different members of a cluster. What runs on
the host besides is the plan's to count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from launcher.infra.entries import Entry
    from launcher.infra.report import Report

__all__ = ["check_gpus"]

_SELECTORS = ("mig.uuid", "pci", "id")
_SLICES = ("mdev", "sriov")  # a virtual card of its own for each machine


def check_gpus(machines: Iterable[Entry], policy: str, report: Report) -> None:
    """Report GPUs that two machines would hold, and those that cannot be given."""
    holders = [machine for machine in machines if machine.enabled and machine.wants_gpu]
    everyone, alone = _Holders(), _Holders()
    for machine in holders:
        _check_machine(machine, report)
        if not _holds_whole_card(machine):
            continue
        others = everyone if policy == "exclusive" or machine.is_vm else alone
        other = others.same_card(machine)
        if other is not None:
            _two_holders(machine, other, policy, report)
        everyone.add(machine)
        if machine.is_vm:
            alone.add(machine)
    if policy == "shared" and len(holders) > 1:
        names = ", ".join(f"'{machine.name}'" for machine in holders)
        message = f"{len(holders)} machines may share a GPU: {names}; consumer cards do not keep their memory apart"
        report.warn(("global", "gpu_policy"), "gpu-shared", message)
    for machine in machines:
        _check_flag(machine, report)


def _check_flag(machine: Entry, report: Report) -> None:
    if machine.data.get("gpu") is False and machine.data.get("gpu_devices"):
        message = f"'{machine.name}' names a card and has gpu: false"
        report.error((*machine.path, "gpu"), "gpu-off", message)
    if "gpu_memory" in machine.data and not machine.wants_gpu:
        message = f"'{machine.name}' needs GPU memory and has no GPU"
        report.error((*machine.path, "gpu_memory"), "gpu-off", message, key=True, hint="write gpu: true")


def _check_machine(machine: Entry, report: Report) -> None:
    """A virtual machine gets a card by its PCI address, or a slice of one; a container a card, or its MIG device."""
    fitting = ("physical", *_SLICES) if machine.is_vm else ("physical", "mig")
    for path, device in machine.gpus:
        kind = device.get("gputype", "physical")
        if kind not in fitting:
            message = f"gputype {kind} is for {'containers' if machine.is_vm else 'virtual machines'}"
            report.error((*path, "gputype"), "gpu-type", f"{message}, which '{machine.name}' is not")
    if not machine.is_vm or not _holds_whole_card(machine):
        return
    cards = _cards(machine)
    if not cards or any(kind != "pci" for kind, _ in cards):
        message = f"the virtual machine '{machine.name}' must name its card by a PCI address"
        hint = 'gpu_devices: [{pci: "0000:01:00.0"}]; the host needs an IOMMU'
        report.error(machine.path, "gpu-vm-without-pci", message, key=True, hint=hint)


def _holds_whole_card(machine: Entry) -> bool:
    devices = [device for _, device in machine.gpus]
    sliced = bool(devices) and all(device.get("gputype") in _SLICES for device in devices)
    return not sliced or bool(machine.data.get("gpu_devices"))


def _two_holders(machine: Entry, other: Entry, policy: str, report: Report) -> None:
    pair = f"'{other.name}' ({other.domain}) and '{machine.name}' ({machine.domain})"
    if policy == "shared":
        message = f"{pair} would hold the same GPU, and a virtual machine cannot share one"
        hint = "name different cards in gpu_devices"
    else:
        message = f"{pair} would hold the same GPU, which gpu_policy: exclusive does not allow"
        hint = "global.gpu_policy: shared allows it; or name different cards in gpu_devices, or different targets"
    path = (*machine.path, "gpu") if machine.data.get("gpu") else machine.path
    report.error(path, "gpu-exclusive", message, key=True, hint=hint)


def _cards(machine: Entry) -> list[tuple[str, str]]:
    """The cards that a machine names, each as kind and value; none when it takes whatever is there."""
    chosen = [pair for card in machine.data.get("gpu_devices", []) for pair in card.items()]
    if chosen:
        return [(kind, value.lower()) for kind, value in chosen]
    cards = []
    for _, device in machine.gpus:
        if device.get("gputype") in _SLICES:
            continue
        named = [(key.removesuffix(".uuid"), device[key].lower()) for key in _SELECTORS if device.get(key)]
        if not named:
            return []  # a device that names no card takes every one
        cards.append(named[0])
    return cards


@dataclass
class _Cards:
    """Who holds what among machines that can be on one host; looking does not take longer the more there are."""

    any_card: Entry | None = None
    by_card: dict[tuple[str, str], Entry] = field(default_factory=dict)
    by_kind: dict[str, Entry] = field(default_factory=dict)

    def add(self, machine: Entry, cards: list[tuple[str, str]]) -> None:
        if not cards:
            self.any_card = self.any_card or machine
        for kind, value in cards:
            self.by_card.setdefault((kind, value), machine)
            self.by_kind.setdefault(kind, machine)

    def same_card(self, cards: list[tuple[str, str]]) -> Entry | None:
        """Somebody whose card may be one of these; cards named in different ways may be the same."""
        if self.any_card is not None:
            return self.any_card
        if not cards:
            return next(iter(self.by_kind.values()), None)
        for kind, value in cards:
            if (kind, value) in self.by_card:
                return self.by_card[kind, value]
            for other, holder in self.by_kind.items():
                if other != kind:
                    return holder
        return None


class _Holders:
    """Holders by the cluster member that they are on; one without a member, or with a group, may be on any."""

    def __init__(self) -> None:
        self._all = _Cards()
        self._floating = _Cards()
        self._members: dict[str, _Cards] = {}

    def add(self, machine: Entry) -> None:
        cards, member = _cards(machine), _member(machine.data)
        self._all.add(machine, cards)
        (self._members.setdefault(member, _Cards()) if member else self._floating).add(machine, cards)

    def same_card(self, machine: Entry) -> Entry | None:
        cards, member = _cards(machine), _member(machine.data)
        if not member:
            return self._all.same_card(cards)
        return self._floating.same_card(cards) or self._members.get(member, _Cards()).same_card(cards)


def _member(data: Mapping[str, str]) -> str | None:
    target = data.get("target")
    return target if target and not target.startswith("@") else None
