"""The one decision of the GPU policy: which holds on cards are in each other's way.

The same with cards known or not: a hold names its card as well as one knows it, and two holds may be on one card unless
both name different ones in the same way, or are on different cluster members. `check` judges what the file says, `plan`
the host's cards, with the instances that hold them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby, product
from operator import itemgetter
from typing import TYPE_CHECKING

from launcher.gpu_policy.parts import part_keys

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from launcher.gpu_policy.parts import Mode
    from launcher.gpu_policy.refusals import Code

__all__ = ["CardName", "Conflict", "Hold", "judge"]

CardName = tuple[str, "Hashable"]  # the kind of name and the name
_KINDS = ("card", "pci", "uuid", "id")


@dataclass(frozen=True)
class Hold:
    """One machine, or an instance outside the file, and the card or the part of one that it holds or is to hold.

    `card` is None for whichever card there is. `project` is a machine's domain, or an instance's project. `member` is
    None where it may run on any. `words` say where a machine stands in the file, or how an instance holds the card.
    """

    holder: str
    project: str
    card: CardName | None
    mode: Mode = "physical"
    part: str | None = None
    vm: bool = False
    member: str | None = None
    words: str = field(default="", compare=False)

    @property
    def who(self) -> tuple[str, str]:
        """The holder, unmistakably."""
        return self.project, self.holder


@dataclass(frozen=True)
class Conflict:
    """A hold that cannot be because of another, `rival`; `outside` says that the rival is not of the file."""

    hold: Hold
    rival: Hold
    exclusive: bool
    outside: bool

    @property
    def vm(self) -> bool:
        """Whether a VM is in it, which shares its card under no policy."""
        return self.hold.vm or self.rival.vm

    @property
    def code(self) -> Code:
        """What is against it."""
        if not self.exclusive:
            return "gpu-vm-shared"
        return "gpu-held" if self.outside else "gpu-exclusive"


def judge(holds: Iterable[Hold], outside: Iterable[Hold] = (), *, exclusive: bool) -> Iterator[Conflict]:
    """The conflicts of each hold: with every holder outside the file, and with the first before it in the file.

    Exclusive: a card, or a part of one, has one holder. Otherwise containers share it, and VMs do not.
    """
    index, others = _Index(exclusive=exclusive), _Index(exclusive=exclusive)
    for rival in outside:
        others.add(rival)
    for _, group in groupby(holds, key=lambda hold: hold.who):
        unique = tuple(dict.fromkeys(group))
        for hold in unique:
            yield from (Conflict(hold, rival, exclusive, outside=True) for rival in others.rivals(hold))
            if (first := next((other for other in index.rivals(hold) if other.who != hold.who), None)) is not None:
                yield Conflict(hold, first, exclusive, outside=False)
        for hold in unique:
            index.add(hold)


class _Index:
    """Holds, each under every combination of its keys: finding rivals does not take longer the more there are."""

    def __init__(self, *, exclusive: bool) -> None:
        self._exclusive = exclusive
        self._holds: dict[tuple[Hashable, ...], list[tuple[int, Hold]]] = {}
        self._count = 0

    def add(self, hold: Hold) -> None:
        """Let it be found."""
        parts, _ = part_keys(hold.mode, hold.part)
        for keys in product(_card_keys(hold)[0], parts, _member_keys(hold)[0], {"all", hold.vm}):
            self._holds.setdefault(keys, []).append((self._count, hold))
        self._count += 1

    def rivals(self, hold: Hold) -> Iterator[Hold]:
        """Those that are in the way of a hold, in the order in which they were added."""
        _, parts = part_keys(hold.mode, hold.part)
        anybody = "all" if self._exclusive or hold.vm else True
        keys = product(_card_keys(hold)[1], parts, _member_keys(hold)[1], (anybody,))
        lists = (self._holds.get(key, ()) for key in keys)
        # No hold stands under two of the keys, so none comes twice.
        yield from (rival for _, rival in merge(*lists, key=itemgetter(0)))


def _card_keys(hold: Hold) -> tuple[set[Hashable], set[Hashable]]:
    """Under which keys its card is found, and under which keys it finds cards that may be the same."""
    if hold.card is None:
        return {"all", "any"}, {"all"}
    kind, _ = hold.card
    return {"all", kind, hold.card}, {"any", hold.card, *(other for other in _KINDS if other != kind)}


def _member_keys(hold: Hold) -> tuple[set[Hashable], set[Hashable]]:
    """The same for the cluster member that it runs on."""
    if hold.member is None:
        return {"all", "anywhere"}, {"all"}
    return {"all", (hold.member,)}, {"anywhere", (hold.member,)}
