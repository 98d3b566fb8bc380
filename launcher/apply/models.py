"""Models of the store into the volumes of machines, with nothing started inside: what is missing, and that only.

Where the pool's folders can be reached, files are put there, also while an engine runs. Where not, a volume is made
with its models in it, and one that is there gets them through Incus, by way of a machine that has it and runs.
"""

from __future__ import annotations

import time
from typing import IO, TYPE_CHECKING

from anklume_images.console import human_size
from anklume_images.errors import AnklumeError
from anklume_images.incus.objects import ObjectId
from anklume_images.ship.fill import fill, missing_files
from anklume_images.ship.volume import VolumeFile, make_volume
from launcher.observe.volumes import MODELS_MARK, absent, marked, owner_in, pool_folder, users_of, volume_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from typing import Any

    from anklume_images.incus.client import Incus
    from anklume_images.store.models import ModelFile
    from anklume_images.store.store import Store
    from launcher.resources import Resource

__all__ = ["bring_models", "make_with_models"]

_TELL_SECONDS = 5.0


def bring_models(resource: Resource, incus: Incus, store: Store, tell: Callable[[str], None]) -> None:
    """Have the models of a resource in their volume, which is there."""
    volume, files = incus.get_object(resource.key.object), _files(resource)
    folder = _reached(resource, incus)
    if folder is None:
        if missing := absent(volume, None, files):
            _push(resource, volume, missing, incus, store)
        return
    with store.lease() as lease:
        lease.add(file.sha256 for file in files if file.source is None)
        missing = missing_files(folder, files)
        told = _Told(tell, resource.key.name, sum(file.size for file in missing))
        fill(folder, missing, store.blobs.path, owner=owner_in(volume), advance=told.advance)


def make_with_models(resource: Resource, incus: Incus, store: Store) -> bool:
    """Make a volume with its models in it; False, and none, where they can be put into it afterwards."""
    if not resource.models or _reached(resource, incus, made=False) is not None:
        return False
    pool, _, name = resource.key.name.partition("/")
    files = _files(resource)
    with store.lease() as lease, store.scratch("models") as scratch:
        lease.add(file.sha256 for file in files if file.source is None)
        sources = [VolumeFile(file.path, _source(file, store, scratch)) for file in files]
        config = {**resource.config, MODELS_MARK: marked(files)}
        description = resource.body["description"]
        make_volume(incus.within(resource.key.project), pool, name, sources, config=config, description=description)
    return True


def _push(
    resource: Resource, volume: Mapping[str, Any], files: Iterable[ModelFile], incus: Incus, store: Store
) -> None:
    """Bring files through Incus; each is there under its name while it grows, a manifest after its blobs."""
    machine, place = _running_user(volume, incus)
    if machine is None:
        raise AnklumeError(
            f"the files of volume {resource.key.name} are out of reach, and no machine that has it runs",
            where=incus.address,
            hint="run it again when one does",
        )
    with store.lease() as lease, store.scratch("models") as scratch:
        lease.add(file.sha256 for file in files if file.source is None)
        for file in files:
            path = f"{place}/{file.path}"
            source = _source(file, store, scratch)
            with source.open("rb") as stream:
                incus.make_folder(machine, path.rpartition("/")[0])
                incus.push_file(machine, path, _Body(stream, source.stat().st_size))
    config = {**volume["config"], MODELS_MARK: marked(_files(resource))}
    incus.put_object(resource.key.object, {"description": volume["description"], "config": config})


def _running_user(volume: Mapping[str, Any], incus: Incus) -> tuple[ObjectId | None, str]:
    """An instance that runs with the volume, and the volume's path in it."""
    for user in users_of(volume):
        instance = incus.find_object(user.object) or {}
        for device in (instance.get("expanded_devices") or {}).values() if instance.get("status") == "Running" else ():
            if device.get("type") == "disk" and device.get("source") == volume["name"]:
                return user.object, device["path"].rstrip("/")
    return None, ""


class _Body:
    """A file as something to send."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.len = size
        self.read = stream.read


def _source(file: ModelFile, store: Store, scratch: Path) -> Path:
    if file.source:
        return file.source
    if file.content is None:
        if not store.blobs.verify(file.sha256):
            raise AnklumeError(
                "the store's file has other bytes than its name says",
                where=str(store.blobs.path(file.sha256)),
                hint="pull or import the model again",
            )
        return store.blobs.path(file.sha256)
    path = scratch / file.sha256
    path.write_bytes(file.content)
    return path


def _files(resource: Resource) -> tuple[ModelFile, ...]:
    """Each file once: models may have a blob in common; the order within a model stays."""
    by_path = {file.path: file for model in resource.models for file in model.files}
    return tuple(by_path.values())


def _reached(resource: Resource, incus: Incus, *, made: bool = True) -> Path | None:
    """The volume's folder; None where this process cannot write there."""
    pool, _, name = resource.key.name.partition("/")
    driver = incus.get_object(ObjectId("pool", pool))["driver"]
    folder = pool_folder(incus.address, pool, driver)
    own = folder and volume_folder(folder, resource.key.project, name)
    return own if own is None or not made or own.is_dir() else None


class _Told:
    """Says now and then how far a copy is."""

    def __init__(self, tell: Callable[[str], None], name: str, total: int) -> None:
        self._tell, self._name, self._total = tell, name, total
        self._done, self._last = 0, time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        if time.monotonic() - self._last > _TELL_SECONDS:
            self._last = time.monotonic()
            self._tell(f"models in volume {self._name}: {human_size(self._done)} of {human_size(self._total)}")
