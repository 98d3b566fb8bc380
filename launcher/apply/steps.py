"""What each step does to the server: one object made or changed, and nothing half done that a second run would not see.

Whatever is interrupted between two requests shows as a difference again: a stopped machine is started, config is
written before the start that it is for.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anklume_images.errors import IncusError, IncusUnreachableError
from anklume_images.incus.remotes import image_source
from anklume_images.ship.aliases import aliases_of
from anklume_images.ship.publish import image_files, publish
from anklume_images.ship.seed import make_seeded_volume
from launcher.apply.models import bring_models, make_with_models
from launcher.apply.unpacked import Unpacked, is_idle, never_ran
from launcher.gpu.claims import Claimant, claim, release
from launcher.infra.names import IMAGE, MACHINE, MARK, UNFINISHED, VARIABLE
from launcher.infra.security import PROTECTION
from launcher.observe.daemon import daemon_root
from launcher.plan.changes import BASE_IMAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from anklume_images.incus.client import Incus
    from anklume_images.store.images import Images
    from anklume_images.store.store import Store
    from launcher.gpu.cards import Card
    from launcher.gpu.grants import Grant
    from launcher.plan.difference import Step
    from launcher.resources import Key, Resource

__all__ = ["Context", "carry_out", "claimant_of", "stop"]

STOP_SECONDS = 30
_TELL_SECONDS = 5.0
_UNFINISHED = re.compile(r'Failed deleting subvolume "(/[^"]+)".*Not a Btrfs subvolume', re.DOTALL)
_MERGED = frozenset({"project", "network", "volume"})  # Incus' own keys in their config stay


@dataclass(frozen=True)
class Context:
    """What steps need beside the server.

    `grants` are the cards of each machine, to be claimed (none where the policy is shared). Machines of `halted` were
    stopped before; who stopped them starts them again when their steps fail.
    """

    owner: str
    store: Store
    images: Images
    cards: tuple[Card, ...] = ()
    grants: Mapping[str, tuple[Grant, ...]] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda _text: None
    halted: Collection[Key] = ()
    unpacked: Unpacked = field(default_factory=Unpacked)


def carry_out(step: Step, incus: Incus, context: Context) -> None:
    """Do one step; `incus` is a connection that names no project."""
    if step.key.kind == "image":
        _publish(step.resource, incus, context)
    elif step.key.kind == "machine":
        _machine(step, incus, context)
    elif step.key.kind == "models":
        bring_models(step.resource, incus, context.store, context.progress)
    elif step.key.kind == "profile" and step.key.name == "default":
        _change(step, incus)  # Incus makes it with the project
    elif step.action in ("create", "replace"):
        if step.action == "replace":  # what was left half made
            incus.delete_object(step.key.object)
        if not make_with_models(step.resource, incus, context.store) and not (
            step.resource.seed and _seed(step.resource, incus, context)
        ):
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
        lease.add(image.blobs())
        # By version only: other aliases may be somebody else's, and machines are made by fingerprint.
        aliases = aliases_of(image.name, image.version, ())
        publish(image_files(image, context.images, context.store, aliases), incus)


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
    volume = incus.get_object(resource.key.object)
    config = {name: value for name, value in volume["config"].items() if name != UNFINISHED}
    incus.put_object(resource.key.object, {"description": resource.body["description"], "config": config})


def _make(resource: Resource, incus: Incus) -> None:
    incus.create_object(resource.key.object, resource.body)


def _change(step: Step, incus: Incus) -> None:
    body = {name: value for name, value in step.resource.body.items() if name != "type"}
    existing = incus.get_object(step.key.object)
    config = {**_kept(existing["config"], everything=step.key.kind in _MERGED), **step.resource.config}
    incus.put_object(step.key.object, body | {"config": config})


def _kept(config: Mapping[str, str], *, everything: bool) -> dict[str, str]:
    """The keys of an object's config that are Incus' or other people's."""
    managed = (MARK, VARIABLE)
    foreign = ("volatile.", "image.", "user.")
    return {
        name: value
        for name, value in config.items()
        if not name.startswith(managed) and (everything or name.startswith(foreign))
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
        context.unpacked.settle(incus)
        _create(resource, incus, context)
    else:
        _bring_up(step, incus, restore=resource.key not in context.halted)


def _bring_up(step: Step, incus: Incus, *, restore: bool) -> None:
    resource = step.resource
    if step.action == "replace":
        _check_snapshots(resource, incus)
    stopped = step.action in ("restart", "replace") and not step.stopped
    if stopped:
        stop(incus, resource.key)
    try:
        if step.action == "replace":
            incus.rebuild_instance(resource.key.object, _source(resource))
        if step.changes or step.action == "replace":
            _configure(step, incus)
    except IncusError as error:
        if stopped and restore and not isinstance(error, IncusUnreachableError):
            with contextlib.suppress(IncusError):  # as it was before
                incus.set_instance_state(resource.key.object, "start")
        raise
    if step.action != "change":
        paused = step.action == "start" and not step.stopped
        incus.set_instance_state(resource.key.object, "unfreeze" if paused else "start")


def _is_unfinished(step: Step, incus: Incus) -> bool:
    """Whether an instance is what is left of a creation that was cut off: then nothing has ever been in it.

    A daemon that ends while it makes one leaves a mere record. Starting that would fail, and make a folder where a
    subvolume should be, after which Incus cannot even delete it. The mark alone tells only of what this step began:
    who was killed before taking it off may have left a machine that has run since.
    """
    instance = incus.get_object(step.key.object)
    config = instance["config"]
    if config.get(UNFINISHED) != "true" or config.get(MACHINE) != step.resource.machines[0]:
        return False
    idle = is_idle(instance) and (step.action == "create" or never_ran(instance))
    return idle and not incus.snapshots(step.key.object)


def _discard(resource: Resource, incus: Incus) -> None:
    what = resource.key.object
    with contextlib.suppress(IncusError):  # of a mere record, only the database takes note
        incus.patch_object(what, {"config": {PROTECTION: "false"}})
    try:
        incus.delete_object(what)
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
        incus.delete_object(what)


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
    body = {**resource.body, "config": config, "source": _source(resource), "start": True}

    told = time.monotonic()

    def progress(metadata: dict[str, Any]) -> None:
        nonlocal told
        texts = [text for name, text in metadata.items() if name.endswith("_progress") and isinstance(text, str)]
        if texts and time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            context.progress(f"{machine.name}: {texts[0]}")

    incus.make_instance(resource.key.object, body, target=machine.target or "", progress=progress)
    finished = {"config": {UNFINISHED: ""}, "description": resource.body["description"]}  # or Incus empties that
    incus.patch_object(resource.key.object, finished)


def _check_snapshots(resource: Resource, incus: Incus) -> None:
    names = incus.snapshots(resource.key.object)
    if names:
        raise IncusError(
            f"{resource.key.name} has snapshots ({', '.join(names)}), and Incus makes no instance anew that has some",
            where=incus.address,
            hint=f"incus snapshot delete {resource.key.name} NAME --project {resource.key.project}",
        )


def _configure(step: Step, incus: Incus) -> None:
    resource = step.resource
    instance = incus.get_object(resource.key.object)
    config = {**_kept(instance["config"], everything=False), **resource.config}
    fingerprint = resource.image.fingerprint if resource.image else None
    if step.action != "replace" and instance["config"].get(BASE_IMAGE) != fingerprint:
        config.pop(IMAGE)  # it tells of what the machine was made of
        config |= {IMAGE: instance["config"][IMAGE]} if IMAGE in instance["config"] else {}
    body = {
        "architecture": instance["architecture"],
        "ephemeral": False,  # Incus deletes an ephemeral instance when it stops
        "description": resource.body["description"],
        "profiles": resource.body["profiles"],
        "devices": resource.body["devices"],
        "config": config,
    }
    incus.put_object(resource.key.object, body)


def stop(incus: Incus, key: Key) -> None:
    """Stop an instance: by its own shutdown, and by force when that takes too long."""
    status = incus.instance_state(key.object)["status"]
    if status == "Stopped":
        return
    if status == "Frozen":  # it would not hear that it is to stop
        incus.set_instance_state(key.object, "unfreeze")
    try:
        incus.set_instance_state(key.object, "stop", timeout=STOP_SECONDS)
    except IncusError:
        if incus.instance_state(key.object)["status"] != "Stopped":
            incus.set_instance_state(key.object, "stop", force=True)
