"""The commands that look at machines: status, verify, doctor, logs, shell."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from launcher.cli.machines import find_instance, find_instances, image_lookup
from launcher.cli.session import INFRA, JSON, ONLY, REMOTE, TAGS, Session, complete_machines

__all__ = ["doctor", "logs", "shell", "status", "verify"]

_MOST_LINES = 10_000
_LONGEST_PROMPT = 100_000  # bytes; the kernel's limit for one argument is 128 KiB
_MACHINE = click.argument("machine", shell_complete=complete_machines)


@click.command(name="status")
@INFRA
@ONLY
@TAGS
@REMOTE
@JSON
@click.pass_obj
def status(
    session: Session, infra: Path, only: tuple[str, ...], tags: tuple[str, ...], remote: str | None, *, as_json: bool
) -> None:
    """Show the machines: state, address, image, GPU, health.

    Exit code 0 if all run and are healthy, else 1.
    """
    from launcher.inspect import status

    file = session.infra(infra, warn=False)
    with session.incus(remote) as incus:
        rows = status.statuses(incus, find_instances(session, incus, file, only, tags), image_lookup(session))
    if as_json:
        session.console.json(status.as_json(rows))
    else:
        session.console.result(status.as_table(rows))
    sys.exit(0 if all(row.ok for row in rows) else 1)


@click.command(name="verify")
@INFRA
@ONLY
@TAGS
@click.option("--prompt", default="Hello, world!", show_default=True, help="Question for the models.")
@click.option(
    "--wait",
    "seconds",
    type=click.IntRange(1, 3600),
    default=120,
    show_default=True,
    metavar="SECONDS",
    help="Seconds that a model may take to answer.",
)
@REMOTE
@JSON
@click.pass_obj
def verify(
    session: Session,
    infra: Path,
    only: tuple[str, ...],
    tags: tuple[str, ...],
    prompt: str,
    seconds: int,
    remote: str | None,
    *,
    as_json: bool,
) -> None:
    """Test that machines do their work.

    GPU, models, page and an answer are checked from inside. Exit code 1 if a check failed.
    """
    from launcher.inspect import verify

    if len(prompt.encode(errors="surrogateescape")) > _LONGEST_PROMPT:
        raise click.BadParameter(f"longer than {_LONGEST_PROMPT} bytes", param_hint="--prompt")
    file = session.infra(infra, warn=False)
    with session.incus(remote) as incus:
        instances = find_instances(session, incus, file, only, tags)
        checks = verify.verified(incus, instances, image_lookup(session), prompt=prompt, seconds=seconds)
    document = verify.as_json(checks)
    if as_json:
        session.console.json(document)
    else:
        session.console.result(verify.as_text(checks))
    sys.exit(0 if document["ok"] else 1)


@click.command(name="doctor")
@click.argument("infra", required=False, type=click.Path(path_type=Path))
@ONLY
@TAGS
@REMOTE
@JSON
@click.pass_obj
def doctor(
    session: Session,
    infra: Path | None,
    only: tuple[str, ...],
    tags: tuple[str, ...],
    remote: str | None,
    *,
    as_json: bool,
) -> None:
    """Find common problems of the host and of machines, with cause and remedy.

    Without an infra.yml: the host only. Exit code 1 if there is a problem.
    """
    from anklume_images.errors import IncusError
    from launcher.inspect import doctor
    from launcher.inspect.collect import server_facts, unreachable

    if infra is None and (only or tags):
        raise click.UsageError("--only and --tags choose machines of an infra.yml: name one")
    file = session.infra(infra, warn=False) if infra else None
    try:
        incus = session.incus(remote)
    except IncusError as error:
        report = doctor.examine_host(unreachable(error))
    else:
        with incus:
            if file is None:
                report = doctor.examine_host(server_facts(incus))
            else:
                instances = find_instances(session, incus, file, only, tags)
                report = doctor.examine(incus, file, instances, image_lookup(session))
    if as_json:
        session.console.json(doctor.as_json(report))
    else:
        session.console.result(doctor.as_text(report))
    sys.exit(0 if report.ok else 1)


@click.command(name="logs")
@INFRA
@_MACHINE
@click.option("--unit", metavar="UNIT", help="Only this systemd unit.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1, _MOST_LINES),
    default=100,
    show_default=True,
    help="Show only this many of the last lines.",
)
@click.option("-f", "--follow", "following", is_flag=True, help="Keep printing new lines until Ctrl-C.")
@REMOTE
@click.pass_obj
def logs(
    session: Session, infra: Path, machine: str, unit: str | None, lines: int, remote: str | None, *, following: bool
) -> None:
    """Show the journal of a machine.

    If it does not run: what its console said.
    """
    from launcher.inspect import logs
    from launcher.inspect.guest import Guest

    file = session.infra(infra, warn=False)
    with session.incus(remote) as incus:
        seen = find_instance(session, incus, file, machine)
        if not seen.running:
            session.console.note(f"{machine} is {seen.state}: this is what its console and its last start said")
            text = logs.last_words(incus, seen, lines)
            if text:
                session.console.result(text)
        elif following:
            for text in logs.follow(Guest(incus, seen), lines, unit):
                session.console.result(text.removesuffix("\n"))
                sys.stdout.flush()
        else:
            text, _ = logs.journal(Guest(incus, seen), lines, unit)
            if text:
                session.console.result(text.removesuffix("\n"))


@click.command(name="shell")
@INFRA
@_MACHINE
@click.argument("command", nargs=-1, metavar="[-- CMD...]", type=click.UNPROCESSED)
@REMOTE
@click.pass_obj
def shell(session: Session, infra: Path, machine: str, command: tuple[str, ...], remote: str | None) -> None:
    """Open a shell in a machine, or run a command there.

    The exit code is that of the command.
    """
    from anklume_images.errors import IncusError
    from launcher.inspect import shell

    file = session.infra(infra, warn=False)
    with session.incus(remote) as incus:
        seen = find_instance(session, incus, file, machine)
        if not seen.running:
            raise IncusError(f"{machine} is {seen.state}", hint=f"anklume-launch {infra} starts it")
        code = shell.run(incus, seen, command, remote)
    sys.exit(code)
