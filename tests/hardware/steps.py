"""What is looked at in a machine with a card, one line a step: run by `try`, in its environment, with a `Given`.

A simulated card computes nothing: there, the steps that need silicon have to fail as the product says they do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.bench.measure import say

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = 300.0
_PROJECT, _MACHINE = "first", "llm"
_QUESTION = "Write a short story about a cat that learns to sail."
_ON_CPU = {"engine-on-cpu", "vulkan-driver-missing"}


class FailedError(Exception):
    """A step did not come out as it has to; the text says what was seen."""


@dataclass(frozen=True)
class Given:
    """Two files that want the same card, of which the first one runs; the engine's unit; the card's maker; a model."""

    first: str
    second: str
    unit: str
    vendor: str
    model: str
    simulated: bool


def run(*command: str, codes: tuple[int, ...] = (0,)) -> str:
    """What a command says; it has to end with one of these codes."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    if done.returncode not in codes:
        raise FailedError(f"{' '.join(command)} ended with {done.returncode}: {(done.stderr or done.stdout)[-600:]}")
    return done.stdout


def inside(given: Given, *command: str) -> str:
    """The same in the machine."""
    return run("anklume-launch", "shell", given.first, _MACHINE, "--", *command)


def launcher(command: str, file: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
    """What a command of the launcher answers as JSON."""
    return json.loads(run("anklume-launch", command, file, *arguments, "--json", codes=codes))


def devices(given: Given) -> str:
    """The card is given by its address, and NVIDIA's driver by folders of the host."""
    names = run("incus", "config", "device", "list", "--project", _PROJECT, _MACHINE).split()
    if "gpu0" not in names or (given.vendor == "nvidia" and "host-driver" not in names):
        raise FailedError(f"devices: {', '.join(names)}")
    return ", ".join(names)


def nvidia_smi(given: Given) -> str:
    """The host's own nvidia-smi shows one card in the machine."""
    cards = inside(given, "nvidia-smi", "-L").splitlines() if given.vendor == "nvidia" else []
    if given.vendor == "nvidia" and len(cards) != 1:
        raise FailedError(f"{len(cards)} cards: {cards}")
    return cards[0] if cards else f"not asked: a card of {given.vendor}"


def model(given: Given) -> str:
    """Ollama keeps models in a store of its own: the file is put in as a user would put it."""
    if given.unit != "ollama":
        return "it was put into the volume"
    run("incus", "file", "push", "--quiet", "--project", _PROJECT, given.model, f"{_MACHINE}/root/model.gguf")
    inside(
        given,
        "sh",
        "-c",
        "printf 'FROM /root/model.gguf\\n' > /root/Modelfile && ollama create tried -f /root/Modelfile",
    )
    return "ollama create"


def verify(given: Given) -> str:
    """Every check is green; on a simulated card, every one but that of where it computes."""
    document = launcher("verify", given.first, codes=(0, 1))
    outcomes = {check["name"]: check for check in document["checks"]}
    wrong = {name for name, check in outcomes.items() if check["outcome"] != "ok"}
    if wrong != ({"gpu-compute"} if given.simulated else set()):
        raise FailedError("; ".join(f"{name}: {outcomes[name]['evidence']}" for name in sorted(wrong)) or "all ok")
    if "gpu-compute" not in outcomes:
        raise FailedError(f"it was not asked where it computes: {', '.join(outcomes)}")
    return str(outcomes["gpu-compute"]["evidence"])


def doctor(given: Given) -> str:
    """It finds no error, and nothing about the machine."""
    findings = launcher("doctor", given.first, codes=(0, 1))["findings"]
    ours = [entry for entry in findings if entry["subject"] != "host" or entry["severity"] == "error"]
    codes = {entry["code"] for entry in ours}
    if given.simulated:
        if not codes or not codes <= _ON_CPU:
            raise FailedError(f"on a simulated card: {', '.join(codes) or 'nothing found'}")
        return f"found, as it has to be: {', '.join(codes)}"
    if ours:
        raise FailedError("; ".join(f"{entry['code']}: {entry['what']} ({entry['cause']})" for entry in ours))
    return "no trouble found"


def journal(given: Given) -> str:
    """The engine's confinement forbids nothing that a driver wants."""
    said = run("anklume-launch", "logs", given.first, _MACHINE, "--unit", given.unit, "-n", "5000")
    lines = said.splitlines()
    if bad := [line for line in lines if "JIT session error" in line or "Permission denied" in line]:
        raise FailedError("; ".join(bad[:3]))
    if not lines:
        raise FailedError(f"{given.unit} said nothing")
    return f"{len(lines)} lines, none of a refusal"


def speed(given: Given) -> str:
    """An answer, and how quickly it came."""
    arguments = (_QUESTION, "--temperature", "0", "--max-tokens", "8" if given.simulated else "256")
    document = launcher("chat", given.first, *arguments)
    if not document["answer"].strip() or not document["tokens_per_second"]:
        raise FailedError(str(document))
    return f"{document['tokens_per_second']} tokens a second: {' '.join(document['answer'].split())[:80]}…"


def second_file(given: Given) -> str:
    """Another file does not get the card that is taken: exit code 4."""
    run("anklume-launch", "plan", given.second, codes=(4,))
    run("anklume-launch", "apply", "--yes", given.second, codes=(4,))
    return "refused with exit code 4, by plan and by apply"


def restart(given: Given) -> str:
    """After a restart without the launcher all of it holds."""
    run("incus", "restart", "--project", _PROJECT, _MACHINE, "--force")
    begun = time.monotonic()
    while not launcher("status", given.first, codes=(0, 1))["ok"]:
        if time.monotonic() > begun + _SECONDS:
            raise FailedError("it is not healthy again")
        time.sleep(0.5)
    took = time.monotonic() - begun
    nvidia_smi(given)
    return f"healthy after {took:.1f} s; {verify(given)}"


STEPS: tuple[Callable[[Given], str], ...] = (
    devices,
    nvidia_smi,
    model,
    verify,
    doctor,
    journal,
    speed,
    second_file,
    restart,
)


def main() -> int:
    """Take each step, say what came of it, and go on; 1 where one failed."""
    given = Given(**json.loads(sys.argv[1]))
    failed = 0
    for step in STEPS:
        begun = time.monotonic()
        try:
            said, how = step(given), "ok    "
        except (FailedError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            said, how, failed = str(error), "FAILED", failed + 1
        say(f"  {how}  {step.__name__:<11}  {time.monotonic() - begun:5.1f} s  {said}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
