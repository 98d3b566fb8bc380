"""What a plain scalar was as written, where YAML made something else of it.

YAML 1.1 reads 010 as 8, 12:30:45 as 45045, 3.10 as 3.1, 0x1F as 31 and yes as true, each without a word.
Sources: https://yaml.org/type/int.html, float.html and bool.html.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

__all__ = ["Scalar", "scalar"]

_LONGEST = 60
_MOST_BITS = 200
_OCTAL = re.compile(r"([-+]?)0+([1-9][0-9]{0,18})")


@dataclass(frozen=True)
class Scalar:
    """A plain scalar whose `value`, a number, true or false, is not the text that was `written`."""

    written: str
    value: Any

    @property
    def other_number(self) -> bool:
        """Whether it is a number, and not the one that its digits say: 010 and 0x10 are, 1_000 and 3.10 are not."""
        if isinstance(self.value, bool):
            return False
        try:
            number = int(self.written) if isinstance(self.value, int) else float(self.written)
        except ValueError:  # hexadecimal, binary, sexagesimal, .inf, .nan
            return True
        return bool(number != self.value)

    def __str__(self) -> str:
        cut = self.written if len(self.written) <= _LONGEST else f"{self.written[: _LONGEST - 3]}..."
        return f"written {cut}, which YAML reads as {_text(self.value)}"

    @property
    def quoted(self) -> str:
        """What to write for the text itself."""
        return f'write "{self.written}", in quotes' if len(self.written) <= _LONGEST else "put it in quotes"

    @property
    def plain(self) -> str:
        """What to write for the number that came out, or for the one that it looks like."""
        if not math.isfinite(self.value) if isinstance(self.value, float) else self.value.bit_length() > _MOST_BITS:
            return "write a number in digits"
        octal = _OCTAL.fullmatch(self.written.replace("_", ""))
        meant = f", or {octal[1].replace('+', '')}{octal[2]}" if octal else ""
        return f"write {_text(self.value)}{meant}"


def scalar(written: str, value: Any) -> Scalar | None:
    """The scalar, where text and value are not the same; texts, dates and nothing are as they were written."""
    if not isinstance(value, (bool, int, float)) or _text(value) == written:
        return None
    return Scalar(written, value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return "a very large number"  # Python would not even write it
    return str(value)
