"""Models that an engine cannot load or get, by what its journal says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.inspect.facts import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.engines.engine import Engine, Pulls
    from launcher.inspect.facts import MachineFacts

__all__ = ["model_findings"]

_SHOWN = 3  # lines of a journal in a finding


def model_findings(machine: MachineFacts, engine: Engine) -> Iterator[Finding]:
    """Why models were not loaded or are not there. One too large for a memory is another trouble, not told of here."""
    yield from _not_loaded(machine, engine)
    if engine.from_store and engine.from_store.pulls:
        yield from _not_pulled(machine, engine.from_store.pulls)


def _not_pulled(machine: MachineFacts, pulls: Pulls) -> Iterator[Finding]:
    last = {match[1]: match for line in machine.pulling if (match := pulls.failed.search(line))}
    for model, match in last.items():
        yield Finding(
            "model-not-pulled",
            "error",
            machine.name,
            f"the engine wants the model {model} and cannot get it",
            (match.string,),
            f"nobody brought it, and pulling it from inside fails: {match[2].strip()}",
            f"anklume-images models pull {model} gets it where there is a network, and "
            f"anklume-launch {machine.seen.machine.where.partition(':')[0]} brings it; or see that the machine reaches "
            "the registry",
        )


def _not_loaded(machine: MachineFacts, engine: Engine) -> Iterator[Finding]:
    words = engine.journal
    failed = [line for line in machine.journal if words.not_loaded.search(line)]
    kinds = [match[1] for line in machine.journal if (match := words.unknown.search(line))]
    damaged = [line for line in machine.journal if words.damaged.search(line)]
    reasons = [
        match[1]
        for line in failed
        if (match := words.not_loaded.search(line)) and match[1] and not words.no_vram.search(line)
    ]
    if kinds:
        yield Finding(
            "model-unknown",
            "error",
            machine.name,
            "the engine does not know this kind of model",
            tuple(failed[-_SHOWN:]),
            f"the model is of the kind {kinds[-1]!r}, which this version of the engine cannot run",
            "take another model, or an image with a newer version of the engine",
        )
    if damaged:
        yield Finding(
            "model-damaged",
            "error",
            machine.name,
            "the engine cannot read the model's file",
            tuple(line for line in machine.journal if line in damaged or line in failed)[-_SHOWN:],
            "the file is damaged or cut short, or of a newer form than this version of the engine reads",
            "get it again, and compare its sha256 with its publisher's; anklume-images models import looks at the "
            "whole file before it takes it",
        )
    if reasons and not kinds and not damaged:
        yield Finding(
            "model-not-loaded",
            "error",
            machine.name,
            "the engine cannot load the model",
            tuple(failed[-_SHOWN:]),
            f"the engine says: {reasons[-1].strip()}",
            "take another file of the model, or an image with a newer version of the engine",
        )
