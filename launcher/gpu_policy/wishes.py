"""What a machine asks for, as the file says it: wishes for cards, whatever cards there are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anklume_images.incus.values import pci_address
from launcher.gpu_policy.judge import Hold
from launcher.gpu_policy.parts import DIVIDED, SELECTORS, mig_part, mig_uuid, mode_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from launcher.gpu_policy.judge import CardName
    from launcher.gpu_policy.parts import Mode

__all__ = ["Request", "Wish", "hold_of", "wishes_of"]


@dataclass(frozen=True)
class Request:
    """What the file says of one machine's GPUs.

    `devices` are its gpu devices, by profiles and its own, `names` those of all its devices. `selectors` are the
    entries of `gpu_devices`, each one of pci, uuid and mig. `gpu` is set where it has a GPU by whatever way.
    `where` is its place in the file; `member` is the cluster member that it runs on, where the file says one.
    """

    machine: str
    domain: str
    where: str
    vm: bool
    gpu: bool
    devices: Mapping[str, Mapping[str, str]]
    selectors: Sequence[Mapping[str, str]]
    names: Collection[str]
    member: str | None = None


@dataclass(frozen=True)
class Wish:
    """One card, or one part of one, that a machine wants.

    `by` are the keys that select the card: those of a gpu device, or `uuid`; none for whichever there is. `device` is
    the name of the gpu device that gives it, `options` are its other keys, `words` say it in a message. `mig` names a
    MIG device whose card nobody names.
    """

    device: str
    words: str
    mode: Mode = "physical"
    by: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    part: str | None = None
    mig: str = ""


def wishes_of(request: Request) -> tuple[Wish, ...]:
    """Every wish of a machine. A gpu device that selects no card gives the name and the options of another wish."""
    named = {name: device for name, device in request.devices.items() if _names_card(device)}
    bare = {name: device for name, device in request.devices.items() if name not in named}
    slots = _slots(bare, len(request.selectors), set(request.names))
    wishes = [_of_device(request.machine, name, device) for name, device in named.items()]
    wishes += [_of_selector(selector, *next(slots)) for selector in request.selectors]
    if not wishes and (bare or request.gpu):
        name, options = next(slots)
        wishes.append(Wish(name, "", options=options))
    return tuple(wishes)


def hold_of(request: Request, wish: Wish) -> Hold | None:
    """What a wish would hold, where the cards are not known.

    None for a virtual function of no card in particular: each is another one, of a card that has such.
    """
    card = _card_name(wish)
    if card is None and wish.mode in DIVIDED and wish.mode != "mig":
        return None
    return Hold(request.machine, request.domain, card, wish.mode, wish.part, request.vm, request.member, request.where)


def _card_name(wish: Wish) -> CardName | None:
    """How a wish names its card. Only names of one kind can be told apart."""
    if pci := wish.by.get("pci"):
        return "pci", pci_address(pci) or pci
    for kind in ("uuid", "id"):
        if value := wish.by.get(kind):
            return kind, value.lower()
    uuid, _, numbers = mig_uuid(wish.mig).partition("/")
    return ("uuid", uuid) if numbers and uuid.startswith("gpu-") else None


def _names_card(device: Mapping[str, str]) -> bool:
    return any(device.get(key) for key in SELECTORS) or mode_of(device) != "physical"


def _slots(
    bare: Mapping[str, Mapping[str, str]], selectors: int, taken: set[str]
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Names for devices, with the options to keep: those that name no card first, then `gpu0`, `gpu1` …"""
    for name, device in bare.items():
        yield name, _options(device)
    for number in range(len(taken) + selectors + 1):
        if f"gpu{number}" not in taken:
            yield f"gpu{number}", {}


def _options(device: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in device.items() if key not in ("type", "gputype", *SELECTORS)}


def _of_device(machine: str, name: str, device: Mapping[str, str]) -> Wish:
    mode, options = mode_of(device), _options(device)
    by = {key: device[key] for key in SELECTORS if device.get(key)}
    words = f"device {name} ({' '.join(f'{key}={value}' for key, value in by.items()) or mode})"
    if mode != "mig":
        part = None if mode == "physical" else f"{machine}/{name}"  # a function of its own
        return Wish(name, words, mode, by, options, part)
    part = mig_part(device)
    mig = device.get("mig.uuid", part)
    return Wish(name, words if by else f"MIG device {mig}", mode, by, options, part, mig)


def _of_selector(selector: Mapping[str, str], name: str, options: Mapping[str, str]) -> Wish:
    (kind, value), *_ = selector.items()
    if kind != "mig":
        return Wish(name, f"{kind} {value}", by={kind: value}, options=options)
    options = {**options, **_mig_keys(value)}
    return Wish(name, f"MIG device {value}", "mig", options=options, part=mig_part(options), mig=value)


def _mig_keys(mig: str) -> dict[str, str]:
    """The keys of a MIG device. Incus makes the old-style name itself, of its numbers, and takes no other as UUID."""
    _, *numbers = mig.split("/")
    if len(numbers) == 2:
        return {"mig.gi": numbers[0], "mig.ci": numbers[1]}
    return {"mig.uuid": mig}
