"""The commands of the documentation that are marked as tested run, and end as the page says."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.test_docs import ROOT, marked_blocks

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(("lines", "code"), marked_blocks())
def test_marked_commands_run(lines: list[str], code: int, test_store: Path, built: Callable[[str], Any]) -> None:
    built("debian")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "ANKLUME_STORE": str(test_store)}
    for line in lines:
        done = subprocess.run(shlex.split(line), cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, f"{line}\n{done.stdout}{done.stderr}"
