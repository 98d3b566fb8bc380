"""The volumes in which Incus keeps unpacked images, of which new instances are copies; a doubtful one is thrown away.

Incus notes such a volume first and fills it then, and takes every noted one for whole: a daemon that is killed in
between leaves half a file system, and all instances of that image get it from then on, or fail to start with
"Failed to handle idmapped storage: No such file or directory" (internal/server/storage/backend.go of Incus,
`EnsureImage`). Nothing of value is in these volumes: Incus unpacks the image anew.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from anklume_images.errors import IncusError
from launcher.infra.names import UNFINISHED
from launcher.plan.changes import BASE_IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from anklume_images.incus.client import Incus
    from launcher.resources import Resource

__all__ = ["Unpacked", "is_idle", "is_without_root", "never_ran"]

_FIRST_YEAR = "1971"  # Incus' time of what never was is the first of 1970
_BUSY_SECONDS = 60.0
_PAUSE_SECONDS = 0.2


def never_ran(instance: Mapping[str, Any]) -> bool:
    """Whether an instance has never run, by what Incus says of it."""
    return str(instance["last_used_at"]) < _FIRST_YEAR


def is_idle(instance: Mapping[str, Any]) -> bool:
    """Whether an instance does not run; Incus calls some `Error` that lack their root."""
    return instance["status"] in ("Stopped", "Error")


def is_without_root(error: IncusError) -> bool:
    """Whether an instance could not start as it has no root file system."""
    return "rootfs" in error.message and "no such file or directory" in error.message.lower()


class Unpacked:
    """Which of these volumes are in doubt; `settle` throws them away before anything is made of them. Thread-safe."""

    def __init__(self) -> None:
        self._doubted: set[tuple[str, str]] = set()
        self._settled = 0.0
        self._lock = threading.Lock()

    def doubt(self, resource: Resource, *, instance: Mapping[str, Any] | None = None, since: float) -> None:
        """Doubt the volume that a machine was being made of, `since` when by `time.monotonic()`.

        `instance` is what is there of it; it names an image that Incus got from elsewhere.
        """
        fingerprint = resource.image.fingerprint if resource.image else None
        fingerprint = ((instance or {}).get("config") or {}).get(BASE_IMAGE) or fingerprint
        pool = (resource.body["devices"].get("root") or {}).get("pool")
        with self._lock:
            if fingerprint and pool and since >= self._settled:
                self._doubted.add((pool, fingerprint))

    def doubt_unfinished(self, pairs: Iterable[tuple[Resource, Mapping[str, Any] | None]]) -> None:
        """Doubt the volumes of machines that an earlier run began and did not finish."""
        for resource, instance in pairs:
            if instance and instance["config"].get(UNFINISHED) == "true" and is_idle(instance) and never_ran(instance):
                self.doubt(resource, instance=instance, since=time.monotonic())

    def settle(self, incus: Incus) -> None:
        """Delete what is in doubt; instances that are just being made are waited for, as they read these volumes."""
        with self._lock:
            if not self._doubted:
                return
            _wait_for_others(incus)
            for pool, fingerprint in sorted(self._doubted):
                incus.delete_unpacked_image(pool, fingerprint)
            self._doubted.clear()
            self._settled = time.monotonic()


def _wait_for_others(incus: Incus) -> None:
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        making = [
            operation for operation in incus.running_operations() if operation["description"] == "Creating instance"
        ]
        if not making:
            return
        if time.monotonic() > end:
            raise IncusError(
                "other instances are being made, so images that may be unpacked by half cannot be unpacked anew",
                where=incus.address,
                hint="run it again when they are there: incus operation list --all-projects",
            )
        time.sleep(_PAUSE_SECONDS)
