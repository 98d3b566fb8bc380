"""All specs of several folders: find one by name, follow `from` to its root, list them.

A spec is read when it, a variant or a child of it is asked for, so that a broken one stops nothing else. The
first folder that has a name wins. Folders that begin with `_` or `.` hold no specs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError, InvalidFileError
from anklume_images.nearest import nearest
from anklume_images.specs.folders import builtin_specs
from anklume_images.specs.loader import load_specs
from anklume_images.specs.model import Spec, request_of
from anklume_images.specs.yamlfile import KeyPath, load

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from anklume_images.specs.keys import Variable
    from anklume_images.specs.stored import StoredSpec

    Received = Mapping[str, StoredSpec]

__all__ = ["Catalog", "ReceivedError", "UnknownImageError", "builtin_specs"]

NEWER = "a newer version comes with a bundle (anklume-images bundle import FILE) or by anklume-images pull"


class UnknownImageError(AnklumeError):
    """No spec has the name that was asked for."""

    exit_code = 2


class ReceivedError(UnknownImageError):
    """An image is in the store, and no spec here makes it: it was received."""


class Catalog:
    """The specs in `folders`; make one with `load`."""

    def __init__(
        self,
        folders: Sequence[Path],
        spec_folders: dict[str, Path],
        received: Callable[[set[str]], Received] | None = None,
        stored: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.folders = tuple(folders)
        self._received = received
        self._stored = stored
        self._without_spec: Received | None = None
        self._spec_folders = spec_folders
        self._read: dict[Path, tuple[Spec, ...] | InvalidFileError] = {}
        self._chains: dict[str, tuple[Spec, ...]] = {}

    @classmethod
    def load(
        cls,
        folders: Sequence[Path],
        received: Callable[[set[str]], Received] | None = None,
        stored: Callable[[], Collection[str]] = tuple,
    ) -> Catalog:
        """See which specs there are, reading none; UnknownImageError when a folder is not there.

        `received` gives images that have no spec, by their names, without those that it is told. Where they are not
        to be had, `stored` gives the names of the images of the store, so that an error can tell of them.
        """
        spec_folders: dict[str, Path] = {}
        for folder in folders:
            try:
                entries = sorted(folder.iterdir())
            except OSError as error:
                raise UnknownImageError(
                    f"no folder of specs: {error.strerror}", where=str(folder), hint="see --specs"
                ) from None
            for entry in entries:
                if entry.name[0] not in "._" and (entry / "spec.yml").is_file():
                    spec_folders.setdefault(entry.name, entry)
        return cls(folders, spec_folders, received, stored)

    @property
    def partials(self) -> tuple[Path, ...]:
        """Where templates look for what they share, nearest first."""
        return tuple(folder / "_partials" for folder in self.folders)

    def get(self, name: str) -> Spec:
        """The spec of that name, with its root's distribution and release; UnknownImageError, InvalidFileError."""
        return self.chain(name)[-1]

    def chain(self, name: str) -> tuple[Spec, ...]:
        """The specs from the root image to the named one, each with the root's distribution and release."""
        if name not in self._chains:
            self._chains[name] = self._make_chain(name)
        return self._chains[name]

    def request(self, name: str, arch: str) -> str:
        """The hash that the lock of this image must answer to, its bases' included."""
        request: str | None = None
        for spec in self.chain(name):
            request = request_of(spec, arch, request)
        return str(request)

    def gpus(self, name: str) -> Mapping[str, tuple[str, ...]] | None:
        """How the image computes on cards, by their makers, as it or its bases say; None where none of them says."""
        return next((spec.gpus for spec in reversed(self.chain(name)) if spec.gpus is not None), None)

    def variables(self, name: str) -> dict[str, Variable]:
        """The variables that an instance of the image understands, those of its bases included."""
        merged: dict[str, Variable] = {}
        for spec in self.chain(name):
            merged.update(spec.variables)
        return merged

    def is_root(self, name: str) -> bool:
        """Whether the image is made of no other one."""
        stored = self.without_spec.get(name)
        return stored.is_root if stored else self.get(name).base is None

    @property
    def without_spec(self) -> Received:
        """Images that have no spec here; nobody can build them."""
        if self._without_spec is None:
            self._without_spec = self._received(set(self._with_spec())) if self._received else {}
        return self._without_spec

    def names(self) -> tuple[str, ...]:
        """Every image, variants included; a broken spec counts by its folder's name."""
        return tuple(sorted({*self._with_spec(), *self.without_spec}))

    def _with_spec(self) -> list[str]:
        names: list[str] = []
        for name, folder in self._spec_folders.items():
            try:
                names += [spec.name for spec in self._specs(folder) if spec.name not in names]
            except InvalidFileError:
                names.append(name)
        return names

    def defaults(self) -> tuple[str, ...]:
        """The images that are built when none is named; a broken spec is among them, so that it is reported."""
        names = []
        for name, folder in self._spec_folders.items():
            try:
                names += [spec.name for spec in self._specs(folder) if spec.default]
            except InvalidFileError:
                names.append(name)
        return tuple(sorted(names))

    def _specs(self, folder: Path) -> tuple[Spec, ...]:
        if folder not in self._read:
            try:
                self._read[folder] = load_specs(folder)
            except InvalidFileError as error:
                self._read[folder] = error
        result = self._read[folder]
        if isinstance(result, InvalidFileError):
            raise InvalidFileError(result.problems)
        return result

    def _find(self, name: str) -> Spec | None:
        """The spec as it stands in its file; InvalidFileError when that file is broken."""
        if name in self._spec_folders:
            return self._specs(self._spec_folders[name])[0]
        for stem, folder in self._spec_folders.items():  # NAME-VARIANT: only the folders that it can be in are read
            if name.startswith(f"{stem}-"):
                for spec in self._specs(folder):
                    if spec.name == name:
                        return spec
        return self.without_spec[name].spec if name in self.without_spec else None

    def _make_chain(self, name: str) -> tuple[Spec, ...]:
        spec = self._find(name)
        if spec is None:
            if name in self._stored():
                raise ReceivedError(
                    f"the image '{name}' was received, and no spec here makes it",
                    hint=f"{NEWER}; to build it, name the folder that has its spec: --specs DIR",
                )
            names = self.names()
            close = nearest(name, names)
            hint = f"did you mean '{close}'?" if close else f"there are: {', '.join(names) or 'none'}"
            raise UnknownImageError(f"no image is called '{name}'", hint=hint)
        chain = [spec]
        while chain[0].base is not None:
            child = chain[0]
            base = self._find(str(child.base))
            if base is None:
                close = nearest(child.base, self.names())
                known = f"did you mean '{close}'?" if close else None
                raise _at_from(child, "unknown-base", f"no image is called '{child.base}'", known)
            if base.name in [link.name for link in chain]:
                loop = " from ".join([base.name, *[link.name for link in chain]][::-1])
                raise _at_from(child, "base-cycle", f"the images are made of each other: {loop}")
            missing = set(child.architectures) - set(base.architectures)
            if missing:
                text = ", ".join(sorted(missing))
                raise _at_from(child, "missing-architecture", f"the base '{base.name}' is not made for {text}")
            chain.insert(0, base)
        root = chain[0]
        return tuple(replace(link, distribution=root.distribution, release=root.release) for link in chain)


def _at_from(spec: Spec, code: str, message: str, hint: str | None = None) -> InvalidFileError:
    document = load(spec.spec_file)
    variant_path = ("variants", spec.variant, "from")
    path: KeyPath = variant_path if variant_path in document.values else ("from",)
    return InvalidFileError([document.problem(path, code, message, hint=hint)])
