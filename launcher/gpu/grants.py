"""Which cards a machine of the file asks for, each by its PCI address: a wish that names no card is never "all"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launcher.gpu.cards import computing, describe
from launcher.gpu.holders import collide, mig_part, mig_uuid, mode_of
from launcher.gpu.nodes import by_selector
from launcher.infra.merge import merged_devices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from launcher.gpu.cards import Card
    from launcher.gpu.holders import Mode
    from launcher.infra.model import Domain, GpuSelector, Machine

__all__ = ["POLICY_CODES", "Grant", "Refusal", "asked", "gpu_devices_of"]

# The file is clear and the host or another machine stands against it: exit 4. The other codes mean that the file has
# to say more, or something else, for this host: exit 2.
POLICY_CODES = frozenset({"gpu-absent", "gpu-held", "gpu-memory", "gpu-exclusive", "gpu-vm-shared"})
_SELECTORS = ("pci", "id", "vendorid", "productid")


@dataclass(frozen=True)
class Grant:
    """One card, or one part of it, for one machine.

    `device` is the name of the instance's gpu device; `options` are its keys beyond type, gputype and pci.
    """

    card: Card
    device: str
    mode: Mode = "physical"
    options: Mapping[str, str] = field(default_factory=dict)
    part: str | None = None

    @property
    def keys(self) -> dict[str, str]:
        """The device as Incus takes it."""
        return {"type": "gpu", "gputype": self.mode, "pci": self.card.pci, **self.options}

    def collides(self, mode: Mode, part: str | None) -> bool:
        """Whether another hold of the same card is in its way."""
        return collide((self.mode, self.part), (mode, part))


@dataclass(frozen=True)
class Refusal:
    """Why a machine does not get what it asks for, and the ways out; `where` is its place in the file."""

    code: str
    machine: str
    message: str
    hint: str
    where: str

    @property
    def exit_code(self) -> int:
        """4 where the policy or the host is against it, 2 where the file does not say enough."""
        return 4 if self.code in POLICY_CODES else 2

    def __str__(self) -> str:
        return f"{self.where}: {self.message} ({self.hint})"


def gpu_devices_of(machine: Machine, domain: Domain) -> dict[str, Mapping[str, str]]:
    """The machine's gpu devices, by profiles and its own."""
    return {name: device for name, device in merged_devices(machine, domain).items() if device.get("type") == "gpu"}


def asked(
    machine: Machine, domain: Domain, cards: Sequence[Card], mig: Mapping[str, str] | None = None
) -> tuple[tuple[Grant, ...], tuple[Refusal, ...]]:
    """What a machine asks for, of the cards where it is to run, and what is unclear about it.

    `mig` says which card (PCI address) has which MIG device (UUID), where that is known.
    """
    wishes = _Wishes(machine, tuple(cards), {mig_uuid(uuid): pci for uuid, pci in (mig or {}).items()})
    devices = gpu_devices_of(machine, domain)
    named = {name: device for name, device in devices.items() if _names_card(device)}
    bare = {name: device for name, device in devices.items() if name not in named}
    grants: list[Grant] = []
    refusals: list[Refusal] = []
    found = [wishes.of_device(name, device) for name, device in named.items()]
    slots = _slots(bare, machine.gpu_devices, taken={*devices, *merged_devices(machine, domain)})
    found += [wishes.of_selector(selector, next(slots)) for selector in machine.gpu_devices]
    if not found and (bare or machine.gpu):
        found.append(wishes.unnamed(*next(slots)))
    for result in found:
        if isinstance(result, Refusal):
            refusals.append(result)
        elif not any(grant.card == result.card and grant.part == result.part for grant in grants):
            grants.append(result)
    return tuple(grants), tuple(refusals)


def _names_card(device: Mapping[str, str]) -> bool:
    return any(device.get(key) for key in _SELECTORS) or mode_of(device) != "physical"


def _slots(
    bare: Mapping[str, Mapping[str, str]], selectors: Sequence[GpuSelector], taken: set[str]
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Names for devices, with the options to keep: those that name no card first, then `gpu0`, `gpu1` …"""
    for name, device in bare.items():
        yield name, _options(device)
    for number in range(len(taken) + len(selectors) + 1):
        if f"gpu{number}" not in taken:
            yield f"gpu{number}", {}


def _options(device: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in device.items() if key not in ("type", "gputype", *_SELECTORS)}


@dataclass(frozen=True)
class _Wishes:
    """The wishes of one machine, resolved against the cards that it could have."""

    machine: Machine
    cards: tuple[Card, ...]
    mig: Mapping[str, str]

    def of_device(self, name: str, device: Mapping[str, str]) -> Grant | Refusal:
        """The card of a gpu device that selects one."""
        mode = mode_of(device)
        if refusal := self._unfit(mode, has_address=bool(device.get("pci"))):
            return refusal
        found = by_selector(self.cards, device)
        words = " ".join(f"{key}={device[key]}" for key in _SELECTORS if device.get(key))
        part: str | None = None
        if mode == "mig":
            part = mig_part(device)
            if not words:
                return self._mig(device.get("mig.uuid", part), name, _options(device))
        elif mode != "physical":
            part = f"{self.machine.name}/{name}"  # a function of its own
            found = tuple(card for card in found if mode == "mdev" or card.virtual) or found
        return self._one(found, f"device {name} ({words or mode})", name, mode, _options(device), part)

    def of_selector(self, selector: GpuSelector, slot: tuple[str, Mapping[str, str]]) -> Grant | Refusal:
        """The card of an entry of `gpu_devices`."""
        name, options = slot
        mode: Mode = "mig" if selector.mig else "physical"
        if refusal := self._unfit(mode, has_address=bool(selector.pci)):
            return refusal
        if selector.mig:
            return self._mig(selector.mig, name, {**options, **_mig_keys(selector.mig)})
        if selector.uuid:
            uuid = selector.uuid.lower()
            found = tuple(card for card in self.cards if card.nvidia is not None and card.nvidia.uuid.lower() == uuid)
            return self._one(found, f"uuid {selector.uuid}", name, mode, options)
        found = by_selector(self.cards, {"pci": selector.pci or ""})
        return self._one(found, f"pci {selector.pci}", name, mode, options)

    def unnamed(self, name: str, options: Mapping[str, str]) -> Grant | Refusal:
        """The host's only card."""
        if refusal := self._unfit("physical", has_address=False):
            return refusal
        cards = computing(self.cards)
        if len(cards) == 1:
            return Grant(cards[0], name, options=options)
        if not cards:
            return self._refusal(
                "gpu-absent",
                f"{self.machine.name} wants a GPU, and the host has none",
                "anklume-launch gpu shows what Incus sees; is the driver loaded?",
            )
        return self._refusal(
            "gpu-unnamed",
            f"{self.machine.name} wants a GPU and names none, and there are {len(cards)}: {_list(cards)}",
            f'name one: gpu_devices: [{{pci: "{cards[0].pci}"}}]' + self._or_target(cards),
        )

    def _one(
        self,
        found: Sequence[Card],
        words: str,
        name: str,
        mode: Mode,
        options: Mapping[str, str],
        part: str | None = None,
    ) -> Grant | Refusal:
        if len(found) == 1:
            return Grant(found[0], name, mode, options, part)
        if not found:
            there = _list(self.cards) if self.cards else "no card at all"
            return self._refusal(
                "gpu-absent",
                f"{self.machine.name} names a card that the host has not: {words}",
                f"there: {there}",
            )
        return self._refusal(
            "gpu-unnamed",
            f"{self.machine.name}: {words} means {len(found)} cards: {_list(found)}",
            f'name one: pci: "{found[0].pci}"' + self._or_target(found),
        )

    def _mig(self, mig: str, name: str, options: Mapping[str, str]) -> Grant | Refusal:
        """The card that has a MIG device: by what is known of them, by an old-style name, or the only one there is."""
        own = [card for card in self.cards if card.nvidia is not None]
        uuid, part = mig_uuid(mig), mig_part(options)
        known = [card for card in own if self.mig.get(uuid) == card.pci or _is_part_of(uuid, card)]
        return self._one(known or own, f"MIG device {mig}", name, "mig", options, part)

    def _unfit(self, mode: Mode, *, has_address: bool) -> Refusal | None:
        name = self.machine.name
        if self.machine.type == "vm":
            if mode == "mig":
                return self._refusal(
                    "gpu-type", f"{name} is a VM, and MIG devices are for containers", "give it a whole card by pci"
                )
            if mode == "physical" and not has_address:
                return self._refusal(
                    "gpu-vm-without-pci",
                    f"{name} is a VM, which takes its card away from the host, and does not say which by its address",
                    f'gpu_devices: [{{pci: "…"}}]; there: {_list(self.cards) or "no card at all"}',
                )
        elif mode in ("sriov", "mdev"):
            return self._refusal(
                "gpu-type", f"{name} is a container, and gputype {mode} is for VMs", "use gputype physical or mig"
            )
        return None

    def _or_target(self, cards: Iterable[Card]) -> str:
        return ", and a target" if len({card.member for card in cards}) > 1 else ""

    def _refusal(self, code: str, message: str, hint: str) -> Refusal:
        return Refusal(code, self.machine.name, message, hint, self.machine.where)


def _mig_keys(mig: str) -> dict[str, str]:
    """The keys of a MIG device. Incus makes the old-style name itself, of its numbers, and takes no other as UUID."""
    _, *numbers = mig.split("/")
    if len(numbers) == 2:
        return {"mig.gi": numbers[0], "mig.ci": numbers[1]}
    return {"mig.uuid": mig}


def _is_part_of(uuid: str, card: Card) -> bool:
    """Whether a MIG device's old-style name, `GPU-<uuid>/<gi>/<ci>`, is of this card."""
    return card.nvidia is not None and uuid.startswith(f"{card.nvidia.uuid.lower()}/")


def _list(cards: Iterable[Card]) -> str:
    return ", ".join(describe(card) for card in cards)
