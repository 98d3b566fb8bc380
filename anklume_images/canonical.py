"""JSON documents: in one spelling, so that equal ones have equal hashes; and read, whoever wrote them."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["canonical", "parsed"]


def canonical(document: object) -> bytes:
    """JSON with one spelling only: sorted keys, no blanks, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parsed(data: bytes) -> Any:
    """The document that these bytes are; ValueError when they are none, or are nested deeper than can be followed."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
