"""What a wheel brings beside the code is true to the commands: a man page for each, completion for each shell."""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING

import click
import pytest

from anklume_images.cli.main import cli
from anklume_images.packaging.completion import completion_files
from anklume_images.packaging.man_pages import man_pages
from launcher.cli.main import cli as launch

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS: dict[str, click.Group] = {"anklume-images": cli, "anklume-launch": launch}


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A program and all commands of it, by the words that call them."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from commands(f"{name} {inner}", found)


EVERY = [pytest.param(*each, id=each[0]) for each in chain(*(commands(*program) for program in PROGRAMS.items()))]
PAGES = {file: text for name, program in PROGRAMS.items() for file, text in man_pages(program, name, "1.2").items()}


def test_every_command_has_a_page_and_no_other() -> None:
    assert {f"{each.id.replace(' ', '-')}.1" for each in EVERY if each.id} == set(PAGES)


@pytest.mark.parametrize(("call", "command"), EVERY)
def test_a_page_says_what_help_says(call: str, command: click.Command) -> None:
    page = PAGES[f"{call.replace(' ', '-')}.1"]
    assert re.match(r'\.TH "[A-Z\\-]+" 1 "" "anklume\\-(images|launch) 1\.2" ', page)
    macros = set(re.findall(r"^\.(\S+)", page, re.MULTILINE))
    assert macros <= {"TH", "SH", "PP", "TP"}
    text = re.sub(r"\\f[BR]|\\&", "", page).replace(r"\-", "-").replace(r"\(dq", '"')
    for option in command.params:
        if isinstance(option, click.Option):
            assert all(re.search(rf"^.*{re.escape(name)}\b", text, re.MULTILINE) for name in option.opts)
            assert (option.help or "?").replace("`", "") in text
    assert "\n-h, --help\n" in text


def test_what_reads_like_a_macro_is_text() -> None:
    command = click.Command("odd", help=".SH of `.x`\n'quoted' and \\fB", params=[])
    (page,) = man_pages(command, "odd", "1").values()
    description = page.partition(".SH DESCRIPTION\n")[2].partition(".SH OPTIONS")[0]
    assert description == "\\&.SH of \\fB.x\\fR\n\\&'quoted' and \\efB\n"


@pytest.mark.parametrize("name", PROGRAMS)
def test_completion_is_a_file_for_each_shell(name: str) -> None:
    files = completion_files(PROGRAMS[name], name)
    assert {place.split("/")[1] for place in files} == {"bash-completion", "fish", "zsh"}
    for place, text in files.items():
        shell = place.split("/")[1].removesuffix("-completion")
        assert f"_{name.replace('-', '_').upper()}_COMPLETE={shell}_complete" in text.replace("env ", "")
