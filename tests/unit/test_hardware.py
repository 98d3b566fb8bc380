"""`make test-gpu` on a host without a card: loud, with an exit code of its own, and no part of `make test`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tests.hardware import __main__ as hardware
from tests.support.suite import TESTS

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_without_a_card_one_line_and_the_exit_code_say_that_nothing_was_tested(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def nothing(infra: Any, _name: str, _root: Path, *_more: Any) -> tuple[Any, None]:
        return infra, None

    monkeypatch.setattr(hardware, "with_free_card", nothing)  # whatever this host has
    monkeypatch.setattr(sys, "argv", ["hardware", "--store", str(tmp_path / "store")])
    assert hardware.main() == hardware.SKIPPED == 77
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("skipped: no card")
    assert "nothing was tested" in line


def test_it_is_nothing_that_pytest_collects() -> None:
    files = [path.name for path in (TESTS / "hardware").glob("*.py")]
    assert "steps.py" in files
    assert not [name for name in files if name.startswith("test_") or name.endswith("_test.py")]
