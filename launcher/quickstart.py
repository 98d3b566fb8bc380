"""From nothing to a chat: the quickstart's machines in a private Incus, and one question put to them.

`python -m launcher.quickstart`, which is what `make quickstart` runs. Where its model cannot be had, a toy of random
weights takes its place: that shows that everything works together, and talks nonsense.
"""

from __future__ import annotations

import contextlib
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.program import run
from anklume_images.errors import AnklumeError, FetchError
from anklume_images.sanitize import harmless
from anklume_images.ship.volume import VolumeFile
from launcher.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anklume_images.console import Console
    from launcher.gpu.cards import Card
    from launcher.trial.browser import Page
    from launcher.trial.trial import Trial

__all__ = ["Chat", "main", "quickstart", "take_picture"]

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "quickstart" / "infra.yml"
MODEL, TOY = "smollm2-135m", "tiny"
QUESTION = "Explain in one short sentence why the sky is blue."
_TOKENS, _TOY_TOKENS = 96, 24  # of the answer: nonsense does not get better by being longer
_WIDTH = 110  # characters of a line of the answer
_PAGE_SECONDS = 60.0


@dataclass(frozen=True)
class Model:
    """What answers; `credits` is a line that says what it is."""

    name: str
    file: Path
    tokens: int
    credits: str


@dataclass(frozen=True)
class Answer:
    """What a model said; how many tokens it makes in a second is None where the server does not tell."""

    text: str
    tokens_per_second: float | None


class Chat:
    """Open WebUI's API, as its own page uses it."""

    def __init__(self, url: str, model: Model) -> None:
        import requests

        self.url = url
        self.model = model
        self.token = ""
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy has no business on loopback

    def sign_up(self, name: str, email: str, password: str) -> None:
        """Make the first account, which is the administrator's."""
        body = {"name": name, "email": email, "password": password}
        self.token = str(self._ask("post", "/api/v1/auths/signup", body)["token"])
        self._session.headers["Authorization"] = f"Bearer {self.token}"

    def models(self) -> list[str]:
        """The models that it found at its server."""
        return [str(model["id"]) for model in self._ask("get", "/api/models")["data"]]

    def ask(self, question: str) -> Answer:
        """One question, one answer."""
        body = {
            "model": self.model.name,
            "stream": False,
            "max_tokens": self.model.tokens,
            "temperature": 0,
            "messages": [{"role": "user", "content": question}],
        }
        document = self._ask("post", "/api/chat/completions", body)
        speed = (document.get("timings") or {}).get("predicted_per_second")  # llama.cpp's own
        return Answer(str(document["choices"][0]["message"]["content"]), speed)

    def prepare_page(self) -> None:
        """Let the page show its answers short, and without what is new in this version laid over it."""
        version = self._ask("get", "/api/version")["version"]
        ui = {"version": version, "params": {"max_tokens": self.model.tokens, "temperature": 0}}
        self._ask("post", "/api/v1/users/user/settings/update", {"ui": ui})

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        import requests

        try:
            answer = self._session.request(method, f"{self.url}{path}", json=body, timeout=60)
        except requests.RequestException as error:
            raise AnklumeError(f"Open WebUI does not answer: {error}", where=f"{self.url}{path}") from None
        if not answer.ok:
            raise AnklumeError(f"Open WebUI answers {answer.status_code}: {answer.text[:300]}", where=path)
        return answer.json()


@click.command()
@click.option("--store", "home", type=click.Path(path_type=Path, file_okay=False), help="The store's folder.")
@click.option("--incus", "version", type=click.Choice(["6", "7"]), default="7", help="Which Incus to try it on (7).")
@click.option(
    "--screenshot",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("quickstart.png"),
    help="Where the picture of the page goes (quickstart.png).",
)
@click.option("--offline", is_flag=True, help="Touch no network.")
@click.option("--toy", is_flag=True, help="Fetch no model: a toy of random weights answers, with nonsense.")
@click.option("--no-gpu", is_flag=True, help="Compute on the CPU, whatever cards there are.")
@click.pass_obj
def quickstart(
    console: Console, *, home: Path | None, version: str, screenshot: Path, offline: bool, toy: bool, no_gpu: bool
) -> None:
    """Build llama-server and Open WebUI, launch both in a private Incus, and ask them a question. Needs root."""
    from launcher.trial.free_card import with_free_card
    from launcher.trial.neighbours import neighbours_of_host
    from launcher.trial.trial import TrialOptions, check_host, trial

    check_host()
    begun = time.monotonic()
    session = Session((), home.absolute() if home else None, console)
    infra = session.infra(EXAMPLE)
    card = None
    if not no_gpu:
        stored = {image.name for image in session.images()}
        infra, card = with_free_card(
            infra,
            "llm",
            Path("/"),
            lambda: neighbours_of_host(console),
            console,
            session.catalog,
            lambda image: image in stored or not offline,
        )
    console.note("quickstart: two images, two machines, one question; the first time it fetches and builds the images")
    with _model(session, offline=offline, toy=toy) as model:
        options = TrialOptions(version=f"incus-{version}", models=(VolumeFile(f"{model.name}.gguf", model.file),))
        with trial(session.pipeline(offline=offline), infra, options, session.console) as trial_run:
            url = trial_run.url("webui")
            assert url is not None  # noqa: S101 - its image declares a port
            chat = Chat(url, model)
            answer = _converse(chat, trial_run, console, screenshot.absolute())
            lines = _report(trial_run, model, card, answer, time.monotonic() - begun)
    for line in lines:
        console.result(line)


@contextlib.contextmanager
def _model(session: Session, *, offline: bool, toy: bool) -> Iterator[Model]:
    """The model of its spec, or the toy where that cannot be had; one that was changed at its index is an error."""
    from launcher.trial.tiny_gguf import tiny_gguf

    with contextlib.ExitStack() as stack:
        if not toy:
            library = session.models()
            said = library.get(MODEL).document
            try:
                file = stack.enter_context(library.pulled(MODEL, offline=offline))
            except FetchError as error:
                if error.changed:
                    raise
                session.console.warn(_instead(error))
            else:
                yield Model(MODEL, file, _TOKENS, f"{MODEL}, {said.license}, {said.source}")
                return
        file = stack.enter_context(session.store().scratch("quickstart")) / f"{TOY}.gguf"
        file.write_bytes(tiny_gguf())
        yield Model(TOY, file, _TOY_TOKENS, "a toy of random weights, which talks nonsense; all else is real")


def _instead(error: FetchError) -> str:
    """Why the toy answers, and what to do about it, on one line."""
    why = error.message.splitlines()[-1].strip()
    return f"no model but a toy of random weights: {why}; to have it: anklume-images models pull {MODEL}"


def _converse(chat: Chat, trial: Trial, console: Console, screenshot: Path) -> Answer:
    now = time.monotonic()
    chat.sign_up("Admin", "admin@localhost", "quickstart")  # gone with the machine
    models = chat.models()
    name = chat.model.name
    if name not in models:
        raise AnklumeError(f"Open WebUI sees no model {name} but {', '.join(models) or 'none'}", where=chat.url)
    answer = chat.ask(QUESTION)
    trial.seconds["question"] = time.monotonic() - now
    take_picture(chat, trial, console, screenshot)
    return answer


def take_picture(chat: Chat, trial: Trial, console: Console, target: Path) -> None:
    """Ask the same on the page itself and take a picture, where there is a Chromium; nothing depends on it."""
    from launcher.trial.browser import find_chromium, open_page

    program = find_chromium()
    if program is None:
        console.note("no screenshot: there is no Chromium on this host")
        return
    assert trial.private.home is not None  # noqa: S101 - it runs
    now = time.monotonic()
    try:
        chat.prepare_page()
        with open_page(program, trial.private.home / "page") as page:
            _ask_on_page(page, chat)
            target.write_bytes(page.screenshot())
    except (AnklumeError, OSError) as error:
        console.warn(f"no screenshot: {error}")
        return
    trial.seconds["screenshot"] = time.monotonic() - now
    console.note(f"screenshot: {target}")


def _ask_on_page(page: Page, chat: Chat) -> None:
    """Sign in, type the question, send it, and wait for the answer."""
    from urllib.parse import quote

    page.go(chat.url)
    page.evaluate(f"localStorage.setItem('token', '{chat.token}')")
    page.go(f"{chat.url}/?models={chat.model.name}&q={quote(QUESTION)}")
    end = time.monotonic() + _PAGE_SECONDS
    while not page.wait("document.querySelector('.chat-assistant') !== null", 1):
        # Again: the button is there for a moment before it listens, and gone once it was heard.
        page.evaluate("document.querySelector('#send-message-button:enabled')?.click()")
        if time.monotonic() > end:
            raise AnklumeError("the page takes no question")
    if not page.wait("document.querySelector('.chat-assistant').innerText.trim()", _PAGE_SECONDS):
        raise AnklumeError("the page shows no answer")
    page.wait("document.querySelector('.copy-response-button') !== null", _PAGE_SECONDS)  # it is there once all is said
    time.sleep(1)  # it fades in


def _report(trial: Trial, model: Model, card: Card | None, answer: Answer, total: float) -> list[str]:
    speed = f"; {answer.tokens_per_second:.1f} tokens a second" if answer.tokens_per_second else ""
    from launcher.gpu.cards import describe

    lines = ["", f"question  {QUESTION}", *_wrapped("answer    ", answer.text), f"model     {model.credits}{speed}"]
    if card:
        lines.append(f"card      {describe(card)}")
    ask = f"anklume-launch chat {_shown(EXAMPLE)}"
    phases = [f"{phase} {seconds:.1f} s" for phase, seconds in trial.seconds.items()]
    return [
        *lines,
        f"Incus     {trial.version}, a temporary one; it is stopped and removed",
        f"seconds   {', '.join(phases)}; in all {total:.1f} s",
        "",
        "to stay in it, or with a model of yours (--model MODEL.gguf):",
        f"  sudo .venv/bin/anklume-launch try {_shown(EXAMPLE)} --model {MODEL}",
        "on an Incus of your own:",
        f"  .venv/bin/anklume-launch {_shown(EXAMPLE)}",
        "to ask it from the terminal:",
        f"  sudo .venv/bin/anklume-launch try {_shown(EXAMPLE)} --only llm --model {MODEL} --run '{ask}'",
    ]


def _wrapped(title: str, text: str) -> list[str]:
    """A model's words behind a title, in lines that a terminal can show."""
    words = textwrap.wrap(" ".join(harmless(text).split()), _WIDTH - len(title)) or ["(blanks)"]
    return [f"{title if number == 0 else ' ' * len(title)}{line}" for number, line in enumerate(words)]


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def main(argv: list[str] | None = None) -> None:
    """Run it; errors become text, a hint and an exit code."""
    run(quickstart, argv)


if __name__ == "__main__":
    main()
