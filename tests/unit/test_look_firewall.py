"""Which chain of the host drops what machines need: listings of real nft and iptables, made in a network namespace."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.inspect.facts import Filters
from launcher.inspect.firewall import Bridge, filter_findings

# By nft 1.1.3, iptables 1.8.11 and ufw 0.36.2 (`ufw-init start`); Docker's and firewalld's are rules as theirs.
CORPUS = Path(__file__).parent / "corpus/firewalls"
BRIDGE = Bridge("net-lab", "10.120.0.1", "10.120.0.254")


def found(name: str) -> dict[str, tuple[str, str]]:
    """The findings by code: what was seen, and the remedy."""
    nft = CORPUS / f"{name}.nft.json"
    iptables = CORPUS / f"{name}.iptables"
    filters = Filters(nft.read_text(), (iptables.read_text(),) if iptables.exists() else (), "eth0")
    return {entry.code: (entry.evidence[0], entry.remedy) for entry in filter_findings(filters, (BRIDGE,))}


@pytest.mark.parametrize("name", ["none", "ufw-allowed", "docker-allowed", "nftables-allowed"])
def test_nothing_is_found_where_nothing_is_dropped(name: str) -> None:
    assert found(name) == {}


@pytest.mark.parametrize(
    ("name", "code", "chain", "remedy"),
    [
        ("ufw", "firewall-input", "iptables: chain INPUT", "ufw allow in on net-lab to any port 67 proto udp"),
        ("ufw", "firewall-forward", "iptables: chain FORWARD", "ufw route allow in on net-lab"),
        ("docker", "firewall-forward", "iptables: chain FORWARD", "iptables -I DOCKER-USER -i net-lab -j ACCEPT"),
        ("firewalld", "firewall-input", "nft: chain inet firewalld filter_INPUT", "--change-interface=net-lab"),
        ("firewalld", "firewall-forward", "nft: chain inet firewalld filter_FORWARD", "--change-interface=net-lab"),
        ("nftables", "firewall-input", "nft: chain inet filter input", "nft insert rule inet filter input iifname"),
        (
            "nftables",
            "firewall-forward",
            "nft: chain inet filter forward",
            "nft insert rule inet filter forward iifname",
        ),
        ("legacy", "firewall-forward", "iptables-legacy: chain FORWARD", "iptables-legacy -I FORWARD -i net-lab"),
    ],
)
def test_the_chain_that_drops_is_named_with_what_lets_it_through(name: str, code: str, chain: str, remedy: str) -> None:
    seen, told = found(name)[code]
    assert seen.startswith(chain)
    assert remedy in told


def test_docker_drops_no_dhcp() -> None:
    assert set(found("docker")) == {"firewall-forward"}


def test_a_listing_that_is_not_understood_is_no_trouble() -> None:
    assert list(filter_findings(Filters("nft: not json", ("nor this",), "eth0"), (BRIDGE,))) == []
    assert list(filter_findings(Filters(), (BRIDGE,))) == []
