"""What is there: the state of a server in a few calls, whatever the number of machines.

One call for each kind over all projects (and for each storage pool), recursion=1: see doc/rest-api.md of Incus.
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from anklume_images.errors import IncusError
from launcher.infra.names import NIC, owner_of
from launcher.resources import Key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from anklume_images.incus.client import Incus

__all__ = ["Lease", "Live", "addresses_of", "read_astray", "read_leases", "read_live", "read_one"]

_PHYSICAL = frozenset({"physical", "bond", "vlan", "bridge"})


class Lease(NamedTuple):
    """An address that a bridge's DHCP server gave out, as Incus tells it; static ones are wanted, and not yet had."""

    address: str
    hardware: str
    hostname: str
    static: bool


@dataclass(frozen=True)
class Live:
    """The objects of a server by key, as its API gives them.

    Images are by fingerprint. `resources` are the host's (empty when nobody asked), `host_networks` the addresses
    (`192.168.1.7/24`) of its interfaces that Incus does not manage, by interface; `pools` are drivers by pool;
    `astray` are the addresses of machines that run with others than their own.
    """

    objects: Mapping[Key, Mapping[str, Any]] = field(default_factory=dict)
    instances: tuple[Mapping[str, Any], ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)
    host_networks: tuple[tuple[str, str], ...] = ()
    pools: Mapping[str, str] = field(default_factory=dict)
    astray: Mapping[Key, str] = field(default_factory=dict)

    def without(self, keys: Collection[Key]) -> Live:
        """The same when some objects are gone."""
        gone = {(key.project, key.name) for key in keys if key.kind == "machine"}
        return replace(
            self,
            objects={key: content for key, content in self.objects.items() if key not in keys},
            instances=tuple(
                instance for instance in self.instances if (instance["project"], instance["name"]) not in gone
            ),
        )

    def get(self, key: Key) -> Mapping[str, Any] | None:
        """The object of that key, or None."""
        return self.objects.get(key)


def read_live(incus: Incus, pools: Iterable[str] | None = None, *, resources: bool = False) -> Live:
    """Read everything that a plan looks at; `pools` are those whose volumes count, all when it is None."""
    objects: dict[Key, Mapping[str, Any]] = {}
    for project in incus.list_objects("project"):
        objects[Key("project", "", project["name"])] = project
    networks = _networks(incus)
    for network in networks:
        if network["managed"]:
            objects[Key("network", "default", network["name"])] = network
    for acl in incus.list_objects("acl"):
        objects[Key("acl", "default", acl["name"])] = acl
    for profile in incus.list_objects("profile", everywhere=True):
        objects[Key("profile", profile["project"], profile["name"])] = profile
    for image in incus.list_objects("image"):
        objects[Key("image", "default", image["fingerprint"])] = image
    drivers = {pool["name"]: pool["driver"] for pool in incus.list_objects("pool")}
    for pool in sorted(set(drivers if pools is None else pools) & set(drivers)):
        for volume in incus.list_objects("volume", pool=pool, everywhere=True):
            objects[Key("volume", volume["project"], f"{pool}/{volume['name']}")] = volume
    instances = tuple(incus.instances())
    for instance in instances:
        objects[Key("machine", instance["project"], instance["name"])] = instance
    return Live(
        objects,
        instances,
        incus.resources() if resources else {},
        tuple(sorted(_host_networks(incus, networks))),
        drivers,
    )


_PENDING_SECONDS = 3.0


def _networks(incus: Incus) -> list[dict[str, Any]]:
    """All networks; one that is just being made is waited for, a little: it is pending, or its maker was killed."""
    end = time.monotonic() + _PENDING_SECONDS
    while True:
        networks = incus.list_objects("network")
        ours = [network for network in networks if owner_of(network.get("config") or {})]
        if all(network["status"] != "Pending" for network in ours) or time.monotonic() > end:
            return networks
        time.sleep(0.2)


def read_one(incus: Incus, key: Key) -> Mapping[str, Any] | None:
    """One object as it is now, or None."""
    return incus.find_object(key.object)


def read_leases(incus: Incus, network: str, project: str) -> list[Lease]:
    """The leases on a bridge of the instances of a project, none where it has no such bridge.

    Incus leaves out of its list whatever is both static and leased, so a static entry may be either.
    """
    return [
        Lease(entry["address"], entry["hwaddr"], entry["hostname"], entry["type"] == "static")
        for entry in incus.leases(network, project)
        if entry["type"] in ("static", "dynamic")
    ]


def read_astray(incus: Incus, network: str, nics: Mapping[Key, tuple[str, str]]) -> dict[Key, str]:
    """The addresses of those machines that took others on a bridge than they are to have.

    `nics` are hardware address and address of machines of one project that run. The bridge's leases are asked first,
    as that is one request, and a machine only when its lease is for another address.
    """
    astray = {}
    (project,) = {key.project for key in nics}
    leases = read_leases(incus, network, project)
    for key, (hardware, address) in nics.items():
        if any(lease.hardware == hardware and lease.address != address and not lease.static for lease in leases):
            with contextlib.suppress(IncusError):  # it may be gone by now
                addresses = addresses_of(incus.instance_state(key.object))
                if addresses and address not in addresses:
                    astray[key] = ", ".join(addresses)
    return astray


def addresses_of(state: Mapping[str, Any]) -> tuple[str, ...]:
    """IPv4 addresses of an instance's interfaces by its state, those of eth0 first."""
    interfaces = state.get("network") or {}
    return tuple(
        address["address"]
        for name, interface in sorted(interfaces.items(), key=lambda item: (item[0] != NIC, item[0]))
        for address in interface.get("addresses") or ()
        if address["family"] == "inet" and address["scope"] == "global" and name != "lo"
    )


def _host_networks(incus: Incus, networks: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    """The IPv4 addresses of the interfaces that reach beyond the host: it is to be found there neither."""
    for network in networks:
        if network["managed"] or network["type"] not in _PHYSICAL:
            continue
        state = incus.network_state(network["name"])
        for address in state.get("addresses") or ():
            if address["family"] == "inet" and not ipaddress.IPv4Address(address["address"]).is_loopback:
                yield network["name"], f"{address['address']}/{address['netmask']}"
