"""What a person writes about a language model: `_models/<name>/model.yml` in a folder of specs, beside the images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anklume_images.canonical import canonical
from anklume_images.errors import InvalidFileError
from anklume_images.specs.keys import FolderPath, Line, Url, Word  # noqa: TC001 - pydantic reads them
from anklume_images.specs.problems import problems_of
from anklume_images.specs.yamlfile import load

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FILE", "FOLDER", "ModelDocument", "ModelSpec", "load_model_spec"]

FOLDER, FILE = "_models", "model.yml"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WheelInput(_Part):
    """One version of a Python package, and the file in its wheel that is the model."""

    requires: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.!+_-]*$")]
    member: Annotated[FolderPath, Field(pattern=r"\.gguf$")]


class ModelDocument(_Part):
    """The keys of `model.yml`; `source` is where the model itself comes from, for people."""

    name: Word
    description: Line
    license: Line
    source: Url
    wheel: WheelInput


@dataclass(frozen=True)
class ModelSpec:
    """One model; `document` is what its file says."""

    folder: Path
    document: ModelDocument

    @property
    def name(self) -> str:
        """Its name, which is that of its folder."""
        return self.document.name

    @property
    def spec_file(self) -> Path:
        """The file that a person wrote."""
        return self.folder / FILE

    @property
    def lock_file(self) -> Path:
        """Where its lock is kept."""
        return self.folder / "lock.json"

    def request(self) -> str:
        """The hash of what its lock answers to."""
        asked = {"schema": 1, "wheel": self.document.wheel.model_dump(mode="json")}
        return hashlib.sha256(canonical(asked)).hexdigest()


def load_model_spec(folder: Path) -> ModelSpec:
    """Read `folder/model.yml`; InvalidFileError with every problem."""
    document = load(folder / FILE)
    if not isinstance(document.data, dict):
        raise InvalidFileError([document.problem((), "wrong-type", "must be a mapping of keys to values")])
    problems = []
    try:
        spec = ModelSpec(folder, ModelDocument.model_validate(document.data))
    except ValidationError as error:
        problems = list(problems_of(error.errors(include_url=False), document, ModelDocument))
    name = document.data.get("name")
    if isinstance(name, str) and name != folder.name:
        message = f"the name '{name}' is not that of its folder, '{folder.name}'"
        problems.append(document.problem(("name",), "name-not-folder", message))
    if problems:
        raise InvalidFileError(problems)
    return spec
