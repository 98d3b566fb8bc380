"""Which cards a machine of the file asks for, each by its PCI address: a wish that names no card is never "all"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launcher.gpu.cards import computing, describe
from launcher.gpu.nodes import by_selector
from launcher.gpu.vendors import vendors_of
from launcher.gpu_policy.parts import collide, mig_uuid
from launcher.gpu_policy.refusals import Refusal, unfit
from launcher.gpu_policy.wishes import Request, wishes_of
from launcher.infra.merge import merged_devices

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from launcher.gpu.cards import Card
    from launcher.gpu_policy.parts import Mode
    from launcher.gpu_policy.refusals import Code
    from launcher.gpu_policy.wishes import Wish
    from launcher.infra.model import Domain, Machine

__all__ = ["Grant", "asked", "gpu_devices_of"]


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


def gpu_devices_of(machine: Machine, domain: Domain) -> dict[str, Mapping[str, str]]:
    """The machine's gpu devices, by profiles and its own."""
    return {name: device for name, device in merged_devices(machine, domain).items() if device.get("type") == "gpu"}


def request_of(machine: Machine, domain: Domain) -> Request:
    """What the file says of a machine's GPUs."""
    return Request(
        machine.name,
        domain.name,
        machine.where,
        machine.type == "vm",
        machine.gpu,
        gpu_devices_of(machine, domain),
        [{kind: value for kind, value in vars(selector).items() if value} for selector in machine.gpu_devices],
        tuple(merged_devices(machine, domain)),
    )


def asked(
    machine: Machine, domain: Domain, cards: Sequence[Card], mig: Mapping[str, str] | None = None
) -> tuple[tuple[Grant, ...], tuple[Refusal, ...]]:
    """What a machine asks for, of the cards where it is to run, and what is unclear about it.

    `mig` says which card (PCI address) has which MIG device (UUID), where that is known.
    """
    request = request_of(machine, domain)
    cards = tuple(cards)
    host = _Host(request, cards, {mig_uuid(uuid): pci for uuid, pci in (mig or {}).items()})
    grants: list[Grant] = []
    refusals: list[Refusal] = []
    for wish in wishes_of(request):
        result = unfit(request, wish, _list(cards)) or host.grant(wish)
        if isinstance(result, Refusal):
            refusals.append(result)
        elif not any(grant.card == result.card and grant.part == result.part for grant in grants):
            grants.append(result)
    return tuple(grants), tuple(refusals)


@dataclass(frozen=True)
class _Host:
    """The cards that one machine could have, and which of them a wish means."""

    request: Request
    cards: tuple[Card, ...]
    mig: Mapping[str, str]

    def grant(self, wish: Wish) -> Grant | Refusal:
        """The card that a wish means, or why that is unclear."""
        if not wish.by and wish.mode == "physical":
            return self._only_card(wish)
        cards = self._meant(wish)
        if len(cards) == 1:
            return Grant(cards[0], wish.device, wish.mode, self._options(cards[0], wish), wish.part)
        if not cards:
            present = _list(self.cards) or "no card at all"
            message = f"{self.request.machine} asks for a GPU that this host does not have: {wish.words}"
            return self._refusal("gpu-absent", message, f"there: {present}")
        return self._refusal(
            "gpu-unnamed",
            f"{self.request.machine}: {wish.words} means {len(cards)} cards: {_list(cards)}",
            f'name one: pci: "{cards[0].pci}"' + self._or_target(cards),
        )

    def _meant(self, wish: Wish) -> tuple[Card, ...]:
        if uuid := wish.by.get("uuid"):
            return tuple(card for card in self.cards if card.nvidia and card.nvidia.uuid.lower() == uuid.lower())
        if wish.mig and not wish.by:
            return self._with_mig(wish.mig)
        selected = by_selector(self.cards, wish.by)
        if wish.mode == "sriov":
            return tuple(card for card in selected if card.virtual) or selected
        return selected

    def _with_mig(self, mig: str) -> tuple[Card, ...]:
        """The card that has a MIG device: by what is known of them, by an old-style name, or the only one there is."""
        cards = tuple(card for card in self.cards if card.nvidia is not None)
        uuid = mig_uuid(mig)
        return tuple(card for card in cards if self.mig.get(uuid) == card.pci or _is_part_of(uuid, card)) or cards

    def _only_card(self, wish: Wish) -> Grant | Refusal:
        """The host's only card."""
        cards, name = computing(self.cards), self.request.machine
        if len(cards) == 1:
            return Grant(cards[0], wish.device, options=self._options(cards[0], wish))
        if not cards:
            hint = "anklume-launch gpu shows what Incus sees; is the driver loaded?"
            return self._refusal("gpu-absent", f"{name} wants a GPU, and the host has none", hint)
        return self._refusal(
            "gpu-unnamed",
            f"{name} wants a GPU and names none, and there are {len(cards)}: {_list(cards)}",
            f'name one: gpu_devices: [{{pci: "{cards[0].pci}"}}]' + self._or_target(cards),
        )

    def _options(self, card: Card, wish: Wish) -> Mapping[str, str]:
        """What the file says, and what lets the container's services open the card's nodes."""
        if self.request.vm or wish.mode != "physical":
            return wish.options
        opened = {key: value for vendor in vendors_of((card,)) for key, value in vendor.opened_by.items()}
        return {**opened, **wish.options}

    def _or_target(self, cards: Iterable[Card]) -> str:
        return ", and a target" if len({card.member for card in cards}) > 1 else ""

    def _refusal(self, code: Code, message: str, hint: str) -> Refusal:
        return Refusal(code, self.request.machine, message, hint, self.request.where)


def _is_part_of(uuid: str, card: Card) -> bool:
    """Whether a MIG device's old-style name, `GPU-<uuid>/<gi>/<ci>`, is of this card."""
    return card.nvidia is not None and uuid.startswith(f"{card.nvidia.uuid.lower()}/")


def _list(cards: Iterable[Card]) -> str:
    return ", ".join(describe(card) for card in cards)
