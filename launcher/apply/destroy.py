"""Removes what the launcher made for a file; data stays, and so does whoever is protected from it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError, IncusError, IncusUnreachableError, PolicyError
from launcher.apply.passing import PAUSE_SECONDS, RETRIES, passes
from launcher.apply.steps import stop
from launcher.gpu.claims import Claimant, release
from launcher.infra.names import owner_of
from launcher.infra.security import PROTECTION, is_protected

if TYPE_CHECKING:
    from collections.abc import Callable

    from anklume_images.console import Console
    from anklume_images.incus.client import Incus
    from launcher.plan.removal import Removal
    from launcher.resources import Key

__all__ = ["ProtectedError", "remove"]

_WORKERS = 8


class ProtectedError(PolicyError):
    """Machines are protected from being deleted."""


def remove(removal: Removal, incus: Incus, console: Console, *, force_protected: bool = False) -> list[Key]:
    """Remove it; ProtectedError, before anything is touched, when a machine is protected and `force_protected` not set.

    What is gone already is no error, so that a destroy that was killed can be run again.
    """
    if removal.protected and not force_protected:
        names = ", ".join(key.name for key in removal.protected)
        raise ProtectedError(
            f"protected from deletion: {names}",
            hint="--force-protected removes them all the same; ephemeral: true in the file makes machines that are not",
        )
    console.begin(len(removal.keys), "removing")
    try:
        failures = _remove_machines(removal, incus, console)
        for key in removal.keys:
            if key.kind != "machine":
                try:
                    _persistently(partial(incus.delete_object, key.object), key, console)
                except AnklumeError as error:
                    failures.append(AnklumeError(f"{key.kind} {key.name}: {error.message}", hint=error.hint))
                    if isinstance(error, IncusUnreachableError):
                        break
                else:
                    console.done(f"{key.kind} {key.name}: removed")
    finally:
        console.finish()
    if failures:
        hints = dict.fromkeys(error.hint for error in failures if error.hint)
        raise AnklumeError("\n".join(error.message for error in failures), hint="; ".join(hints) or None)
    return list(removal.keys)


def _remove_machines(removal: Removal, incus: Incus, console: Console) -> list[AnklumeError]:
    failures: list[AnklumeError] = []

    def worker(key: Key) -> None:
        connection = incus.another().within(None)
        try:
            _persistently(partial(_remove_machine, key, removal.owner, connection), key, console)
            console.done(f"machine {key.name}: removed")
        except AnklumeError as error:
            failures.append(AnklumeError(f"machine {key.name}: {error.message}", hint=error.hint))
        finally:
            connection.close()

    with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
        list(pool.map(worker, removal.machines))
    return failures


def _persistently(remove: Callable[[], None], key: Key, console: Console) -> None:
    """Remove it; when the daemon goes away in the middle, wait for it and do what is then left to do."""
    for attempt in range(RETRIES + 1):
        try:
            remove()
        except IncusError as error:
            if not passes(error) or attempt == RETRIES:
                raise
            console.note(f"{key.name}: {error.message}; waiting for Incus, then going on")
            time.sleep(PAUSE_SECONDS * 2**attempt)
        else:
            return


def _remove_machine(key: Key, owner: str, incus: Incus) -> None:
    instance = incus.find_object(key.object)
    if instance is not None and owner_of(instance["config"]) == owner:
        stop(incus, key)
        if is_protected(instance["config"]):
            incus.patch_object(key.object, {"config": {PROTECTION: "false"}})
        incus.delete_object(key.object)
    release(incus, Claimant(key.project, key.name, owner))
