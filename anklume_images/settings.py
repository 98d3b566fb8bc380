"""What the person who runs the program decides: mirrors, indexes, parallelism, and where the store lives.

Read from `/etc/anklume/images.yml`, then the user's `$XDG_CONFIG_HOME/anklume/images.yml`, then `ANKLUME_*` in the
environment; the later one wins, mirrors per archive. Each key is declared once, in `Settings`, from which
docs/reference/settings.md has its table. Every command reads settings: pydantic, by which specs and infra.yml are read,
would cost each of them its import.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from anklume_images.errors import InvalidFileError, Problem
from anklume_images.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import yaml

__all__ = ["SETTINGS", "Setting", "Settings", "keys_home", "load_settings", "settings_paths", "store_home"]

_SCHEMES = ("http://", "https://", "file:///")
_MOST_CONNECTIONS = 64
_FILE = "images.yml"


# What each key must be; each returns the value in the shape that Settings keeps, or raises ValueError.


def _url(value: object) -> str:
    if not isinstance(value, str) or not value.startswith(_SCHEMES):
        raise ValueError("must be a URL that begins with http://, https:// or file:///")
    from urllib.parse import urlsplit

    parts = urlsplit(value)  # ValueError for brackets that do not match
    if parts.scheme != "file" and (not parts.hostname or parts.port == 0):  # ValueError for a port that cannot be
        raise ValueError("must be a URL with a host")
    return value.rstrip("/")


def _urls(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_url(value),)
    if not isinstance(value, list):
        raise ValueError("must be a URL or a list of URLs")  # noqa: TRY004 - one type for all that is wrong in a file
    return tuple(_url(entry) for entry in value)


def _mirrors(value: object) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError("must map archive names to lists of URLs")
    return {archive: _urls(urls) for archive, urls in value.items()}


def _count(most: int | None = None) -> Callable[[object], int]:
    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most and value > most):
            raise ValueError(f"must be a number from 1 to {most}" if most else "must be a number, 1 or more")
        return value

    return check


def _as_number(text: str) -> object:
    return int(text) if text.isdecimal() else text


def _as_mirrors(text: str) -> dict[str, list[str]]:
    mirrors: dict[str, list[str]] = {}
    for word in text.split():
        archive, _, url = word.partition("=")
        mirrors.setdefault(archive, []).append(url)
    return mirrors


@dataclass(frozen=True)
class Setting:
    """One key: `check` returns the value in the shape that Settings keeps, `read` makes one of the environment's text.

    `written` is the text in the environment, `default` and `meaning` are for the reference.
    """

    check: Callable[[object], Any]
    meaning: str
    default: str
    written: str
    read: Callable[[str], object]


def _setting(
    check: Callable[[object], Any],
    meaning: str,
    value: Any = None,
    *,
    written: str,
    default: str = "",
    read: Callable[[str], object] = str,
) -> Any:
    declared = Setting(check, meaning, default or str(value), written, read)
    return field(default_factory=lambda: value, metadata={"setting": declared})


@dataclass(frozen=True)
class Settings:
    """The settings in force; `path` is the file in which a person would change them, for hints."""

    mirrors: Mapping[str, tuple[str, ...]] = _setting(
        _mirrors,
        "map of archive name to base URLs, asked after the host's apt sources. Names: `debian`, `debian-security`, "
        "`pypi`, and those that specs declare",
        MappingProxyType({}),
        written='"debian=URL debian=URL2"',
        default="none",
        read=_as_mirrors,
    )
    snapshot: str | None = _setting(
        _url,
        "a permanent archive, asked last for packages, at `URL/<archive>/<YYYYMMDDTHHMMSSZ>/<path>`",
        written="URL",
        default="none",
    )
    python_indexes: tuple[str, ...] = _setting(
        _urls,
        "simple indexes, in place of those in pip's and uv's configuration",
        (),
        written='"URL URL"',
        default="pip's and uv's",
        read=str.split,
    )
    jobs: int | None = _setting(_count(), "builds at once", written="N", default="number of CPUs", read=_as_number)
    connections: int = _setting(
        _count(_MOST_CONNECTIONS), f"downloads at once, 1 to {_MOST_CONNECTIONS}", 8, written="N", read=_as_number
    )
    generations: int = _setting(
        _count(),
        "versions that `gc` keeps for each channel, the one that it names included; 1 keeps that one only",
        2,
        written="N",
        read=_as_number,
    )
    path: Path = Path("/etc/anklume") / _FILE


SETTINGS: dict[str, Setting] = {
    entry.name: entry.metadata["setting"] for entry in fields(Settings) if "setting" in entry.metadata
}


def settings_paths(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Where settings are looked for, the weakest first."""
    return Path("/etc/anklume") / _FILE, _xdg(environ, "XDG_CONFIG_HOME", "user_config_path") / "anklume" / _FILE


def store_home(environ: Mapping[str, str] = os.environ) -> Path:
    """The store's home: ANKLUME_STORE, else `/var/lib/anklume` for root and `$XDG_DATA_HOME/anklume` for others."""
    if chosen := environ.get("ANKLUME_STORE"):
        return Path(chosen).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/anklume")
    return _xdg(environ, "XDG_DATA_HOME", "user_data_path") / "anklume"


def keys_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Where private keys are: ANKLUME_KEYS, else `$XDG_CONFIG_HOME/anklume/keys`; never in a store."""
    if chosen := environ.get("ANKLUME_KEYS"):
        return Path(chosen).expanduser().absolute()
    return _xdg(environ, "XDG_CONFIG_HOME", "user_config_path") / "anklume/keys"


def load_settings(environ: Mapping[str, str] = os.environ, paths: Iterable[Path] | None = None) -> Settings:
    """Read every file that is there, then the environment; InvalidFileError with every problem in all of them."""
    chosen = tuple(settings_paths(environ) if paths is None else paths)
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    mirrors: dict[str, tuple[str, ...]] = {}
    layers = [_read_file(path, problems) for path in chosen]
    layers.append(_read_environment(environ, problems))
    for layer in layers:
        mirrors.update(layer.pop("mirrors", {}))
        values.update(layer)
    if problems:
        raise InvalidFileError(problems)
    if chosen:
        values["path"] = chosen[-1]
    return Settings(mirrors=MappingProxyType(mirrors), **values)


def _xdg(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    # The specification says to ignore a relative path (basedir-spec, "Environment variables").
    if (value := environ.get(variable, "")) and Path(value).is_absolute():
        return Path(value)
    import platformdirs

    return Path(getattr(platformdirs, fallback)())


def _read_file(path: Path, problems: list[Problem]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        problems.append(Problem(str(path), 1, 1, "unreadable", str(reason)))
        return {}
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            problems.append(Problem(str(path), 1, 1, "type", "must be a mapping of settings"))
            return {}
        return _read_mapping(root, str(path), problems)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        reason = getattr(error, "problem", None) or "cannot be read"
        problems.append(Problem(str(path), line, column, "syntax", f"not valid YAML: {reason}"))
        return {}


def _read_mapping(root: yaml.MappingNode, file: str, problems: list[Problem]) -> dict[str, Any]:
    from yaml.constructor import SafeConstructor

    from anklume_images.scalars import scalar

    values: dict[str, Any] = {}
    seen: set[str] = set()
    for key_node, value_node in root.value:
        key = str(key_node.value) if key_node.id == "scalar" else f"({key_node.id})"
        place = _place(file, key_node)
        if key in seen:
            problems.append(Problem(*place, "duplicate-key", f"key '{key}' is there twice", key))
        elif key not in SETTINGS:
            close = nearest(key, SETTINGS)
            hint = f"did you mean '{close}'?" if close else None
            problems.append(Problem(*place, "unknown-key", f"unknown key '{key}'", key, hint))
        else:
            names = [str(node.value) for node, _ in value_node.value] if value_node.id == "mapping" else []
            if twice := {name for name in names if names.count(name) > 1}:
                message = f"'{key}' names {', '.join(sorted(twice))} twice"
                problems.append(Problem(*_place(file, value_node), "duplicate-key", message, key))
            value = SafeConstructor().construct_document(value_node)
            place = _place(file, value_node)
            odd = scalar(value_node.value, value)
            if odd and odd.other_number:
                problems.append(Problem(*place, "changed-by-yaml", f"'{key}' is {odd}", key, odd.plain))
            else:
                _take(values, key, value, place, problems)
        seen.add(key)
    return values


def _place(file: str, node: yaml.Node) -> tuple[str, int, int]:
    return file, node.start_mark.line + 1, node.start_mark.column + 1


def _read_environment(environ: Mapping[str, str], problems: list[Problem]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, setting in SETTINGS.items():
        variable = f"ANKLUME_{key.upper()}"
        if text := environ.get(variable, "").strip():
            _take(values, key, setting.read(text), (f"${variable}", 1, 1), problems)
    return values


def _take(
    values: dict[str, Any], key: str, value: object, place: tuple[str, int, int], problems: list[Problem]
) -> None:
    try:
        values[key] = SETTINGS[key].check(value)
    except ValueError as error:
        problems.append(Problem(*place, "type", f"'{key}' {error}", key))
