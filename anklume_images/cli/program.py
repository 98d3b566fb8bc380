"""What both programs are made of: a table of commands, and what becomes of errors. `exit_codes` has the codes."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO

import click

from anklume_images.console import Console, write_anything
from anklume_images.errors import AnklumeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anklume_images.cli.exit_codes import Codes

__all__ = ["QUIET", "SPECS", "STORE", "CommandTable", "run"]

SPECS = click.option(
    "--specs",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Additional spec directory (repeatable; the first match wins).",
)
STORE = click.option(
    "--store",
    "home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Store folder (default: $ANKLUME_STORE, else /var/lib/anklume for root, ~/.local/share/anklume for others).",
)
QUIET = click.option("-q", "--quiet", is_flag=True, help="Show results and errors only.")


class CommandTable(click.Group):
    """Commands that are imported when they are called; `table` says where each is, `module:function`.

    `codes` are the exit codes of single commands, by their words. `--help` lists the first sentence of each docstring.
    """

    def __init__(
        self,
        *arguments: Any,
        table: Mapping[str, str],
        codes: Mapping[str, Codes] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.table = dict(table)
        self.codes = codes

    def exit_codes(self, command: str) -> Codes:
        """What each exit code of a command means; that of a group or of no command has those of every one."""
        from anklume_images.cli.exit_codes import codes_of

        return codes_of(command, self.codes)

    def list_commands(self, _context: click.Context) -> list[str]:
        """The names, sorted."""
        return sorted(self.table)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if name not in self.table:
            return None
        module, _, function = self.table[name].partition(":")
        command: click.Command = getattr(import_module(module), function)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; of a word that is no command it tells which one is near."""
        if args and args[0] not in self.table and not args[0].startswith("-") and not context.resilient_parsing:
            from anklume_images.nearest import nearest

            close = nearest(args[0], self.table)
            context.fail(f"no such command '{args[0]}'" + (f" (did you mean '{close}'?)" if close else ""))
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """List each with its first sentence, uncut."""
        commands = {name: self.get_command(context, name) for name in self.list_commands(context)}
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(200)) for name, command in commands.items() if command is not None]
            )


def run(command: click.Command, argv: list[str] | None) -> None:
    """Run a command of this project; errors become text, a hint and an exit code."""
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # None where the caller closed them
    for stream in (sys.stdout, sys.stderr):
        write_anything(stream)
    console = Console()
    try:
        try:
            command.main(argv, standalone_mode=False, obj=console)
        finally:
            sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told
    except AnklumeError as error:
        console.error(error)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _show_usage(error, console)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        _give_up_output()
        sys.exit(141)
    except UnicodeError as error:  # a file's name, or an argument of a program, that the locale cannot write
        console.error(_not_in_locale(error))
        sys.exit(1)
    except OSError as error:
        _give_up_output()
        where = f"{error.filename}: " if error.filename else ""
        console.error(AnklumeError(f"{where}{error.strerror or error}", hint=_system_hint(error)))
        sys.exit(1)


def _show_usage(error: click.ClickException, console: Console) -> None:
    """As every other error is shown, but for the help that a group without a command shows."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        error.show()
        return
    message = error.format_message().replace(". (Did", " (did").removesuffix(".")
    if message[1:2].islower():
        message = message[0].lower() + message[1:]
    context = error.ctx if isinstance(error, click.UsageError) else None
    console.error(AnklumeError(message, hint=f"{context.command_path} --help" if context else None))


def _not_in_locale(error: UnicodeError) -> AnklumeError:
    what = ascii(error.object)[:80] if isinstance(error, UnicodeEncodeError | UnicodeDecodeError) else str(error)
    encoding = getattr(error, "encoding", sys.getfilesystemencoding())
    return AnklumeError(f"{what} cannot be told to the system as {encoding}", hint="run it with LC_ALL=C.UTF-8")


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _give_up_output() -> None:
    """Let what could not be written go, or Python would try again at its end and complain."""
    with _nowhere() as sink:
        os.dup2(sink.fileno(), sys.stdout.fileno())


def _system_hint(error: OSError) -> str | None:
    import errno

    return {
        errno.ENOSPC: "free some space: anklume-images gc, or name a store on a larger disk with --store",
        errno.EACCES: "run it as root, or name a store of your own with --store",
        errno.EROFS: "name a store on a writable disk with --store",
    }.get(error.errno or 0)
