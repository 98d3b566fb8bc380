"""The models that `try` is given: files of the host, or names of those that are locked."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images.models.familiar import why_unfamiliar
from anklume_images.models.gguf import read_gguf
from anklume_images.ship.volume import VolumeFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anklume_images.console import Console
    from anklume_images.models.library import Models

__all__ = ["model_file", "model_name"]


def model_name(model: Path | str) -> str:
    """What the file is called in a machine's volume."""
    return model.name if isinstance(model, Path) else f"{model}.gguf"


@contextlib.contextmanager
def model_file(
    model: Path | str, library: Callable[[], Models], console: Console, *, offline: bool
) -> Iterator[VolumeFile]:
    """The file of a model, which stays where it is while this lasts; one that the store lacks is fetched.

    AnklumeError for a file that is no GGUF file, or a part of one; a warning for one that no engine may know.
    """
    if isinstance(model, Path):
        if why := why_unfamiliar(read_gguf(model)):
            console.warn(f"{model.name}: {why}")
        yield VolumeFile(model_name(model), model)
        return
    with library().pulled(model, offline=offline) as file:
        yield VolumeFile(model_name(model), file)
