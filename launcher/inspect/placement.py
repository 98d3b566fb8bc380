"""Where an engine computes, by its own words: the layers of its model that are on cards, and the memory they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.console import human_size
from launcher.engines.probe import Outcome, failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.engines.engine import Engine, Loaded

__all__ = ["placement"]

_MEBIBYTE = 1 << 20


def placement(engine: Engine, lines: Sequence[str], loaded: Sequence[Loaded] = ()) -> Outcome:
    """Whether an engine computes on a card: by the last model of its journal, else by what it says is loaded.

    Without a model nothing is proven, and nothing is wrong where the engine found a card.
    """
    counts = [(int(match[1]), int(match[2])) for line in lines if (match := engine.journal.layers.search(line))]
    if counts:
        on_cards, layers = counts[-1]
        text = f"{on_cards} of {layers} layers are on a card"
        return (
            Outcome("ok", f"{text}{_buffers(engine, lines)}") if on_cards else failed(f"{text}: it computes on the CPU")
        )
    if loaded:
        texts = [f"{model.name}: {human_size(model.in_vram)} of {human_size(model.size)}" for model in loaded]
        text = f"in a card's memory ({engine.loaded_path}): {'; '.join(texts)}"
        return Outcome("ok" if all(model.in_vram for model in loaded) else "failed", text)
    devices = {match[1].lower() for line in lines if (match := engine.journal.devices.search(line))}
    if devices - {"cpu"}:
        names = ", ".join(sorted(devices - {"cpu"}))
        return Outcome("skipped", f"no model is loaded; {engine.title} found a card by {names}")
    return failed(f"{engine.title} says nowhere that a model is on a card: anklume-launch doctor looks for causes")


def _buffers(engine: Engine, lines: Sequence[str]) -> str:
    """The cards that have a part of the model; each model's last words count."""
    sizes = {match[1]: float(match[2]) for line in lines if (match := engine.journal.buffers.search(line))}
    parts = [f"{name} has {human_size(int(size * _MEBIBYTE))}" for name, size in sizes.items()]
    return f": {', '.join(parts)} of the model" if parts else ""
