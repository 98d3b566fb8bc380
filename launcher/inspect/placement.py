"""Where an engine computes, by its own words: the layers of each model that are on cards, and the memory they take."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from anklume_images.console import human_size
from launcher.engines.probe import Outcome, failed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from launcher.engines.engine import Engine, Journal, Loaded

__all__ = ["Loading", "loadings", "placement"]

_MEBIBYTE = 1 << 20


@dataclass
class Loading:
    """How a model was loaded: `on_cards` of its `layers`, and the MiB of it by the name of the card."""

    file: str
    on_cards: int
    layers: int
    buffers: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {human_size(int(size * _MEBIBYTE))}" for name, size in self.buffers.items())
        return f"{self.on_cards} of {self.layers} layers on a card{f' ({sizes})' if sizes else ''}"


@dataclass(frozen=True)
class _Model:
    """A model's share on cards, in whatever unit, and what to say of it."""

    share: int
    whole: int
    text: str


def loadings(journal: Journal, lines: Iterable[str]) -> tuple[Loading, ...]:
    """The last loading of each file, in the order of the journal; where no line names a file, the last of all."""
    found: dict[str, Loading] = {}
    file = ""
    for line in lines:
        if match := journal.model.search(line):
            file = match[1]
            found.pop(file, None)  # what was before is over, however this one ends
        elif match := journal.layers.search(line):
            found.pop(file, None)
            found[file] = Loading(file, int(match[1]), int(match[2]))
        elif file in found and (match := journal.buffers.search(line)):
            buffers = found[file].buffers
            buffers[match[1]] = buffers.get(match[1], 0.0) + float(match[2])
    return tuple(found.values())


def placement(
    engine: Engine, lines: Iterable[str], loaded: Sequence[Loaded] = (), evidence: Sequence[str] = ()
) -> Outcome:
    """Whether an engine computes on a card: each model that it holds, by its journal and by what it says is loaded.

    A model without a layer on a card fails; one with some there passes, and is told to be there in part. Without a
    model nothing is proven, and nothing is wrong where the engine found a card. `evidence` is what the cards' drivers
    say; it decides nothing.
    """
    lines = tuple(lines)
    models = _models(engine, loadings(engine.journal, lines), loaded)
    text = "; ".join((*(model.text for model in models), *evidence))
    if any(not model.share for model in models):
        some = any(model.share for model in models)
        return failed(f"{'not every model is on a card' if some else 'computes on the CPU'}: {text}")
    if models:
        partly = any(model.share < model.whole for model in models)
        return Outcome("ok", f"partly, the rest computes on the CPU: {text}" if partly else text)
    devices = {match[1].lower() for line in lines if (match := engine.journal.devices.search(line))}
    if devices - {"cpu"}:
        names = ", ".join(sorted(devices - {"cpu"}))
        return Outcome("skipped", f"no model is loaded; {engine.title} found a card by {names}")
    return failed(f"{engine.title} says nowhere that a model is on a card: anklume-launch doctor looks for causes")


def _models(engine: Engine, told: Sequence[Loading], loaded: Sequence[Loaded]) -> list[_Model]:
    """The models that are loaded; those of the journal where the engine does not tell which it still holds."""
    if loaded:
        by_file = {loading.file: loading for loading in told if loading.file}
        return [_of_loaded(model, by_file.get(model.file), engine.loaded_path) for model in loaded]
    if engine.loaded_path:  # it holds none any more
        return [_Model(last.on_cards, last.layers, f"{last}, of the model that was loaded last") for last in told[-1:]]
    return [_Model(one.on_cards, one.layers, f"{PurePosixPath(one.file).name or 'the model'}: {one}") for one in told]


def _of_loaded(model: Loaded, loading: Loading | None, path: str) -> _Model:
    memory = f"{human_size(model.in_vram)} of {human_size(model.size)} in its memory ({path})"
    if loading is None or not model.in_vram:
        return _Model(model.in_vram, model.size, f"{model.name}: {memory}")
    return _Model(loading.on_cards, loading.layers, f"{model.name}: {loading}, {memory}")
