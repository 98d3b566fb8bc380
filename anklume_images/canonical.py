"""Documents in one spelling, so that equal ones have equal hashes."""

from __future__ import annotations

import json

__all__ = ["canonical"]


def canonical(document: object) -> bytes:
    """JSON with one spelling only: sorted keys, no blanks, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
