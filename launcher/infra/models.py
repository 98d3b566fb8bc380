"""Which models of the store a machine's variables name, and the files that its volume is to hold of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError
from launcher.engines import engines_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anklume_images.models.library import Model, Models
    from anklume_images.store.images import Image
    from anklume_images.store.models import ModelFile
    from launcher.engines.engine import Engine
    from launcher.infra.model import Infra, Machine

__all__ = ["MachineModels", "WantedModel", "choose_models", "models_of", "models_path", "named_models"]


@dataclass(frozen=True)
class WantedModel:
    """A model by the name that was asked for; `files` are what a volume holds of it, `size` is its own in bytes."""

    name: str
    size: int
    files: tuple[ModelFile, ...]


@dataclass(frozen=True)
class MachineModels:
    """What is to be in the volume at `path`; `values` are the variables that then say something else."""

    path: str
    models: tuple[WantedModel, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def beside(self, other: MachineModels | None) -> MachineModels:
        """These together with those that the machine's variables name."""
        return replace(other, models=(*other.models, *self.models)) if other else self


def models_path(engine: Engine, image: Image) -> str:
    """Where an engine has its volume of models; empty where the image keeps none."""
    declared = [entry["path"] for entry in image.spec.get("volumes", ()) if entry["kind"] == "models"]
    return engine.model_store or next(iter(declared), "")


def named_models(machine: Machine, image: Image) -> Iterator[tuple[Engine, str, str]]:
    """The engine, the variable and the name of each model of the store that a machine's variables name."""
    for engine in engines_of({*image.spec.get("provides", ()), *machine.roles}):
        way = engine.from_store
        for variable in way.variables if way else ():
            assert way is not None  # noqa: S101 - the loop is empty then
            text = machine.variables.get(variable, "")
            # The name of a file of the volume may have spaces in it.
            if not way.own_files or not (text.startswith("/") or text.endswith(way.own_files)):
                yield from ((engine, variable, name) for name in text.split())


def models_of(machine: Machine, image: Image, library: Models) -> MachineModels | None:
    """What the store has for a machine; None where it names no model. AnklumeError for one that it cannot have."""
    named = list(named_models(machine, image))
    if not named:
        return None
    engine = named[0][0]
    names = {name: variable for owner, variable, name in named if owner is engine}
    return _Reader(machine, engine, library).read(names, models_path(engine, image))


def choose_models(infra: Infra, images: Mapping[str, Image], library: Models | None) -> dict[str, MachineModels]:
    """What the store has of the models that each machine names; AnklumeError names all that are not there."""
    chosen, errors = {}, []
    for machine in infra.machines():
        image = images.get(machine.name)
        if library is None or image is None:
            continue
        try:
            if found := models_of(machine, image, library):
                chosen[machine.name] = found
        except AnklumeError as error:
            errors.append(error)
    if len(errors) > 1:
        hints = dict.fromkeys(error.hint for error in errors if error.hint)
        raise AnklumeError("\n".join(str(error) for error in errors), hint="; ".join(hints))
    if errors:
        raise errors[0]
    return chosen


class _Reader:
    def __init__(self, machine: Machine, engine: Engine, library: Models) -> None:
        assert engine.from_store is not None  # noqa: S101 - the caller has looked
        self.machine = machine
        self.way = engine.from_store
        self.library = library
        self.notices: list[str] = []

    def read(self, names: Mapping[str, str], path: str) -> MachineModels:
        """What is to be at `path`; `names` are the variables by the models that they name."""
        wanted = []
        values = {}
        for name, variable in names.items():
            if model := self._model(variable, name):
                wanted.append(WantedModel(name, model.size, self.way.files(model, name, self.library.store.blobs)))
                value = self.way.value(model.name)
                if value != model.name:
                    values[variable] = value
        return MachineModels(path, tuple(wanted), values, tuple(self.notices))

    def _model(self, variable: str, name: str) -> Model | None:
        model = self.library.find(name)
        if model and model.present:
            return model
        if self.way.pulls:
            if model:
                self.notices.append(
                    f"{self.machine.name}: the store has not the file of {name}, so the machine pulls it by itself; "
                    f"anklume-images models pull {name} has it brought"
                )
            return None
        message = f"{variable} of {self.machine.name}: the store has no model called '{name}'"
        hint = f"anklume-images models pull {name}" if model else self._hint(name)
        raise AnklumeError(message, where=self.machine.where, hint=hint)

    def _hint(self, name: str) -> str:
        names = ", ".join(self.library.names()) or "none"
        endings = " or ".join(self.way.own_files)
        return (
            f"there are: {names}; anklume-images models import FILE --name {name} adds one; "
            f"a file of the volume is named with its {endings}"
        )
