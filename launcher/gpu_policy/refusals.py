"""What the GPU policy says: all its codes, and the words of those that `check` and `plan` both say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.gpu_policy.judge import Conflict
    from launcher.gpu_policy.wishes import Request, Wish

__all__ = ["POLICY_CODES", "Code", "FileCode", "Refusal", "in_the_way", "sharing", "unfit"]

FileCode = Literal["gpu-exclusive", "gpu-vm-shared", "gpu-type", "gpu-vm-without-pci"]  # what a file alone can show
Code = Literal[FileCode, "gpu-held", "gpu-absent", "gpu-unnamed", "gpu-memory"]
# The file is clear and the host or another machine stands against it: exit 4. The other codes mean that the file has
# to say more, or something else, for this host: exit 2.
POLICY_CODES = frozenset({"gpu-absent", "gpu-held", "gpu-memory", "gpu-exclusive", "gpu-vm-shared"})


@dataclass(frozen=True)
class Refusal:
    """Why a machine does not get what it asks for, and the ways out.

    `where` is its place in the file. `device` is the gpu device whose `gputype` is the trouble.
    """

    code: Code
    machine: str
    message: str
    hint: str
    where: str
    device: str | None = None

    @property
    def exit_code(self) -> int:
        """4 where the policy or the host is against it, 2 where the file does not say enough."""
        return 4 if self.code in POLICY_CODES else 2

    def __str__(self) -> str:
        return f"{self.where}: {self.message} ({self.hint})"


def unfit(request: Request, wish: Wish, cards: str | None = None) -> Refusal | None:
    """Why a wish cannot be had on any host; `cards` names those that there are, where that is known.

    A VM gets a card by its PCI address, or a virtual function; a container a card, or a MIG device.
    """
    name, refusal = request.machine, None
    if request.vm and wish.mode == "mig":
        message = f"{name} is a VM, and MIG devices are for containers"
        refusal = Refusal("gpu-type", name, message, "give it a whole card by pci", request.where)
    elif request.vm and wish.mode == "physical" and not wish.by.get("pci"):
        message = f"{name} is a VM, which takes its card away from the host, and does not say which by its address"
        ways = 'gpu_devices: [{pci: "0000:01:00.0"}]; the host needs an IOMMU'
        hint = ways if cards is None else f'gpu_devices: [{{pci: "…"}}]; there: {cards or "no card at all"}'
        return Refusal("gpu-vm-without-pci", name, message, hint, request.where)
    elif not request.vm and wish.mode in ("sriov", "mdev"):
        message = f"{name} is a container, and gputype {wish.mode} is for VMs"
        refusal = Refusal("gpu-type", name, message, "use gputype physical or mig", request.where)
    if refusal is not None and wish.device in request.devices and "gputype" in request.devices[wish.device]:
        return replace(refusal, device=wish.device)
    return refusal


def in_the_way(conflict: Conflict, card: str | None = None, free: str | None = None) -> Refusal:
    """The refusal that a conflict means for a machine.

    `card` is the card in words and `free` the first way out, where the cards are known; without, what a file can do.
    """
    hold, rival = conflict.hold, conflict.rival
    # Outside the file the policy comes first: a VM that holds the card does not change what it says.
    by_policy = conflict.exclusive and (conflict.outside or not conflict.vm)
    why = "gpu_policy is exclusive" if by_policy else "a VM cannot share its card"
    ways = [free or "name different cards in gpu_devices, or different targets"]
    if conflict.exclusive and not conflict.vm:
        ways.append("set global.gpu_policy: shared")
    if conflict.outside:
        ways.append(
            f"take it from {rival.holder} (incus config device, or incus delete {rival.holder} "
            f"--project {rival.project}); stopping is not enough, as it takes the card again when it starts"
        )
        message = (
            f"{hold.holder} cannot have card {card}: instance {rival.holder} of project {rival.project} holds it "
            f"({rival.words}), and {why}"
        )
    else:
        what = f"card {card}" if card else "the same GPU"
        message = f"{hold.holder} and {rival.holder} ({rival.words}) both want {what}, and {why}"
    return Refusal(conflict.code, hold.holder, message, "; or ".join(ways), hold.words)


def sharing(names: Sequence[str], card: str | None = None) -> str:
    """What to know where several share a card, or may."""
    if card is None:
        told = f"{len(names)} machines may share a GPU: {', '.join(names)}"
        return f"{told}; consumer cards do not keep their memory apart"
    return (
        f"gpu_policy is shared: {' and '.join(names)} share card {card}; it does not keep their memory apart: one can "
        "take all of it, and an error of one can end the others' work"
    )
