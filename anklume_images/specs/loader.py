"""Turn a folder's `spec.yml` into specs, one per variant, with every problem found at once and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from anklume_images.errors import InvalidFileError, Problem
from anklume_images.nearest import nearest
from anklume_images.specs.keys import BUILT_IN_ARCHIVES, NOT_IN_VARIANTS, SpecDocument, TreeDocument
from anklume_images.specs.model import Spec
from anklume_images.specs.problems import problems_of
from anklume_images.specs.values import value_problem
from anklume_images.specs.yamlfile import Document, KeyPath, load, pointer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["load_specs", "load_tree_document"]

_MAX_TEXT = 1 << 20


def load_specs(folder: Path) -> tuple[Spec, ...]:
    """Read `folder/spec.yml`: the image itself first, then its variants; InvalidFileError with every problem."""
    document = load(folder / "spec.yml")
    if not isinstance(document.data, dict):
        raise InvalidFileError([document.problem((), "wrong-type", "must be a mapping of keys to values")])
    reader = _Reader(folder, document)
    specs = [reader.read(None, document.data, {})]
    variants = document.data.get("variants")
    for variant, changes in variants.items() if isinstance(variants, dict) else ():
        if isinstance(changes, dict) and isinstance(variant, str):
            reader.check_variant_keys(variant, changes)
            allowed = {key: value for key, value in changes.items() if key not in NOT_IN_VARIANTS}
            origins: dict[KeyPath, KeyPath] = {}
            data = _merged(document.data, allowed, (), ("variants", variant), origins)
            data.pop("variants", None)
            specs.append(reader.read(variant, data, origins))
    reader.check_numbers()
    if reader.problems:
        raise InvalidFileError(sorted(set(reader.problems)))
    return tuple(spec for spec in specs if spec is not None)


def load_tree_document(file: Path) -> TreeDocument:
    """Read a `tree.yml`; InvalidFileError with every problem."""
    document = load(file)
    try:
        return TreeDocument.model_validate(document.data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise InvalidFileError(sorted(problems_of(details, document, TreeDocument))) from None


def _merged(
    base: Mapping[str, Any], over: Mapping[str, Any], path: KeyPath, source: KeyPath, origins: dict[KeyPath, KeyPath]
) -> dict[str, Any]:
    """Deep merge: mappings merge, lists and scalars replace, null removes; `origins` says what came from `over`."""
    result = dict(base)
    for key, value in over.items():
        here, origin = (*path, key), (*source, key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _merged(result[key], value, here, origin, origins)
        else:
            result[key] = value
            origins[here] = origin
    return result


@dataclass
class _Reader:
    folder: Path
    document: Document
    problems: list[Problem] = field(default_factory=list)
    _origins: Mapping[KeyPath, KeyPath] = field(default_factory=dict)

    def read(self, variant: str | None, data: dict[str, Any], origins: Mapping[KeyPath, KeyPath]) -> Spec | None:
        """Check one image's data and make its spec; None when something in it is wrong."""
        before = len(self.problems)
        self._origins = origins
        try:
            checked = SpecDocument.model_validate(data)
        except ValidationError as error:
            details = error.errors(include_url=False)
            self.problems += problems_of(details, self.document, SpecDocument, self._origin)
            if all(detail["loc"] != ("name",) for detail in details):
                self._check_name(data.get("name"))
            return None
        self._check_name(checked.name)
        self._check_root(checked)
        self._check_archives(checked)
        self._check_release_files(checked)
        self._check_version(checked)
        self._check_variables(checked)
        self._check_paths(checked)
        contents = dict(self._texts(checked))
        if len(self.problems) > before:
            return None
        as_written = {name: value for name, value in checked if name in Spec.__dataclass_fields__}
        given: dict[str, Any] = {
            "name": checked.name if variant is None else f"{checked.name}-{variant}",
            "folder": self.folder,
            "variant": variant,
            "default": checked.default and variant is None,
            "debian": checked.inputs.debian,
            "python": checked.inputs.python,
            "release_files": checked.inputs.files,
            "contents": contents,
        }
        return Spec(**(as_written | given))

    def check_numbers(self) -> None:
        """Every number of the file must be the one that its digits say; where text belongs, that is said already."""
        known = {problem.path for problem in self.problems}
        for path, odd in self.document.scalars.items():
            if odd.other_number and pointer(path) not in known:
                message = f"'{pointer(path)}' is {odd}"
                self.problems.append(self.document.problem(path, "changed-by-yaml", message, hint=odd.plain))

    def check_variant_keys(self, variant: str, changes: Mapping[str, Any]) -> None:
        """A variant cannot say what belongs to the whole spec."""
        for key in NOT_IN_VARIANTS:
            if key in changes:
                path = ("variants", variant, key)
                message = f"'{key}' belongs to the spec, not to a variant"
                self.problems.append(self.document.problem(path, "not-in-variant", message, key=True))

    def _add(self, path: KeyPath, code: str, message: str, *, key: bool = False, hint: str | None = None) -> None:
        self.problems.append(self.document.problem(self._origin(path), code, message, key=key, hint=hint))

    def _origin(self, path: KeyPath) -> KeyPath:
        """Where in the file it stands what a variant has at `path`."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._origins:
                return self._origins[path[:length]] + path[length:]
        return path

    def _check_name(self, name: object) -> None:
        if isinstance(name, str) and name != self.folder.name:
            message = f"the name '{name}' is not that of its folder, '{self.folder.name}'"
            self._add(("name",), "name-not-folder", message)

    def _check_root(self, spec: SpecDocument) -> None:
        for key, value in (("distribution", spec.distribution), ("release", spec.release)):
            if spec.base is None and value is None:
                hint = "or name a base image: from"
                self._add((), "missing-key", f"missing key '{key}': an image without 'from' needs it", hint=hint)
            elif spec.base is not None and value is not None:
                self._add((key,), "not-with-from", f"'{key}' comes from the base '{spec.base}'", key=True)
        if spec.base is None and spec.inputs.debian is None:
            self._add((), "missing-key", "missing key 'inputs.debian': an image without 'from' is made of packages")
        if spec.base is not None and spec.base == spec.name:
            self._add(("from",), "own-base", "an image cannot be its own base")

    def _check_archives(self, spec: SpecDocument) -> None:
        for name in spec.archives:
            if name in BUILT_IN_ARCHIVES:
                self._add(("archives", name), "known-archive", f"'{name}' is known; its mirrors are settings", key=True)
        debian = spec.inputs.debian
        for index, suite in enumerate(debian.suites if debian else ()):
            self._check_archive(suite.archive, ("inputs", "debian", "suites", index, "archive"), spec)
        for index, item in enumerate(spec.inputs.files):
            self._check_archive(item.archive, ("inputs", "files", index, "archive"), spec)

    def _check_archive(self, name: str, path: KeyPath, spec: SpecDocument) -> None:
        known = [archive for archive in (*BUILT_IN_ARCHIVES, *spec.archives) if archive != "pypi"]
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean '{close}'?" if close else "give its address under 'archives'"
            self._add(path, "unknown-archive", f"unknown archive '{name}'", hint=hint)

    def _check_release_files(self, spec: SpecDocument) -> None:
        seen: set[str] = set()
        for index, item in enumerate(spec.inputs.files):
            here: KeyPath = ("inputs", "files", index)
            if item.name in seen:
                self._add((*here, "name"), "duplicate-name", f"a second file named '{item.name}'")
            seen.add(item.name)
            if item.unpack is not None and spec.base is None:
                self._add((*here, "unpack"), "unpack-without-from", "'unpack' needs a base image: from", key=True)
            for arch in spec.architectures:
                if arch not in item.path:
                    self._add((*here, "path"), "missing-architecture", f"no path for {arch}", key=True)
                elif item.checksums is None and arch not in item.sha256:
                    message = f"no sha256 for {arch}, and no checksum file to take it from"
                    self._add((*here, "sha256"), "missing-sha256", message, key=True)

    def _check_version(self, spec: SpecDocument) -> None:
        if spec.version.package and not spec.inputs.debian:
            self._add(("version",), "version-without-input", "no Debian packages to take the version from")
        if spec.version.python and not spec.inputs.python:
            self._add(("version",), "version-without-input", "no Python packages to take the version from")
        python = spec.inputs.python
        if python and not (python.requires or python.requirements):
            message = "'inputs.python' needs 'requires' or 'requirements'"
            self._add(("inputs", "python"), "missing-key", message, key=True)

    def _check_variables(self, spec: SpecDocument) -> None:
        for name, variable in spec.variables.items():
            here: KeyPath = ("variables", name)
            if variable.default is None:
                continue
            if variable.secret:
                self._add((*here, "default"), "secret-default", "a secret has no default", key=True)
            elif wrong := value_problem(variable.type, variable.default, variable.max_bytes):
                self._add(
                    (*here, "default"), "wrong-default", f"the default of '{name}' {wrong.message}", hint=wrong.hint
                )

    def _check_paths(self, spec: SpecDocument) -> None:
        written = [(item.path, ("files", index)) for index, item in enumerate(spec.files)]
        written += [(item.path, ("templates", index)) for index, item in enumerate(spec.templates)]
        mounted = [(item.path, ("volumes", index)) for index, item in enumerate(spec.volumes)]
        for paths in (written, mounted):
            seen: set[str] = set()
            for path, here in paths:
                if path in seen:
                    self._add((*here, "path"), "duplicate-path", f"'{path}' is there twice")
                seen.add(path)

    def _texts(self, spec: SpecDocument) -> Iterator[tuple[str, str]]:
        sources: list[tuple[str, KeyPath]] = []
        sources += [(item.source, ("files", index, "source")) for index, item in enumerate(spec.files)]
        sources += [(item.source, ("templates", index, "source")) for index, item in enumerate(spec.templates)]
        if spec.inputs.python and spec.inputs.python.requirements:
            sources.append((spec.inputs.python.requirements, ("inputs", "python", "requirements")))
        for source, path in sources:
            text = self._text(source, path)
            if text is not None:
                yield source, text

    def _text(self, source: str, path: KeyPath) -> str | None:
        file = self.folder / source
        try:
            if not file.resolve().is_relative_to(self.folder.resolve()):
                self._add(path, "outside-folder", f"'{source}' leads out of the folder")
                return None
            with file.open("rb") as stream:
                raw = stream.read(_MAX_TEXT + 1)
        except FileNotFoundError:
            names = [str(entry.relative_to(self.folder)) for entry in self.folder.rglob("*") if entry.is_file()]
            close = nearest(source, names)
            self._add(path, "no-such-file", f"no file '{source}'", hint=f"did you mean '{close}'?" if close else None)
            return None
        except OSError as error:
            self._add(path, "unreadable", f"'{source}' cannot be read: {error.strerror}")
            return None
        if len(raw) > _MAX_TEXT:
            hint = "large files are inputs: inputs.files"
            self._add(path, "too-large", f"'{source}' is larger than 1 MiB", hint=hint)
            return None
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            self._add(path, "not-text", f"'{source}' is not UTF-8 text")
            return None
        return text
