"""The command `check`: everything that is wrong with an infra.yml at once, and what it would become."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from launcher.cli.session import INFRA, JSON, YOLO, Session

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.infra.load import Checked

__all__ = ["check"]


@click.command(name="check")
@INFRA
@JSON
@YOLO
@click.pass_obj
def check(session: Session, infra: Path, *, as_json: bool, yolo: bool) -> None:
    """Check an infra.yml, or a folder of one.

    Needs no Incus, no root and no store. Exit code 0 if it can be launched, 2 if not.
    """
    from launcher.infra.load import check_infra

    checked = check_infra(infra, session.catalog, yolo=yolo)
    if as_json:
        session.console.json(checked.document())
    else:
        for warning in checked.warnings:
            session.console.warn(str(warning))
        session.console.result(_text(checked))
    if not checked.valid:
        sys.exit(2)


def _text(checked: Checked) -> str:
    from anklume_images.console import table

    lines = [str(problem) for problem in checked.errors]
    infra = checked.infra
    if checked.errors or infra is None:
        count = _count(len(checked.errors), "error")
        return "\n".join([*lines, f"not valid: {count}"])
    machines = list(infra.machines())
    if machines:
        rows = [
            (machine.name, machine.domain, machine.address, machine.image.ref, "yes" if machine.gpu else "-")
            for machine in machines
        ]
        lines.append(table(rows, ("MACHINE", "DOMAIN", "ADDRESS", "IMAGE", "GPU")))
    lines += infra.notices
    domains = sum(domain.enabled for domain in infra.domains.values())
    lines.append(f"valid: {_count(len(machines), 'machine')} in {_count(domains, 'domain')}")
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
