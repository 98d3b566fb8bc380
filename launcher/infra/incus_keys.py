"""The keys that Incus has for instances and devices, in the versions that are known here, and what each takes.

The table is made from running daemons, by tests/support/incus_keys.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, TypedDict

from anklume_images.incus.values import bytes_of, is_boolean, is_integer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["FREE", "Keys", "Known", "config_keys", "device_keys"]

FREE = ("user.", "environment.", "raw.")
"""Beginnings of keys whose names and values are a person's own."""

_WORDS = {
    "bool": "true or false",
    "integer": "a whole number",
    "size": "a size such as 8GiB",
    "percent": "a part such as 50%",
    "last-state": "last-state",
}
_TAKES: dict[str, Callable[[str], bool]] = {
    "bool": is_boolean,
    "integer": is_integer,
    "size": lambda text: bytes_of(text) is not None,
    "percent": lambda text: text.endswith("%") and text[:-1].isdecimal(),
    "last-state": lambda text: text == "last-state",
}
_ANY = "text"


class _Version(TypedDict):
    config: dict[str, str]
    devices: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Known:
    """A key: what each version that has it takes, in the words of the table."""

    kinds: tuple[str, ...]

    @property
    def boolean(self) -> bool:
        """Whether it is one that is switched on or off."""
        return any("bool" in kind.split(",") for kind in self.kinds)

    def problem(self, text: str) -> str | None:
        """What a value must be where no version takes it, else None; an empty one is as if it were not there."""
        if not text or _ANY in self.kinds:
            return None
        taken = dict.fromkeys(kind for kinds in self.kinds for kind in kinds.split(","))
        if any(_TAKES[kind](text) for kind in taken):
            return None
        words = [_WORDS[kind] for kind in taken if kind != "integer" or "size" not in taken]
        return f"must be {' or '.join(words)}"


@dataclass(frozen=True)
class Keys:
    """Keys by name; `*` at the end of one stands for any end."""

    by_name: Mapping[str, Known]

    def find(self, key: str) -> Known | None:
        """The key of that name."""
        exact = self.by_name.get(key)
        if exact is not None:
            return exact
        return next(
            (known for name, known in self.by_name.items() if name[-1] == "*" and key.startswith(name[:-1])), None
        )

    @property
    def names(self) -> list[str]:
        """The names that are whole ones, for suggestions."""
        return [name for name in self.by_name if name[-1] != "*"]


@cache
def config_keys() -> Keys:
    """The keys of an instance's configuration."""
    return _merged(version["config"] for version in _table().values())


@cache
def device_keys(kind: str) -> Keys | None:
    """The keys of a type of device; None where nothing is known of that type."""
    tables = [version["devices"][kind] for version in _table().values() if kind in version["devices"]]
    return _merged([*tables, {"type": _ANY}]) if tables else None


@cache
def _table() -> dict[str, _Version]:
    loaded: dict[str, _Version] = json.loads((files("launcher.infra") / "incus_keys.json").read_text("utf-8"))
    return loaded


def _merged(tables: Iterable[Mapping[str, str]]) -> Keys:
    kinds: dict[str, list[str]] = {}
    for table in tables:
        for key, kind in table.items():
            kinds.setdefault(key, []).append(kind)
    return Keys({key: Known(tuple(dict.fromkeys(types))) for key, types in kinds.items()})
