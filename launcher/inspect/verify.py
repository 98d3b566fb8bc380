"""`verify`: prove that machines do their work, by asking them from inside; each check says what it saw.

Which checks there are for a machine follows from its roles, its image and its settings (`checks_of`).
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from anklume_images.console import table
from anklume_images.errors import IncusError
from anklume_images.plaintext import plain
from launcher.gpu.host import read_cards
from launcher.inspect import probes
from launcher.inspect.guest import Inside
from launcher.inspect.services import LLAMA_SERVER, OLLAMA, OPEN_WEBUI, Settings, offered, wants_gpu
from launcher.inspect.status import AT_ONCE
from launcher.observe.instances import RUNNING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anklume_images.incus.client import Incus
    from launcher.gpu.cards import Card
    from launcher.inspect.images import Facts, ImageBook
    from launcher.inspect.probes import Outcome
    from launcher.observe.instances import Seen

__all__ = ["Check", "as_json", "as_text", "checks_of", "verified"]

_PROBES = {
    "gpu": probes.gpu,
    "ollama-api": probes.ollama_api,
    "ollama-inference": probes.ollama_inference,
    "llama-health": probes.llama_health,
    "llama-models": probes.llama_models,
    "llama-inference": probes.llama_inference,
    "webui-page": probes.webui_page,
    "webui-engine": probes.webui_engine,
}
_OF_SERVICE = {
    OLLAMA: ("ollama-api", "ollama-inference"),
    LLAMA_SERVER: ("llama-health", "llama-models", "llama-inference"),
    OPEN_WEBUI: ("webui-page", "webui-engine"),
}


@dataclass(frozen=True)
class Check:
    """One check of one machine; `evidence` is what was seen, or why nothing was looked at."""

    name: str
    machine: str
    outcome: Literal["ok", "failed", "skipped"]
    evidence: str
    seconds: float = 0.0


def checks_of(seen: Seen, facts: Facts, settings: Settings) -> tuple[tuple[str, str | None], ...]:
    """The checks of a machine, each with the reason for leaving it out, or None."""
    found: list[tuple[str, str | None]] = [("gpu", None)] if wants_gpu(seen) else []
    for service in sorted(offered(seen, facts)):
        off = None if settings.enabled(service) else "the service is switched off by the machine's settings"
        found += [(name, off) for name in _OF_SERVICE[service]]
    return tuple(found)


def verified(incus: Incus, found: Iterable[Seen], book: ImageBook, *, prompt: str, seconds: int) -> list[Check]:
    """All checks of these machines: machines in parallel, the checks of one after the other.

    `seconds` is how long an answer of a model may take.
    """
    found = tuple(found)
    cards = read_cards(incus) if any(wants_gpu(seen) for seen in found) else ()
    with ThreadPoolExecutor(AT_ONCE, "verify") as pool:
        results = pool.map(lambda seen: _machine(incus, seen, book, cards, prompt, seconds), found)
        return [check for checks in results for check in checks]


def _machine(
    incus: Incus, seen: Seen, book: ImageBook, cards: tuple[Card, ...], prompt: str, seconds: int
) -> list[Check]:
    facts = book.facts(seen)
    settings = Settings.of(seen, facts)
    name = seen.machine.name
    if seen.state != RUNNING:
        names = [check for check, _ in checks_of(seen, facts, settings)] or ["running"]
        return [Check(check, name, "failed", f"the machine is {seen.state}") for check in names]
    probe = probes.Probe(Inside(incus, seen), settings, cards, prompt, seconds)
    checks = []
    for check, reason in checks_of(seen, facts, settings):
        if reason:
            checks.append(Check(check, name, "skipped", reason))
            continue
        begin = time.monotonic()
        outcome = _run(check, probe)
        checks.append(Check(check, name, outcome.state, outcome.evidence, time.monotonic() - begin))
        probe = replace(probe, models=outcome.models or probe.models)
    return checks


def _run(check: str, probe: probes.Probe) -> Outcome:
    try:
        return _PROBES[check](probe)
    except IncusError as error:
        return probes.failed(error.message)


def as_json(checks: Iterable[Check]) -> dict[str, Any]:
    """The document of `verify --json`."""
    checks = tuple(checks)
    return {
        "ok": not any(check.outcome == "failed" for check in checks),
        "checks": [asdict(check) | {"seconds": round(check.seconds, 3)} for check in checks],
    }


def as_text(checks: Iterable[Check]) -> str:
    """For people."""
    checks = tuple(checks)
    if not checks:
        return "nothing to verify: no machine has a card or a service that is known here"
    rows = [
        (check.machine, check.name, check.outcome, f"{check.seconds:.1f} s", plain(check.evidence)) for check in checks
    ]
    counts = {outcome: sum(check.outcome == outcome for check in checks) for outcome in ("ok", "failed", "skipped")}
    total = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return f"{table(rows, ('MACHINE', 'CHECK', 'OUTCOME', 'TOOK', 'EVIDENCE'))}\n{total}"
