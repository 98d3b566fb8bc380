"""The command `try`: an infra.yml in a private Incus, with a shell or a command to look at it, then nothing left."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from anklume_images.cli.session import OFFLINE, complete_models
from launcher.cli.session import INFRA, JSON, ONLY, YOLO, Session
from launcher.private_incus.fake_gpu import MAXIMUM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.trial.trial import Trial

__all__ = ["try_"]


def _files_and_names(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[Path | str, ...]:
    """Each a file where there is one, else the name of a model."""
    found: list[Path | str] = []
    for text in given:
        path = Path(text)
        if not path.is_file() and (path.exists() or len(path.parts) > 1 or path.suffix):
            raise click.BadParameter(f"{text!r} is no file." if path.exists() else f"File {text!r} does not exist.")
        found.append(path if path.is_file() else text)
    return tuple(found)


def _complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of models, else what the shell finds among files."""
    names = [CompletionItem(name) for name in complete_models(context, parameter, incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


@click.command(name="try")
@INFRA
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--run",
    "line",
    metavar="CMD",
    help="Run this command instead of a shell; it is split into words, not read by a shell.",
)
@click.option("--fake-gpus", type=click.IntRange(0, MAXIMUM), default=0, help="Number of simulated NVIDIA cards.")
@click.option("--no-gpu", is_flag=True, help="Ignore the file's GPUs; compute on the CPU.")
@click.option("--incus", "version", type=click.Choice(["6", "7"]), default="7", help="Incus release (default: 7).")
@click.option(
    "--publish",
    multiple=True,
    metavar="MACHINE:PORT[=HOSTPORT]",
    help="Publish another port on the host's loopback, at a port of your choice if you like (repeatable).",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="FILE|NAME",
    callback=_files_and_names,
    shell_complete=_complete_model,
    help="GGUF file, or name of a model, for the machines that serve it (repeatable).",
)
@ONLY
@OFFLINE
@YOLO
@JSON
@click.pass_obj
def try_(
    session: Session,
    infra: Path,
    *,
    command: tuple[str, ...],
    line: str | None,
    fake_gpus: int,
    no_gpu: bool,
    version: str,
    publish: tuple[str, ...],
    models: tuple[Path | str, ...],
    only: tuple[str, ...],
    offline: bool,
    yolo: bool,
    as_json: bool,
) -> None:
    """Launch an infra.yml in a private Incus that is gone when you leave.

    Missing images are built first. Then you get a shell whose `incus` is the private one, or the command
    of --run or after `--` runs; its exit code is that of `try`.
    """
    from launcher.trial.models import model_file, model_name
    from launcher.trial.no_cards import without_cards
    from launcher.trial.ports import parse
    from launcher.trial.trial import TrialOptions, check_host, trial

    words = _words(command, line)
    if no_gpu and fake_gpus:
        raise click.UsageError("simulated cards (--fake-gpus) or none (--no-gpu), not both")
    names = [model_name(model) for model in models]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise click.UsageError(f"two models are called {doubled}")
    ports = tuple(parse(text) for text in publish)
    file = session.infra(infra, yolo=yolo)
    if no_gpu:
        file = without_cards(file)
    check_host()
    with contextlib.ExitStack() as stack:
        options = TrialOptions(
            version=f"incus-{version}",
            fake_gpus=fake_gpus,
            publish=ports,
            models=tuple(
                stack.enter_context(model_file(model, session.models, session.console, offline=offline))
                for model in models
            ),
            only=only,
            own_options=session.own_options(),
            library=session.models(),
            offline=offline,
        )
        trial_run = stack.enter_context(trial(session.pipeline(offline=offline), file, options, session.console))
        assert trial_run.shell is not None  # noqa: S101 - it is there when all runs
        if as_json:
            session.console.json(trial_run.document())
        else:
            for text in _introduction(trial_run, shell=not words):
                session.console.note(text)
        sys.stdout.flush()
        code = trial_run.shell.run(words) if words else trial_run.shell.shell()
    if code:
        sys.exit(code)


def _words(command: tuple[str, ...], line: str | None) -> list[str]:
    """The command to run, empty for a shell."""
    if line is None:
        return list(command)
    if command:
        raise click.UsageError("give a command by --run or behind --, not by both")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise click.UsageError(f"--run: {str(error).lower()} in {line!r}") from None
    if not words:
        raise click.UsageError("--run names no command")
    return words


def _introduction(trial: Trial, *, shell: bool) -> Iterator[str]:
    """What runs, and how to look inside."""
    seconds = trial.seconds
    yield f"Incus {trial.version}, private: started in {seconds['incus']:.1f} s, launched in {seconds['launch']:.1f} s"
    for machine in trial.machines:
        ports = [f"{entry.url} is its port {entry.port}" for entry in trial.published if entry.machine == machine.name]
        yield "  ".join(["", machine.name, machine.address, ", ".join(ports)]).rstrip()
    if shell:
        project, instance = trial.places[trial.machines[0].name]
        yield "look inside:"
        yield "  incus list --all-projects"
        yield f"  incus exec --project {project} {instance} -- bash"
        yield "everything is gone when you leave this shell (exit)"
