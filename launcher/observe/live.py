"""What is there: the state of a server in a few calls, whatever the number of machines.

One call for each kind over all projects (and for each storage pool), recursion=1: see doc/rest-api.md of Incus. For
networks, ACLs and volumes that takes long, as Incus looks up who uses each (100 machines with volumes in 20 domains:
nine tenths of the time); their names take next to none.
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from anklume_images.errors import IncusError
from launcher.infra.names import NIC, owner_of
from launcher.resources import Key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from anklume_images.incus.client import Incus

__all__ = ["Lease", "Live", "addresses_of", "read_astray", "read_leases", "read_live", "read_whole"]

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
    `astray` are the addresses of machines that run with others than their own. `unread` are there, and nothing but
    their names is known.
    """

    objects: Mapping[Key, Mapping[str, Any]] = field(default_factory=dict)
    instances: tuple[Mapping[str, Any], ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)
    host_networks: tuple[tuple[str, str], ...] = ()
    pools: Mapping[str, str] = field(default_factory=dict)
    astray: Mapping[Key, str] = field(default_factory=dict)
    unread: frozenset[Key] = frozenset()

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


def read_live(incus: Incus, pools: Iterable[str] | None = None, *, resources: bool = False, whole: bool = True) -> Live:
    """Read everything that a plan looks at; `pools` are those whose volumes count, all when it is None.

    Without `whole`, networks, ACLs and volumes are `unread`.
    """
    objects: dict[Key, Mapping[str, Any]] = {}
    for project in incus.list_objects("project"):
        objects[Key("project", "", project["name"])] = project
    unread = {Key("network", "default", network.name) for network in incus.ids("network")}
    unread |= {Key("acl", "default", acl.name) for acl in incus.ids("acl")}
    for profile in incus.list_objects("profile", everywhere=True):
        objects[Key("profile", profile["project"], profile["name"])] = profile
    for image in incus.list_objects("image"):
        objects[Key("image", "default", image["fingerprint"])] = image
    drivers = {pool["name"]: pool["driver"] for pool in incus.list_objects("pool")}
    for pool in sorted(set(drivers if pools is None else pools) & set(drivers)):
        volumes = incus.ids("volume", pool=pool, everywhere=True)
        unread |= {Key("volume", volume.project, volume.name) for volume in volumes}
    instances = tuple(incus.instances())
    for instance in instances:
        objects[Key("machine", instance["project"], instance["name"])] = instance
    found = incus.resources() if resources else {}
    live = Live(objects, instances, found, pools=drivers, unread=frozenset(unread))
    return read_whole(incus, live, live.unread) if whole else live


def read_whole(incus: Incus, live: Live, keys: Collection[Key]) -> Live:
    """The same with objects whole of which only the names were known; one that is gone by now is not there."""
    objects, host_networks = dict(live.objects), set(live.host_networks)
    groups: dict[tuple[str, str], set[Key]] = defaultdict(set)
    for key in keys:
        groups[_collection(key)].add(key)
    for collection, group in sorted(groups.items()):
        there = sum(_collection(key) == collection for key in live.unread)
        if collection[0] == "network":
            networks = _settled(partial(_read, incus, group, there))
            host_networks |= set(_host_networks(incus, networks.values()))
            objects |= {key: network for key, network in networks.items() if network["managed"]}
        else:
            objects |= _read(incus, group, there)
    unread = live.unread - frozenset(keys)
    return replace(live, objects=objects, host_networks=tuple(sorted(host_networks)), unread=unread)


def _collection(key: Key) -> tuple[str, str]:
    """What the server lists together: a kind, or the volumes of a pool."""
    return key.kind, key.name.partition("/")[0] if key.kind == "volume" else ""


def _read(incus: Incus, keys: Collection[Key], there: int) -> dict[Key, Mapping[str, Any]]:
    """Some objects of one collection, which has so many: one by one, or all when that is no more than twice as many."""
    if 2 * len(keys) < there:
        ones = ((key, incus.find_object(key.object)) for key in keys)
        return {key: one for key, one in ones if one is not None}
    first = next(iter(keys))
    pool = _collection(first)[1]
    listed: dict[Key, Mapping[str, Any]] = {}
    for one in incus.list_objects(first.object.kind, pool=pool, everywhere=bool(pool)):
        place = (one["project"], f"{pool}/{one['name']}") if pool else ("default", one["name"])
        listed[Key(first.kind, *place)] = one
    return {key: listed[key] for key in keys if key in listed}


_PENDING_SECONDS = 3.0


def _settled(read: Callable[[], dict[Key, Mapping[str, Any]]]) -> dict[Key, Mapping[str, Any]]:
    """Networks; one that is just being made is waited for, a little: it is pending, or its maker was killed."""
    end = time.monotonic() + _PENDING_SECONDS
    while True:
        networks = read()
        ours = [network for network in networks.values() if owner_of(network.get("config") or {})]
        if all(network["status"] != "Pending" for network in ours) or time.monotonic() > end:
            return networks
        time.sleep(0.2)


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
