"""Man pages from click's commands: the texts of `--help`, a page for each command. man(7) says what the macros mean."""

from __future__ import annotations

import re
from inspect import cleandoc
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = ["man_pages"]


def man_pages(
    program: click.Command, name: str, version: str, exit_codes: Callable[[str], Mapping[str, str]]
) -> dict[str, str]:
    """The pages of a program and of each command of it, by the names of their files: `anklume-images-build.1`.

    `exit_codes` tells what each code of a command means, by the command's words. No page has a date: the same version
    has the same pages whenever they are made.
    """
    contexts = _contexts(click.Context(program, info_name=name, **program.context_settings))
    return {f"{_title(context)}.1": _page(context, f"{name} {version}", exit_codes) for context in contexts}


def _contexts(context: click.Context) -> Iterator[click.Context]:
    yield context
    for inner in _commands(context):
        yield from _contexts(inner)


def _commands(context: click.Context) -> Iterator[click.Context]:
    group = context.command
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            if (command := group.get_command(context, name)) is not None and not command.hidden:
                yield click.Context(command, info_name=name, parent=context)


def _page(context: click.Context, source: str, exit_codes: Callable[[str], Mapping[str, str]]) -> str:
    command = context.command
    codes = exit_codes(context.command_path.partition(" ")[2])
    title = _title(context)
    records = [record for option in command.get_params(context) if (record := option.get_help_record(context))]
    pages = [(f"{_title(inner)}(1)", inner.command.get_short_help_str(200)) for inner in _commands(context)]
    lines = [
        f'.TH "{_plain(title.upper())}" 1 "" "{_plain(source)}" "User Commands"',
        ".SH NAME",
        rf"{_plain(title)} \- {_text(command.get_short_help_str(200).removesuffix('.'))}",
        ".SH SYNOPSIS",
        _bold(context.command_path) + " " + _plain(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        *_paragraphs(cleandoc(command.help or "")),
        ".SH OPTIONS",
        *_list(record for record in records if record[1]),
        *([".SH COMMANDS", *_list(pages)] if pages else []),
        ".SH EXIT STATUS",
        *_list((code, f"{text[0].upper()}{text[1:]}.") for code, text in codes.items()),
    ]
    if context.parent:
        lines += [".SH SEE ALSO", _bold(_title(context.parent)) + "(1)"]
    return "\n".join(lines) + "\n"


def _title(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text)):
        if number:
            yield ".PP"
        yield from map(_text, paragraph.splitlines())


def _list(entries: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in entries:
        yield from (".TP", _bold(term), *map(_text, text.splitlines()))


def _text(text: str) -> str:
    """A line of text, what stands between backticks in bold; never a macro."""
    pieces = text.split("`")
    line = "".join(_bold(piece) if number % 2 else _plain(piece) for number, piece in enumerate(pieces))
    return rf"\&{line}" if line.startswith((".", "'")) else line


def _bold(text: str) -> str:
    return rf"\fB{_plain(text)}\fR"


def _plain(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
