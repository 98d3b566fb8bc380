"""From a file and a server to a plan: reads the store, the host and what is live, decides nothing itself."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anklume_images.errors import AnklumeError, PolicyError, StoreError
from anklume_images.trust.revoked import known_revocations
from launcher.gpu.host import read_cards, read_figures
from launcher.gpu.host_files import host_files_of
from launcher.gpu.images import unusable, why_unusable
from launcher.gpu.memory import too_large
from launcher.gpu.policy import GpuDecision, decide, members_of
from launcher.gpu.preflight import preflight
from launcher.infra.host import own_routes, shadowed
from launcher.infra.merge import layers
from launcher.infra.models import choose_models
from launcher.infra.names import NIC, names_for
from launcher.infra.selection import selected
from launcher.observe.daemon import daemon_root, is_in_this_network, watch_limit
from launcher.observe.filesystems import filesystem_of, shifts
from launcher.observe.live import read_astray, read_live, read_whole
from launcher.observe.volumes import look_at_models
from launcher.observe.watches import crowded, running_containers
from launcher.plan.desired import PlanContext, desired, volumes_of
from launcher.plan.difference import Plan, Step, difference, owned
from launcher.plan.folders import check_folders, shifted_folders
from launcher.plan.limits import capacity_of, limits_of
from launcher.plan.removal import Removal, removal_of
from launcher.plan.revoked import heed
from launcher.plan.vouched import to_read
from launcher.resources import Key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from anklume_images.incus.client import Incus
    from anklume_images.models.library import Models
    from anklume_images.store.images import Image, Images
    from launcher.gpu.cards import Card
    from launcher.gpu.host_files import HostFiles
    from launcher.gpu.images import Gpus
    from launcher.infra.model import Infra, Machine
    from launcher.infra.models import MachineModels
    from launcher.infra.names import Names
    from launcher.observe.live import Live
    from launcher.resources import Resource

__all__ = ["ConflictError", "Prepared", "choose_images", "prepare"]


_NODES = frozenset({"unix-char", "unix-block", "pci"})


class ConflictError(AnklumeError):
    """Things are there under the names that the file wants, and are not the file's."""


@dataclass(frozen=True)
class Prepared:
    """A plan with what it was made from."""

    infra: Infra
    plan: Plan
    live: Live
    names: Names
    gpus: GpuDecision
    cards: tuple[Card, ...]
    removal: Removal

    def place(self, machine: Machine) -> tuple[str, str]:
        """A machine's project and instance."""
        return self.names.project(machine.domain), self.names.instance(machine.name)


def choose_images(infra: Infra, images: Images) -> dict[str, Image]:
    """The image in the store for each machine that is made of one; StoreError names all that are not there."""
    # Each reference is read once: it takes a millisecond, and a channel may move meanwhile.
    by_ref: dict[str, Image] = {}
    missing: dict[str, tuple[str, StoreError]] = {}
    machines = [machine for machine in infra.machines() if machine.image.store is not None]
    for machine in machines:
        ref = machine.image.ref
        if ref in by_ref or ref in missing:
            continue
        try:
            by_ref[ref] = images.resolve(ref)
        except StoreError as error:
            missing[ref] = (machine.where, error)
    if missing:
        message = "\n".join(f"{where}: {error.message}" for where, error in missing.values())
        names = sorted({ref.partition("@")[0] for ref in missing})
        channels = any(not ref.endswith("@latest") for ref in missing)
        from anklume_images.store.images import BRING

        build = f"anklume-images build {' '.join(names)}; {BRING}"
        hint = next(iter(missing.values()))[1].hint if channels else build
        raise StoreError(message, hint=hint)
    return {machine.name: by_ref[machine.image.ref] for machine in machines}


def prepare(
    infra: Infra,
    images: Images,
    incus: Incus,
    *,
    only: Iterable[str] = (),
    tags: Iterable[str] = (),
    adopt: bool = False,
    replace: bool = False,
    prune: bool = False,
    deep: bool = True,
    neighbours: Sequence[Mapping[str, Any]] = (),
    models: Models | None = None,
    brought: Mapping[str, MachineModels] | None = None,
) -> Prepared:
    """Read everything and make the plan; refused policies and conflicts are raised before anything is touched.

    The GPU policy is judged for the whole file, whatever `only` and `tags` select. With `prune` the plan is for when
    the orphans are gone. Without `deep` and `prune`, networks, ACLs and volumes that were applied as the file wants
    them are not looked at: such a plan is to be shown, not to be carried out. `neighbours` are instances of another
    Incus of the same host, which may hold its cards. `models` are those that the machines' volumes may be given;
    without, none is. `brought` are further ones, by machine, that their volumes are to hold.
    """
    incus = incus.within(None)
    only, tags = tuple(only), tuple(tags)
    chosen = {machine.name for machine in selected(infra, only, tags)}
    own_images = choose_images(infra, images)
    own_models = choose_models(infra, own_images, models)
    for name, further in (brought or {}).items():
        own_models[name] = further.beside(own_models.get(name))
    gpu = _touches_cards(infra)
    pools = _pools(infra, own_images)
    resources = infra.settings.resource_policy is not None
    live = read_live(incus, None if prune else pools, resources=resources, whole=deep or prune)
    _check_pools(infra, pools, live)
    names = names_for(infra)
    bridges = {names.network(name) for name, domain in infra.domains.items() if domain.enabled}
    live = read_whole(incus, live, [key for key in live.unread if key.kind == "network" and key.name not in bridges])
    removal = _orphans(infra, names, own_images, live) if prune else Removal()
    live = dataclasses.replace(live.without(removal.keys), astray=_astray(infra, names, live, incus))
    cards = read_cards(incus) if gpu else ()
    sizes: dict[str, int] = {}
    decision = _decide(infra, incus, cards, [*live.instances, *neighbours], names, sizes) if gpu else GpuDecision()
    decision.check()
    decision.check_order(chosen)
    limits = limits_of(infra, capacity_of(live.resources)) if live.resources else None
    context = PlanContext(
        names,
        own_images,
        decision.grants,
        decision.waits,
        limits.config if limits else {},
        _host_addresses(live, bridges),
        host_files_of(incus) if decision.grants else None,
        own_models,
    )
    target = desired(infra, context)
    live = read_whole(incus, live, to_read(target.resources, live, infra.project_name))
    live, out_of_reach = look_at_models(target.resources, live, incus.address)

    def is_chosen(resource: Resource) -> bool:
        return resource.key.kind == "machine" and not chosen.isdisjoint(resource.machines)

    everything = not only and not tags
    plan = difference(
        target.resources,
        live,
        infra.project_name,
        adopt=adopt,
        replace=replace,
        chosen=None if everything else is_chosen,
    )
    if plan.conflicts:
        message = "\n".join(conflict.message for conflict in plan.conflicts)
        hints = dict.fromkeys(conflict.hint for conflict in plan.conflicts)
        raise ConflictError(message, where=incus.address, hint="; ".join(hints))
    notices = [*infra.notices, *decision.warnings, *target.notices, *(limits.notices if limits else ())]
    notices += [*out_of_reach, *too_large(decision.grants, own_models, sizes)]
    notices += _preflight(infra, decision, own_images, context.host_files)
    notices += _unusable(decision, own_images)
    notices += heed(plan.steps, live, known_revocations(images.home))
    notices += _watches(plan, live, incus)
    notices += _routes(plan, incus)
    _check_folders(infra, chosen, incus)
    orphans = (*removal.keys, *plan.orphans) if everything else ()
    unread = sum(step.key in live.unread for step in plan.steps)
    plan = Plan(plan.steps, (), orphans, removal.keys, plan.waiting, tuple(notices), unread)
    return Prepared(infra, plan, live, names, decision, cards, removal)


def _astray(infra: Infra, names: Names, live: Live, incus: Incus) -> dict[Key, str]:
    """Machines that run with another address than their own, with it."""
    astray: dict[Key, str] = {}
    for domain in infra.domains.values():
        nics = {}
        for machine in domain.machines.values() if domain.enabled else ():
            key = Key("machine", names.project(domain.name), names.instance(machine.name))
            instance = live.get(key) or {}
            nic = (instance.get("devices") or {}).get(NIC) or {}
            hardware = nic.get("hwaddr") or (instance.get("config") or {}).get(f"volatile.{NIC}.hwaddr")
            if instance.get("status") == "Running" and hardware and nic.get("ipv4.address") == machine.fixed_address:
                nics[key] = hardware.lower(), machine.fixed_address
        if nics:
            astray |= read_astray(incus, names.network(domain.name), nics)
    return astray


def _orphans(infra: Infra, names: Names, images: Mapping[str, Image], live: Live) -> Removal:
    """What is to go with --prune: all that is the file's and no longer in it, but for data."""
    keys = {resource.key for resource in desired(infra, PlanContext(names, images)).resources}
    gone = [key for key in owned(live, infra.project_name) if key not in keys]
    return removal_of(live, infra.project_name, orphans=gone)


def _touches_cards(infra: Infra) -> bool:
    """Whether a machine could get at a card: as a gpu, or by a node, a PCI device or LXC's own configuration."""
    for machine in infra.machines():
        sources = layers(machine, infra.domains[machine.domain])
        devices = [device for source in sources for device in source.devices.values()]
        if machine.gpu or any("raw.lxc" in source.config for source in sources):
            return True
        if any(device.get("type") in _NODES or "/dev/" in device.get("source", "") for device in devices):
            return True
    return False


def _host_addresses(live: Live, networks: Collection[str]) -> tuple[str, ...]:
    """Where the host is to be found beside the file's own bridges: on its interfaces, and on Incus' other bridges."""
    others = (network for key, network in live.objects.items() if key.kind == "network" and key.name not in networks)
    bridges = ((network.get("config") or {}).get("ipv4.address", "") for network in others)
    addresses = {
        text.partition("/")[0] for text in (*bridges, *(text for _, text in live.host_networks)) if "/" in text
    }
    return tuple(sorted(addresses))


def _pools(infra: Infra, images: Mapping[str, Image]) -> set[str]:
    default = infra.settings.storage_pool
    volumes = itertools.chain.from_iterable(
        volumes_of(machine, infra.domains[machine.domain], images.get(machine.name), default)
        for machine in infra.machines()
    )
    return {default, *(volume.pool for volume in volumes)}


def _check_pools(infra: Infra, pools: set[str], live: Live) -> None:
    missing = sorted(pools - set(live.pools))
    if missing:
        present = ", ".join(sorted(live.pools)) or "none"
        raise AnklumeError(
            f"Incus has no storage pool called {', '.join(missing)}; there are: {present}",
            where=infra.file,
            hint="make one (incus admin init, incus storage create), or name one in global.storage_pool",
        )


def _decide(
    infra: Infra,
    incus: Incus,
    cards: tuple[Card, ...],
    instances: Sequence[Mapping[str, Any]],
    names: Names,
    sizes: dict[str, int],
) -> GpuDecision:
    """What the policy makes of the cards; `sizes` is filled with the memory of those that tell it."""

    def instance_of(machine: Machine) -> tuple[str, str]:
        return names.project(machine.domain), names.instance(machine.name)

    figures, mig = read_figures(incus, cards)
    sizes |= {pci: entry.memory_total for pci, entry in figures.items() if entry.memory_total is not None}
    members = members_of(infra, instances, instance_of)
    return decide(infra, cards, instances, instance_of, members=members, memory=sizes, mig=mig)


def _unusable(decision: GpuDecision, images: Mapping[str, Image]) -> list[str]:
    """Cards on which the image of the machine that gets them cannot compute."""
    notices = []
    for name, grants in decision.grants.items():
        if strange := unusable(_gpus(images, name), [grant.card for grant in grants]):
            notices.append(f"{name}: {why_unusable(images[name].name, strange)}; anklume-launch doctor names others")
    return notices


def _gpus(images: Mapping[str, Image], machine: str) -> Gpus:
    """How a machine's image computes on cards; None where nobody knows."""
    return images[machine].spec.get("gpus") if machine in images else None


def _watches(plan: Plan, live: Live, incus: Incus) -> list[str]:
    """Whether more containers are to run than can watch their files."""
    machines = (step.resource for step in plan.todo if step.key.kind == "machine")
    containers = {
        (resource.key.project, resource.key.name) for resource in machines if resource.body["type"] == "container"
    }
    running = running_containers(live.instances)
    limit = watch_limit(daemon_root(incus.address)) if containers - running else None
    notice = None if limit is None else crowded(len(containers | running), limit)
    return [notice] if notice else []


def _check_folders(infra: Infra, chosen: Collection[str], incus: Incus) -> None:
    """Folders of the host whose owners cannot be shown as the machines' own are refused, each with its file system."""
    folders = list(shifted_folders(infra, chosen))
    root = daemon_root(incus.address) if folders else None
    if root is not None:
        types = {source: filesystem_of(root, source) for source in {folder.source for folder in folders}}
        check_folders(folders, {source: kind for source, kind in types.items() if kind and not shifts(kind)})


def _routes(plan: Plan, incus: Incus) -> list[str]:
    """New bridges that have addresses in common with a route of the host, where its routes can be seen."""
    new = {
        step.key.name: step.resource.config["ipv4.address"]
        for step in plan.todo
        if step.key.kind == "network" and (step.action != "change" or _moves(step))
    }
    routes = own_routes() if new and is_in_this_network(daemon_root(incus.address)) else ()
    bridges = {step.key.name for step in plan.steps if step.key.kind == "network"}
    notes = {}
    for name, address in new.items():
        subnet = ipaddress.IPv4Interface(address).network
        if route := shadowed(subnet, routes, bridges):
            notes[name] = f"{name} ({subnet}) has addresses in common with the host's route {route[1]} over {route[0]}"
    return list(notes.values())


def _moves(step: Step) -> bool:
    return any(change.key == "config.ipv4.address" for change in step.changes)


def _preflight(infra: Infra, decision: GpuDecision, images: Mapping[str, Image], host: HostFiles | None) -> list[str]:
    """What of the host is in the way of granted cards; PolicyError where it would only fail at the start."""
    obstacles = [
        obstacle
        for machine in infra.machines()
        if machine.name in decision.grants
        for obstacle in preflight(
            machine,
            infra.domains[machine.domain],
            decision.grants[machine.name],
            host,
            _gpus(images, machine.name),
        )
    ]
    fatal = [obstacle for obstacle in obstacles if obstacle.fatal]
    if fatal:
        raise PolicyError("\n".join(str(obstacle) for obstacle in fatal), hint="anklume-launch doctor looks further")
    return [str(obstacle) for obstacle in obstacles]
