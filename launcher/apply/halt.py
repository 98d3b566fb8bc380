"""Machines that have to stop before others can go on: those that give up an address.

Incus keeps a machine's DHCP lease and its entry among the static ones (`networks/<network>/dnsmasq.{leases,hosts}`)
until the device leaves the instance; dnsmasq gives nobody an address that another one's lease holds. So who gives up an
address stops first, its network device is taken off and put back without the address, and its lease is seen to be gone
before anybody who gets the address starts (internal/server/device/nic_bridged.go of Incus, `Remove`).
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from anklume_images.errors import IncusError
from launcher.apply.steps import stop
from launcher.infra.names import NIC
from launcher.observe.live import read_leases

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anklume_images.incus.client import Incus
    from launcher.resources import Key

__all__ = ["Halted", "halt"]

_ATTEMPTS = 4
_LEASE_SECONDS = 3.0  # after each
_PAUSE_SECONDS = 0.05
_HARDWARE = f"volatile.{NIC}.hwaddr"


class Halted:
    """A machine that was stopped on the way; `give_back` makes it as it was, for when its own step cannot be done."""

    def __init__(self, key: Key, *, was_running: bool, nic: Mapping[str, str] | None) -> None:
        self.key = key
        self._was_running = was_running
        self._nic = nic

    def give_back(self, incus: Incus) -> None:
        """Let it have its address again and run; nothing is done to what was changed meanwhile, or cannot be."""
        with contextlib.suppress(IncusError):
            instance = incus.get_object(self.key.object)
            if instance["status"] != "Stopped":
                return
            if self._nic is not None and "ipv4.address" not in (instance["devices"].get(NIC) or {}):
                devices = {**instance["devices"], NIC: dict(self._nic)}
                incus.put_object(self.key.object, instance | {"devices": devices})
            if self._was_running:
                incus.set_instance_state(self.key.object, "start")


def halt(key: Key, incus: Incus, *, vacate: bool) -> Halted:
    """Stop a machine; `vacate` takes its fixed address and its lease off it."""
    instance = incus.get_object(key.object)
    nic = instance["devices"].get(NIC) if vacate else None
    halted = Halted(key, was_running=instance["status"] != "Stopped", nic=nic)
    try:
        stop(incus, key)
        if nic is not None:
            _vacate(key, incus, nic)
    except BaseException:
        halted.give_back(incus)
        raise
    return halted


def _vacate(key: Key, incus: Incus, nic: Mapping[str, str]) -> None:
    """Take the address off a stopped machine, and see that its lease is gone.

    Incus asks dnsmasq once, by a datagram, to forget a lease; one that got lost is sent again.
    """
    network, address = nic.get("network"), nic.get("ipv4.address")
    free = {name: value for name, value in nic.items() if name != "ipv4.address"}
    for _ in range(_ATTEMPTS):
        hardware = _plug_anew(key, incus, free)
        if not network or not address or _is_released(key, incus, network, address, hardware):
            return
    raise IncusError(
        f"{key.name} was stopped, but its DHCP lease of {address} on {network} stays, and nobody else gets it",
        where=incus.address,
        hint=f"incus network list-leases {network} --project {key.project} shows it; run it again",
    )


def _plug_anew(key: Key, incus: Incus, nic: Mapping[str, str]) -> str:
    """Take the network device off, which releases its lease, and put `nic` there; return its hardware address."""
    instance = incus.get_object(key.object)
    volatile = instance["config"].get(_HARDWARE)
    others = {name: device for name, device in instance["devices"].items() if name != NIC}
    incus.put_object(key.object, instance | {"devices": others})
    instance = incus.get_object(key.object)
    config = instance["config"] | ({_HARDWARE: volatile} if volatile else {})
    incus.put_object(key.object, instance | {"config": config, "devices": others | {NIC: nic}})
    return nic.get("hwaddr") or volatile or ""


def _is_released(key: Key, incus: Incus, network: str, address: str, hardware: str) -> bool:
    end = time.monotonic() + _LEASE_SECONDS
    while any(
        (lease.address, lease.hardware) == (address, hardware.lower())
        for lease in read_leases(incus, network, key.project)
    ):
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True
