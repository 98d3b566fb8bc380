"""Asks the host of a local Incus for its packet filters, in the daemon's own network namespace."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from launcher.inspect.facts import Filters

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_filters"]

_SECONDS = 10
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


def read_filters(root: Path | None) -> Filters | None:
    """The filters; `root` is the daemon's, `/proc/<pid>/root`. None where it is out of reach or nothing answers."""
    if root is None:
        return None
    nft = _listing(root, "nft", "--json", "list", "ruleset")
    iptables = [_listing(root, "iptables-save")]
    if iptables[0] is None or "nf_tables" in iptables[0] or not iptables[0].strip():
        iptables.append(_listing(root, "iptables-legacy-save"))
    listings = tuple(text for text in iptables if text)
    return Filters(nft, listings, _uplink(root)) if nft is not None or listings else None


def _listing(root: Path, *argv: str) -> str | None:
    """What a program of the daemon's host says, or None."""
    enter = ["nsenter", "--target", root.parent.name, "--mount", "--net", "--"]
    try:
        result = subprocess.run(
            [*enter, *argv], capture_output=True, timeout=_SECONDS, check=False, env=_ENVIRONMENT, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.decode(errors="replace") if result.returncode == 0 else None


def _uplink(root: Path) -> str:
    """The interface of the default route, from the kernel's table (proc_net_route of net/ipv4/fib_trie.c)."""
    try:
        lines = (root.parent / "net/route").read_text("ascii", errors="replace").splitlines()[1:]
    except OSError:
        return ""
    return next((words[0] for words in map(str.split, lines) if words[1:2] == ["00000000"]), "")
