"""The `anklume-launch` command: its options and the table of its commands.

Without a command the first argument is an infra.yml, and the command is `apply`.
"""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from anklume_images import __version__
from anklume_images.cli.program import QUIET, SPECS, STORE, CommandTable, run
from anklume_images.console import Console
from launcher.cli.exit_codes import EXIT_CODES
from launcher.cli.session import Session

__all__ = ["cli", "main"]

_TABLE = {
    name: f"launcher.cli.{place}"
    for name, place in {
        "apply": "apply:apply",
        "chat": "chat:chat",
        "check": "check:check",
        "destroy": "apply:destroy",
        "doctor": "inspect:doctor",
        "gpu": "gpu:gpu",
        "lock": "lock:lock",
        "logs": "inspect:logs",
        "plan": "apply:plan",
        "schema": "schema:schema",
        "shell": "inspect:shell",
        "status": "inspect:status",
        "try": "try_:try_",
        "verify": "inspect:verify",
    }.items()
}


class _Commands(CommandTable):
    """A first argument that is no command means `apply`."""

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands and files: the first word may be either, and what it is shows when it is complete."""
        commands = super().shell_complete(context, incomplete)
        if incomplete.startswith("-"):
            return commands
        if not commands:
            return [CompletionItem(incomplete, type="file")]
        # bash takes either names or the mark for its own completion of files, so those here are named too.
        return [*commands, *(CompletionItem(name) for name in _infra_files(incomplete))]

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.table and not args[0].startswith("-"):
            args = ["apply", *args]
        return super().resolve_command(context, args)


def _infra_files(incomplete: str) -> list[str]:
    """YAML files and folders here that begin like this, but for names that a shell would have to quote."""
    with contextlib.suppress(OSError):
        here = sorted(path for path in Path.cwd().iterdir() if path.name.startswith(incomplete))
        names = [f"{path.name}/" if path.is_dir() else path.name for path in here if path.name[0] != "."]
        return [name for name in names if name.endswith(("/", ".yml", ".yaml")) and shlex.quote(name) == name]
    return []


@click.group(cls=_Commands, table=_TABLE, codes=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="anklume-launch")
@SPECS
@STORE
@QUIET
@click.pass_context
def cli(context: click.Context, specs: tuple[Path, ...], home: Path | None, *, quiet: bool) -> None:
    """Launch the machines of an infra.yml on Incus: `anklume-launch infra.yml` is `anklume-launch apply infra.yml`."""
    console = context.obj or Console()
    given = [("--specs", folder) for folder in specs] + [("--store", home)] * (home is not None)
    console.configure(quiet=quiet, options=[str(word) for pair in given for word in pair])
    context.obj = Session(specs, home.absolute() if home else None, console)


def main(argv: list[str] | None = None) -> None:
    """Run the command; errors become text, a hint and an exit code, never a traceback."""
    run(cli, argv)
