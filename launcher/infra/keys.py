"""What a key of an infra.yml is made of: the model of a section, what is said of each key, and how a value is read.

The declarations are in `schema.py`; `reading.py` reads by them, and `json_schema.py` tells editors of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from launcher.infra import readers
from launcher.infra.live import is_live_config
from launcher.infra.readers import WrongError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anklume_images.scalars import Scalar

__all__ = [
    "CHANGES",
    "GONE",
    "Anything",
    "Changing",
    "KeyInfo",
    "Keys",
    "ListOf",
    "MappingOf",
    "OrEmpty",
    "Read",
    "Written",
    "key",
    "one_of",
]

GONE: Any = object()
"""Stands where something was wrong, and has been reported: what is around it is read as if it were not there."""

Changing = Literal["live", "restart", "replace", "prune", "recreate", "nothing", "parts"]

CHANGES: Mapping[Changing, tuple[str, str]] = {
    "live": ("live", "A change reaches running machines."),
    "restart": ("RESTART", "A change restarts running machines."),
    "replace": ("`--replace`", "A change reaches existing machines only with `apply --replace`."),
    "prune": ("`--prune`", "What a change turns off is removed only by `apply --prune`."),
    "recreate": ("destroy first", "A change is refused until the existing machines are destroyed."),
    "nothing": ("nothing", "A change does nothing to existing machines."),
    "parts": ("by key", ""),
}
"""What changing a key does to machines that exist: a word for tables, and a sentence.

Of `parts`, each key or entry within has its own.
"""

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Written:
    """A value of which YAML made something else than was written; it stands in the value's place while it is read."""

    value: Any
    scalar: Scalar


@dataclass(frozen=True)
class KeyInfo:
    """What is said of a key beside its type.

    `meaning` is for the reference and for editors; `kind` and `default` stand in the reference where the type and the
    value do not say it. A `required` key must have a value, a `present` one must be written and may be empty. A
    `foreign` key is the framework's own and does nothing here, a `new` one the framework does not know. `incus` is the
    key of an instance's configuration that a machine's value becomes, where that is all it does. `changing` says what
    a change does; without, it does what is usual in the section. The items of a `numbered` list come with where they
    are in it.
    """

    meaning: str
    kind: str = ""
    default: str = ""
    required: bool = False
    present: bool = False
    foreign: bool = False
    new: bool = False
    incus: str = ""
    numbered: bool = False
    changing: Changing | None = None

    def __call__(self, schema: dict[str, Any]) -> None:
        """For pydantic: nothing but the description goes into a JSON Schema."""


def key(
    value: Any = None,
    meaning: str = "",
    *,
    made: Callable[[], Any] | None = None,
    alias: str | None = None,
    **info: Any,
) -> Any:
    """A key of a section, by the value that it has where nobody sets it, or by what makes one; `info` as in KeyInfo."""
    given: dict[str, Any] = {"default": value} if made is None else {"default_factory": made}
    return Field(alias=alias, description=meaning or None, json_schema_extra=KeyInfo(meaning, **info), **given)


class Keys(BaseModel):
    """A mapping with known keys; one without a value is as if it were not there.

    Required keys are seen to by the reader, so that what else is there is read all the same.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    usually: ClassVar[Changing] = "live"

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = cls.infos()
        return {
            name: item for name, item in value.items() if item is not GONE and (item is not None or name not in known)
        }

    @classmethod
    @cache
    def infos(cls) -> Mapping[str, KeyInfo]:
        """What is said of each key, by its name in the file, in the order of the attributes."""
        return {
            field.alias or name: _info(field.json_schema_extra, cls.usually) for name, field in cls.model_fields.items()
        }


def _info(extra: Any, usually: Changing) -> KeyInfo:
    assert isinstance(extra, KeyInfo)  # noqa: S101  every key is declared by key()
    if extra.foreign:
        return replace(extra, changing="nothing")
    if extra.incus:
        return replace(extra, changing="live" if is_live_config(extra.incus) else "restart")
    return replace(extra, changing=extra.changing or usually)


@dataclass(frozen=True, eq=False)  # annotations are hashed
class Read:
    """How a value is read: annotates the type that comes out.

    `kind` is for the reference, `schema` for editors. What is taken `as_written` is the text that was written, or it is
    an error.
    """

    reader: readers.Reader
    kind: str = ""
    schema: str | Mapping[str, Any] = "string"
    as_written: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """For pydantic."""
        del source, handler
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """For pydantic."""
        del schema, handler
        return {"type": self.schema} if isinstance(self.schema, str) else dict(self.schema)

    def read(self, value: Any) -> Any:
        """What comes out; a number must be the one that its digits say."""
        if isinstance(value, Written):
            odd, value = value.scalar, value.value
            if self.as_written or odd.other_number:
                raise WrongError(f"is {odd}", code="changed-by-yaml", hint=self._meant(value, odd))
        return self.reader(value)

    def _meant(self, value: Any, odd: Scalar) -> str:
        """What to write: a number where numbers are taken, else the text in quotes."""
        if self.as_written:
            return f"{odd.quoted}; for a number {odd.plain}" if odd.other_number else odd.quoted
        try:
            self.reader(value)
        except WrongError as wrong:
            return odd.quoted if wrong.code == "wrong-type" else odd.plain
        return odd.plain


def one_of(*words: str | bool) -> Read:
    """One of some words."""
    names = [f"`{word}`" if isinstance(word, str) else f"`{str(word).lower()}`" for word in words]
    return Read(readers.choice(*words), ", ".join(names), {"enum": list(words)})


def _unless_gone(value: Any, read: Callable[[Any], Any]) -> Any:
    """What is gone stays where it stands: places in a list must not shift."""
    return value if value is GONE else read(value)


def _remaining(value: Any) -> Any:
    return {name: item for name, item in value.items() if item is not GONE} if isinstance(value, dict) else value


def _as_read(value: Any) -> Any:
    """A value that nobody looks at, as YAML reads it."""
    if isinstance(value, Written):
        return value.value
    if isinstance(value, dict):
        return {name: _as_read(item) for name, item in value.items()}
    return [_as_read(item) for item in value] if isinstance(value, list) else value


Anything = Annotated[Any, BeforeValidator(_as_read)]
"""What belongs to somebody else, or is looked at later."""

ListOf = list[Annotated[V, WrapValidator(_unless_gone)]]
MappingOf = Annotated[dict[K, V], BeforeValidator(_remaining)]
OrEmpty = Annotated[V, BeforeValidator(lambda value: {} if value is None else value)]
"""A thing of a mapping that needs no keys: one that is nothing has none."""
