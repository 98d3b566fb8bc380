"""What part of a file a request wants (RFC 9110, sections 13 and 14): pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Part", "part_of"]


@dataclass(frozen=True)
class Part:
    """The answer's status, and which bytes of the file go with it: from `begin` up to, not including, `end`."""

    status: int
    begin: int
    end: int


def part_of(size: int, tag: str, asked: str | None, if_none_match: str | None, if_range: str | None) -> Part:
    """What to answer about a file of `size` bytes with the entity tag `tag`; `asked` is the header Range.

    Of several ranges at once, and of what is no range in bytes, the whole file is the answer, as the RFC allows.
    """
    if if_none_match is not None and (if_none_match.strip() == "*" or tag in _tags(if_none_match)):
        return Part(304, 0, 0)
    whole = Part(200, 0, size)
    match = re.fullmatch(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})", (asked or "").strip(), re.IGNORECASE | re.ASCII)
    if match is None or match.group(1) == match.group(2) == "" or (if_range is not None and if_range.strip() != tag):
        return whole
    first, last = match.groups()
    if not first:  # the last so many bytes
        return Part(206, max(0, size - int(last)), size) if int(last) and size else Part(416, 0, 0)
    if last and int(last) < int(first):
        return whole
    if int(first) >= size:
        return Part(416, 0, 0)
    return Part(206, int(first), min(size, int(last) + 1) if last else size)


def _tags(header: str) -> list[str]:
    """Entity tags, weak ones as strong: both are the same for this comparison."""
    return [tag.strip().removeprefix("W/") for tag in header.split(",")]
