"""The command `chat`: questions from the terminal, and a model's answers as they are made."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, TextIO

import click

from anklume_images.errors import AnklumeError
from launcher.cli.session import INFRA, JSON, REMOTE, Session, complete_machines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from launcher.chat import Conversation, Reply

__all__ = ["chat"]

_HOTTEST = 2.0  # OpenAI's interface takes no more


@click.command(name="chat")
@INFRA
@click.argument("prompt", required=False)
@click.option(
    "--machine",
    metavar="MACHINE",
    shell_complete=complete_machines,
    help="Ask this machine (needed when several serve models).",
)
@click.option("--model", metavar="MODEL", help="Ask this model (default: the machine's default, or its first).")
@click.option("--system", metavar="TEXT", help="System prompt.")
@click.option("--temperature", type=click.FloatRange(0, _HOTTEST), help="0 always gives the same answer.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer, in tokens.")
@REMOTE
@JSON
@click.pass_obj
def chat(
    session: Session,
    infra: Path,
    prompt: str | None,
    machine: str | None,
    model: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    remote: str | None,
    *,
    as_json: bool,
) -> None:
    """Talk to a model of the file's machines from the terminal.

    Without PROMPT you type line by line, until Ctrl-D; piped input is sent as one question. Ctrl-C ends an answer.
    """
    from launcher.chat import begin, machine_to_ask
    from launcher.cli.machines import find_instance, find_instances, image_lookup

    if prompt is not None or sys.stdin is None or not sys.stdin.isatty():
        prompt = _only_question(prompt)
    file = session.infra(infra, warn=False)
    with session.incus(remote) as incus:
        book = image_lookup(session)
        if machine is None:
            seen = machine_to_ask(find_instances(session, incus, file), book, file.file)
        else:
            seen = find_instance(session, incus, file, machine)
        conversation = begin(incus, seen, book, str(infra), model=model)
        conversation.temperature, conversation.max_tokens = temperature, max_tokens
        if system:
            conversation.instruct(system)
        if prompt is not None:
            _ask(session, conversation, prompt, as_json=as_json)
            return
        session.console.note(f"{conversation.model} of {seen.machine.name}; Ctrl-C ends an answer, Ctrl-D the talk")
        for question in _typed():
            try:
                _ask(session, conversation, question, as_json=as_json)
            except AnklumeError as error:
                session.console.error(error)
            except KeyboardInterrupt:
                continue


def _only_question(prompt: str | None) -> str:
    """The one that was given as an argument or by standard input."""
    text = _all_input() if prompt is None else prompt
    if not text.strip():
        raise click.UsageError("the question is empty: give it as an argument or by standard input")
    return text


def _all_input() -> str:
    return sys.stdin.buffer.read().decode(errors="replace") if sys.stdin is not None else ""  # where it was closed


def _typed() -> Iterator[str]:
    """Lines that are typed, until the end of input; those that are blank are passed over."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - it gives `input` a line that can be edited

    while True:
        try:
            line = input("> ")
        except EOFError:
            sys.stdout.write("\n")
            return
        if line.strip():
            yield line


class _Screen:
    """Shows an answer as it comes, and what the model thinks on standard error; nothing when it is to be JSON."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._thinking = False
        self._answering = False

    def text(self, piece: str) -> None:
        """More of the answer."""
        self._end_thought()
        self._answering = True
        self._write(sys.stdout, piece)

    def thought(self, piece: str) -> None:
        """More of what the model says to itself."""
        self._thinking = not self._silent
        self._write(sys.stderr, piece)

    def end(self) -> None:
        """The answer is over, whole or not."""
        self._end_thought()
        if self._answering:
            self._write(sys.stdout, "\n")

    def _end_thought(self) -> None:
        if self._thinking:
            self._write(sys.stderr, "\n")
            self._thinking = False

    def _write(self, stream: TextIO, piece: str) -> None:
        from anklume_images.sanitize import harmless

        if not self._silent:
            stream.write(harmless(piece))
            stream.flush()


def _ask(session: Session, conversation: Conversation, question: str, *, as_json: bool) -> None:
    screen = _Screen(silent=as_json)
    try:
        reply = conversation.ask(question, screen)
    finally:
        screen.end()
    if as_json:
        session.console.json(_document(conversation, reply))
    else:
        session.console.note(_figures(reply))


def _document(conversation: Conversation, reply: Reply) -> dict[str, object]:
    speed = reply.tokens_per_second
    return {
        "machine": conversation.machine,
        "engine": conversation.engine.role,
        "model": conversation.model,
        "answer": reply.text,
        "tokens": reply.tokens,
        "tokens_per_second": None if speed is None else round(speed, 1),
        "first_seconds": round(reply.first, 3),
        "seconds": round(reply.seconds, 3),
    }


def _figures(reply: Reply) -> str:
    """`(42 tokens, 81.3 a second; the first after 0.2 s)`, as far as the server tells."""
    count = f"{reply.tokens} tokens" if reply.tokens else "tokens not told"
    speed = f", {reply.tokens_per_second:.1f} a second" if reply.tokens_per_second else ""
    return f"({count}{speed}; the first after {reply.first:.1f} s)"
