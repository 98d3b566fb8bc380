"""One of several launchers that want the same card at the same moment, as a process of its own.

Arguments: socket, name, fingerprint, and how many seconds a claim counts before its instance is there. For each line
`<time>` on standard input (of the monotonic clock) it begins then: check, claim, create, start, confirm. It answers
with a line of JSON: `checked` says whether the policy's check alone let it pass, `kept` whether it has a running
instance with the card in the end, `error` why not.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

from anklume_images.errors import AnklumeError
from anklume_images.incus.client import Incus
from launcher.gpu import claims
from launcher.gpu.claims import Claimant, claim, confirm
from launcher.gpu.config import gpu_config
from launcher.gpu.host import read_cards
from launcher.gpu.policy import decide
from tests.support.instances import create_instance, start_instance
from tests.unit.gpu_host import infra, machine

__all__ = ["main"]


def _race(incus: Incus, name: str, fingerprint: str) -> dict[str, Any]:
    entry = machine(name, domain="default", pci="0000:01:00.0")
    file = infra(entry)
    answer: dict[str, Any] = {"name": name, "checked": False, "kept": False, "error": "", "exit_code": 0}
    try:
        cards = read_cards(incus)
        live = incus.get("instances", recursion=1, **{"all-projects": "true"})
        decision = decide(file, cards, live, lambda machine: ("default", machine.name))
        decision.check()
        answer["checked"] = True
        time.sleep(random.choice([0, 0, 0.005, 0.03]))  # noqa: S311 - so that they do not go in step
        grants, claimant = decision.grants[name], Claimant("default", name, f"file-{name}")
        for grant in grants:
            claim(incus, grant, claimant, cards)
        devices, config = gpu_config(entry, file.domains["default"], grants)
        create_instance(incus, name, fingerprint=fingerprint, devices=devices, config=config)
        start_instance(incus, name)
        confirm(incus, grants, claimant, cards)
        answer["kept"] = True
    except AnklumeError as error:
        answer |= {"error": error.message, "exit_code": error.exit_code}
    return answer


def main() -> None:
    """Race whenever told, until the input ends."""
    socket, name, fingerprint, grace = sys.argv[1:]
    claims._GRACE_SECONDS = float(grace)
    with Incus.connect(socket=socket) as incus:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for line in sys.stdin:
            time.sleep(max(0.0, float(line) - time.monotonic()))
            sys.stdout.write(json.dumps(_race(incus, name, fingerprint)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
