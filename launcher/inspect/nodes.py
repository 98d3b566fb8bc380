"""The device nodes of a card in a machine: whether they are there, and open to the user as whom its engine runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.gpu.vendors.vendor import VIDEO

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from launcher.engines.probe import GuestLike

__all__ = ["NodeTest", "node_trouble", "read_nodes"]

_ROOT = "root"
_ABSENT = 3
_OPEN = f'test -c "$1" || exit {_ABSENT}; exec 3<>"$1"'  # permissions alone would not tell what the kernel allows


@dataclass(frozen=True)
class NodeTest:
    """What came of opening a device node as a user; `said` is the reason where that failed."""

    node: str
    user: str
    there: bool = True
    opened: bool = True
    said: str = ""

    def __str__(self) -> str:
        if not self.there:
            return f"{self.node} is not there"
        return f"{self.node} opens for {self.user}" if self.opened else f"{self.node} as {self.user}: {self.said}"


def read_nodes(inside: GuestLike, unit: str, nodes: Iterable[str]) -> tuple[NodeTest, ...]:
    """Open these nodes as the service `unit` of a machine would, as root where there is no such service."""
    user, become = _user_of(inside, unit) if unit else (_ROOT, ())
    return tuple(_opened(inside, node, user, become) for node in nodes)


def _user_of(inside: GuestLike, unit: str) -> tuple[str, tuple[str, ...]]:
    """A service's user, and the command that makes another one run as it does, with its groups."""
    shown = inside.run("systemctl", "show", unit, "--property", "User,Group,SupplementaryGroups")
    told = dict(line.split("=", 1) for line in shown.stdout.decode(errors="replace").splitlines() if "=" in line)
    user = told.get("User", "")
    own = inside.run("id", "-G", user).stdout.decode(errors="replace").split() if user else []
    if not own:  # root's, or of a user that is there only while the service runs
        return _ROOT, ()
    groups = ",".join((*own, *told.get("SupplementaryGroups", "").split()))
    group = told.get("Group") or own[0]
    return user, ("setpriv", "--reuid", user, "--regid", group, "--groups", groups, "--inh-caps=-all", "--")


def _opened(inside: GuestLike, node: str, user: str, become: Sequence[str]) -> NodeTest:
    result = inside.run(*become, "sh", "-c", _OPEN, "sh", node)
    said = " ".join((result.stderr or result.stdout).decode(errors="replace").split())
    return NodeTest(node, user, result.code != _ABSENT, result.code == 0, "" if result.code == 0 else said)


def node_trouble(tests: Sequence[NodeTest]) -> tuple[str, str] | None:
    """The cause and the remedy where a node is not there, or does not open."""
    if absent := [test.node for test in tests if not test.there]:
        cause = f"the machine does not have {' and '.join(absent)}, by which programs compute on its card"
        return cause, "apply, which gives the machine its card's nodes; then restart it, which makes them anew"
    if closed := [test for test in tests if not test.opened]:
        names = " and ".join(test.node for test in closed)
        cause = f"{closed[0].user}, as whom the engine runs, cannot open {names}"
        keys = ", ".join(f'{key}: "{value}"' for key, value in VIDEO.items())
        again = f"remove gid and mode from its gpu device and apply, which sets {keys}"
        return cause, f"restart the machine; if it comes again, {again}"
    return None
