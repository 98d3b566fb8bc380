"""The known word that somebody may have meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(word: object, known: Iterable[str]) -> str | None:
    """The known word most like `word`, for `did you mean`; None when nothing is close."""
    plain = {name.replace("-", "_").lower(): name for name in known}
    matches = difflib.get_close_matches(str(word)[:100].replace("-", "_").lower(), plain, n=1, cutoff=0.6)
    return plain[matches[0]] if matches else None
