"""What each step does to the server: one object made or changed, and nothing half done that a second run would not see.

Whatever is interrupted between two requests shows as a difference again: a stopped machine is started, config is
written before the start that it is for.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from anklume_images.errors import IncusError, IncusUnreachableError
from anklume_images.incus.remotes import image_source
from anklume_images.ship.publish import publish
from anklume_images.ship.seed import make_seeded_volume
from anklume_images.ship.verb import image_files
from launcher.apply.claims import Claimant, claim, release
from launcher.apply.daemon_root import daemon_root
from launcher.plan.changes import BASE_IMAGE
from launcher.plan.live import path_of
from launcher.plan.names import IMAGE, MACHINE, MARK, UNFINISHED, VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anklume_images.incus.client import Incus
    from anklume_images.store.images import Images
    from anklume_images.store.store import Store
    from launcher.plan.cards import Card
    from launcher.plan.difference import Step
    from launcher.plan.gpu_grants import Grant
    from launcher.plan.resources import Key, Resource

__all__ = ["Context", "carry_out", "claimant_of", "stop", "vacate"]

STOP_SECONDS = 30
_TELL_SECONDS = 5.0
_UNFINISHED = re.compile(r'Failed deleting subvolume "(/[^"]+)".*Not a Btrfs subvolume', re.DOTALL)
_FIRST_YEAR = "1971"  # Incus' time of what never was is the first of 1970
_MERGED = frozenset({"project", "network", "volume"})  # Incus' own keys in their config stay


@dataclass(frozen=True)
class Context:
    """What steps need beside the server.

    `grants` are the cards of each machine, to be claimed (none where the policy is shared).
    """

    owner: str
    store: Store
    images: Images
    cards: tuple[Card, ...] = ()
    grants: Mapping[str, tuple[Grant, ...]] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda _text: None


def carry_out(step: Step, incus: Incus, context: Context) -> None:
    """Do one step; `incus` is a connection that names no project."""
    if step.key.kind == "image":
        _publish(step.resource, incus, context)
    elif step.key.kind == "machine":
        _machine(step, incus, context)
    elif step.key.kind == "profile" and step.key.name == "default":
        _change(step, incus)  # Incus makes it with the project
    elif step.action in ("create", "replace"):
        if step.action == "replace":  # what was left half made
            path, params = path_of(step.key)
            incus.send("delete", path, params=params)
        if not (step.resource.seed and _seed(step.resource, incus, context)):
            _make(step.resource, incus)
    else:
        _change(step, incus)


def claimant_of(resource: Resource, context: Context) -> Claimant:
    """Who claims cards for a machine."""
    return Claimant(resource.key.project, resource.key.name, context.owner)


def _publish(resource: Resource, incus: Incus, context: Context) -> None:
    image = resource.image
    assert image is not None  # noqa: S101 - an image's resource has it
    with context.store.lease() as lease:
        lease.add([image.metadata.sha256, image.rootfs.sha256])
        files = image_files(image, context.images, context.store)
        # By version only: other aliases may be somebody else's, and machines are made by fingerprint.
        publish(replace(files, aliases=(f"{image.name}/{image.version}",)), incus)


def _seed(resource: Resource, incus: Incus, context: Context) -> bool:
    """Make a volume that begins as its image is at that path; False when the image has nothing there.

    It is marked until it is filled: what is cut off between shows as half made, and is made anew.
    """
    assert resource.image is not None  # noqa: S101 - its plan says so
    rootfs = resource.image.rootfs.sha256
    pool, _, name = resource.key.name.partition("/")
    with context.store.lease() as lease:
        lease.add([rootfs])
        blob = context.store.blobs.path(rootfs)
        config, description = {**resource.config, UNFINISHED: "true"}, resource.body["description"]
        within = incus.within(resource.key.project)
        if not make_seeded_volume(within, pool, name, blob, resource.seed, config=config, description=description):
            return False
    _finish(resource, incus)
    return True


def _finish(resource: Resource, incus: Incus) -> None:
    """Take the mark of what is half made off a volume."""
    path, params = path_of(resource.key)
    there = incus.get(path, **params)
    config = {name: value for name, value in there["config"].items() if name != UNFINISHED}
    incus.send("put", path, {"description": resource.body["description"], "config": config}, params=params)


def _make(resource: Resource, incus: Incus) -> None:
    path, params = path_of(resource.key)
    collection, _, name = path.rpartition("/")
    body = {**resource.body, "name": name}
    if resource.key.kind == "volume":
        body |= {"type": "custom", "content_type": "filesystem"}
    incus.send("post", collection, body, params=params)


def _change(step: Step, incus: Incus) -> None:
    path, params = path_of(step.key)
    body = {name: value for name, value in step.resource.body.items() if name != "type"}
    there = incus.get(path, **params)
    config = {**_kept(there["config"], everything=step.key.kind in _MERGED), **step.resource.config}
    incus.send("put", path, body | {"config": config}, params=params)


def _kept(config: Mapping[str, str], *, everything: bool) -> dict[str, str]:
    """The keys of an object's config that are Incus' or other people's."""
    own = (MARK, VARIABLE)
    foreign = ("volatile.", "image.", "user.")
    return {
        name: value
        for name, value in config.items()
        if not name.startswith(own) and (everything or name.startswith(foreign))
    }


# Machines


def _machine(step: Step, incus: Incus, context: Context) -> None:
    resource = step.resource
    grants = context.grants.get(resource.machines[0], ())
    for grant in grants:
        claim(incus, grant, claimant_of(resource, context), context.cards)
    if context.grants or context.cards:
        release(incus, claimant_of(resource, context), keep=grants)
    _make_folders(resource, incus)
    unfinished = step.stopped and _is_unfinished(step, incus)
    if unfinished:
        _discard(resource, incus)
    if unfinished or step.action == "create":
        _create(resource, incus, context)
    else:
        _bring_up(step, incus)


def _bring_up(step: Step, incus: Incus) -> None:
    resource = step.resource
    path, params = path_of(resource.key)
    if step.action == "replace":
        _check_snapshots(resource, incus, path)
    stopped = step.action in ("restart", "replace") and not step.stopped
    if stopped:
        stop(incus, resource.key)
    try:
        if step.action == "replace":
            _rebuild(resource, incus, path)
        if step.changes or step.action == "replace":
            _configure(step, incus, path)
    except IncusError as error:
        if stopped and not isinstance(error, IncusUnreachableError):
            with contextlib.suppress(IncusError):  # as it was before
                incus.send("put", f"{path}/state", {"action": "start", "timeout": -1}, params=params)
        raise
    if step.action != "change":
        paused = step.action == "start" and not step.stopped
        action = {"action": "unfreeze" if paused else "start", "timeout": -1}
        incus.send("put", f"{path}/state", action, params=params)


def _is_unfinished(step: Step, incus: Incus) -> bool:
    """Whether an instance is what is left of a creation that was cut off: then nothing has ever been in it.

    A daemon that ends while it makes one leaves a mere record. Starting that would fail, and make a folder where a
    subvolume should be, after which Incus cannot even delete it. The mark alone tells only of what this step began:
    who was killed before taking it off may have left a machine that has run since.
    """
    path, params = path_of(step.key)
    there = incus.get(path, **params)
    config = there["config"]
    if config.get(UNFINISHED) != "true" or config.get(MACHINE) != step.resource.machines[0]:
        return False
    never_ran = str(there["last_used_at"]) < _FIRST_YEAR
    idle = there["status"] == "Stopped" and (step.action == "create" or never_ran)
    return idle and not incus.get(f"{path}/snapshots", **params)


def _discard(resource: Resource, incus: Incus) -> None:
    path, params = path_of(resource.key)
    with contextlib.suppress(IncusError):  # of a mere record, only the database takes note
        incus.send("patch", path, {"config": {"security.protection.delete": "false"}}, params=params)
    try:
        incus.send("delete", path, params=params)
    except IncusError as error:
        # On btrfs, an empty folder may be where the subvolume would have been made; Incus then deletes neither.
        folder = _UNFINISHED.search(error.message)
        if folder is None:
            raise
        root = daemon_root(incus.address)
        if root is None:
            raise IncusError(error.message, where=error.where, hint=f"on the host: rmdir {folder[1]}") from error
        with contextlib.suppress(OSError):
            (root / folder[1].lstrip("/")).rmdir()
        incus.send("delete", path, params=params)


def _make_folders(resource: Resource, incus: Incus) -> None:
    """Make the host's folders for persistent data and shares, where the host's files can be reached."""
    machine = resource.machine
    assert machine is not None  # noqa: S101 - a machine's resource has it
    sources = [*(data.source for data in machine.persistent_data), *(share.source for share in machine.shares)]
    root = daemon_root(incus.address) if sources else None
    if root is not None:
        for source in sources:
            folder = root / source.lstrip("/")
            if not os.path.lexists(folder):
                folder.mkdir(parents=True, exist_ok=True)


def _source(resource: Resource) -> dict[str, str]:
    machine = resource.machine
    assert machine is not None  # noqa: S101 - a machine's resource has it
    if resource.image is not None:
        return {"type": "image", "fingerprint": resource.image.fingerprint}
    return image_source(str(machine.image.remote))


def _create(resource: Resource, incus: Incus, context: Context) -> None:
    machine = resource.machine
    assert machine is not None  # noqa: S101 - a machine's resource has it
    config = {**resource.config, UNFINISHED: "true"}
    body = {**resource.body, "config": config, "name": resource.key.name, "source": _source(resource), "start": True}
    params = {"project": resource.key.project} | ({"target": machine.target} if machine.target else {})

    told = time.monotonic()

    def progress(metadata: dict[str, Any]) -> None:
        nonlocal told
        texts = [text for name, text in metadata.items() if name.endswith("_progress") and isinstance(text, str)]
        if texts and time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            context.progress(f"{machine.name}: {texts[0]}")

    incus.send("post", "instances", body, params=params, progress=progress)
    finished = {"config": {UNFINISHED: ""}, "description": resource.body["description"]}  # or Incus empties that
    incus.send("patch", f"instances/{resource.key.name}", finished, params={"project": resource.key.project})


def _check_snapshots(resource: Resource, incus: Incus, path: str) -> None:
    snapshots = incus.get(f"{path}/snapshots", project=resource.key.project)
    if snapshots:
        names = ", ".join(url.rpartition("/")[2].partition("?")[0] for url in snapshots)
        raise IncusError(
            f"{resource.key.name} has snapshots ({names}), and Incus makes no instance anew that has some",
            where=incus.address,
            hint=f"incus snapshot delete {resource.key.name} NAME --project {resource.key.project}",
        )


def _rebuild(resource: Resource, incus: Incus, path: str) -> None:
    incus.send("post", f"{path}/rebuild", {"source": _source(resource)}, params={"project": resource.key.project})


def _configure(step: Step, incus: Incus, path: str) -> None:
    resource = step.resource
    params = {"project": resource.key.project}
    there = incus.get(path, **params)
    config = {**_kept(there["config"], everything=False), **resource.config}
    fingerprint = resource.image.fingerprint if resource.image else None
    if step.action != "replace" and there["config"].get(BASE_IMAGE) != fingerprint:
        config.pop(IMAGE)  # it tells of what the machine was made of
        config |= {IMAGE: there["config"][IMAGE]} if IMAGE in there["config"] else {}
    body = {
        "architecture": there["architecture"],
        "ephemeral": False,  # Incus deletes an ephemeral instance when it stops
        "description": resource.body["description"],
        "profiles": resource.body["profiles"],
        "devices": resource.body["devices"],
        "config": config,
    }
    incus.send("put", path, body, params=params)


def vacate(resource: Resource, incus: Incus) -> None:
    """Take a machine's fixed address off it, for another to have it; it keeps its lease until it is restarted."""
    path, params = path_of(resource.key)
    there = incus.get(path, **params)
    eth0 = {name: value for name, value in there["devices"]["eth0"].items() if name != "ipv4.address"}
    incus.send("put", path, there | {"devices": there["devices"] | {"eth0": eth0}}, params=params)


def stop(incus: Incus, key: Key) -> None:
    """Stop an instance: by its own shutdown, and by force when that takes too long."""
    path, params = path_of(key)
    path = f"{path}/state"
    status = incus.get(path, **params)["status"]
    if status == "Stopped":
        return
    if status == "Frozen":  # it would not hear that it is to stop
        incus.send("put", path, {"action": "unfreeze", "timeout": -1}, params=params)
    try:
        incus.send("put", path, {"action": "stop", "timeout": STOP_SECONDS}, params=params)
    except IncusError:
        if incus.get(path, **params)["status"] != "Stopped":
            incus.send("put", path, {"action": "stop", "timeout": -1, "force": True}, params=params)
