"""A machine gives up its address: asked for again when the DHCP server did not hear of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from anklume_images.errors import IncusError
from launcher.apply import halt
from launcher.resources import Key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anklume_images.incus.client import Incus
    from anklume_images.incus.objects import ObjectId

BOX = Key("machine", "lab", "box")
NIC = {"type": "nic", "network": "net-lab", "ipv4.address": "10.120.0.3"}
HARDWARE = "00:16:3E:00:00:01"


class Server:
    """A stopped machine on a bridge whose DHCP server hears only of some releases."""

    address = "/run/incus"

    def __init__(self, deaf_for: int) -> None:
        self.deaf_for = deaf_for
        self.box: dict[str, Any] = {"status": "Stopped", "config": {}, "devices": {"eth0": dict(NIC), "root": {}}}
        self.box["config"]["volatile.eth0.hwaddr"] = HARDWARE
        self.leases_there = [
            {"address": "10.120.0.3", "hwaddr": HARDWARE.lower(), "hostname": "box", "type": "dynamic"}
        ]

    def get_object(self, _what: ObjectId) -> dict[str, Any]:
        return {**self.box, "devices": dict(self.box["devices"]), "config": dict(self.box["config"])}

    def put_object(self, _what: ObjectId, body: Mapping[str, Any]) -> None:
        if "eth0" in self.box["devices"] and "eth0" not in body["devices"]:
            self.deaf_for -= 1
            if self.deaf_for < 0:
                self.leases_there = []
            body = {**body, "config": {}}  # Incus forgets what it noted of the device
        self.box |= dict(body)

    def instance_state(self, _what: ObjectId) -> dict[str, Any]:
        return {"status": "Stopped"}

    def leases(self, _network: str, _project: str) -> list[dict[str, Any]]:
        return self.leases_there


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halt, "_LEASE_SECONDS", 0.0)
    monkeypatch.setattr(halt, "_PAUSE_SECONDS", 0.0)


@pytest.mark.parametrize("deaf_for", [0, 1, 3])
def test_a_release_that_got_lost_is_sent_again(deaf_for: int) -> None:
    server = Server(deaf_for)
    halt.halt(BOX, cast("Incus", server), vacate=True)
    assert server.leases_there == []
    assert server.box["devices"]["eth0"] == {"type": "nic", "network": "net-lab"}
    assert server.box["config"]["volatile.eth0.hwaddr"] == HARDWARE


def test_a_lease_that_stays_is_an_error_and_the_machine_is_as_it_was() -> None:
    server = Server(99)
    with pytest.raises(IncusError, match=r"its DHCP lease of 10\.120\.0\.3 on net-lab stays"):
        halt.halt(BOX, cast("Incus", server), vacate=True)
    assert server.box["devices"]["eth0"] == NIC
