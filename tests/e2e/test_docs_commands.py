"""The commands of the documentation that are marked as tested run, a page's in its order, and end as the page says."""

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
MODEL = "smollm2-135m"
OUTSIDE = "/srv/"  # what pages name outside the project is in the test's own folder


@pytest.mark.parametrize("blocks", marked_blocks())
def test_marked_commands_run(
    blocks: list[tuple[list[str], int]], anklume: Cli, built: Callable[[str], Any], tmp_path: Path
) -> None:
    built("debian")
    text = "\n".join(line for lines, _ in blocks for line in lines)
    own, theirs = tmp_path / "store", tmp_path / "theirs"
    pulls = "anklume-images pull" in text

    def run(line: str, store: Path, code: int = 0) -> str:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        environment["ANKLUME_STORE"] = str(store)
        if store != anklume.store:
            environment["XDG_CONFIG_HOME"] = f"{store}.config"  # with its keys
        words = shlex.split(line.replace(OUTSIDE, f"{tmp_path}{OUTSIDE}"))
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    if MODEL in text:
        anklume("models", "pull", MODEL)
    for store in (own, theirs) if pulls else (own,):  # what the shared one has besides is not the page's
        anklume("promote", "debian", "--to", str(store))
        if MODEL in text:
            anklume("promote", "--model", MODEL, "--to", str(store))
    if pulls:
        fingerprint = run("anklume-images trust sign", theirs).split()[-1]
        run(f"anklume-images trust accept {theirs} --fingerprint {fingerprint}", own)
    for lines, code in blocks:
        for line in lines:
            run(line, anklume.store if BUILDING.intersection(" ".join(lines).split()) else own, code)
