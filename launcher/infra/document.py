"""Read an infra.yml, or a folder that means the same, into one document that knows where everything stands.

infra/
  base.yml        project_name, global, shared_volumes, and domains if one likes
  domains/*.yml   each file's top level is the domain's name
  policies.yml    network_policies
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anklume_images.errors import InvalidFileError, Problem
from anklume_images.specs.yamlfile import Document, KeyPath, load, pointer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from anklume_images.scalars import Scalar

__all__ = ["Source", "read_source"]


@dataclass(frozen=True)
class Source:
    """What was read: `data` as one document, and the file in which each part of it stands.

    `parts` maps the beginning of a path to the file that holds it and how many keys of the path are not in that file.
    `beside` is the folder in which group_vars and host_vars are looked for.
    """

    file: str
    data: dict[Any, Any]
    root: Document
    beside: Path
    parts: Mapping[KeyPath, tuple[Document, int]] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()

    def problem(self, path: KeyPath, code: str, message: str, *, key: bool = False, hint: str | None = None) -> Problem:
        """One thing wrong at `path`."""
        document, line, column = self._find(path, key=key)
        return Problem(document.file, line, column, code, message, pointer(path), hint)

    def scalar(self, path: KeyPath, *, key: bool = False) -> Scalar | None:
        """What was written at `path`, where YAML made something else of it."""
        document, dropped = self._part(path)
        return document.scalar(path[dropped:], key=key)

    def scalars(self) -> Iterator[tuple[KeyPath, Scalar]]:
        """Every value of which YAML made something else than was written, and where it stands."""
        for path, odd in self.root.scalars.items():
            if self._part(path)[0] is self.root:
                yield path, odd
        for beginning, (document, dropped) in self.parts.items():
            for within, odd in document.scalars.items():
                path = (*beginning[:dropped], *within)
                if path[: len(beginning)] == beginning:
                    yield path, odd

    def where(self, path: KeyPath) -> str:
        """`file:line:column` of the key at `path`."""
        document, line, column = self._find(path, key=True)
        return f"{document.file}:{line}:{column}"

    def has(self, path: KeyPath) -> bool:
        """Whether a person wrote something at `path`, right or wrong."""
        value: Any = self.data
        for part in path:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return False
        return value is not None

    def _part(self, path: KeyPath) -> tuple[Document, int]:
        return self.parts.get(path[:2]) or self.parts.get(path[:1]) or (self.root, 0)

    def _find(self, path: KeyPath, *, key: bool) -> tuple[Document, int, int]:
        document, dropped = self._part(path)
        return (document, *document.position(path[dropped:], key=key))


def read_source(path: Path) -> Source:
    """Read the file or folder at `path`; `infra.yml` and `infra` stand for each other where only one is there."""
    existing = _existing(path)
    if existing.is_dir():
        return _read_folder(existing)
    document = load(existing)
    return Source(str(existing), _mapping(document), document, existing.parent)


def _existing(path: Path) -> Path:
    if path.exists():
        return path
    other = path.with_suffix("") if path.suffix == ".yml" else path.with_name(f"{path.name}.yml")
    return other if other.exists() else path


def _mapping(document: Document) -> dict[Any, Any]:
    if document.data is None:
        return {}
    if not isinstance(document.data, dict):
        raise InvalidFileError([document.problem((), "wrong-type", "must be a mapping of keys to values")])
    return document.data


def _read_folder(folder: Path) -> Source:
    base = folder / "base.yml"
    if not base.is_file():
        raise InvalidFileError([Problem(str(folder), 1, 1, "no-such-file", "no base.yml in it", hint=_other(folder))])
    reader = _Folder(folder)
    reader.add_base(base)
    if (folder / "domains").is_dir():
        reader.expect_domains()
    for file in sorted((folder / "domains").glob("*")):
        if file.suffix == ".yml" and file.is_file():
            reader.add_domains(file)
        elif file.suffix in (".yml", ".yaml"):
            reader.ignore(file, "only files whose names end in .yml are read")
    policies = folder / "policies.yml"
    if policies.is_file():
        reader.add_policies(policies)
    for name in ("group_vars", "host_vars"):
        if (folder / name).is_dir():
            reader.ignore(folder / name, f"variables are read beside the folder: {_beside(folder) / name}")
    return reader.source()


def _beside(folder: Path) -> Path:
    named = folder.name not in ("", "..")  # `.` is not beside itself
    return folder.parent if named else folder.resolve().parent


def _other(folder: Path) -> str | None:
    for name in ("infra.yml", "infra"):
        if (folder / name).exists():
            return f"did you mean {folder / name}?"
    if (folder / "anklume.yml").is_file():
        return "a project with an anklume.yml is in another format than infra.yml"
    return "it holds project_name and global"


class _Folder:
    """Puts the files of a folder together, noting every problem of each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = Document(str(folder / "base.yml"), {}, {}, {})
        self._data: dict[Any, Any] = {}
        self._parts: dict[KeyPath, tuple[Document, int]] = {}
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []

    def add_base(self, file: Path) -> None:
        document = self._load(file)
        if document is not None:
            self._root = document
            self._data = dict(_mapping(document))

    def expect_domains(self) -> None:
        """A folder of domains is there, with files in it or not."""
        self._data.setdefault("domains", {})

    def add_domains(self, file: Path) -> None:
        document = self._load(file)
        if document is None:
            return
        domains = self._data.get("domains")
        if domains is not None and not isinstance(domains, dict):
            return  # reported when the keys are checked
        domains = dict(domains or {})
        for name, domain in _mapping(document).items():
            if name in domains:
                first = self._parts.get(("domains", name), (self._root, 0))[0].file
                message = f"the domain is in {first} too"
                self._problems.append(document.problem((name,), "duplicate-key", message, key=True))
                continue
            domains[name] = domain
            self._parts["domains", name] = (document, 1)
        self._data["domains"] = domains

    def add_policies(self, file: Path) -> None:
        document = self._load(file)
        if document is None:
            return
        for key, value in _mapping(document).items():
            if key in self._data:
                message = f"the key is in {self._root.file} too"
                self._problems.append(document.problem((key,), "duplicate-key", message, key=True))
                continue
            self._data[key] = value
            self._parts[(key,)] = (document, 0)

    def ignore(self, file: Path, why: str) -> None:
        self._warnings.append(Problem(str(file), 1, 1, "file-ignored", f"not read: {why}"))

    def source(self) -> Source:
        if self._problems:
            raise InvalidFileError(self._problems)
        return Source(
            str(self._folder), self._data, self._root, _beside(self._folder), self._parts, tuple(self._warnings)
        )

    def _load(self, file: Path) -> Document | None:
        try:
            document = load(file)
            _mapping(document)
        except InvalidFileError as error:
            self._problems += error.problems
            return None
        return document
