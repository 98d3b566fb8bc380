"""A GGUF file of the host becomes a model of the store: read whole, kept once, and known by a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from anklume_images.errors import AnklumeError
from anklume_images.files import copy_hashed
from anklume_images.inputs.partial import disk_error
from anklume_images.models.gguf import read_gguf
from anklume_images.store.models import MODEL_NAME, ModelRecord, ModelRecords

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.models.gguf import Gguf
    from anklume_images.store.store import Store

__all__ = ["CopyProgress", "ModelNameError", "check_name", "check_servable", "describe", "import_file"]


class CopyProgress(Protocol):
    """Who is told how a copy goes."""

    def start(self, total_bytes: int, count: int, what: str) -> None:
        """So many files are to come; `what` is done to them."""

    def advance(self, n: int) -> None:
        """So many more bytes."""

    def finish(self) -> None:
        """It is over, well or not."""


class ModelNameError(AnklumeError):
    """A name that no model can have, or that another has."""

    exit_code = 2


def check_name(name: str) -> None:
    """ModelNameError for a name that no model can have."""
    if not MODEL_NAME.fullmatch(name) or name.endswith(".gguf"):
        raise ModelNameError(
            f"no model can be called '{name}'",
            hint="letters, digits, '.', '_' and '-', with a tag if you like (smollm2:135m), and not ending in .gguf",
        )


def check_servable(gguf: Gguf, where: str) -> None:
    """AnklumeError for a file of that form which no engine serves by itself."""
    kind, architecture = gguf.text("general.type"), gguf.text("general.architecture")
    parts = gguf.number("split.count") or 1
    if parts > 1:
        raise AnklumeError(
            f"this is one of the {parts} parts of a model",
            where=where,
            hint="join them first: llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf",
        )
    if kind not in ("", "model") or architecture == "clip":
        raise AnklumeError(
            f"this is a {kind or 'projector'} that goes with a model, and no model itself",
            where=where,
            hint="import the model that it belongs to",
        )


def describe(gguf: Gguf) -> str:
    """A line about a model, of what its file says."""
    words = [
        gguf.text("general.name"),
        gguf.text("general.architecture"),
        f"{gguf.parameters:,} parameters" if gguf.parameters else "",
    ]
    line = ", ".join(word for word in words if word)
    return "".join(character if character.isprintable() else "?" for character in line)[:200]


def import_file(
    store: Store, file: Path, name: str, *, licence: str = "", source: str = "", progress: CopyProgress
) -> ModelRecord:
    """Have a file of the host in the store, under a name that no other model has.

    It is copied, or shares its blocks with the copy where the file system can, and judged by the copy: what happens to
    the file meanwhile does not matter.
    """
    check_name(name)
    records = ModelRecords(store)
    with store.scratch("model") as scratch, store.lease() as lease:
        copy = scratch / "model.gguf"
        try:
            stream = file.open("rb", buffering=0)
            size = file.stat().st_size
        except OSError as error:
            raise AnklumeError(f"the file cannot be read: {error.strerror}", where=str(file)) from None
        with stream:
            check_servable(read_gguf(file), str(file))  # before gigabytes are copied
            progress.start(size, 1, "importing")
            try:
                with copy.open("w+b") as target:
                    sha256 = copy_hashed(stream, target, progress.advance)
            except OSError as error:
                raise disk_error(error, scratch, size) from error
            finally:
                progress.finish()
        gguf = read_gguf(copy)
        record = ModelRecord(
            name=name,
            sha256=sha256,
            size=copy.stat().st_size,
            description=describe(gguf),
            license=licence or gguf.text("general.license"),
            source=source or gguf.text("general.source.url") or gguf.text("general.url"),
        )
        existing = records.get(name)
        if existing and existing.sha256 != sha256:
            raise ModelNameError(
                f"the store has another model called '{name}'",
                hint=f"choose another --name, or remove that one: anklume-images models rm {name}",
            )
        lease.add([sha256])
        if not store.blobs.has(sha256, record.size):
            store.blobs.adopt(copy, sha256)
        records.add(record)
        return record
