"""Folders of the host whose owners cannot be shown to a container as its own; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError
from launcher.infra.merge import merged_config
from launcher.infra.security import is_privileged

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from launcher.infra.model import Infra, Machine

__all__ = ["ShiftedFolder", "check_folders", "shifted_folders"]


@dataclass(frozen=True)
class ShiftedFolder:
    """A folder of the host, `source`, whose files are to have the same user IDs in a machine as on the host."""

    machine: Machine
    kind: str
    name: str
    source: str


def shifted_folders(infra: Infra, chosen: Collection[str]) -> Iterator[ShiftedFolder]:
    """Those of the chosen machines; a privileged container has the host's user IDs anyway."""
    for machine in infra.machines():
        folders = [
            ShiftedFolder(machine, kind, entry.name, entry.source)
            for kind, entries in (("persistent data", machine.persistent_data), ("shared volume", machine.shares))
            for entry in entries
            if entry.shift
        ]
        if folders and machine.type == "lxc" and machine.name in chosen:
            privileged = is_privileged(merged_config(machine, infra.domains[machine.domain]))
            yield from () if privileged else folders


def check_folders(folders: Iterable[ShiftedFolder], unable: Mapping[str, str]) -> None:
    """Refuse those on a file system that cannot do it; `unable` has its type by the folder's path."""
    problems = [
        f"{folder.machine.where}: the {folder.kind} {folder.name} of {folder.machine.name} is on "
        f"{unable[folder.source]} ({folder.source}), which does not support ID-mapped mounts"
        for folder in folders
        if folder.source in unable
    ]
    if problems:
        hint = "shift: false there leaves owners as they are on the host; or put the folder on ext4, xfs or btrfs"
        raise AnklumeError("\n".join(problems), hint=hint)
