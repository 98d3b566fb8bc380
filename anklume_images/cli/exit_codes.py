"""The codes that commands end with, declared once: for man pages, the reference and tests."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ANY", "EXIT_CODES", "OF_EVERY_COMMAND", "Codes", "codes_of"]

Codes = dict[str, str]
"""What each code means, by the code or by what stands for many of them."""

ANY = "any other"

OF_EVERY_COMMAND: Mapping[str, str] = MappingProxyType(
    {
        "0": "done",
        "1": "failed",
        "2": "wrong usage, an unknown name, or an invalid file",
        "130": "interrupted by Ctrl-C",
        "141": "the reader of its output went away",
    }
)

_NEWER = "some inputs are newer, and were not written to locks"
_REVOKED = "an image or a model was revoked"

EXIT_CODES: Mapping[str, Codes] = MappingProxyType(
    {
        "build": {"3": "`--check` found other bytes, or `--explain` something to build"},
        "bundle create": {"4": f"{_REVOKED}, or an infra.yml gives one GPU to two machines"},
        "bundle import": {"4": _REVOKED},
        "bundle verify": {"1": "something is wrong with the bundle, or the command failed", "4": _REVOKED},
        "channel history": {"1": "a log was changed, or the command failed"},
        "diff": {"3": "the images differ"},
        "enter": {ANY: "the code of the shell"},
        "gc": {"1": "the store is larger than `--max-size`, or the command failed"},
        "outdated": {"3": "some inputs are newer"},
        "promote": {"4": f"a gate was not passed, or {_REVOKED}"},
        "publish": {"4": _REVOKED},
        "pull": {"4": _REVOKED},
        "scan": {"3": "a vulnerability that counts was found"},
        "update": {"3": _NEWER},
        "verify": {"1": "something is damaged and was not repaired, or the command failed"},
    }
)
"""Those of single commands of anklume-images, beside or in place of those of every command."""


def codes_of(command: str, own: Mapping[str, Codes]) -> Codes:
    """All codes of a command, in their order."""
    codes = {**OF_EVERY_COMMAND, **own.get(command, {})}
    return {code: codes[code] for code in sorted(codes, key=lambda code: int(code) if code.isdigit() else 200)}
