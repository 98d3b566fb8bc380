"""The usual troubles of machines, recognised from evidence; nothing is looked at here.

What lines of an engine's journal mean is the engine's to say: launcher/engines.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from anklume_images.console import human_size
from launcher.gpu.cards import describe
from launcher.gpu.images import why_unusable
from launcher.gpu.vendors import vendors_of
from launcher.gpu.vendors.nvidia import LOST, is_lost
from launcher.gpu.vendors.nvidia_driver import RUNTIME, driver_troubles, gives_driver
from launcher.gpu.vendors.vendor import Diagnosis
from launcher.inspect.administrator import administrator_findings
from launcher.inspect.cards import asks_nvidia_smi, nodes_of, own_cards
from launcher.inspect.connections import connection_findings
from launcher.inspect.facts import Finding
from launcher.inspect.guest import NOT_FOUND
from launcher.inspect.models import model_findings
from launcher.inspect.network import address_findings
from launcher.inspect.nodes import node_trouble
from launcher.inspect.vulkan import vulkan_trouble
from launcher.observe.instances import MISSING, NOT_OURS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from launcher.engines.engine import Engine, Journal
    from launcher.infra.model import Infra
    from launcher.inspect.facts import CommandResult, MachineFacts, ServerFacts

__all__ = ["machine_findings"]

_SHOWN = 3  # lines of a journal in a finding
_NODE = "gpu-node"


def machine_findings(infra: Infra, machines: Sequence[MachineFacts], host: ServerFacts) -> list[Finding]:
    """The troubles of these machines, in their order."""
    findings: list[Finding] = []
    for machine in machines:
        findings += _cards(machine, host)
        if not machine.seen.running:
            findings.append(_not_running(machine))
            continue
        findings += address_findings(machine)
        findings += _no_nvidia_smi(machine, host)
        findings += _no_nodes(machine, host)
        if machine.engine is not None:
            findings += _on_cpu(machine, machine.engine, host)
            findings += model_findings(machine, machine.engine)
            findings += _died(machine, machine.engine.journal, host)
            findings += _out_of_memory(machine, machine.engine)
        findings += administrator_findings(infra, machine)
        findings += connection_findings(infra, machine, machines)
    return findings


def _cards(machine: MachineFacts, host: ServerFacts) -> Iterator[Finding]:
    """What is in the way of the cards that the file gives the machine."""
    cards = tuple(f"the host: {describe(card)}, driver {card.driver_version or 'none'}" for card in host.cards)
    seen = cards or ("the host: no card (incus info --resources)",)
    for refusal in machine.refusals:
        cause = f"what the file says at {refusal.where} does not go with the host's cards"
        yield Finding(refusal.code, "error", machine.name, refusal.message, seen, cause, refusal.hint)
    of_host = {trouble.code for trouble in driver_troubles(host.cards, host.driver)}
    for obstacle in machine.obstacles:
        if obstacle.note or obstacle.code in of_host:
            continue
        severity: Literal["error", "warning"] = "error" if obstacle.fatal else "warning"
        what = "the GPU will not work until this is fixed" if obstacle.fatal else "its card may not work"
        yield Finding("gpu-preflight", severity, machine.name, what, seen, obstacle.cause, obstacle.remedy)
    if machine.unusable:
        what = "the image cannot use the card that the machine has"
        cause = why_unusable((machine.seen.image or str(machine.seen.machine.image.store)), machine.unusable)
        remedy = "take the card from it, or make an image that can use it (gpus in its spec.yml)"
        if machine.able_images:
            remedy = f"name an image that can: {' or '.join(machine.able_images)}"
        yield Finding("image-not-for-gpu", "warning", machine.name, what, seen, cause, remedy)


def _not_running(machine: MachineFacts) -> Finding:
    state, file = machine.seen.state, machine.seen.machine.where.partition(":")[0]
    where = f"the instance {machine.seen.instance} in the project {machine.seen.project}"
    if state == MISSING:
        cause, remedy = "it was never launched, or was deleted", f"anklume-launch {file}"
    elif state == NOT_OURS:
        cause = "somebody else made an instance of this name"
        remedy = "rename one of them, or take it over: --adopt"
    else:
        cause = "it was stopped, or ended by itself"
        remedy = f"anklume-launch logs {file} {machine.name} shows its last words; anklume-launch {file} starts it"
    what = f"{machine.name} does not run, so nothing in it was looked at"
    return Finding("not-running", "warning", machine.name, what, (f"{where}: {state}",), cause, remedy)


def _failed_smi(machine: MachineFacts, host: ServerFacts) -> CommandResult | None:
    """What nvidia-smi came to in a machine in which it has to work, and does not."""
    result, own = machine.nvidia_smi, own_cards(machine.seen, host.cards, machine.granted)
    fails = result is not None and result.code != 0 and asks_nvidia_smi(machine.seen, own)
    return result if fails else None


def _no_nvidia_smi(machine: MachineFacts, host: ServerFacts) -> Iterator[Finding]:
    result = _failed_smi(machine, host)
    if result is None:
        return
    missing = result.code == NOT_FOUND
    code, what = ("nvidia-smi-not-found", "nvidia-smi is not in the machine")
    if not missing:
        code, what = ("nvidia-smi-fails", "nvidia-smi does not work in the machine")
    evidence = [f"nvidia-smi ended with {result.code}: {result.text or 'no word'}"]
    seen = machine.seen
    if is_lost(result.text):
        code, cause, remedy = LOST.code, LOST.cause, LOST.remedy
    elif not seen.gpus:
        cause = "the instance has no gpu device"
        remedy = "set gpu: true, or give it a profile with a gpu device, and apply"
        evidence.append("its devices: " + (", ".join(sorted(seen.devices)) or "none"))
    elif any(map(gives_driver, seen.devices.values())):
        cause, remedy = _host_driver(machine, host, evidence)
    elif seen.config.get(RUNTIME) != "true":
        cause = f"the instance has a card but neither the host's driver nor {RUNTIME}, which brings it"
        remedy = f"apply: the launcher gives it one of them, unless config says {RUNTIME}: false"
        evidence.append(f"{RUNTIME}: {seen.config.get(RUNTIME, 'not set')}; no folder of the host's driver")
    elif host.container_tools is False or host.lxc_hook is False:
        cause = "the host lacks what nvidia.runtime calls"
        remedy = (
            "on the host, install NVIDIA's libnvidia-container-tools and LXC's hooks (Debian: liblxc-common); "
            "or let gpu_driver be host, and apply"
        )
        evidence.append(f"nvidia-container-cli: {_there(host.container_tools)}; LXC hook: {_there(host.lxc_hook)}")
    elif not host.cards:
        cause, remedy = "the host has no card that Incus lists", "see that nvidia-smi works on the host"
    else:
        cause = "the driver's files in the machine are not those of the host's running driver"
        remedy = "restart the machine; after an update of the driver, restart the host"
        evidence += [f"the host: {card.pci} ({card.model}), driver {card.driver_version}" for card in host.cards]
    yield Finding(code, "error", machine.name, what, tuple(evidence), cause, remedy)


def _no_nodes(machine: MachineFacts, host: ServerFacts) -> Iterator[Finding]:
    """Cards of makers whose driver is in the kernel alone: device nodes are all that a machine needs of them."""
    seen = machine.seen
    own = own_cards(seen, host.cards, machine.granted)
    if not machine.wants_gpu or not own or (not seen.gpus and asks_nvidia_smi(seen, own)):
        return
    evidence = tuple(f"the host: {describe(card)}, driver {card.driver or 'none'}" for card in own)
    evidence += tuple(map(str, machine.nodes))
    bare = [describe(card) for card in own if not card.is_nvidia and not nodes_of(card, None)]
    if not seen.gpus:
        cause = "the instance has no gpu device"
        remedy = "set gpu: true, or give it a profile with a gpu device, and apply"
    elif bare and seen.machine.type == "lxc":
        cause = f"the host's driver gives {', '.join(bare)} no render node"
        remedy = "load the card's own driver on the host (AMD: amdgpu; Intel: xe or i915), then restart the machine"
    elif (trouble := node_trouble(machine.nodes)) is not None:
        cause, remedy = trouble
    else:
        return
    what = "programs in the machine cannot get at its card"
    yield Finding(_NODE, "error", machine.name, what, evidence, cause, remedy)


def _host_driver(machine: MachineFacts, host: ServerFacts, evidence: list[str]) -> tuple[str, str]:
    """Cause and remedy where the driver comes by folders of the host, which the image's boot step has to link."""
    evidence += [
        f"{device['source']} of the host is at {device['path']}"
        for device in machine.seen.devices.values()
        if gives_driver(device)
    ]
    step = machine.boot_step
    if step is not None and step.text:
        evidence.append(f"the boot step: {step.text}")
    if step is not None and step.code:
        cause = "the image has no boot step that links the host's driver: it was built before there was one"
        return cause, "build its image again and apply with --replace; or let gpu_driver be runtime"
    if troubles := driver_troubles(host.cards, host.driver):
        return "the host's driver is not in order", f"see the finding about the host: {troubles[0].code}"
    return (
        "the driver's files that were linked as the machine started are not those of the host's running driver",
        "restart the machine; after an update of the driver, restart the host",
    )


def _there(present: bool | None) -> str:
    return {True: "there", False: "missing", None: "not known"}[present]


def _on_cpu(machine: MachineFacts, engine: Engine, host: ServerFacts) -> Iterator[Finding]:
    if not machine.wants_gpu or machine.unusable:
        return
    journal = _since_on_card(machine, engine)
    lines = [line for line in journal if engine.journal.on_cpu.search(line)]
    computes = [(line, match[1]) for line in journal if (match := engine.journal.devices.search(line))]
    if computes and all(library.lower() == "cpu" for _, library in computes):
        lines += [line for line, _ in computes]
    layers = [int(match[1]) for line in machine.journal if (match := engine.journal.layers.search(line))]
    if layers and layers[-1]:  # one way to the card failed, and another one leads there: CUDA and Vulkan
        lines = []
    lines = lines[-_SHOWN:]
    lines += [
        f"{model.name}: 0 of {human_size(model.size)} are in the card ({engine.loaded_path})"
        for model in machine.loaded
        if model.size and not model.in_vram
    ]
    if not lines:
        return
    reasons = [line for line in machine.journal if engine.journal.reasons.search(line)][-_SHOWN:]
    lines = [*reasons, *lines]
    why, seen = _why_on_cpu(machine, engine, host, lines)
    what = "the engine computes on the CPU although the machine has a card"
    yield Finding(why.code, "error", machine.name, what, (*lines, *seen), why.cause, why.remedy)


def _why_on_cpu(
    machine: MachineFacts, engine: Engine, host: ServerFacts, lines: Sequence[str]
) -> tuple[Diagnosis, tuple[str, ...]]:
    """Why the engine is on the CPU, and what shows it beside these lines: what keeps all programs off comes first."""
    why = _diagnosis(machine, host, lines)
    if smi := _failed_smi(machine, host):
        cause = "nvidia-smi does not work in the machine, so no program there can use the card"
        remedy = "first the finding about nvidia-smi; then restart the machine"
        return replace(why, cause=cause, remedy=remedy), (f"nvidia-smi ended with {smi.code}: {smi.text or 'no word'}",)
    if any(finding.code == _NODE for finding in _no_nodes(machine, host)):
        cause = "no program in the machine can get at the card"
        return replace(why, cause=cause, remedy=f"first the finding {_NODE}; then restart the machine"), ()
    if any(map(engine.journal.hidden.search, lines)):
        return Diagnosis(
            "engine-on-cpu",
            "a variable of the engine's environment chooses the cards that it sees, and leaves none that it can use",
            "take that variable out of what the file sets for the engine's environment, and apply",
        ), ()
    if why.code != "engine-on-cpu":
        return why, ()
    if trouble := vulkan_trouble(machine.vulkan, machine.boot_step):
        return trouble
    if others := ", ".join(machine.able_images):
        why = replace(why, remedy=f"{why.remedy}; these images compute on such a card, too: {others}")
    return why, ()


def _since_on_card(machine: MachineFacts, engine: Engine) -> Sequence[str]:
    """The journal since a model was last put on a card: what was said before is over, or of another backend."""
    places = [
        number
        for number, line in enumerate(machine.journal, 1)
        if (match := engine.journal.layers.search(line)) and int(match[1])
    ]
    return machine.journal[places[-1] :] if places else machine.journal


def _diagnosis(machine: MachineFacts, host: ServerFacts, lines: Sequence[str]) -> Diagnosis:
    """What the maker of the machine's card makes of these lines."""
    for vendor in vendors_of(own_cards(machine.seen, host.cards, machine.granted)):
        return vendor.diagnose(lines)
    return Diagnosis(
        "engine-on-cpu",
        "the engine has no way to compute on the card",
        "see which cards the image's engine can use; ls /dev/dri in the machine shows what it was given",
    )


def _died(machine: MachineFacts, journal: Journal, host: ServerFacts) -> Iterator[Finding]:
    """A runner that ended while it computed: its own last words are the best that one can be told."""
    deaths = [line for line in machine.journal if journal.died.search(line)]
    told = (journal.no_vram, journal.not_loaded)
    lines = [line for line in deaths if not any(pattern.search(line) for pattern in told)][-_SHOWN:]
    if not lines:
        return
    why = _diagnosis(machine, host, lines)
    if why.code == "engine-on-cpu":  # nothing that is known
        why = Diagnosis(
            "runner-died",
            f"the engine's runner ended as it computed; it said: {lines[-1].strip()}",
            "restart the machine; if it comes again, try a smaller model or another version of the image, and look at "
            "the kernel's log on the host (dmesg)",
        )
    what = "the process that runs the model ended by itself"
    yield Finding(why.code, "error", machine.name, what, tuple(lines), why.cause, why.remedy)


def _partly(machine: MachineFacts, engine: Engine) -> tuple[str, ...]:
    """What shows that a model is only partly on a card: what is loaded, or else the journal's words on the last one."""
    if machine.loaded:
        return tuple(
            f"{model.name}: {human_size(model.in_vram)} of {human_size(model.size)} are in the card "
            f"({engine.loaded_path})"
            for model in machine.loaded
            if 0 < model.in_vram < model.size
        )
    told = ("", "")
    shortage = ""
    for line in machine.journal:
        if engine.journal.shortage.search(line):
            shortage = line
        elif match := engine.journal.layers.search(line):
            told = (shortage, line) if shortage and 0 < int(match[1]) < int(match[2]) else ("", "")
            shortage = ""
    return tuple(line for line in told if line)


def _out_of_memory(machine: MachineFacts, engine: Engine) -> Iterator[Finding]:
    lines = tuple(line for line in machine.journal if engine.journal.no_vram.search(line))[-_SHOWN:]
    sizes = [
        f"{card.pci}: {human_size(card.memory_used)} of {human_size(card.memory_total)} are in use"
        for card in machine.cards
        if card.memory_used is not None and card.memory_total
    ]
    partly = _partly(machine, engine)
    remedy = (
        f"take a smaller model ({engine.smaller_model}) or a stronger quantisation, or a shorter context; "
        "anklume-launch gpu shows who else has the card"
    )
    if lines:
        what = "the model does not fit into the card's memory"
        cause = "model and context together are larger than what the card has free"
        yield Finding("out-of-vram", "error", machine.name, what, (*lines, *partly, *sizes), cause, remedy)
    elif partly and machine.wants_gpu:
        what = "the model is only partly in the card's memory, and slow for it"
        cause = "the rest of it had no room there"
        yield Finding("partly-in-vram", "warning", machine.name, what, (*partly, *sizes), cause, remedy)
    memory = tuple(line for line in machine.journal if engine.journal.no_ram.search(line))[-_SHOWN:]
    if memory:
        what = "the model does not fit into the machine's memory"
        cause = "it needs more than the machine has, or may use (limits.memory)"
        yield Finding(
            "out-of-memory", "error", machine.name, what, memory, cause, "take a smaller model, or give more memory"
        )
