"""Read a document by the schema: what is wrong in it is reported and left out, so that all errors are found at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from anklume_images.specs.problems import known_keys
from launcher.infra.keys import GONE, Keys, Written
from launcher.infra.readers import WrongError
from launcher.infra.report import shown
from launcher.infra.schema import INFRA

if TYPE_CHECKING:
    from anklume_images.specs.yamlfile import KeyPath
    from launcher.infra.report import Report

__all__ = ["read_document"]

_OF_KEY = "[key]"  # the end of a place where pydantic means a mapping's key
_UNKNOWN = ("extra_forbidden", "invalid_key")


def read_document(report: Report) -> dict[str, Any]:
    """The keys that are right, in one form, by their names in the file; a key with a default is always there."""
    data = _copied(report.source.data)
    for path, odd in report.source.scalars():
        _put(data, path, Written(odd.value, odd))
    while True:
        try:
            return _plain(INFRA.model_validate(data), (), report)
        except ValidationError as error:
            wrong = _wrong(error, data, report)
        fresh = wrong - report.wrong
        if () in wrong or not fresh:
            return _plain(INFRA(), (), report)
        for path in sorted(fresh, key=len, reverse=True):  # what is within another one first
            _put(data, path, GONE)
        report.wrong |= wrong


def _wrong(error: ValidationError, data: Any, report: Report) -> set[KeyPath]:
    """Report what is wrong, and return where."""
    names = _Names()
    paths = set()
    for detail in error.errors(include_url=False, include_input=False):
        of_key = detail["loc"][-1:] == (_OF_KEY,) and detail["type"] not in _UNKNOWN
        path = names.path(data, detail["loc"][:-1] if of_key else detail["loc"])
        reason = detail.get("ctx", {}).get("error")
        if isinstance(reason, WrongError) and reason.within:
            path = (*path, reason.within)
        _tell(detail, path, report, of_key=of_key)
        paths.add(path)
    return paths


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _put(data: Any, path: KeyPath, value: Any) -> None:
    for part in path[:-1]:
        data = data[part]
    data[path[-1]] = value


class _Names:
    """Finds what pydantic means: it knows keys that are no text by their text only."""

    def __init__(self) -> None:
        self._unusual: dict[int, dict[str, Any]] = {}

    def path(self, data: Any, place: tuple[Any, ...]) -> KeyPath:
        """The path of a place in `data`."""
        path: list[Any] = []
        for part in place:
            if isinstance(data, dict):
                name = part if isinstance(part, str) and part in data else self._of(data)[str(part)]
            elif isinstance(data, list):
                name = part
            else:
                break
            path.append(name)
            data = data[name]
        return tuple(path)

    def _of(self, data: dict[Any, Any]) -> dict[str, Any]:
        if id(data) not in self._unusual:
            unusual = [name for name in data if not isinstance(name, str)]
            by_text = {repr(name): name for name in unusual} | {str(name): name for name in unusual}
            self._unusual[id(data)] = by_text | {str(int(name)): name for name in unusual if isinstance(name, bool)}
        return self._unusual[id(data)]


def _tell(detail: Any, path: KeyPath, report: Report, *, of_key: bool) -> None:
    kind = detail["type"]
    value = path[-1] if of_key else _at(report.source.data, path)
    told = report.told(path, value, key=of_key)
    if kind in _UNKNOWN:
        hint = report.did_you_mean(path[-1], known_keys(INFRA, path[:-1]))
        message = f"unknown key {report.told(path, path[-1], key=True)}"
        report.error(path, "unknown-key", message, key=True, hint=hint)
    elif kind in ("model_type", "dict_type"):
        what = _named(path) if path else "the file"
        report.error(path, "wrong-type", f"{what} must be a mapping, not {told}")
    elif kind == "list_type":
        hint = f"write [{value}]" if isinstance(value, str) and value.isprintable() and len(value) < 60 else None
        report.error(path, "wrong-type", f"{_named(path)} must be a list, not {told}", hint=hint)
    else:
        wrong: WrongError = detail["ctx"]["error"]
        if of_key:
            report.error(path, "wrong-name", f"the name {told} {wrong.message}", key=True, hint=wrong.hint)
        elif wrong.whole:
            report.error(path, wrong.code, wrong.message, key=wrong.code == "missing-key", hint=wrong.hint)
        else:
            end = f", not {told}" if wrong.message.startswith("must be ") else ""
            report.error(path, wrong.code, f"{_named(path)} {wrong.message}{end}", hint=wrong.hint)


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data[part]
    return data


def _named(path: KeyPath) -> str:
    words = [part for part in path if isinstance(part, str)]
    name = words[-1] if words else "this"
    index = f"[{path[-1]}]" if path and isinstance(path[-1], int) and words else ""
    return f"{shown(name)}{index}"


def _plain(section: Keys, path: KeyPath, report: Report) -> dict[str, Any]:
    tree = {}
    for (name, info), (attribute, value) in zip(section.infos().items(), section, strict=True):
        if info.foreign and attribute in section.model_fields_set:
            report.foreign[name] = None
        if info.required and value is None and (*path, name) not in report.wrong:
            report.error(path, "missing-key", f"missing key '{name}'", key=True)
        if value is GONE:
            usual = type(section).model_fields[attribute].get_default(call_default_factory=True)
            tree[name] = _read(usual, (*path, name), report, numbered=info.numbered)
        elif isinstance(value, (Keys, dict, list)):
            tree[name] = _read(value, (*path, name), report, numbered=info.numbered)
        elif value is not None:
            tree[name] = value
    return tree


def _read(value: Any, path: KeyPath, report: Report, *, numbered: bool = False) -> Any:
    if isinstance(value, Keys):
        return _plain(value, path, report)
    if isinstance(value, dict):
        return {name: _read(item, (*path, name), report) for name, item in value.items() if item is not GONE}
    if isinstance(value, list):
        read = [(index, _read(item, (*path, index), report)) for index, item in enumerate(value) if item is not GONE]
        return read if numbered else [item for _, item in read]
    return value
