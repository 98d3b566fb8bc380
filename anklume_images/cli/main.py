"""The `anklume-images` command: its options and the table of its commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from anklume_images import __version__
from anklume_images.architectures import ARCHITECTURES
from anklume_images.cli.exit_codes import EXIT_CODES
from anklume_images.cli.program import QUIET, SPECS, STORE, CommandTable, run
from anklume_images.cli.session import Session
from anklume_images.console import Console

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["cli", "main"]


_TABLE = {
    name: f"anklume_images.cli.{place}"
    for name, place in {
        "attest": "attest:attest",
        "build": "build:build",
        "bundle": "bundle:bundle",
        "channel": "channel:channel",
        "deltas": "deltas:deltas",
        "diff": "evidence:diff",
        "enter": "build:enter",
        "fetch": "build:fetch",
        "gc": "gc:gc",
        "list": "store:list_",
        "lock": "build:lock",
        "models": "models:models",
        "promote": "promote:promote",
        "outdated": "update:outdated",
        "provenance": "evidence:provenance",
        "publish": "publish:publish",
        "pull": "pull:pull",
        "render": "build:render",
        "revoke": "revoke:revoke",
        "sbom": "evidence:sbom",
        "scan": "evidence:scan",
        "schema": "schema:schema",
        "serve": "serve:serve",
        "show": "store:show",
        "sources": "evidence:sources",
        "trust": "trust:trust",
        "update": "update:update",
        "verify": "verify:verify",
        "why": "evidence:why",
    }.items()
}


@click.group(cls=CommandTable, table=_TABLE, codes=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="anklume-images")
@SPECS
@STORE
@click.option("--arch", type=click.Choice(ARCHITECTURES), help="Target architecture (default: this host's).")
@QUIET
@click.pass_context
def cli(context: click.Context, specs: tuple[Path, ...], home: Path | None, arch: str | None, *, quiet: bool) -> None:
    """Build reproducible Incus images from locked inputs, and keep them in a store."""
    console = context.obj or Console()
    given = [("--specs", folder) for folder in specs] + [("--store", home)] * (home is not None) + [("--arch", arch)]
    console.configure(quiet=quiet, options=[str(word) for pair in given if pair[1] for word in pair])
    context.obj = Session(specs, home.absolute() if home else None, arch, console)


def main(argv: list[str] | None = None) -> None:
    """Run the command; errors become text, a hint and an exit code, never a traceback."""
    run(cli, argv)
