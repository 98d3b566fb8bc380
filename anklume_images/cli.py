"""The `anklume-images` command: its options, its verbs together, and what becomes of errors.

Exit codes: 0 done; 1 failed; 2 usage or invalid file; 3 there are differences; 4 refused by policy.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TextIO

import click

from anklume_images import __version__, cli_build, cli_store
from anklume_images.architectures import ARCHITECTURES
from anklume_images.console import Console, write_anything
from anklume_images.errors import AnklumeError
from anklume_images.session import Session

__all__ = ["cli", "main", "run"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="anklume-images")
@click.option(
    "--specs",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder of specs of your own; may be given again, and the first that has a name wins.",
)
@click.option(
    "--store",
    "home",
    type=click.Path(path_type=Path, file_okay=False),
    help="The store's folder, in place of $ANKLUME_STORE or the usual one.",
)
@click.option("--arch", type=click.Choice(ARCHITECTURES), help="Another architecture than this machine's.")
@click.option("-q", "--quiet", is_flag=True, help="Show results and errors only.")
@click.pass_context
def cli(context: click.Context, specs: tuple[Path, ...], home: Path | None, arch: str | None, *, quiet: bool) -> None:
    """Build reproducible Incus images from locked inputs, and keep them in a store."""
    console = context.obj or Console()
    given = [("--specs", folder) for folder in specs] + [("--store", home)] * (home is not None) + [("--arch", arch)]
    console.configure(quiet=quiet, options=[str(word) for pair in given if pair[1] for word in pair])
    context.obj = Session(specs, home.absolute() if home else None, arch, console)


for verb in (
    *(cli_build.build, cli_build.lock, cli_build.update, cli_build.fetch, cli_build.render, cli_build.enter),
    *(cli_store.list_, cli_store.show, cli_store.sbom, cli_store.verify, cli_store.gc, cli_store.publish),
):
    cli.add_command(verb)


def main(argv: list[str] | None = None) -> None:
    """Run the command; errors become text, a hint and an exit code, never a traceback."""
    run(cli, argv)


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
        error.show()
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
