"""The command `gpu`: the host's cards and who holds each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from launcher.cli.session import JSON, REMOTE, Session

if TYPE_CHECKING:
    from launcher.infra.model import Machine

__all__ = ["gpu"]


@click.command(name="gpu")
@click.argument("infra", required=False, type=click.Path(path_type=Path))
@REMOTE
@JSON
@click.pass_obj
def gpu(session: Session, infra: Path | None, remote: str | None, *, as_json: bool) -> None:
    """Show the host's GPUs and which instances hold them.

    Every instance of every project counts. With an infra.yml also which card each of its machines would get; exit
    code 4 when the policy refuses one.
    """
    from launcher.gpu import report as gpu_report
    from launcher.gpu.claims import standing_claims
    from launcher.gpu.config import driver_way
    from launcher.gpu.holders import holders
    from launcher.gpu.host import read_cards, read_figures, with_cuda
    from launcher.gpu.host_files import host_files_of
    from launcher.gpu.policy import decide, members_of
    from launcher.gpu.vendors.nvidia_driver import driver_troubles
    from launcher.infra.names import names_for

    file = session.infra(infra, warn=False) if infra else None
    with session.incus(remote) as incus:
        cards = read_cards(incus)
        instances = incus.instances()
        figures, mig = read_figures(incus, cards)
        cards = with_cuda(cards, figures)
        files = host_files_of(incus)
        claims = [(claim.pci, claim.member, claim.project, claim.instance) for claim in standing_claims(incus)]
    memory = {pci: (entry.memory_total, entry.memory_used) for pci, entry in figures.items()}
    card_holders = holders(cards, instances)
    decision = None
    ways = {}
    if file is not None:
        names = names_for(file)

        def instance_of(machine: Machine) -> tuple[str, str]:
            return names.project(machine.domain), names.instance(machine.name)

        decision = decide(
            file,
            cards,
            instances,
            instance_of,
            members=members_of(file, instances, instance_of),
            memory={pci: total for pci, (total, _) in memory.items() if total is not None},
            mig=mig,
        )
        ways = {
            machine.name: driver_way(machine, file.domains[machine.domain], decision.grants[machine.name], files)
            for machine in file.machines()
            if machine.name in decision.grants
        }
    if as_json:
        session.console.json(gpu_report.as_json(cards, card_holders, memory, claims, decision, ways))
    else:
        session.console.result(gpu_report.as_text(cards, card_holders, memory, claims))
    for trouble in driver_troubles(cards, files.driver if files else None):
        session.console.warn(f"{trouble.cause}: {trouble.remedy}")
    if decision is not None:
        if not as_json:
            session.console.result(gpu_report.granted_text(decision, ways))
        for warning in decision.warnings:
            session.console.warn(warning)
        decision.check()
