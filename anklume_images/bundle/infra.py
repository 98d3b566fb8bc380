"""The lock of an infra.yml in a store: `infra/<project>.json`, which machine is made of what; signed like an image."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError
from anklume_images.store.infra_locks import FOLDER
from anklume_images.store.noted import write_noted

if TYPE_CHECKING:
    from anklume_images.store.store import Store

__all__ = ["InfraLock", "infra_path", "keep_lock", "parse_lock"]

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class InfraLock:
    """What a file needs: `images` with their architectures, and models by their names. `data` is the document."""

    project: str
    images: tuple[tuple[str, str], ...]
    models: tuple[str, ...]
    data: bytes


def infra_path(project: str) -> str:
    """Where the lock of a project is in a store; a name that is none for a file goes by its hash."""
    name = project if _PLAIN.fullmatch(project) else hashlib.sha256(project.encode()).hexdigest()
    return f"{FOLDER}/{name}.json"


def parse_lock(data: bytes, where: str) -> InfraLock:
    """What `anklume-launch lock --json` said; AnklumeError for what no bundle can bring."""
    document = json.loads(data)
    images: dict[tuple[str, str], None] = {}
    models: dict[str, None] = {}
    for name, machine in document["machines"].items():
        if machine["image"] is None:
            raise AnklumeError(
                f"{name} is made of {machine['remote']}, which is no image of the store",
                where=where,
                hint="name an image of the store for it (image: debian); a bundle brings no others",
            )
        images[machine["image"], machine["architecture"]] = None
        if absent := [model for model, sha256 in machine["models"].items() if sha256 is None]:
            raise AnklumeError(
                f"{name} wants the model {absent[0]}, which the store has not",
                where=where,
                hint=f"bring it: anklume-images models import FILE --name {absent[0]}",
            )
        models |= dict.fromkeys(machine["models"])
    return InfraLock(
        document["project"],
        tuple(images),
        tuple(models),
        (json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode(),
    )


def keep_lock(store: Store, lock: InfraLock) -> None:
    """Write it into the store."""
    write_noted(store.home, store.home / infra_path(lock.project), lock.data)
