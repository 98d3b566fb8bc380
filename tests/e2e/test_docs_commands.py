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

    from tests.conftest import Cli

BUILDING = {"build", "fetch", "try"}  # commands that want inputs, or other images


@pytest.mark.parametrize(("lines", "code"), marked_blocks())
def test_marked_commands_run(
    lines: list[str], code: int, anklume: Cli, built: Callable[[str], Any], tmp_path: Path
) -> None:
    built("debian")
    store = anklume.store
    if not BUILDING.intersection(" ".join(lines).split()):  # what the shared store has besides is not the page's
        store = tmp_path / "store"
        anklume("promote", "debian", "--to", str(store))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "ANKLUME_STORE": str(store)}
    for line in lines:
        done = subprocess.run(shlex.split(line), cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, f"{line}\n{done.stdout}{done.stderr}"
