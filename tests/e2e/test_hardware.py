"""`make test-gpu` on a simulated card, on which every step is taken and nothing is computed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.hardware.steps import STEPS

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]


def test_every_step_is_taken_on_a_simulated_card(built: Callable[[str], Any], test_store: Path) -> None:
    built("llama-server")
    argv = [sys.executable, "-m", "tests.hardware", "--simulated", "--offline", "--store", str(test_store)]
    argv += ["--engine", "llama-server"]
    result = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.findall(r"^  ok +(\w+) ", result.stdout, re.MULTILINE) == [step.__name__ for step in STEPS]
    assert "all is well with llama-server" in result.stdout
