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

    from anklume_images.cli.program import CommandTable

PROGRAMS: dict[str, CommandTable] = {"anklume-images": cli, "anklume-launch": launch}


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
PAGES = {
    file: text
    for name, program in PROGRAMS.items()
    for file, text in man_pages(program, name, "1.2", program.exit_codes).items()
}


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


@pytest.mark.parametrize(
    ("page", "codes"),
    [
        ("anklume-images-list", {"0", "1", "2", "130", "141"}),
        ("anklume-images-build", {"0", "1", "2", "3", "130", "141"}),
        ("anklume-images-bundle-import", {"0", "1", "2", "4", "130", "141"}),
        ("anklume-images-enter", {"0", "1", "2", "130", "141", "any other"}),
        ("anklume-launch-apply", {"0", "1", "2", "3", "4", "130", "141"}),
        ("anklume-launch-check", {"0", "1", "2", "130", "141"}),
    ],
)
def test_a_page_has_the_codes_of_its_command(page: str, codes: set[str]) -> None:
    section = PAGES[f"{page}.1"].partition(".SH EXIT STATUS\n")[2].partition(".SH")[0]
    assert set(re.findall(r"^\\fB(.*)\\fR$", section, re.MULTILINE)) == codes


@pytest.mark.parametrize("name", PROGRAMS)
def test_codes_are_declared_of_commands_that_are_there(name: str) -> None:
    program = PROGRAMS[name]
    there = {call for call, _ in commands(name, program)}
    assert {f"{name} {command}" for command in program.codes} <= there


def test_what_reads_like_a_macro_is_text() -> None:
    command = click.Command("odd", help=".SH of `.x`\n'quoted' and \\fB", params=[])
    (page,) = man_pages(command, "odd", "1", lambda _: {"0": "done"}).values()
    description = page.partition(".SH DESCRIPTION\n")[2].partition(".SH OPTIONS")[0]
    assert description == "\\&.SH of \\fB.x\\fR\n\\&'quoted' and \\efB\n"


@pytest.mark.parametrize("name", PROGRAMS)
def test_completion_is_a_file_for_each_shell(name: str) -> None:
    files = completion_files(PROGRAMS[name], name)
    assert {place.split("/")[1] for place in files} == {"bash-completion", "fish", "zsh"}
    for place, text in files.items():
        shell = place.split("/")[1].removesuffix("-completion")
        assert f"_{name.replace('-', '_').upper()}_COMPLETE={shell}_complete" in text.replace("env ", "")
