"""The shapes that a document can have: a value, a list, a mapping of names, a section of known keys.

Each reads what stands at a path and returns it in one form, or `WRONG` after reporting what is wrong with it. A part
that is wrong is left out and the rest read on, so that all errors are found at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from launcher.infra.readers import Reader, WrongError
from launcher.infra.report import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anklume_images.scalars import Scalar
    from anklume_images.specs.yamlfile import KeyPath
    from launcher.infra.report import Report

__all__ = ["WRONG", "AnyValue", "Key", "ListOf", "MappingOf", "SchemaType", "Section", "Text", "Value", "read_value"]

WRONG: Any = object()


class SchemaType(Protocol):
    """Something that can stand in a document."""

    def read(self, value: Any, path: KeyPath, report: Report) -> Any:
        """The value in one form, or WRONG."""


def _named(path: KeyPath) -> str:
    words = [part for part in path if isinstance(part, str)]
    name = words[-1] if words else "this"
    index = f"[{path[-1]}]" if path and isinstance(path[-1], int) and words else ""
    return f"{shown(name)}{index}"


def read_value(reader: Reader, value: Any, path: KeyPath, report: Report, *, key: bool = False) -> Any:
    """What the reader makes of a value, or WRONG; a number must be the one that its digits say."""
    odd = report.source.scalar(path, key=key)
    if odd is not None and odd.other_number and not key:
        report.error(path, "changed-by-yaml", f"{_named(path)} is {odd}", hint=_meant(reader, value, odd))
        return WRONG
    try:
        return reader(value)
    except WrongError as wrong:
        told = report.told(path, value, key=key)
        if key:
            report.error(path, "wrong-name", f"the name {told} {wrong.message}", key=True, hint=wrong.hint)
        else:
            end = f", not {told}" if wrong.message.startswith("must be ") else ""
            report.error(path, wrong.code, f"{_named(path)} {wrong.message}{end}", hint=wrong.hint)
        return WRONG


def _meant(reader: Reader, value: Any, odd: Scalar) -> str:
    """What to write: a number where the reader takes numbers, else the text in quotes."""
    try:
        reader(value)
    except WrongError as wrong:
        return odd.quoted if wrong.code == "wrong-type" else odd.plain
    return odd.plain


@dataclass(frozen=True)
class Value:
    """One value that a reader understands."""

    reader: Reader

    def read(self, value: Any, path: KeyPath, report: Report) -> Any:
        """The reader's value, or WRONG."""
        return read_value(self.reader, value, path, report)


@dataclass(frozen=True)
class Text:
    """One value that is kept as text: what was written, or it is an error."""

    reader: Reader

    def read(self, value: Any, path: KeyPath, report: Report) -> Any:
        """The reader's text, or WRONG."""
        odd = report.source.scalar(path)
        if odd is not None:
            hint = f"{odd.quoted}; for a number {odd.plain}" if odd.other_number else odd.quoted
            report.error(path, "changed-by-yaml", f"{_named(path)} is {odd}", hint=hint)
            return WRONG
        return read_value(self.reader, value, path, report)


@dataclass(frozen=True)
class AnyValue:
    """What belongs to another part of the framework."""

    def read(self, value: Any, path: KeyPath, report: Report) -> Any:
        """The value as it is."""
        del path, report
        return value


@dataclass(frozen=True)
class ListOf:
    """A list; with `numbered`, each of its items comes with where it is in the list."""

    kind: SchemaType
    numbered: bool = False

    def read(self, value: Any, path: KeyPath, report: Report) -> Any:
        """The list of what is right in it, or WRONG when it is none."""
        if not isinstance(value, list):
            hint = f"write [{value}]" if isinstance(value, str) and value.isprintable() and len(value) < 60 else None
            report.error(
                path, "wrong-type", f"{_named(path)} must be a list, not {report.told(path, value)}", hint=hint
            )
            return WRONG
        read = [(index, self.kind.read(item, (*path, index), report)) for index, item in enumerate(value)]
        return [(index, item) if self.numbered else item for index, item in read if item is not WRONG]


@dataclass(frozen=True)
class MappingOf:
    """A mapping of names to things of one kind; a thing that is nothing is read as an empty mapping."""

    name: Reader
    kind: SchemaType
    empty: bool = False

    def read(self, value: Any, path: KeyPath, report: Report) -> Any:
        """The mapping of what is right in it, or WRONG when it is none."""
        if not isinstance(value, dict):
            report.error(path, "wrong-type", f"{_named(path)} must be a mapping, not {report.told(path, value)}")
            return WRONG
        result = {}
        for key, item in value.items():
            here = (*path, key)
            name = read_value(self.name, key, here, report, key=True)
            entry = self.kind.read({} if item is None and self.empty else item, here, report)
            if name is not WRONG and entry is not WRONG:
                result[name] = entry
        return result


@dataclass(frozen=True)
class Key:
    """A key of a section; a `foreign` one is the framework's own and does nothing here.

    `incus` is the key of an instance's configuration that a machine's value becomes, where that is all it does.
    """

    kind: SchemaType
    required: bool = False
    foreign: bool = False
    incus: str = ""


@dataclass(frozen=True)
class Section:
    """A mapping with known keys; a key without a value is as if it were not there."""

    keys: Mapping[str, Key]

    def read(self, value: Any, path: KeyPath, report: Report) -> Any:
        """The keys that are right, or WRONG when it is no mapping."""
        if not isinstance(value, dict):
            what = _named(path) if path else "the file"
            report.error(path, "wrong-type", f"{what} must be a mapping, not {report.told(path, value)}")
            return WRONG
        result = {}
        for name, item in value.items():
            here = (*path, name)
            key = self.keys.get(name) if isinstance(name, str) else None
            if key is None:
                hint = report.did_you_mean(name, self.keys)
                report.error(
                    here, "unknown-key", f"unknown key {report.told(here, name, key=True)}", key=True, hint=hint
                )
            elif item is not None:
                entry = key.kind.read(item, here, report)
                if key.foreign:
                    report.foreign[name] = None
                if entry is not WRONG:
                    result[name] = entry
        for name, key in self.keys.items():
            if key.required and value.get(name) is None:
                report.error(path, "missing-key", f"missing key '{name}'", key=True)
        return result
