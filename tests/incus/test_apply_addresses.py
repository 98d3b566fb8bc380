"""Addresses that move between machines: each ends up with its own, by a real DHCP server and client."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.launching import Launcher

FILE = "domains:\n  lab:\n    machines:\n"


def write(tiny: Launcher, *machines: str) -> None:
    """A file with these machines, in order: `name` or `name=address`."""
    entries = (machine.partition("=") for machine in machines)
    lines = (f"      {name}: {{image: tiny, ephemeral: true{ip and f', ip: {ip}'}}}\n" for name, _, ip in entries)
    tiny.write(FILE + "".join(lines))


def addresses(tiny: Launcher) -> dict[str, list[str]]:
    """The addresses that machines have inside, once `status` calls all of them well."""
    status = tiny.json("status")
    assert status["ok"]
    assert all(machine["address"]["wanted"] in machine["address"]["actual"] for machine in status["machines"])
    return {machine["name"]: machine["address"]["actual"] for machine in status["machines"]}


def reach_the_bridge(tiny: Launcher, *names: str) -> None:
    """The address filter drops what comes from any address but the machine's own."""
    connect = "use Socket; socket(S, 2, 1, 6); connect(S, sockaddr_in(53, inet_aton('10.120.0.254'))) or die $!"
    for name in names:
        result = tiny.execute("lab", name, "perl", "-e", connect)
        assert result.code == 0, result.stderr


def test_addresses_move_when_a_machine_comes_before_others_and_when_two_swap(tiny: Launcher) -> None:
    write(tiny, "one", "two")
    tiny("apply")
    write(tiny, "first", "one", "two")
    tiny("apply", "--yes")
    assert addresses(tiny) == {"first": ["10.120.0.1"], "one": ["10.120.0.2"], "two": ["10.120.0.3"]}
    reach_the_bridge(tiny, "first", "one", "two")
    tiny.settled()
    write(tiny, "first", "one=10.120.0.3", "two=10.120.0.2")
    tiny("apply", "--yes")
    assert addresses(tiny) == {"first": ["10.120.0.1"], "one": ["10.120.0.3"], "two": ["10.120.0.2"]}
    reach_the_bridge(tiny, "first", "one", "two")
    tiny.settled()
