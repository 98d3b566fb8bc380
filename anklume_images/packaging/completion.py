"""Completion of click's commands as files, where each shell looks for those that packages bring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

if TYPE_CHECKING:
    import click

__all__ = ["completion_files"]

_PLACES: dict[type[ShellComplete], str] = {
    BashComplete: "share/bash-completion/completions/{}",
    FishComplete: "share/fish/vendor_completions.d/{}.fish",
    ZshComplete: "share/zsh/site-functions/_{}",
}


def completion_files(program: click.Command, name: str) -> dict[str, str]:
    """What each shell reads to complete a program, by the place of the file below a prefix such as /usr."""
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    return {
        # Not the shell's own `source`: bash's asks the bash of this host for its version.
        place.format(name): ShellComplete.source(shell(program, {}, name, variable))
        for shell, place in _PLACES.items()
    }
