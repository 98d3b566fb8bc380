"""What a machine said, made fit for a terminal: no machine can move the cursor of who looks at it."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["harmless", "sanitized"]

# Colours and the like, as systemd puts them on a console (ECMA-48, control sequences).
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def sanitized(text: str) -> str:
    """One line without control sequences; other characters that cannot be printed are written out (`\\x07`)."""
    return "".join(
        character if character.isprintable() or character == "\t" else character.encode("unicode_escape").decode()
        for character in _SEQUENCE.sub("", text)
    )


def harmless(text: str) -> str:
    """Text of any number of lines with its control characters written out, and no carriage returns.

    Unlike in `sanitized`, what scripts and emoji need to be joined stays.
    """
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs")
        else character.encode("unicode_escape").decode()
        for character in text.replace("\r", "")
    )
