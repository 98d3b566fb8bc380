"""Whether the kernel lets all containers watch their files: one small limit for a host, of which systemd takes much.

What inotify(7) opens in a container counts against the host's root, whoever opened it there (user_namespaces(7)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

__all__ = ["LIMIT", "crowded", "running_containers", "watched_containers"]

LIMIT = "fs.inotify.max_user_instances"
_PER_CONTAINER = 10  # systemd opens 5; udevd, resolved, logind, D-Bus and agetty open one each


def watched_containers(limit: int) -> int:
    """For how many containers with systemd a limit is enough, when one such share is left to the host."""
    return max(0, limit // _PER_CONTAINER - 1)


def crowded(containers: int, limit: int) -> str | None:
    """What to tell when that many containers are to run."""
    enough = watched_containers(limit)
    if containers <= enough:
        return None
    return (
        f"{containers} containers will run here, and {LIMIT} = {limit} is enough for about {enough} that have systemd: "
        f"others may end as they start; for more: sysctl {LIMIT}=8192"
    )


def running_containers(instances: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """Project and name of each container that runs, of what the API says of instances."""
    return {
        (instance["project"], instance["name"])
        for instance in instances
        if instance["type"] == "container" and instance["status"] == "Running"
    }
