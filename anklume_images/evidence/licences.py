"""Licences as packages state them, in SPDX's words where there is one: an identifier, an expression or a free name.

Debian's are read from machine-readable copyright files ("Machine-readable debian/copyright file", version 1.0): a
license field begins its line, and its first line has the short names. Those of other files are not guessed at.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from email.message import Message

__all__ = ["debian_licences", "spdx_of", "wheel_licences"]

_MACHINE_READABLE = re.compile(r"\s*Format(?:-Specification)?:\s*\S*(?:copyright-format|dep5|DEP5)", re.IGNORECASE)
_LICENSE = re.compile(r"^License:[ \t]*(\S.*?)\s*$", re.MULTILINE)
_GNU = re.compile(r"(?P<name>[AL]?GPL|GFDL)(?P<niv>-NIV)?-(?P<version>\d(?:\.\d)?)(?P<later>\+)?", re.IGNORECASE)
# Short names of Debian's format that are not SPDX's, by the text that the format says they are.
_DEBIAN = {
    "apache-2": "Apache-2.0",
    "artistic": "Artistic-1.0",
    "cc0": "CC0-1.0",
    "expat": "MIT",
    "mit/x11": "MIT",
    "psf-2": "PSF-2.0",
}
_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
_APACHE_2 = re.compile(r"apache(?:[ -]?software)?(?: licen[sc]e)?,?(?: version)?[ -]?2(?:\.0)?", re.IGNORECASE)
_LONGEST_NAME = 100  # characters; a longer one is a licence's text


def debian_licences(copyright_file: str) -> tuple[str, ...]:
    """Every licence that a machine-readable copyright file names, sorted; none of another file."""
    if not _MACHINE_READABLE.match(copyright_file):
        return ()
    lines = {line for line in _LICENSE.findall(copyright_file) if len(line) <= _LONGEST_NAME}
    names = {name.strip() for line in lines for name in re.split(r"\s+(?:and/or|and|or)\s+|,\s*(?:and\s+)?", line)}
    return tuple(sorted({spdx_of(name) for name in names if name}))


def spdx_of(name: str) -> str:
    """SPDX's identifier of a short name of Debian's; the name itself where there is none."""
    from cyclonedx.spdx import fixup_id

    gnu = _GNU.fullmatch(name)
    if gnu:
        version = gnu["version"] if "." in gnu["version"] else f"{gnu['version']}.0"
        family = gnu["name"].upper()
        inner = "-no-invariants" if gnu["niv"] else ""
        name = f"{family}-{version}{inner}-{'or-later' if gnu['later'] else 'only'}"
    return fixup_id(_DEBIAN.get(name.lower(), name)) or name


def wheel_licences(metadata: Message) -> tuple[str, ...]:
    """What a wheel's core metadata states: License-Expression, else License where it is a name, else classifiers."""
    from cyclonedx.spdx import fixup_id

    expression = metadata["License-Expression"]
    if expression:
        return (str(expression).strip(),)
    name = " ".join(str(metadata["License"] or "").split())
    if name and name.upper() != "UNKNOWN" and len(name) <= _LONGEST_NAME:
        return ("Apache-2.0",) if _APACHE_2.fullmatch(name) else (fixup_id(name) or _CLASSIFIERS.get(name, name),)
    prefix = "License :: "
    stated = (str(line) for line in metadata.get_all("Classifier", ()) if str(line).startswith(prefix))
    words = {line.rpartition(" :: ")[2] for line in stated} - {"OSI Approved", "Other/Proprietary License"}
    return tuple(sorted(_CLASSIFIERS.get(word, word) for word in words))
