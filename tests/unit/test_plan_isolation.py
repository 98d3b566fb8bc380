"""The rules of network ACLs, as policies make them."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

from launcher.infra.model import Domain, ImageChoice, Infra, Machine, Policy, Settings
from launcher.plan.isolation import Isolation


def infra(*policies: Policy) -> Infra:
    domains = {}
    for number, name in enumerate(("web", "dev", "gone"), 1):
        machines = {
            f"{name}-{host}": Machine(f"{name}-{host}", name, f"10.{number}.0.{host}", ImageChoice("x"), "f:1:1")
            for host in (1, 2)
        }
        subnet, gateway = f"10.{number}.0.0/24", f"10.{number}.0.254"
        domains[name] = Domain(name, subnet, gateway, "f:1:1", enabled=name != "gone", machines=machines)
    return Infra("infra.yml", "demo", Settings(), domains, policies)


def rules(domain: str, *policies: Policy, host: tuple[str, ...] = ()) -> tuple[list[Any], list[Any]]:
    file = infra(*policies)
    return Isolation(file, host).rules(file.domains[domain])


HOST = "10.1.0.254/32,10.2.0.254/32"


def test_nothing_comes_in_and_the_host_is_out_of_reach() -> None:
    ingress, egress = rules("web", host=("192.168.7.9",))
    assert ingress == []
    assert egress == [{"action": "drop", "destination": f"{HOST},192.168.7.9/32", "state": "enabled"}]


def test_ends_are_domains_machines_and_the_host() -> None:
    ingress, _ = rules(
        "web",
        Policy("dev", "web", (80, 443)),
        Policy("dev-1", "web-2", (53,), "udp"),
        Policy("host", "web-1", (22,)),
        Policy("web-1", "web-2", (5,)),  # never filtered
        Policy("dev", "dev-1", (7,)),  # another domain's
        Policy("gone-1", "web", (9,)),  # not enabled
    )
    assert [(rule["source"], rule["destination"], rule["protocol"], rule["destination_port"]) for rule in ingress] == [
        ("10.2.0.0/24", "10.1.0.0/24", "tcp", "80,443"),
        ("10.1.0.254/32", "10.1.0.1/32", "tcp", "22"),
        ("10.2.0.1/32", "10.1.0.2/32", "udp", "53"),
    ]


def test_all_ports_mean_every_protocol() -> None:
    ingress, _ = rules("web", Policy("dev", "web"))
    assert ingress == [
        {"action": "allow", "source": "10.2.0.0/24", "destination": "10.1.0.0/24", "state": "enabled"},
    ]


def test_bidirectional_is_a_rule_in_each_domain() -> None:
    policy = Policy("dev-1", "web-1", (5000,), bidirectional=True)
    (forth,), _ = rules("web", policy)
    (back,), _ = rules("dev", policy)
    assert (forth["source"], forth["destination"]) == ("10.2.0.1/32", "10.1.0.1/32")
    assert (back["source"], back["destination"]) == ("10.1.0.1/32", "10.2.0.1/32")


def test_way_to_the_host_leaves_out_the_ports_let_through() -> None:
    _, egress = rules("web", Policy("web", "host", (80, 8080)), Policy("web", "host", (53,), "udp"))
    assert {rule.get("protocol"): rule.get("destination_port") for rule in egress} == {
        "icmp4": None,
        "tcp": "1-79,81-8079,8081-65535",
        "udp": "1-52,54-65535",
    }
    assert rules("web", Policy("web", "host"))[1] == []


def test_machine_with_a_domains_name_gets_nothing_of_its() -> None:
    file = infra(Policy("dev", "host", (22,)))
    web = file.domains["web"]
    namesake = replace(web, machines={**web.machines, "dev": replace(web.machines["web-1"], name="dev")})
    egress = Isolation(replace(file, domains={**file.domains, "web": namesake})).rules(namesake)[1]
    assert [rule.get("protocol") for rule in egress] == [None]


def test_exception_of_one_machine_is_nobody_elses() -> None:
    _, egress = rules("web", Policy("web-1", "host", (80,)))
    whole = {str(address) for address in ipaddress.IPv4Network("10.1.0.0/24")}
    dropped: dict[str, set[str]] = {}
    for rule in egress:
        for block in rule["source"].split(","):
            for address in ipaddress.IPv4Network(block):
                dropped.setdefault(str(address), set()).add(rule.get("protocol", "all"))
    assert dropped.pop("10.1.0.1") == {"icmp4", "tcp", "udp"}
    assert set(dropped) == whole - {"10.1.0.1"}
    assert all(protocols == {"all"} for protocols in dropped.values())
