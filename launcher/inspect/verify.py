"""`verify`: prove that machines do their work, by asking them from inside; each check says what it saw.

Which checks there are for a machine follows from its roles, its image and its settings (`checks_of`).
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from anklume_images.console import table
from anklume_images.errors import IncusError
from anklume_images.sanitize import sanitized
from launcher.engines import services
from launcher.engines.engine import Engine
from launcher.engines.probe import Probe, failed
from launcher.gpu.host import read_cards, sysfs_figures
from launcher.inspect.card_memory import card_memory
from launcher.inspect.cards import check_cards
from launcher.inspect.collect import loaded_models
from launcher.inspect.guest import Guest
from launcher.inspect.placement import placement
from launcher.inspect.services import offered, settings_of, wants_gpu
from launcher.inspect.status import AT_ONCE
from launcher.observe.instances import RUNNING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from anklume_images.incus.client import Incus
    from launcher.engines.probe import Outcome
    from launcher.engines.service import Service
    from launcher.engines.settings import Settings
    from launcher.gpu.cards import Card
    from launcher.gpu.nvidia_smi import Figures
    from launcher.inspect.images import Facts, ImageLookup
    from launcher.observe.instances import InstanceState

__all__ = ["Check", "as_json", "as_text", "checks_of", "verified"]

_GPU = "gpu"
_COMPUTES = "gpu-compute"
_OFF = "the service is switched off by the machine's settings"


@dataclass(frozen=True)
class Check:
    """One check of one machine; `evidence` is what was seen, or why nothing was looked at."""

    name: str
    machine: str
    outcome: Literal["ok", "failed", "skipped"]
    evidence: str
    seconds: float = 0.0


def checks_of(seen: InstanceState, facts: Facts, settings: Settings) -> tuple[tuple[str, str | None], ...]:
    """The checks of a machine, each with the reason for leaving it out, or None."""
    checks: list[tuple[str, str | None]] = [(_GPU, None)] if wants_gpu(seen) else []
    for service in _services(seen, facts):
        off = None if service.enabled(settings) else _OFF
        checks += [(name, off) for name in service.checks]
        if isinstance(service, Engine) and wants_gpu(seen):
            checks.append((_COMPUTES, off))
    return tuple(checks)


def _services(seen: InstanceState, facts: Facts) -> list[Service]:
    roles = offered(seen, facts)
    return sorted((service for service in services() if service.role in roles), key=lambda service: service.role)


def verified(
    incus: Incus, instances: Iterable[InstanceState], book: ImageLookup, *, prompt: str, seconds: int
) -> list[Check]:
    """All checks of these machines: machines in parallel, the checks of one after the other.

    `seconds` is how long an answer of a model may take.
    """
    instances = tuple(instances)
    cards = read_cards(incus) if any(wants_gpu(seen) for seen in instances) else ()
    figures = sysfs_figures(incus, cards)
    with ThreadPoolExecutor(AT_ONCE, "verify") as pool:
        results = pool.map(lambda seen: _machine(incus, seen, book, cards, figures, prompt, seconds), instances)
        return [check for checks in results for check in checks]


def _machine(
    incus: Incus,
    seen: InstanceState,
    book: ImageLookup,
    cards: tuple[Card, ...],
    figures: Mapping[str, Figures],
    prompt: str,
    seconds: int,
) -> list[Check]:
    facts = book.facts(seen)
    settings = settings_of(seen, facts)
    name = seen.machine.name
    if seen.state != RUNNING:
        names = [check for check, _ in checks_of(seen, facts, settings)] or ["running"]
        return [Check(check, name, "failed", f"the machine is {seen.state}") for check in names]
    inside = Guest(incus, seen)
    services = _services(seen, facts)
    checks = []
    if wants_gpu(seen):
        unit = next((service.unit for service in services if isinstance(service, Engine)), "")
        look = partial(check_cards, inside, seen, cards, unit=unit, gpus=facts.gpus, figures=figures)
        checks.append(_timed(_GPU, name, look)[0])
    for service in services:
        url, key = service.own_url(settings), settings[service.key_variable]
        checks += _of_service(service, name, Probe(inside, settings, url, key, prompt, seconds))
        if isinstance(service, Engine) and wants_gpu(seen):
            # After it was asked: then a model is loaded.
            checks.append(_computes(incus, seen, service, inside, settings, cards))
    return checks


def _computes(
    incus: Incus, seen: InstanceState, engine: Engine, inside: Guest, settings: Settings, cards: tuple[Card, ...]
) -> Check:
    """Whether the engine computes on the card that the machine has."""
    name = seen.machine.name
    if not engine.enabled(settings):
        return Check(_COMPUTES, name, "skipped", _OFF)

    def look() -> Outcome:
        words = engine.journal
        lines = inside.journal(engine.unit, words.model, words.layers, words.buffers, words.devices)
        url = engine.own_url(settings)
        loaded = [
            replace(model, file=engine.file_of(inside, url, model.name))
            for model in loaded_models(inside, engine, settings)
        ]
        return placement(engine, lines, loaded, card_memory(incus, inside, seen, engine.unit, cards))

    return _timed(_COMPUTES, name, look)[0]


def _of_service(service: Service, name: str, probe: Probe) -> Iterator[Check]:
    """The checks of a service in the machine `name`, each told what an earlier one found."""
    for check, run in service.checks.items():
        if not service.enabled(probe.settings):
            yield Check(check, name, "skipped", _OFF)
            continue
        result, models = _timed(check, name, partial(run, probe))
        probe = replace(probe, models=models or probe.models)
        yield result


def _timed(check: str, name: str, run: Callable[[], Outcome]) -> tuple[Check, tuple[str, ...]]:
    """The check's result, and the models that it found."""
    begin = time.monotonic()
    try:
        outcome = run()
    except IncusError as error:
        outcome = failed(error.message)
    return Check(check, name, outcome.state, outcome.evidence, time.monotonic() - begin), outcome.models


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
        (check.machine, check.name, check.outcome, f"{check.seconds:.1f} s", sanitized(check.evidence))
        for check in checks
    ]
    counts = {outcome: sum(check.outcome == outcome for check in checks) for outcome in ("ok", "failed", "skipped")}
    total = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return f"{table(rows, ('MACHINE', 'CHECK', 'OUTCOME', 'TOOK', 'EVIDENCE'))}\n{total}"
