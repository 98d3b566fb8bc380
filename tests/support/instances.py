"""Instances that tests make by hand, on a connection to a private Incus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.incus.objects import ObjectId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anklume_images.incus.client import Incus


def create_instance(
    incus: Incus,
    name: str,
    *,
    fingerprint: str,
    profiles: Iterable[str] = ("default",),
    config: Mapping[str, str] | None = None,
    devices: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Create a container from an image of the same server, stopped."""
    body = {
        "type": "container",
        "source": {"type": "image", "fingerprint": fingerprint},
        "profiles": list(profiles),
        "config": dict(config or {}),
        "devices": {device: dict(keys) for device, keys in (devices or {}).items()},
    }
    incus.make_instance(ObjectId("instance", name), body)


def start_instance(incus: Incus, name: str) -> None:
    """Start an instance."""
    incus.set_instance_state(ObjectId("instance", name), "start")


def delete_instance(incus: Incus, name: str) -> None:
    """Delete a stopped instance."""
    incus.delete_object(ObjectId("instance", name))


def delete_image(incus: Incus, fingerprint: str) -> None:
    """Delete an image with its aliases."""
    incus.delete_object(ObjectId("image", fingerprint))
