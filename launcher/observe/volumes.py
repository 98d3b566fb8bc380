"""Where a custom volume's files are for this process, and which models it holds.

A daemon on this host has them in a folder of its pool: `storage-pools/<pool>/custom/<project>_<volume>` (read in its
source, internal/server/storage/drivers/utils.go and project/project.go of https://github.com/lxc/incus). That is so at
all times with the drivers `dir` and `btrfs`; others mount a volume only while it is used. Where the files are out of
reach, the volume's own mark says what was brought there.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from anklume_images.incus.objects import instances_in
from anklume_images.ship.fill import missing_files
from launcher.infra.names import UNFINISHED
from launcher.observe.daemon import daemon_root
from launcher.resources import Key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Any

    from anklume_images.store.models import ModelFile
    from launcher.observe.live import Live
    from launcher.resources import Resource

__all__ = ["MODELS_MARK", "absent", "look_at_models", "marked", "owner_in", "pool_folder", "users_of", "volume_folder"]

MODELS_MARK = "user.anklume-models"
"""On a volume whose models were brought through Incus: `{path: sha256}`."""
_REACHABLE = frozenset({"dir", "btrfs"})
_STATE = "/var/lib/incus"


def pool_folder(address: str, pool: str, driver: str) -> Path | None:
    """The folder in which a pool's custom volumes are; None where they are out of reach."""
    root = daemon_root(address) if driver in _REACHABLE else None
    if root is None:
        return None
    for state in (_state_of(root), _STATE):
        folder = root / state.lstrip("/") / "storage-pools" / pool / "custom"
        try:
            if folder.is_dir() and os.access(folder, os.W_OK):
                return folder
        except OSError:
            continue
    return None


def _state_of(root: Path) -> str:
    """The daemon's own folder, as its environment names it."""
    try:
        entries = (root.parent / "environ").read_bytes().split(b"\0")
    except OSError:
        return _STATE
    named = [entry.partition(b"=")[2].decode(errors="replace") for entry in entries if entry.startswith(b"INCUS_DIR=")]
    return named[0] if named else _STATE


def volume_folder(pool: Path, project: str, volume: str) -> Path:
    """The folder of one volume in its pool's."""
    return pool / f"{project}_{volume}"


def owner_in(volume: Mapping[str, Any]) -> int:
    """The host's number for root in the containers that a volume was attached to last; 0 before that.

    Incus gives everything in a volume to them when it is attached, unless it is shifted by its mount: 0 then, too.
    """
    config = volume.get("config") or {}
    try:
        entries = json.loads(config.get("volatile.idmap.last") or "[]")
    except ValueError:
        return 0
    return next((int(entry["Hostid"]) for entry in entries if entry.get("Isuid") and entry.get("Nsid") == 0), 0)


def users_of(volume: Mapping[str, Any]) -> list[Key]:
    """The instances that have a volume as a device."""
    return [Key("machine", instance.project, instance.name) for instance in instances_in(volume.get("used_by") or ())]


def marked(files: Iterable[ModelFile]) -> str:
    """The mark of a volume that has these."""
    return json.dumps({file.path: file.sha256 for file in files}, sort_keys=True)


def absent(volume: Mapping[str, Any], folder: Path | None, files: Iterable[ModelFile]) -> tuple[ModelFile, ...]:
    """The files that a volume has not."""
    if folder is not None:
        return missing_files(folder, files)
    try:
        made_with = json.loads((volume.get("config") or {}).get(MODELS_MARK) or "{}")
    except ValueError:
        made_with = {}
    return tuple(file for file in files if made_with.get(file.path) != file.sha256)


def look_at_models(resources: Iterable[Resource], live: Live, address: str) -> tuple[Live, list[str]]:
    """What of their models the volumes that are there have not, as `missing` paths by the key of the models.

    Those that cannot be brought count as there, with a notice.
    """
    notices, objects = [], dict(live.objects)
    for resource in resources:
        key = resource.key
        volume = live.get(key._replace(kind="volume")) if key.kind == "models" else None
        if volume is None or (volume.get("config") or {}).get(UNFINISHED) == "true":  # it is made, or made anew
            continue
        pool, _, name = key.name.partition("/")
        folder = pool_folder(address, pool, live.pools.get(pool, ""))
        own = folder and volume_folder(folder, key.project, name)
        files = [file for model in resource.models for file in model.files]
        missing = {file.path for file in absent(volume, own, files)}
        runs = any((live.get(user) or {}).get("status") == "Running" for user in users_of(volume))
        if missing and folder is None and not runs:
            names = ", ".join(model.name for model in resource.models)
            notices.append(
                f"the files of volume {key.name} (project {key.project}) are out of reach while no machine that has it "
                f"runs: when one does, the next apply brings {names}"
            )
            missing = set()
        objects[key] = {"missing": missing}
    return replace(live, objects=objects), notices
