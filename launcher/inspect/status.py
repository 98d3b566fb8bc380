"""`status`: each machine of a file beside its instance: state, address, image, cards, health, volumes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from anklume_images.console import table
from anklume_images.errors import IncusError
from anklume_images.sanitize import sanitized
from launcher.inspect.guest import Guest
from launcher.observe.instances import RUNNING, Mount

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anklume_images.incus.client import Incus
    from launcher.inspect.images import ImageLookup
    from launcher.observe.instances import InstanceState

__all__ = ["AT_ONCE", "Health", "Row", "as_json", "as_table", "statuses"]

AT_ONCE = 8  # machines asked at the same time
_HEALTH_SECONDS = 10


@dataclass(frozen=True)
class Health:
    """What the image's healthcheck came to; `unknown`: the image has none, or the instance does not run."""

    state: Literal["healthy", "unhealthy", "unknown"]
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Row:
    """One machine; `version` is the one that its channel means now, None when the store does not say.

    `address` is the one that it has to have, empty when the file leaves that open.
    """

    name: str
    domain: str
    project: str
    instance: str
    state: str
    address: str
    addresses: tuple[str, ...]
    image: str
    version: str | None
    running: str | None
    gpus: tuple[str, ...]
    health: Health
    volumes: tuple[Mount, ...]

    @property
    def ok(self) -> bool:
        """Whether it runs, has its address, and nothing says that it is ill."""
        has_address = not self.address or self.address in self.addresses
        return self.state == RUNNING and has_address and self.health.state != "unhealthy"

    @property
    def current(self) -> bool | None:
        """Whether it runs the version that is wanted; None where that is not known."""
        return None if self.version is None or self.running is None else self.version == self.running


def statuses(incus: Incus, instances: Iterable[InstanceState], book: ImageLookup) -> list[Row]:
    """The rows of a table, healthchecks run in parallel."""
    instances = tuple(instances)
    with ThreadPoolExecutor(AT_ONCE, "health") as pool:
        healths = list(pool.map(lambda seen: _health(incus, seen, book), instances))
    return [_row(seen, health, book) for seen, health in zip(instances, healths, strict=True)]


def _health(incus: Incus, seen: InstanceState, book: ImageLookup) -> Health:
    if not seen.running:
        return Health("unknown", f"it is {seen.state}")
    command = book.facts(seen).healthcheck
    if not command:
        return Health("unknown", "the image has no healthcheck")
    begin = time.monotonic()
    try:
        result = Guest(incus, seen).bounded(command, _HEALTH_SECONDS)
    except IncusError as error:  # stopped in between
        return Health("unhealthy", error.message, time.monotonic() - begin)
    took = time.monotonic() - begin
    if result.code == 0:
        return Health("healthy", "", took)
    lines = (result.stderr or result.stdout).decode(errors="replace").strip().splitlines()
    if result.code == 124:
        lines = [f"the healthcheck did not end within {_HEALTH_SECONDS} s"]
    return Health("unhealthy", lines[-1] if lines else f"the healthcheck ended with {result.code}", took)


def _row(seen: InstanceState, health: Health, book: ImageLookup) -> Row:
    machine = seen.machine
    return Row(
        name=machine.name,
        domain=machine.domain,
        project=seen.project,
        instance=seen.instance,
        state=seen.state,
        address=machine.fixed_address,
        addresses=seen.addresses,
        image=machine.image.ref,
        version=book.wanted(machine.image, seen.architecture),
        running=seen.image,
        gpus=tuple(_card(keys) for keys in seen.gpus),
        health=health,
        volumes=seen.mounts,
    )


def _card(keys: Mapping[str, str]) -> str:
    """A card as its device selects it; without a selector Incus passes every one."""
    for kind in ("pci", "mig.uuid", "id", "drm", "productid", "vendorid"):
        if keys.get(kind):
            return keys[kind] if kind == "pci" else f"{kind}={keys[kind]}"
    return "every card"


def as_json(rows: Iterable[Row]) -> dict[str, Any]:
    """The document of `status --json`."""
    rows = tuple(rows)
    return {"ok": all(row.ok for row in rows), "machines": [_document(row) for row in rows]}


def _document(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "domain": row.domain,
        "project": row.project,
        "instance": row.instance,
        "state": row.state,
        "address": {"wanted": row.address, "actual": list(row.addresses)},
        "image": {"wanted": row.image, "version": row.version, "running": row.running, "current": row.current},
        "gpus": list(row.gpus),
        "health": asdict(row.health) | {"seconds": round(row.health.seconds, 3)},
        "volumes": [asdict(volume) for volume in row.volumes],
        "ok": row.ok,
    }


def as_table(rows: Iterable[Row]) -> str:
    """For people; what differs from the file is said beside what is there."""
    rows = tuple(rows)
    lines = [table([_cells(row) for row in rows], ("MACHINE", "PROJECT", "STATE", "ADDRESS", "IMAGE", "GPU", "HEALTH"))]
    for row in rows:
        lines += [f"  {row.name}: {volume.pool or 'host'}:{volume.name} at {volume.path}" for volume in row.volumes]
    good = sum(row.ok for row in rows)
    return "\n".join([*lines, f"{good} of {len(rows)} machines running and healthy"])


def _cells(row: Row) -> tuple[str, ...]:
    health: str = row.health.state if row.state == RUNNING else "-"
    if row.health.state == "unhealthy":
        health += f": {sanitized(row.health.detail)}"
    return (
        row.name,
        row.project if row.instance == row.name else f"{row.project}/{row.instance}",
        row.state,
        _address(row),
        _image(row),
        ", ".join(row.gpus) or "-",
        health,
    )


def _address(row: Row) -> str:
    if row.state != RUNNING or row.address in row.addresses:
        return row.address
    if not row.address:
        return ", ".join(row.addresses)
    return f"{', '.join(row.addresses) or 'none'} (wanted {row.address})"


def _image(row: Row) -> str:
    image = row.version or row.image
    if row.running is None:
        return f"- (wanted {image})"
    return row.running if row.current is not False else f"{row.running} (wanted {image})"
