"""The files of variables beside an infra.yml: group_vars/<domain>.yml and host_vars/<machine>.yml.

The framework writes into them between two lines; what stands there is its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from anklume_images.errors import InvalidFileError, Problem
from anklume_images.specs.yamlfile import MAX_SIZE, loads
from launcher.infra.report import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anklume_images.scalars import Scalar
    from anklume_images.specs.yamlfile import Document, KeyPath
    from launcher.infra.document import Source
    from launcher.infra.report import Code, Report

__all__ = ["MANAGED_BEGIN", "MANAGED_END", "Layer", "VariableFiles"]

MANAGED_BEGIN = "# === MANAGED BY infra.yml ==="
MANAGED_END = "# === END MANAGED ==="
"""The lines around what the framework generates (its `psot/constants.py`)."""

_LINE_ENDS = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # those of YAML 1.1


@dataclass(frozen=True)
class Layer:
    """Variables that are set in one place: a file, or the `vars` of a machine.

    `managed` are the framework's own among them; `ansible`: the framework would read expressions in the values.
    """

    values: Mapping[str, Any]
    within: Document | Source
    at: KeyPath = ()
    managed: frozenset[str] = frozenset()
    ansible: bool = False

    def scalar(self, name: str) -> Scalar | None:
        """What was written as a variable's value, where YAML made something else of it."""
        return self.within.scalar((*self.at, name))

    def problem(self, name: str, code: Code, message: str, *, key: bool = False, hint: str | None = None) -> Problem:
        """One thing wrong with a variable."""
        return self.within.problem((*self.at, name), code, message, key=key, hint=hint)


@dataclass
class VariableFiles:
    """The files of one folder, each read once and when it is asked for."""

    folder: Path
    report: Report
    _read: dict[str, Layer | None] = field(default_factory=dict)

    def get(self, name: str) -> Layer | None:
        """The variables of the file with this name, if there is one and it says something."""
        if name not in self._read:
            self._read[name] = self._load(self.folder / f"{name}.yml") if name in self._names else None
        return self._read[name]

    def warn_about_others(self, known: set[str], what: str) -> None:
        """Files that nobody reads: with a misspelt name one would do nothing, and silently."""
        for name in sorted(self._names - known):
            hint = self.report.did_you_mean(name, known)
            self._ignored(f"{name}.yml", "unused-variables", f"not read: no {what} is called {shown(name)}", hint)

    @cached_property
    def _names(self) -> frozenset[str]:
        try:
            entries = sorted(entry for entry in self.folder.iterdir() if entry.suffix in (".yml", ".yaml"))
        except OSError:
            return frozenset()
        for entry in entries:
            if entry.suffix == ".yaml" or not entry.is_file():
                self._ignored(entry.name, "file-ignored", "not read: only files whose names end in .yml are")
        return frozenset(entry.stem for entry in entries if entry.suffix == ".yml" and entry.is_file())

    def _ignored(self, name: str, code: Code, message: str, hint: str | None = None) -> None:
        self.report.warnings.append(Problem(str(self.folder / name), 1, 1, code, message, hint=hint))

    def _load(self, file: Path) -> Layer | None:
        try:
            with file.open("rb") as stream:
                raw = stream.read(MAX_SIZE + 1)
            document = loads(raw, str(file))
        except OSError as error:
            self.report.errors.append(Problem(str(file), 1, 1, "unreadable", f"cannot be read: {error.strerror}"))
            return None
        except InvalidFileError as error:
            self.report.errors += error.problems
            return None
        if document.data is None:
            return None
        if not isinstance(document.data, dict):
            self.report.errors.append(document.problem((), "wrong-type", "must be a mapping of variables to values"))
            return None
        lines = _managed_lines(raw.decode("utf-8-sig"))
        values = {name: value for name, value in document.data.items() if isinstance(name, str)}
        for name in document.data.keys() - values.keys():
            message = f"the name of a variable must be text, not {shown(name)}"
            self.report.errors.append(document.problem((name,), "wrong-name", message, key=True))
        managed = frozenset(name for name in values if document.position((name,), key=True)[0] in lines)
        return Layer(values, document, managed=managed, ansible=True)


def _managed_lines(text: str) -> set[int]:
    """The numbers of the lines in managed sections; one that is not closed is none."""
    numbers: set[int] = set()
    begin: int | None = None
    for number, line in enumerate(_LINE_ENDS.split(text), 1):
        if begin is None and line.strip() == MANAGED_BEGIN:
            begin = number
        elif begin is not None and line.strip() == MANAGED_END:
            numbers.update(range(begin, number + 1))
            begin = None
    return numbers
