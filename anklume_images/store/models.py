"""Models that were imported or pulled: `models/<name>.json` in the store, which keeps what it names from gc.

A model that has a spec needs none here, as its lock says the same; other stores know it by one, which is made for them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from anklume_images.canonical import canonical, parsed, what_is_wrong
from anklume_images.errors import StoreError
from anklume_images.files import write_atomic
from anklume_images.store.images import StoredFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.store.store import Store

__all__ = [
    "MODEL_NAME",
    "ModelFile",
    "ModelRecord",
    "ModelRecords",
    "model_at",
    "model_path",
    "parse_record",
    "spellings",
]

SCHEMA = 1
_RECORD = re.compile(r"models/([A-Za-z0-9][A-Za-z0-9._%-]*)\.json", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
MODEL_NAME = re.compile(rf"(?=.{{1,150}}\Z)(?:{_WORD}(?::[0-9]{{1,5}})?/)?(?:{_WORD}/){{0,2}}{_WORD}(?::{_WORD})?")
"""`name`, `name:tag`, and with folders and a host before it, as registries have them."""


@dataclass(frozen=True)
class ModelRecord:
    """One model: `sha256` and `size` (in bytes) are those of its GGUF file.

    `manifest` and `layers` are what a registry had of it beside that file, for Ollama; a model of another origin has
    none, and they are made of its file when they are wanted.
    """

    name: str
    sha256: str
    size: int
    description: str = ""
    license: str = ""
    source: str = ""
    manifest: StoredFile | None = None
    layers: tuple[StoredFile, ...] = ()

    @property
    def fingerprint(self) -> str:
        """What it is revoked by, as an image is by its own: the sha256 of its GGUF file."""
        return self.sha256

    def blobs(self) -> dict[str, int]:
        """All that it is made of: sizes by sha256."""
        extra = (*((self.manifest,) if self.manifest else ()), *self.layers)
        return {self.sha256: self.size, **{file.sha256: file.size for file in extra}}


@dataclass(frozen=True)
class ModelFile:
    """A file of a model in a machine's volume, at `path` below it: a blob of the store, or `content` itself.

    `size` is in bytes. A file of the host's, `source`, has no `sha256` that it would be held against.
    """

    path: str
    sha256: str
    size: int
    content: bytes | None = None
    source: Path | None = None


def spellings(name: str) -> tuple[str, ...]:
    """The names that mean the same model: `name:latest` and `name` do."""
    plain = name.removesuffix(":latest")
    return plain, f"{plain}:latest"


def model_path(name: str) -> str:
    """Where the record of a model is below the store's folder."""
    return f"models/{quote(name, safe='')}.json"


def model_at(place: str) -> str | None:
    """The model whose record is at a path below the store's folder; None where no record is."""
    match = _RECORD.fullmatch(place)
    return unquote(match[1]) if match else None


def parse_record(data: bytes, where: str) -> ModelRecord:
    """The model that a record describes; StoreError when it is none."""
    try:
        document = parsed(data)
        if document["schema"] != SCHEMA:
            raise StoreError(
                f"a model's record of schema {document['schema']}, this program knows {SCHEMA}",
                where=where,
                hint="update anklume-images, or import the model again",
            )
        model = document["model"]
        if document.keys() != {"schema", "model"} and document["digest"] != _digest(model):
            raise ValueError("it was changed")  # noqa: TRY301  told as the others are
        manifest = model["manifest"] and StoredFile(**model["manifest"])
        layers = tuple(StoredFile(**layer) for layer in model["layers"])
        record = ModelRecord(**{**model, "manifest": manifest, "layers": layers})
        if not _is_sound(record):
            raise ValueError("invalid name, sha256 or size")  # noqa: TRY301  as above
    except (ValueError, KeyError, TypeError) as error:
        hint = "remove that file, and import or pull the model again"
        raise StoreError(f"not a model's record: {what_is_wrong(error)}", where=where, hint=hint) from None
    return record


def _is_sound(record: ModelRecord) -> bool:
    """Whether its files are blobs, and its words are words: it may come from another store."""
    texts = (record.description, record.license, record.source)
    files = record.blobs().items()
    return (
        MODEL_NAME.fullmatch(record.name) is not None
        and all(isinstance(text, str) for text in texts)
        and all(_SHA256.fullmatch(sha256) and type(size) is int and size >= 0 for sha256, size in files)
    )


class ModelRecords:
    """The records of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.home / "models"

    def path(self, name: str) -> Path:
        """Where the record of that name is or would be."""
        return self._store.home / model_path(name)

    def get(self, name: str) -> ModelRecord | None:
        """The record of that name, or None; StoreError for a file that is none."""
        return self._read(self.path(name)) if MODEL_NAME.fullmatch(name) else None

    def __iter__(self) -> Iterator[ModelRecord]:
        for path in sorted(self._folder.glob("*.json")):
            if record := self._read(path):
                yield record

    def readable(self) -> Iterator[ModelRecord]:
        """The models whose records can be read."""
        for path in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(StoreError):
                if record := self._read(path):
                    yield record

    def add(self, record: ModelRecord) -> None:
        """Let a model appear, or be another from now on; the caller holds a lease on its blobs."""
        model = asdict(record)
        document = {"schema": SCHEMA, "model": model, "digest": _digest(model)}
        with self._store.guarded():
            write_atomic(self.path(record.name), (json.dumps(document, sort_keys=True, indent=1) + "\n").encode())

    def remove(self, name: str) -> None:
        """Remove a record; its blobs are left to `rm` and gc."""
        self.path(name).unlink(missing_ok=True)

    def problems(self) -> Iterator[tuple[Path, str]]:
        """The records that are not as they were written, and why."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                record = self._read(path)
            except StoreError as error:
                yield path, error.message
            else:
                if record and self.path(record.name) != path:
                    yield path, f"is the record of {record.name}"

    def needed(self) -> set[str]:
        """The blobs that the records name."""
        return {sha256 for record in self for sha256 in record.blobs()}

    @staticmethod
    def _read(path: Path) -> ModelRecord | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        return parse_record(data, str(path))


def _digest(model: object) -> str:
    """What a record says of itself, so that a changed one is found; records of earlier programs have none."""
    return hashlib.sha256(canonical(model)).hexdigest()
