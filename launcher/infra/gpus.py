"""The GPU policy as far as a file alone can answer for it: what stands in it is judged without any card known.

What runs on the host besides is the plan's to count, which judges the same holds with the host's cards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.incus.values import is_true
from launcher.gpu_policy.judge import judge
from launcher.gpu_policy.refusals import in_the_way, sharing, unfit
from launcher.gpu_policy.wishes import Request, hold_of, wishes_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from launcher.gpu_policy.refusals import Refusal
    from launcher.infra.entries import WrittenMachine
    from launcher.infra.report import Report

__all__ = ["check_gpus"]


def check_gpus(machines: Iterable[WrittenMachine], policy: str, report: Report) -> None:
    """Report GPUs that two machines would hold, and those that cannot be given."""
    machines = tuple(machines)
    holders = {(entry.domain, entry.name): entry for entry in machines if entry.enabled and entry.wants_gpu}
    holds = []
    for machine in holders.values():
        request = _request(machine, report)
        wishes = wishes_of(request)
        for refusal in filter(None, (unfit(request, wish) for wish in wishes)):
            _tell_unfit(machine, refusal, report)
        holds += [hold for wish in wishes if (hold := hold_of(request, wish)) is not None]
    for conflict in judge(holds, exclusive=policy == "exclusive"):
        _tell_conflict(holders[conflict.hold.who], in_the_way(conflict), report)
    if policy == "shared" and len(holders) > 1:
        report.warn(("global", "gpu_policy"), "gpu-shared", sharing([name for _, name in holders]))
    for machine in machines:
        _check_flag(machine, report)


def _request(machine: WrittenMachine, report: Report) -> Request:
    target = machine.data.get("target")
    return Request(
        machine.name,
        machine.domain,
        report.source.where(machine.path),
        machine.is_vm,
        machine.wants_gpu,
        {name: device for name, (_, device) in machine.devices.items() if device["type"] == "gpu"},
        machine.data["gpu_devices"],
        tuple(machine.devices),
        target if target and not target.startswith("@") else None,
    )


def _tell_unfit(machine: WrittenMachine, refusal: Refusal, report: Report) -> None:
    if refusal.device is None:
        report.error(machine.path, refusal.code, refusal.message, key=True, hint=refusal.hint)
    else:
        path, _ = machine.devices[refusal.device]
        report.error((*path, "gputype"), refusal.code, refusal.message, hint=refusal.hint)


def _tell_conflict(machine: WrittenMachine, refusal: Refusal, report: Report) -> None:
    path = (*machine.path, "gpu") if machine.data.get("gpu") else machine.path
    report.error(path, refusal.code, refusal.message, key=True, hint=refusal.hint)


def _check_flag(machine: WrittenMachine, report: Report) -> None:
    if machine.data.get("gpu") is False and machine.data["gpu_devices"]:
        message = f"'{machine.name}' names a card and has gpu: false"
        report.error((*machine.path, "gpu"), "gpu-off", message)
    if "gpu_memory" in machine.data and not machine.wants_gpu:
        message = f"'{machine.name}' needs GPU memory and has no GPU"
        report.error((*machine.path, "gpu_memory"), "gpu-off", message, key=True, hint="write gpu: true")
    _check_driver(machine, report)


def _check_driver(machine: WrittenMachine, report: Report) -> None:
    """A way for the driver that the machine cannot go, or that its own configuration speaks against."""
    way, path = machine.data.get("gpu_driver"), (*machine.path, "gpu_driver")
    if way is None:
        return
    if not machine.wants_gpu:
        message = f"'{machine.name}' says how the GPU's driver gets in and has no GPU"
        report.error(path, "gpu-off", message, key=True, hint="write gpu: true")
    elif machine.is_vm and way != "auto":
        message = f"'{machine.name}' is a VM, which has a driver of its own: gpu_driver is for containers"
        report.error(path, "gpu-driver", message, hint="remove it")
    elif way == "host" and _has_mig(machine):
        message = f"'{machine.name}' has a MIG device, which Incus gives with nvidia.runtime only"
        report.error(path, "gpu-driver", message, hint="write gpu_driver: runtime")
    elif (setting := machine.setting("nvidia.runtime")) and way == ("host" if is_true(setting[1]) else "runtime"):
        message = f"'{machine.name}' has gpu_driver: {way} and nvidia.runtime: {setting[1]}"
        report.error(path, "gpu-driver", message, hint="remove one of them")


def _has_mig(machine: WrittenMachine) -> bool:
    selected = any("mig" in card for card in machine.data["gpu_devices"])
    return selected or any(device.get("gputype") == "mig" for _, device in machine.gpus)
