"""How things are called in Incus, and the marks by which the launcher knows what is its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.infra.model import Infra

__all__ = [
    "APPLIED",
    "CLAIM",
    "DOMAIN",
    "IMAGE",
    "MACHINE",
    "MARK",
    "NIC",
    "OWNER",
    "PROFILES",
    "UNFINISHED",
    "VARIABLE",
    "Names",
    "names_for",
    "owner_of",
]

MARK = "user.anklume-launch."
OWNER = f"{MARK}owner"  # on everything that the launcher makes: the file's project_name
MACHINE = f"{MARK}machine"  # on an instance: the machine's name in the file
DOMAIN = f"{MARK}domain"  # on a project: the domain's name in the file
UNFINISHED = f"{MARK}unfinished"  # on an instance until it is made and started, on a volume until it is filled
PROFILES = f"{MARK}profiles"  # on an instance: a hash of the profile settings that need a restart
CLAIM = f"{MARK}claim"  # on a claim to a GPU: the card's address
APPLIED = f"{MARK}applied"  # on a project and an instance: a hash of what was applied before it, to what it stands upon
IMAGE = f"{MARK}image"  # on an instance: `name@version`, or the remote's name for the image
VARIABLE = "user.anklume."  # what an image's templates read
NIC = "eth0"  # the network device of every machine

_LONGEST_INTERFACE = 15  # IFNAMSIZ of the kernel, less the 0 at its end
_LEVEL_FILE = Path("/etc/anklume/absolute_level")


@dataclass(frozen=True)
class Names:
    """Names of things by what they are for; `prefix` tells levels of nested Incuses apart (`001-`), mostly empty."""

    prefix: str = ""

    def project(self, domain: str) -> str:
        """The Incus project of a domain."""
        return f"{self.prefix}{domain}"

    def network(self, domain: str) -> str:
        """The bridge of a domain; a name over 15 characters is cut, with a hash of the whole at its end."""
        name = f"{self.prefix}net-{domain}"
        if len(name) <= _LONGEST_INTERFACE:
            return name
        digest = hashlib.sha256(name.encode()).hexdigest()[:4]
        return f"{name[: _LONGEST_INTERFACE - 5]}-{digest}"

    def acl(self, domain: str) -> str:
        """The network ACL of a domain's bridge."""
        return f"{self.prefix}anklume-{domain}"

    def instance(self, machine: str) -> str:
        """The instance of a machine."""
        return f"{self.prefix}{machine}"


def names_for(infra: Infra, level_file: Path = _LEVEL_FILE) -> Names:
    """The names of a file's things on this host: prefixed where the host knows its level and the file wants it."""
    if not infra.settings.nesting_prefix:
        return Names()
    try:
        level = int(level_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Names()
    return Names(f"{level:03d}-")


def owner_of(config: Mapping[str, str]) -> str | None:
    """The `project_name` of the file that made the thing with this config, or None when it is not ours."""
    return config.get(OWNER)
