"""What pydantic finds wrong in a file that a person wrote, in the words of this project and with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from anklume_images.nearest import nearest
from anklume_images.specs.yamlfile import Document, KeyPath, pointer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from anklume_images.errors import Problem

__all__ = ["known_keys", "problems_of"]


def problems_of(
    details: Iterable[Any],
    document: Document,
    shape: type[BaseModel],
    origin: Callable[[KeyPath], KeyPath] = lambda path: path,
) -> Iterator[Problem]:
    """The problems that `ValidationError.errors()` of `shape` tells; `origin` says where in the file a path stands."""
    details = list(details)
    for detail in details:
        length = len(detail["loc"])
        # Wrong items count as missing too; the items' own problems say it all.
        if detail["type"] != "too_short" or not any(
            other["loc"][:length] == detail["loc"] for other in details if other is not detail
        ):
            yield _problem(detail, document, shape, origin)


def _problem(detail: Any, document: Document, shape: type[BaseModel], origin: Callable[[KeyPath], KeyPath]) -> Problem:
    path = tuple(part for part in detail["loc"] if part != "[key]")
    kind = detail["type"]
    if kind == "extra_forbidden":
        close = nearest(path[-1], known_keys(shape, path[:-1]))
        hint = f"did you mean '{close}'?" if close else None
        return document.problem(origin(path), "unknown-key", f"unknown key '{path[-1]}'", key=True, hint=hint)
    if kind == "missing":
        return document.problem(origin(path[:-1]), "missing-key", f"missing key '{path[-1]}'")
    code = "wrong-type" if kind.endswith("_type") else "wrong-value"
    message, hint = f"'{pointer(path)}': {_reason(detail)}", _hint(detail)
    of_key = "[key]" in detail["loc"]
    odd = document.scalar(origin(path), key=of_key)
    if odd:
        message, hint = f"{message}; it is {odd}", odd.quoted if kind != "bool_type" else hint
    return document.problem(origin(path), code, message, key=of_key, hint=hint)


def known_keys(shape: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that the mapping at `path` may have."""
    annotation: Any = shape
    for part in path:
        model = _model_within(annotation)
        if isinstance(part, int) or _is_mapping(annotation):  # on to the items, whose model stays the same
            annotation = model
        elif model is not None:
            fields = {info.alias or name: info.annotation for name, info in model.model_fields.items()}
            annotation = fields.get(str(part))
    model = _model_within(annotation)
    return [info.alias or name for name, info in model.model_fields.items()] if model else []


def _is_mapping(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is dict


def _model_within(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation such as `tuple[Suite, ...]` or `DebianInputs | None` is about."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        model = _model_within(argument)
        if model is not None:
            return model
    return None


_REASONS = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}


def _reason(detail: Any) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _REASONS:
        return _REASONS[kind]
    value = detail.get("input")
    shown = f"{value!r}" if isinstance(value, (str, int, float)) else "this"
    if kind == "string_pattern_mismatch":
        return f"{shown} does not match {context['pattern']}"
    if kind == "literal_error":
        return f"{shown} is not one of {context['expected']}"
    if kind == "value_error":
        return str(context["error"])
    return str(detail["msg"][:1].lower() + detail["msg"][1:])


def _hint(detail: Any) -> str | None:
    if detail["type"] == "string_type" and isinstance(detail.get("input"), (int, float, bool)):
        return "put it in quotes"
    if detail["type"] == "tuple_type" and isinstance(detail.get("input"), str):
        return f"write [{detail['input']}]"
    if detail["type"] == "literal_error":
        choices = [choice.strip("' ") for choice in detail["ctx"]["expected"].replace(" or ", ",").split(",")]
        close = nearest(detail.get("input"), choices)
        return f"did you mean '{close}'?" if close else None
    return None
