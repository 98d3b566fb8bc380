"""Read YAML that a person wrote and remember where every key and value stands.

The safe subset only: mappings, lists and plain scalars. Anchors and merge keys work; what they expand to is
bounded, and so are size and depth, so that a hostile file costs no more than a long one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from anklume_images.errors import InvalidFileError, Problem
from anklume_images.scalars import Scalar, scalar

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

__all__ = ["MAX_DEPTH", "MAX_NODES", "MAX_SIZE", "Document", "KeyPath", "load", "loads", "pointer"]

MAX_SIZE = 4 << 20
MAX_DEPTH = 64
MAX_NODES = 200_000

KeyPath = tuple[Any, ...]
"""The keys and list indexes that lead from the root of a document to a value."""

Position = tuple[int, int]

_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp"))
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it


@dataclass(frozen=True)
class Document:
    """A YAML file as plain Python data, with the line and column (from 1) of each key and value.

    `scalars` are the values that are not the text that a person wrote, and `key_scalars` such keys.
    """

    file: str
    data: Any
    values: Mapping[KeyPath, Position]
    keys: Mapping[KeyPath, Position]
    scalars: Mapping[KeyPath, Scalar] = field(default_factory=dict)
    key_scalars: Mapping[KeyPath, Scalar] = field(default_factory=dict)

    def position(self, path: KeyPath, *, key: bool = False) -> Position:
        """Where the value at `path` begins, or its key; the nearest parent's value when there is no such path."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, (1, 1))

    def scalar(self, path: KeyPath, *, key: bool = False) -> Scalar | None:
        """What was written at `path`, where YAML made something else of it."""
        return (self.key_scalars if key else self.scalars).get(path)

    def problem(self, path: KeyPath, code: str, message: str, *, key: bool = False, hint: str | None = None) -> Problem:
        """One thing wrong at `path`."""
        line, column = self.position(path, key=key)
        return Problem(self.file, line, column, code, message, pointer(path), hint)


def pointer(path: KeyPath) -> str:
    """`inputs.debian.suites[0]`: a path as people write it."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) and not isinstance(part, bool) else f".{part}"
    return text.lstrip(".")


def load(path: Path) -> Document:
    """Read a YAML file; InvalidFileError with every problem found."""
    file = str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_SIZE + 1)
    except FileNotFoundError:
        raise InvalidFileError([Problem(file, 1, 1, "no-such-file", "there is no such file")]) from None
    except OSError as error:
        raise InvalidFileError([Problem(file, 1, 1, "unreadable", f"cannot be read: {error.strerror}")]) from None
    return loads(raw, file)


def loads(raw: bytes, file: str) -> Document:
    """Read YAML from bytes; `file` is the name that problems carry."""
    if len(raw) > MAX_SIZE:
        raise InvalidFileError([Problem(file, 1, 1, "yaml-too-large", f"larger than {MAX_SIZE >> 20} MiB")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        problem = Problem(file, line, column, "yaml-encoding", f"not UTF-8: byte 0x{raw[error.start]:02x}")
        raise InvalidFileError([problem]) from None
    try:
        _check_events(text)
        root = yaml.compose(text, Loader=_Loader)
    except _TooMuchError as error:
        line, column = error.position
        message = f"more than {MAX_NODES} keys and values"
        raise InvalidFileError([Problem(file, line, column, "yaml-too-large", message)]) from None
    except _TooDeepError as error:
        line, column = error.position
        message = f"nested deeper than {MAX_DEPTH} levels"
        raise InvalidFileError([Problem(file, line, column, "yaml-too-deep", message)]) from None
    except yaml.YAMLError as error:
        raise InvalidFileError([_syntax_problem(error, text, file)]) from None
    builder = _Builder(file)
    data = None if root is None else builder.build(root, (), 0)
    if builder.problems:
        raise InvalidFileError(sorted(set(builder.problems)))
    return Document(file, data, builder.values, builder.keys, builder.scalars, builder.key_scalars)


class _TooDeepError(Exception):
    def __init__(self, position: Position) -> None:
        super().__init__()
        self.position = position


class _TooMuchError(_TooDeepError):
    pass


def _check_events(text: str) -> None:
    """Refuse deep nesting before the composer, which recurses, sees it, and too much before it is in memory."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if count > 2 * MAX_NODES:  # a node is one event, a collection two
            raise _TooMuchError(_position(event.start_mark))
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _TooDeepError(_position(event.start_mark))
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _position(mark: Any) -> Position:
    return mark.line + 1, mark.column + 1


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    offset = getattr(error, "position", None)
    if mark is not None:
        line, column = _position(mark)
    elif isinstance(offset, int):  # a ReaderError knows only how many characters came before
        line, column = text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1
    else:
        line, column = 1, 1
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    lines = text.splitlines()
    here = lines[line - 1] if line <= len(lines) else ""
    if "\t" in here[: len(here) - len(here.lstrip())]:
        return Problem(file, line, here.index("\t") + 1, "yaml-tab", "a tab in the indentation", hint="use blanks")
    context = getattr(error, "context", None)
    message = f"{reason}, {context}" if context and mark is not None else str(reason)
    return Problem(file, line, column, "yaml-syntax", message)


class _Builder:
    """Turns composed nodes into data, noting positions and everything that is wrong."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.values: dict[KeyPath, Position] = {}
        self.keys: dict[KeyPath, Position] = {}
        self.scalars: dict[KeyPath, Scalar] = {}
        self.key_scalars: dict[KeyPath, Scalar] = {}
        self.problems: list[Problem] = []
        self._nodes = 0
        self._constructor = yaml.constructor.SafeConstructor()

    def build(self, node: yaml.Node, path: KeyPath, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:  # aliases: an alias within its own anchor never ends
            self._problem(node, "yaml-too-large", "expands to too much (anchors and aliases)", path)
            raise InvalidFileError(self.problems)
        self.values[path] = _position(node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.build(child, (*path, index), depth + 1) for index, child in enumerate(node.value)]
        value = self._scalar(node, path)
        if (odd := scalar(node.value, value)) is not None:
            self.scalars[path] = odd
        return value

    def _problem(self, node: yaml.Node, code: str, message: str, path: KeyPath, hint: str | None = None) -> None:
        line, column = _position(node.start_mark)
        self.problems.append(Problem(self.file, line, column, code, message, pointer(path), hint))

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _SCALARS:
            self._problem(node, "yaml-tag", f"the tag {node.tag.replace(_TAG, '!!')} is not allowed", path)
            return None
        try:
            return self._constructor.construct_object(node)
        except (ValueError, OverflowError):  # 2024-99-99, or a number of thousands of digits
            self._problem(node, "yaml-value", f"not a value: {node.value[:40]!r}", path, "put it in quotes")
            return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, depth: int) -> dict[Any, Any]:
        if node.tag != f"{_TAG}map":
            self._scalar(node, path)
            return {}
        result: dict[Any, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                merged.append(value_node)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(key_node, "yaml-key", "a key must be a plain word", path)
                continue
            key = self._scalar(key_node, path)
            here = (*path, key)
            if key in result:
                first = self.keys[here][0]
                self._problem(key_node, "duplicate-key", f"duplicate key {key!r}, first on line {first}", here)
                continue
            self.keys[here] = _position(key_node.start_mark)
            if (odd := scalar(key_node.value, key)) is not None:
                self.key_scalars[here] = odd
            result[key] = self.build(value_node, here, depth + 1)
        for source in merged:
            self._merge(source, result, path, depth)
        return result

    def _merge(self, source: yaml.Node, result: dict[Any, Any], path: KeyPath, depth: int) -> None:
        """`<<`: keys of other mappings, of which the first named wins and an explicit key beats all."""
        sources = source.value if isinstance(source, yaml.SequenceNode) else [source]
        for mapping in sources:
            if not isinstance(mapping, yaml.MappingNode):
                self._problem(mapping, "yaml-merge", "'<<' takes a mapping or a list of mappings", path)
                continue
            taken = _Builder(self.file)
            taken._nodes = self._nodes  # one budget for the whole document
            extra = taken.build(mapping, path, depth)
            self._nodes = taken._nodes
            self.problems += taken.problems
            new = {key: value for key, value in extra.items() if key not in result}
            result.update(new)
            self._take(taken, new.keys(), len(path))

    def _take(self, taken: _Builder, new: Collection[Any], length: int) -> None:
        """What is noted about the keys `new` of a mapping that stands `length` keys deep."""
        notes: tuple[tuple[dict[KeyPath, Any], dict[KeyPath, Any]], ...] = (
            (self.values, taken.values),
            (self.keys, taken.keys),
            (self.scalars, taken.scalars),
            (self.key_scalars, taken.key_scalars),
        )
        for target, others in notes:
            target.update({at: note for at, note in others.items() if len(at) > length and at[length] in new})
