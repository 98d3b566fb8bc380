"""The lock of a model: the wheel that it comes in and the file in it, each with sha256 and size.

On disk (`lock.json` beside `model.yml`) it is canonical JSON as an image's lock is, with a digest by which an edit by
hand is seen. It is the same for every architecture, and names no host.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from anklume_images.canonical import canonical, what_is_wrong
from anklume_images.errors import LockError
from anklume_images.files import write_atomic
from anklume_images.inputs.lockfile import Wheel

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ModelLock", "load_model_lock", "save_model_lock"]

SCHEMA = 1


@dataclass(frozen=True)
class ModelLock:
    """What a model is: `sha256` and `size` (in bytes) are those of its file, `request` is what was asked for."""

    name: str
    request: str
    wheel: Wheel
    sha256: str
    size: int

    def digest(self) -> str:
        """The sha256 of the lock's canonical form."""
        return hashlib.sha256(canonical(asdict(self))).hexdigest()


def load_model_lock(path: Path, name: str) -> ModelLock:
    """The lock of the model `name`; LockError when there is none, or when it is not one of ours, unedited."""
    hint = f"lock it: anklume-images models lock {name}"
    try:
        document = json.loads(path.read_bytes())
        if document["schema"] != SCHEMA:
            raise LockError(
                f"lock of schema {document['schema']}, this program knows {SCHEMA}",
                where=str(path),
                hint="update anklume-images, or lock again",
            )
        part = document["model"]
        lock = ModelLock(**{**part, "wheel": Wheel(**part["wheel"])})
        digest = document["digest"]
    except FileNotFoundError:
        raise LockError(f"the model {name} is not locked", where=str(path), hint=hint) from None
    except (ValueError, KeyError, TypeError) as error:
        raise LockError(f"not a model's lock file: {what_is_wrong(error)}", where=str(path), hint=hint) from None
    if digest != lock.digest():
        raise LockError("it was edited after it was locked", where=str(path), hint=f"restore it, or {hint}")
    return lock


def save_model_lock(path: Path, lock: ModelLock) -> None:
    """Write or replace a lock, by atomic rename."""
    document = {"schema": SCHEMA, "model": asdict(lock), "digest": lock.digest()}
    write_atomic(path, (json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode())
