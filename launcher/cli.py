"""The `anklume-launch` command: its options, its verbs together, and what becomes of errors.

Without a verb the first argument is an infra.yml, and the verb is `apply`. Exit codes: 0 done; 1 failed; 2 usage or
invalid file; 3 (`plan`, `--plan`) there are differences; 4 refused by policy.
"""

from __future__ import annotations

import contextlib
import shlex
from importlib import import_module
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from anklume_images import __version__
from anklume_images.cli import run
from anklume_images.console import Console
from launcher.session import Launch

__all__ = ["cli", "main"]

_VERBS = {
    "apply": ("cli_apply", "Bring the machines of an infra.yml to life, or up to date."),
    "check": ("cli_check", "Check an infra.yml: needs no Incus, no root and no store."),
    "destroy": ("cli_apply", "Remove what an infra.yml made; volumes stay."),
    "doctor": ("cli_look", "Look for the usual troubles of the host and of the machines."),
    "gpu": ("cli_gpu", "The host's cards and who holds each."),
    "logs": ("cli_look", "The journal of a machine."),
    "plan": ("cli_apply", "Say what apply would change; change nothing."),
    "shell": ("cli_look", "A shell in a machine."),
    "status": ("cli_look", "The machines and how they are."),
    "try": ("cli_try", "Launch an infra.yml in a private Incus that is gone when left."),
    "verify": ("cli_look", "Prove that the machines do their work: GPU, models, web page, an answer."),
}


class _Verbs(click.Group):
    """Verbs that are imported when they are called; a first argument that is none of them means `apply`."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return sorted(_VERBS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _VERBS:
            return None
        command: click.Command = getattr(import_module(f"launcher.{_VERBS[name][0]}"), f"{name}_verb")
        return command

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs and files: the first word may be either, and what it is shows when it is complete."""
        verbs = super().shell_complete(context, incomplete)
        if incomplete.startswith("-"):
            return verbs
        if not verbs:
            return [CompletionItem(incomplete, type="file")]
        # bash takes either names or the mark for its own completion of files, so those here are named beside the verbs.
        return [*verbs, *(CompletionItem(name) for name in _infra_files(incomplete))]

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # without importing any of them
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_VERBS.items())])

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _VERBS and not args[0].startswith("-"):
            args = ["apply", *args]
        return super().resolve_command(context, args)


def _infra_files(incomplete: str) -> list[str]:
    """YAML files and folders here that begin like this, but for names that a shell would have to quote."""
    with contextlib.suppress(OSError):
        here = sorted(path for path in Path.cwd().iterdir() if path.name.startswith(incomplete))
        found = [f"{path.name}/" if path.is_dir() else path.name for path in here if path.name[0] != "."]
        return [name for name in found if name.endswith(("/", ".yml", ".yaml")) and shlex.quote(name) == name]
    return []


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="anklume-launch")
@click.option(
    "--specs",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder of image specs of your own; may be given again, and the first that has a name wins.",
)
@click.option(
    "--store",
    "home",
    type=click.Path(path_type=Path, file_okay=False),
    help="The store's folder, in place of $ANKLUME_STORE or the usual one.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show results and errors only.")
@click.pass_context
def cli(context: click.Context, specs: tuple[Path, ...], home: Path | None, *, quiet: bool) -> None:
    """Launch the machines of an infra.yml on Incus: `anklume-launch infra.yml` is `anklume-launch apply infra.yml`."""
    console = context.obj or Console()
    given = [("--specs", folder) for folder in specs] + [("--store", home)] * (home is not None)
    console.configure(quiet=quiet, options=[str(word) for pair in given for word in pair])
    context.obj = Launch(specs, home.absolute() if home else None, console)


def main(argv: list[str] | None = None) -> None:
    """Run the command; errors become text, a hint and an exit code, never a traceback."""
    run(cli, argv)
