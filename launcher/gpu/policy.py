"""The GPU policy: which card each machine of a file gets, judged against the whole file and the whole host.

Pure: cards and instances come in as Incus gave them. Whatever a command's `--only` selects, every machine of the file
counts, and so does every instance of the host that is not of the file, started or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anklume_images.console import human_size
from anklume_images.errors import InvalidFileError, PolicyError, Problem
from launcher.gpu.cards import ANYWHERE, describe
from launcher.gpu.grants import asked
from launcher.gpu.holders import holders
from launcher.gpu_policy.judge import Hold, judge
from launcher.gpu_policy.refusals import Refusal, in_the_way, sharing
from launcher.infra.merge import merged_config, merged_devices

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from launcher.gpu.cards import Card
    from launcher.gpu.grants import Grant
    from launcher.gpu.holders import Holder
    from launcher.gpu_policy.parts import Mode
    from launcher.infra.model import Infra, Machine

__all__ = ["GpuDecision", "GpuRefusedError", "decide", "members_of"]


class GpuRefusedError(PolicyError):
    """The GPU policy is against what the file asks for; carries every refusal."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        first = refusals[0]
        if len(refusals) == 1:
            super().__init__(first.message, where=first.where, hint=first.hint)
        else:
            super().__init__("\n".join(str(refusal) for refusal in refusals))
        self.refusals = tuple(refusals)


@dataclass(frozen=True)
class GpuDecision:
    """What each GPU machine gets, by name; `refusals` say who gets nothing and why, `warnings` what to know.

    `waits` says whose change has to be made before a machine is: they hold its card still, and will not by the file.
    """

    grants: Mapping[str, tuple[Grant, ...]] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()
    waits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise what stands against the file: GpuRefusedError (4), or InvalidFileError (2) where it is only unclear."""
        if any(refusal.exit_code == 4 for refusal in self.refusals):
            raise GpuRefusedError(self.refusals)
        if self.refusals:
            raise InvalidFileError([_problem(refusal) for refusal in self.refusals])

    def check_order(self, selected: Collection[str]) -> None:
        """Raise GpuRefusedError when a selected machine waits for one that this command leaves as it is."""
        stuck = [
            Refusal(
                "gpu-held",
                name,
                f"{name} gets a card that {other} still holds, and {other} is not selected",
                f"select {other} too: by the file it gives the card up",
                "gpu",
            )
            for name, others in self.waits.items()
            if name in selected
            for other in others
            if other not in selected
        ]
        if stuck:
            raise GpuRefusedError(stuck)


def _problem(refusal: Refusal) -> Problem:
    file, line, column = refusal.where.rsplit(":", 2)
    return Problem(file, int(line), int(column), refusal.code, refusal.message, hint=refusal.hint)


def decide(
    infra: Infra,
    cards: Iterable[Card],
    instances: Iterable[Mapping[str, Any]],
    instance_of: Callable[[Machine], tuple[str, str]],
    *,
    members: Mapping[str, str] | None = None,
    memory: Mapping[str, int] | None = None,
    mig: Mapping[str, str] | None = None,
) -> GpuDecision:
    """Decide for the whole file.

    `instance_of` gives a machine's project and instance. `members` says where a machine runs in a cluster, by its
    name (`members_of`). Where known: `memory` is the size of cards in bytes by PCI address, `mig` the address of the
    card of each MIG device by its UUID.
    """
    case = _Case(infra, tuple(cards), tuple(instances), instance_of, dict(members or {}), dict(memory or {}))
    return case.decide(mig or {})


def members_of(
    infra: Infra, instances: Iterable[Mapping[str, Any]], instance_of: Callable[[Machine], tuple[str, str]]
) -> dict[str, str]:
    """The cluster member of each machine where it is known: an instance stays where it is, a new one has a target."""
    locations = {
        (str(instance.get("project", "default")), str(instance["name"])): instance.get("location")
        for instance in instances
    }
    members: dict[str, str] = {}
    for machine in infra.machines():
        target = machine.target if machine.target and not machine.target.startswith("@") else None
        member = locations.get(instance_of(machine)) or target
        if member and member != ANYWHERE:
            members[machine.name] = member
    return members


class _Case:
    """One decision in the making."""

    def __init__(
        self,
        infra: Infra,
        cards: tuple[Card, ...],
        instances: tuple[Mapping[str, Any], ...],
        instance_of: Callable[[Machine], tuple[str, str]],
        members: dict[str, str],
        memory: dict[str, int],
    ) -> None:
        self.infra = infra
        self.cards = cards
        self.members = members
        self.memory = memory
        self.exclusive = infra.settings.gpu_policy == "exclusive"
        self.machines = tuple(infra.machines())
        self.by_name = {machine.name: machine for machine in self.machines}
        self.place_of = {machine.name: instance_of(machine) for machine in self.machines}
        by_place = {place: machine for machine in self.machines for place in [self.place_of[machine.name]]}
        live = holders(cards, instances)
        self.outside = tuple(holder for holder in live if _place(holder) not in by_place)
        self.still = [(by_place[_place(holder)].name, holder) for holder in live if _place(holder) in by_place]
        # What the file itself gives machines beside gpu devices: nodes, pci devices, raw.lxc.
        aside = holders(cards, [self._aside(machine) for machine in self.machines])
        self.aside = [(by_place[_place(holder)], holder) for holder in aside]
        self.grants: dict[str, tuple[Grant, ...]] = {}
        self.refusals: list[Refusal] = []

    def _aside(self, machine: Machine) -> dict[str, Any]:
        domain = self.infra.domains[machine.domain]
        devices = merged_devices(machine, domain)
        project, instance = self.place_of[machine.name]
        return {
            "name": instance,
            "project": project,
            "status": "Stopped",
            "type": "virtual-machine" if machine.type == "vm" else "container",
            "location": self.members.get(machine.name, ""),
            "expanded_config": merged_config(machine, domain),
            "expanded_devices": {name: keys for name, keys in devices.items() if keys.get("type") != "gpu"},
        }

    def decide(self, mig: Mapping[str, str]) -> GpuDecision:
        holds: list[Hold] = []
        for machine in self.machines:
            member = self.members.get(machine.name, "")
            here = [card for card in self.cards if card.at(member)]
            grants, unclear = asked(machine, self.infra.domains[machine.domain], here, mig)
            self.refusals += unclear
            if grants and not unclear:
                self.grants[machine.name] = grants
            holds += [_hold(machine, grant.card, grant.mode, grant.part) for grant in grants]
        self._judge(holds)
        self._check_memory()
        order = {machine.name: number for number, machine in enumerate(self.machines)}
        self.refusals.sort(key=lambda refusal: order[refusal.machine])
        return GpuDecision(self.grants, tuple(self.refusals), tuple(self._warnings()), self._waits())

    # Rivals

    def _judge(self, holds: list[Hold]) -> None:
        """Refuse what is in the way of another; who gets at a card past gpu devices comes after those that ask."""
        past = [_hold(machine, holder.card, holder.mode, holder.part) for machine, holder in self.aside]
        outside = [_outside(holder) for holder in self.outside]
        conflicts = tuple(judge([*holds, *past], outside, exclusive=self.exclusive))
        asking = set(holds)
        for conflict in conflicts:
            if conflict.hold in asking:
                self.grants.pop(conflict.hold.holder, None)
        for conflict in conflicts:
            card = next(card for card in self.cards if conflict.hold.card == ("card", card))
            self.refusals.append(in_the_way(conflict, describe(card), self._free(card)))

    def _free(self, requested: Card) -> str:
        taken = {grant.card for grants in self.grants.values() for grant in grants}
        taken |= {holder.card for holder in self.outside} | {holder.card for _, holder in self.aside}
        free = [card for card in self.cards if card not in taken and card != requested and card.at(requested.member)]
        if not free:
            return "no other card is free"
        return "name another card, free: " + ", ".join(describe(card) for card in free)

    # Memory

    def _check_memory(self) -> None:
        for card in self._granted():
            needs = [(name, need) for name, need in self._needs(card) if need]
            size = self.memory.get(card.pci)
            total = sum(need for _, need in needs)
            if size is None or total <= size:
                continue
            words = ", ".join(f"{name} {human_size(need)}" for name, need in needs)
            last = self.by_name[needs[-1][0]]
            self.refusals.append(
                Refusal(
                    "gpu-memory",
                    last.name,
                    f"{human_size(total)} of card {describe(card)} are wanted ({words}), and it has {human_size(size)}",
                    "lower gpu_memory (and what the models need), or name another card for one of them",
                    last.where,
                )
            )
            for name, _ in needs:
                self.grants.pop(name, None)

    def _needs(self, card: Card) -> list[tuple[str, int]]:
        """What each machine needs of a card; a machine with several spreads its need over them evenly."""
        return [
            (name, -(-(self.by_name[name].gpu_memory or 0) // len(grants)))
            for name, grants in self.grants.items()
            if any(grant.card == card for grant in grants)
        ]

    def _granted(self) -> list[Card]:
        cards = {grant.card for grants in self.grants.values() for grant in grants}
        return [card for card in self.cards if card in cards]

    # What to know

    def _warnings(self) -> Iterable[str]:
        for card in self._granted():
            if not self.exclusive:
                yield from self._shared(card)
            if card.pci not in self.memory and any(need for _, need in self._needs(card)):
                yield f"the memory of card {describe(card)} is not known here, so gpu_memory was not checked against it"

    def _shared(self, card: Card) -> Iterable[str]:
        names = [name for name, grants in self.grants.items() if any(grant.card == card for grant in grants)]
        names += [
            f"{holder.instance} (project {holder.project}, {holder.state})"
            for holder in self.outside
            if holder.card == card
        ]
        if len(names) > 1:
            yield sharing(names, describe(card))

    def _waits(self) -> dict[str, tuple[str, ...]]:
        if not self.exclusive:
            return {}
        waits: dict[str, list[str]] = {}
        for name, grants in self.grants.items():
            for grant in grants:
                for other, holder in self.still:
                    same = holder.card == grant.card and grant.collides(holder.mode, holder.part)
                    if same and other != name and other not in waits.get(name, ()):
                        waits.setdefault(name, []).append(other)
        return {name: tuple(others) for name, others in waits.items()}


def _hold(machine: Machine, card: Card, mode: Mode, part: str | None) -> Hold:
    return Hold(machine.name, machine.domain, ("card", card), mode, part, machine.type == "vm", words=machine.where)


def _outside(holder: Holder) -> Hold:
    words = f"{holder.state}; {holder.by}"
    return Hold(
        holder.instance, holder.project, ("card", holder.card), holder.mode, holder.part, holder.vm, words=words
    )


def _place(holder: Holder) -> tuple[str, str]:
    return holder.project, holder.instance
