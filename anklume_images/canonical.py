"""JSON documents: in one spelling, so that equal ones have equal hashes; and read, whoever wrote them."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["canonical", "parsed", "what_is_wrong"]

_LACKED = re.compile(r"missing \d+ required .*arguments?: (.+)$")  # as Python says it when a dataclass is made
_UNKNOWN = re.compile(r"unexpected keyword argument ('.*?')")


def canonical(document: object) -> bytes:
    """JSON with one spelling only: sorted keys, no blanks, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parsed(data: bytes) -> Any:
    """The document that these bytes are; ValueError when they are none, or are nested deeper than can be followed."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def what_is_wrong(error: Exception) -> str:
    """Why a document could not be read, for the person who has to mend it; `error` is what reading it ended with."""
    if isinstance(error, KeyError):
        return f"'{error.args[0]}' is missing"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    if isinstance(error, ValueError):
        return str(error)
    return _wrong_shape(str(error))


def _wrong_shape(error: str) -> str:
    if found := _LACKED.search(error):
        return f"{found[1]} {'are' if ' and ' in found[1] else 'is'} missing"
    if found := _UNKNOWN.search(error):
        return f"unknown key {found[1]}"
    return "a value is of the wrong kind, such as text in place of a list"
