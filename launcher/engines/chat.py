"""How one talks to a server of models: what is sent, and what each line of the answer brings while it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ChatInterface", "Piece", "Question"]


@dataclass(frozen=True)
class Question:
    """What a model is asked: all that was said so far, by `role` (system, user, assistant) and `content`.

    `temperature` and `max_tokens` are None where the server decides.
    """

    model: str
    messages: tuple[Mapping[str, str], ...]
    temperature: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class Piece:
    """What one line of an answer brings.

    `answer` is more of its text; `thought` is what a model says to itself before it answers. `tokens` of the whole
    answer and how many of them came in a second are told by the last lines; `end` is the last of them. `error` is the
    server's own word.
    """

    answer: str = ""
    thought: str = ""
    tokens: int | None = None
    tokens_per_second: float | None = None
    end: bool = False
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class ChatInterface:
    """One way of talking to a server.

    `path` takes a POST of what `body` makes of a question; it answers in lines, of which `piece` says what each brings,
    None for one that brings nothing. `models_path` lists the models: under the key `listed`, each with its name under
    `named`, and `short` is such a name without what people may leave out. `default_model` is the variable that names
    one; empty where there is none.
    """

    path: str
    body: Callable[[Question], dict[str, Any]]
    piece: Callable[[str], Piece | None]
    models_path: str
    listed: str
    named: str
    default_model: str = ""
    short: Callable[[str], str] = str
