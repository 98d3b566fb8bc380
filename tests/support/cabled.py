"""Private Incuses that see each other over a cable, and are remotes of one client's configuration."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from launcher.private_incus.daemon import PrivateIncus


def cable(one: PrivateIncus, other: PrivateIncus, number: int) -> None:
    """A veth pair between the network namespaces of two hosts: 10.251.<number>.1 and .2."""
    ends = {one: (f"cable{number}a", f"10.251.{number}.1/30"), other: (f"cable{number}b", f"10.251.{number}.2/30")}
    (first, _), (second, _) = ends.values()
    subprocess.run(
        ["ip", "link", "add", first, "netns", str(one.pid), "type", "veth",
         "peer", "name", second, "netns", str(other.pid)],
        check=True,
    )  # fmt: skip
    for host, (name, address) in ends.items():
        within = ["nsenter", "-t", str(host.pid), "-n", "ip"]
        subprocess.run([*within, "addr", "add", address, "dev", name], check=True)
        subprocess.run([*within, "link", "set", name, "up"], check=True)


def listens_at(host: PrivateIncus, address: str | None = None) -> str:
    """Where a host is reached over a network; or have it so."""
    with host.client() as client:
        if address is not None:
            client.set_server_config({"core.https_address": address})
        return str(client.get("")["config"].get("core.https_address", ""))


def write_remotes(folder: Path, hosts: Mapping[str, PrivateIncus]) -> Path:
    """The folder for INCUS_CONF, in which each host is a remote."""
    folder.mkdir(exist_ok=True)
    remotes = {name: {"addr": f"unix://{host.socket}"} for name, host in hosts.items()}
    (folder / "config.yml").write_text(json.dumps({"remotes": remotes}))
    return folder
