"""How Incus writes values: booleans, whole numbers, sizes, PCI addresses.

Sources: shared/util/boolean.go, shared/validate/validate.go, shared/units/units.go of lxc/incus.
"""

from __future__ import annotations

import re

__all__ = ["SIZE_UNITS", "bytes_of", "is_boolean", "is_false", "is_integer", "is_true", "pci_address"]

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
_SIZE = re.compile(r"([0-9]{1,19})(|B| bytes|[kMGTPE]B|[KMGTPE]iB)")
_PCI = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.ASCII)

SIZE_UNITS: dict[str, int] = {"": 1, "B": 1, " bytes": 1} | {
    f"{letter}{end}": base**power
    for letters, end, base in (("kMGTPE", "B", 1000), ("KMGTPE", "iB", 1024))
    for power, letter in enumerate(letters, 1)
}
"""Bytes by the end of a size."""


def is_true(text: str | None) -> bool:
    """Whether Incus takes a value for true; it looks at no case."""
    return (text or "").lower() in _TRUE


def is_false(text: str | None) -> bool:
    """Whether Incus takes a value for a false one that somebody wrote."""
    return (text or "").lower() in _FALSE


def is_boolean(text: str) -> bool:
    """Whether Incus takes a value where it wants a boolean."""
    return is_true(text) or is_false(text)


def is_integer(text: str) -> bool:
    """Whether Incus takes a value where it wants a whole number, of 64 bits."""
    return bool(re.fullmatch(r"[+-]?[0-9]{1,19}", text)) and -(1 << 63) <= int(text) < 1 << 63


def bytes_of(text: str) -> int | None:
    """Bytes of a size (`512MiB`, `4GB`, `1024`), or None for what is no size to Incus."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    size = int(match[1]) * SIZE_UNITS[match[2]]
    return size if size < 1 << 63 else None


def pci_address(text: str) -> str | None:
    """A PCI address in one form, `0000:01:00.0`: domain of four digits or more, small letters; None for no address."""
    match = _PCI.fullmatch(text.strip().lower())
    if match is None:
        return None
    domain = (match[1] or "").lstrip("0").rjust(4, "0")
    return f"{domain}:{match[2]}:{match[3]}.{match[4]}"
