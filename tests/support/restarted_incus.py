"""A tree of Incus whose daemon is started again when it is killed, as systemd does on a host."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from launcher.private_incus.init import INCUSD

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.private_incus.daemon import PrivateIncus

_PID = "/srv/trial/incusd.pid"
_SCRIPT = f"""#!/bin/sh
while :; do
    /{INCUSD}.real "$@" &
    echo $! >{_PID}
    wait $!
    code=$?
    [ $code = 137 ] || exit $code
done
"""


def restarting_tree(tree: Path, target: Path) -> Path:
    """A copy of an Incus tree at `target`, by hard links; only its daemon is another."""
    linked = subprocess.run(["cp", "-al", tree, target], capture_output=True, check=False)
    if linked.returncode:  # on another file system
        subprocess.run(["rm", "-rf", target], check=True)
        subprocess.run(["cp", "-a", tree, target], check=True)
    daemon = target / INCUSD
    daemon.rename(daemon.with_name(f"{daemon.name}.real"))
    daemon.write_text(_SCRIPT)
    daemon.chmod(0o755)
    return target


def kill_daemon(incus: PrivateIncus) -> None:
    """Kill the daemon of such a tree; instances run on, and another daemon takes its place."""
    incus.run(["sh", "-c", f'kill -9 "$(cat {_PID})"'], check=True)
