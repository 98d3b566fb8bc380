"""Troubles of machines with their network, recognised from evidence; nothing is looked at here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.inspect.facts import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.inspect.facts import MachineFacts

__all__ = ["address_findings"]


def address_findings(machine: MachineFacts) -> Iterator[Finding]:
    """A machine that runs without its address."""
    seen = machine.seen
    address, file = seen.machine.fixed_address, seen.machine.where.partition(":")[0]
    if not seen.running or seen.has_address:
        return
    leases = [
        f"lease of {lease.address}: {lease.hostname or 'nameless'}, {lease.hardware}" + (" (fixed)" * lease.static)
        for lease in machine.leases
    ]
    evidence = (f"its addresses: {', '.join(seen.addresses) or 'none'} (wanted {address})", *leases)
    if seen.addresses:
        what = f"it has not its address {address}, and what it sends from another one is dropped"
        cause = "the bridge's DHCP server gave it another address: the wanted one was still another machine's lease"
        remedy = f"anklume-launch {file} restarts it, and gives it its address"
        yield Finding("other-address", "error", machine.name, what, evidence, cause, remedy)
        return
    cause = "no DHCP client asks in it, or nothing answers that: a firewall of the host, or the bridge's dnsmasq"
    remedy = "see findings about the host's firewall; anklume-launch logs shows what the machine's DHCP client says"
    yield Finding("no-address", "error", machine.name, "it runs and has no address", evidence, cause, remedy)
