"""How Incus writes values: booleans, whole numbers, sizes, PCI addresses.

Sources: shared/util/boolean.go, shared/validate/validate.go, shared/units/units.go of lxc/incus.
"""

from __future__ import annotations

import re

__all__ = [
    "bytes_of",
    "is_boolean",
    "is_false",
    "is_integer",
    "is_true",
    "pci_address",
    "pci_addresses_in",
]

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
_SIZE = re.compile(r"([0-9]{1,19})(|B| bytes|[kMGTPE]B|[KMGTPE]iB)")
_PCI = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")
_PCI_IN = re.compile(rf"(?<![0-9a-f:]){_PCI.pattern}(?![0-9a-f])")

_UNITS: dict[str, int] = {"": 1, "B": 1, " bytes": 1} | {
    f"{letter}{end}": base**power
    for letters, end, base in (("kMGTPE", "B", 1000), ("KMGTPE", "iB", 1024))
    for power, letter in enumerate(letters, 1)
}


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
    size = int(match[1]) * _UNITS[match[2]]
    return size if size < 1 << 63 else None


def pci_address(text: str) -> str | None:
    """An address in Incus' form: `01:00.0`, `0000:01:00.0` and NVIDIA's `00000000:01:00.0` are all `0000:01:00.0`.

    None when it is none.
    """
    match = _PCI.fullmatch(text.strip().lower())
    return None if match is None else _normal(match)


def pci_addresses_in(text: str) -> set[str]:
    """The addresses that stand in a text, such as a path or a line of configuration."""
    return {_normal(match) for match in _PCI_IN.finditer(text.lower())}


def _normal(match: re.Match[str]) -> str:
    domain, bus, slot, function = match.groups()
    return f"{int(domain or '0', 16):04x}:{bus}:{slot}.{function}"
