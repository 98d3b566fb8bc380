"""Addresses that move between machines: each ends up with its own, by a real DHCP server and client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.launching import Launcher

pytestmark = pytest.mark.both_versions

LAB = {"project": "lab"}
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


def test_a_machine_of_another_name_is_told_who_has_its_address(tiny: Launcher) -> None:
    tiny.write(FILE + "      old: {image: tiny}\n")
    tiny("apply")
    tiny.write(FILE + "      new: {image: tiny}\n")
    for command in ("plan", "apply"):
        said = tiny(command, code=1).stderr
        assert "new is to have 10.120.0.1, which the instance old (project lab) has" in said
        assert "--prune --force-protected" in said
    with tiny.client() as client:
        (there,) = client.get("instances", recursion=1, project="lab")
    assert (there["name"], there["status"]) == ("old", "Running")
    tiny("apply", "--yes", "--prune", "--force-protected")
    assert addresses(tiny) == {"new": ["10.120.0.1"]}


def test_a_machine_with_another_ones_address_is_no_success_and_put_right(tiny: Launcher) -> None:
    write(tiny, "one")
    tiny("apply")
    with tiny.client() as client:  # it keeps its lease, as Incus does not ask it to let go
        there = client.get("instances/one", project="lab")
        eth0 = {key: value for key, value in there["devices"]["eth0"].items() if key != "ipv4.address"}
        client.send("put", "instances/one", there | {"devices": {**there["devices"], "eth0": eth0}}, params=LAB)
    write(tiny, "first")
    said = tiny("apply", "--timeout", "3", code=1).stderr
    assert "has to be 10.120.0.1" in said
    (status,) = tiny.json("status", code=1)["machines"]
    assert not status["ok"]
    (wrong,) = status["address"]["actual"]
    (finding,) = (found for found in tiny.json("doctor", code=1)["findings"] if found["subject"] == "first")
    assert finding["code"] == "other-address"
    assert any("lease of 10.120.0.1: one" in line for line in finding["evidence"])
    (step,) = tiny.json("plan", code=3)["steps"]
    assert (step["action"], step["changes"]) == (
        "restart",
        [{"key": "address", "before": wrong, "after": "10.120.0.1"}],
    )
    with tiny.client() as client:
        client.send("put", "instances/one/state", {"action": "stop", "force": True}, params=LAB)
        client.send("delete", "instances/one", params=LAB)
    tiny("apply", "--yes")
    assert addresses(tiny) == {"first": ["10.120.0.1"]}
    tiny.settled()


FILTER = """\
table inet filter {
  chain input { type filter hook input priority filter; policy drop; iifname "lo" accept; }
  chain forward { type filter hook forward priority filter; policy drop; }
}
"""


def test_the_chain_of_the_host_that_drops_dhcp_is_named(tiny: Launcher) -> None:
    write(tiny, "box")
    tiny.incus.run(["nft", "-f", "-"], input=FILTER.encode(), check=True)
    try:
        said = tiny("apply", "--timeout", "1", code=1).stderr
        assert said.count("has to be 10.120.0.1; starting it once more") == 1
        assert "error: machine box (project lab): box is not healthy after 1 s: its address is none" in said
        assert not tiny.json("status", code=1)["ok"]
        findings = {finding["code"]: finding for finding in tiny.json("doctor", code=1)["findings"]}
        assert findings["firewall-input"]["evidence"][0].startswith("nft: chain inet filter input")
        assert findings["firewall-forward"]["evidence"][0].startswith("nft: chain inet filter forward")
        assert findings["no-address"]["subject"] == "box"
        tiny.incus.run(["sh", "-c", findings["firewall-input"]["remedy"]], check=True)
        assert tiny("apply").returncode == 0
        assert addresses(tiny) == {"box": ["10.120.0.1"]}
    finally:
        tiny.incus.run(["nft", "delete", "table", "inet", "filter"], check=True)


def test_a_machine_that_gets_no_address_at_its_start_is_started_once_more(tiny: Launcher) -> None:
    write(tiny, "box")
    tiny.incus.run(["nft", "-f", "-"], input=FILTER.encode(), check=True)
    with tiny.start("apply", "--timeout", "10", "--json") as process:
        assert process.stdout is not None
        told = next((line for line in process.stdout if "once more" in line), "")
        tiny.incus.run(["nft", "delete", "table", "inet", "filter"], check=True)
        said = process.stdout.read()
    assert "its address is none" in told
    assert process.returncode == 0, said
    assert addresses(tiny) == {"box": ["10.120.0.1"]}
    tiny.settled()
