"""The commands that change what runs: apply, plan, destroy."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anklume_images.errors import AnklumeError
from launcher.cli.session import INFRA, JSON, ONLY, REMOTE, TAGS, YES, YOLO, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from launcher.apply.outcome import Report
    from launcher.infra.model import Infra
    from launcher.plan.removal import Removal
    from launcher.prepare import Prepared

__all__ = ["apply", "destroy", "plan"]

_ADOPT = click.option("--adopt", is_flag=True, help="Take over objects of the same names that were made by hand.")
_PRUNE = click.option("--prune", is_flag=True, help="Remove what is no longer in the file (volumes stay).")
_FORCE = click.option(
    "--force-protected", is_flag=True, help="Remove protected machines too (those not `ephemeral: true`)."
)
_DEEP = click.option(
    "--deep", is_flag=True, help="Read every object in full, as apply does: it takes many times as long."
)
_REPLACE = click.option(
    "--replace", is_flag=True, help="Recreate machines whose image has a newer version (volumes stay)."
)


class RefusedToAskError(AnklumeError):
    """Something has to be agreed to, and nobody is there to be asked."""

    exit_code = 2


@click.command(name="apply")
@INFRA
@click.option("--plan", "only_plan", is_flag=True, help="Show the plan and change nothing, like `plan --deep`.")
@YES
@ONLY
@TAGS
@_ADOPT
@_REPLACE
@_PRUNE
@_FORCE
@click.option("--no-wait", is_flag=True, help="Do not wait for healthchecks.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds to wait for each healthcheck.")
@REMOTE
@YOLO
@JSON
@click.pass_obj
def apply(
    session: Session, /, infra: Path, *, only_plan: bool, as_json: bool, yolo: bool, remote: str | None, **options: Any
) -> None:
    """Create and update the machines of an infra.yml. A second run changes nothing."""
    file = session.infra(infra, yolo=yolo)
    if only_plan:
        _show_plan(session, file, remote, options, as_json=as_json)
    with _alone(file, session.console.note), session.incus(remote) as incus:
        prepared = _prepare(session, file, incus, options)
        _agree(session, prepared, yes=options["yes"], as_json=as_json)
        report = _apply(session, prepared, incus, options)
    if as_json:
        session.console.json(_document(prepared, report))
    else:
        session.console.result(_outcome(prepared, report))


@click.command(name="plan")
@INFRA
@ONLY
@TAGS
@_ADOPT
@_REPLACE
@_PRUNE
@_DEEP
@REMOTE
@YOLO
@JSON
@click.pass_obj
def plan(session: Session, /, infra: Path, *, as_json: bool, yolo: bool, remote: str | None, **options: Any) -> None:
    """Show what apply would change; change nothing. Exit code 3 if there is something to change.

    Bridges, their rules and volumes that were changed by hand show with --deep only.
    """
    _show_plan(session, session.infra(infra, yolo=yolo), remote, options, as_json=as_json)


@click.command(name="destroy")
@INFRA
@ONLY
@TAGS
@_FORCE
@click.option("--volumes", multiple=True, metavar="NAME", help="Delete this volume and its data (repeatable).")
@click.option("--plan", "only_plan", is_flag=True, help="Show what would be removed; remove nothing.")
@YES
@REMOTE
@JSON
@click.pass_obj
def destroy(
    session: Session,
    infra: Path,
    *,
    only: tuple[str, ...],
    tags: tuple[str, ...],
    volumes: tuple[str, ...],
    force_protected: bool,
    only_plan: bool,
    yes: bool,
    remote: str | None,
    as_json: bool,
) -> None:
    """Remove what an infra.yml made. Images stay, and volumes too unless you name them."""
    from launcher.apply.destroy import remove
    from launcher.infra.selection import selected
    from launcher.observe.live import read_live
    from launcher.plan.removal import describe, removal_of

    file = session.infra(infra, yolo=True, warn=False)
    machines = {machine.name for machine in selected(file, only, tags)} if only or tags else None
    with _alone(file, session.console.note), session.incus(remote) as connection:
        incus = connection.within(None)
        removal = removal_of(read_live(incus), file.project_name, machines=machines, volumes=volumes)
        if not as_json:
            for line in describe(removal.keys):
                session.console.note(f"- {line}")
            for line in describe(removal.kept):
                session.console.note(f"  {line} stays")
        if only_plan:
            if as_json:
                session.console.json(_removal(removal.keys, removal.kept, removal.protected))
            sys.exit(3 if removal.keys else 0)
        refused = bool(removal.protected) and not force_protected  # what `remove` says
        if removal.keys and not yes and not refused:
            _ask(f"Remove these {len(removal.keys)}?", "removing needs --yes where there is no terminal")
        remove(removal, incus, session.console, force_protected=force_protected)
    if as_json:
        session.console.json(_removal(removal.keys, removal.kept, removal.protected))
    else:
        kept = f"; {len(removal.kept)} stay" if removal.kept else ""
        session.console.result(f"{len(removal.keys)} removed{kept}" if removal.keys or kept else "nothing is there")


def _removal(keys: Any, kept: Any, protected: Any) -> dict[str, Any]:
    def plain(entries: Any) -> list[dict[str, str]]:
        return [{"kind": key.kind, "project": key.project, "name": key.name} for key in entries]

    return {"removed": plain(keys), "kept": plain(kept), "protected": plain(protected)}


def _prepare(session: Session, file: Infra, incus: Any, options: dict[str, Any]) -> Prepared:
    from launcher.prepare import prepare

    chosen = {name: options[name] for name in ("only", "tags", "adopt", "replace")}
    if options.get("prune") and (chosen["only"] or chosen["tags"]):
        raise click.UsageError("--prune is for the whole file: do not use it with --only or --tags")
    chosen |= {"prune": options["prune"], "deep": options.get("deep", True)}
    return prepare(file, session.images(), incus, models=session.models(), **chosen)


def _show_plan(session: Session, file: Infra, remote: str | None, options: dict[str, Any], *, as_json: bool) -> None:
    from launcher.plan.render import document, lines

    with session.incus(remote) as incus:
        plan = _prepare(session, file, incus, options).plan
    if as_json:
        session.console.json(document(plan))
    else:
        session.console.result("\n".join(lines(plan)))
    sys.exit(3 if plan.todo or plan.removing else 0)


def _agree(session: Session, prepared: Prepared, *, yes: bool, as_json: bool) -> None:
    """Show what will be done and have it agreed to: at a terminal always, else where something running is stopped."""
    from launcher.plan.render import lines, notes

    plan = prepared.plan
    changing = bool(plan.todo or plan.removing)
    asking = not yes and changing
    if (not as_json and not session.console.quiet) or (asking and _terminal()):
        for line in lines(plan) if changing else notes(plan):  # that there is nothing to do is the result
            click.echo(line, err=True)
    if not asking:
        return
    if _terminal():
        _ask("Go on?", "")
    elif plan.interrupts:
        raise RefusedToAskError(
            "running machines would be stopped or removed, and there is no terminal to ask at",
            hint="--yes agrees; --plan only shows",
        )


def _terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _ask(question: str, otherwise: str) -> None:
    if not _terminal():
        raise RefusedToAskError(otherwise, hint="--plan only shows")
    if not click.confirm(question, err=True):
        raise click.Abort


def _apply(session: Session, prepared: Prepared, incus: Any, options: dict[str, Any]) -> Report:
    from launcher.apply.run import carry_out_plan

    leaving, force = prepared.removal, options["force_protected"]
    # Names and addresses may be wanted by what comes; a profile is in use until who had it is changed.
    if leaving.keys:
        _remove(session, incus, leaving.part("machine", "network", "acl"), force=force)
    report = carry_out_plan(
        prepared, session.store(), incus, session.console, wait=not options["no_wait"], timeout=options["timeout"]
    )
    if leaving.keys:
        _remove(session, incus, leaving.part("profile", "project"), force=force)
    return report


def _remove(session: Session, incus: Any, removal: Removal, *, force: bool) -> None:
    from launcher.apply.destroy import remove

    remove(removal, incus.within(None), session.console, force_protected=force)


def _outcome(prepared: Prepared, report: Report) -> str:
    from launcher.plan.render import summary

    if not report.done:
        return summary(prepared.plan)
    had = {name for step in report.done if step.key.kind == "machine" for name in step.resource.machines}
    lines = [
        f"{machine.name}  {machine.address}  {prepared.place(machine)[0]}"
        + (f"  healthy after {report.healthy[machine.name]:.1f} s" if machine.name in report.healthy else "")
        for machine in prepared.infra.machines()
        if machine.name in had
    ]
    steps = "1 step" if len(report.done) == 1 else f"{len(report.done)} steps"
    return "\n".join([*lines, f"{steps} in {report.seconds:.1f} s"])


def _document(prepared: Prepared, report: Report) -> dict[str, Any]:
    from launcher.plan.render import document

    machines = {}
    for machine in prepared.infra.machines():
        project, instance = prepared.place(machine)
        machines[machine.name] = {
            "project": project,
            "instance": instance,
            "address": machine.address,
            "healthy_after": report.healthy.get(machine.name),
        }
    done = {"done": len(report.done), "seconds": round(report.seconds, 1), "warnings": report.warnings}
    return document(prepared.plan) | done | {"machines": machines}


@contextlib.contextmanager
def _alone(file: Infra, note: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other command on this host changes what the same file is about."""
    folder = Path("/run") if os.geteuid() == 0 else Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    if not folder.is_dir():
        folder = Path(tempfile.gettempdir())
    name = re.sub(r"[^A-Za-z0-9._-]", "_", file.project_name)[:100]
    descriptor = os.open(
        folder / f"anklume-launch-{os.geteuid()}-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600
    )
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            note(f"another command works on {file.project_name}; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
