"""A shared library with a name and nothing in it, for simulated drivers: ldconfig makes its link, nothing runs it.

The layout is that of elf(5): a header, two program headers, the names, the dynamic section.
"""

from __future__ import annotations

import platform
import struct

__all__ = ["stub_library"]

_MACHINES = {"x86_64": 62, "aarch64": 183, "i686": 3}
_LOAD, _DYNAMIC = 1, 2
_NULL, _STRTAB, _STRSZ, _SONAME = 0, 5, 10, 14


def stub_library(soname: str, machine: str = "") -> bytes:
    """The file of a library that calls itself so; `machine` as the kernel names it (i686 is a 32-bit one)."""
    machine = machine or platform.machine()
    wide = machine != "i686"
    header, segment, entry = (64, 56, 16) if wide else (52, 32, 8)
    names = b"\0" + soname.encode() + b"\0"
    begin = header + 2 * segment
    table = begin + len(names) + -(begin + len(names)) % 8
    dynamic = ((_SONAME, 1), (_STRTAB, begin), (_STRSZ, len(names)), (_NULL, 0))
    end = table + entry * len(dynamic)
    word = "Q" if wide else "I"
    return b"".join(
        (
            b"\x7fELF" + bytes((2 if wide else 1, 1, 1)) + bytes(9),
            struct.pack(f"<HHI3{word}I6H", 3, _MACHINES[machine], 1, 0, header, 0, 0, header, segment, 2, 0, 0, 0),
            _segment(_LOAD, 0, end, wide=wide),
            _segment(_DYNAMIC, table, end - table, wide=wide),
            names.ljust(table - begin, b"\0"),
            *(struct.pack(f"<2{word}", *pair) for pair in dynamic),
        )
    )


def _segment(kind: int, offset: int, size: int, *, wide: bool) -> bytes:
    """A program header of bytes that are mapped where they lie in the file."""
    if wide:
        return struct.pack("<2I6Q", kind, 4, offset, offset, offset, size, size, 8)
    return struct.pack("<8I", kind, offset, offset, offset, size, size, 4, 8)
