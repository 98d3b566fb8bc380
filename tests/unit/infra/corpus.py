"""Reads a case of the corpus: an infra.yml with what is expected of it in `#:` lines at its end.

#: error 5:3 unknown-key         every error, and no other, as line:column and code
#: warning 7:9 ip-reserved       every warning, and no other
#: address web 10.120.0.1        of a machine        #: subnet lab 10.120.0.0/24   of a domain
#: image web debian@latest       of a machine        #: gpu web                    it is a GPU machine
#: var web open_webui_port=80    of a machine        #: notice 'web': text         how a notice begins
#: host eth0 10.120.0.5/16       an interface        #: level 1, #: vm_nested, #: yolo   of the host
#: route wg0 10.0.0.0/8          a route of the host
#: option --yolo                 of the command
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launcher.infra.host import HostFacts

if TYPE_CHECKING:
    from pathlib import Path

MARK = "#: "


@dataclass
class Case:
    file: Path
    expected: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Case:
        case = cls(file)
        for line in file.read_text("utf-8", errors="replace").splitlines():
            if line.startswith(MARK):
                word, _, rest = line.removeprefix(MARK).partition(" ")
                case.expected.setdefault(word, []).append(rest.strip())
        return case

    def all(self, word: str) -> list[str]:
        return self.expected.get(word, [])

    @property
    def yolo(self) -> bool:
        return "--yolo" in self.all("option")

    @property
    def host(self) -> HostFacts:
        networks = tuple(
            (name, ipaddress.IPv4Interface(address).network)
            for name, address in (line.split() for line in self.all("host"))
        )
        routes = tuple(
            (name, ipaddress.IPv4Network(network)) for name, network in (line.split() for line in self.all("route"))
        )
        level = int(self.all("level")[0]) if self.all("level") else None
        return HostFacts(networks, "vm_nested" in self.expected, "yolo" in self.expected, level, routes)
