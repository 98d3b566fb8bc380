"""The quickstart, as `make quickstart` runs it: real images, a real chat, and nothing left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from launcher.quickstart import MODEL, QUESTION
from launcher.trial.browser import find_chromium
from tests.support.incus_leftovers import leftovers, nothing_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300.0
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="anklume-test-", dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def store(built: Callable[[str], Any], test_store: Path) -> Path:
    """The shared store, with both images."""
    for name in ("llama-server", "open-webui"):
        built(name)
    return test_store


def start(store: Path, home: Path) -> subprocess.Popen[str]:
    recipe = subprocess.run(["make", "-n", "quickstart"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ".venv/bin/python -m launcher.quickstart" in recipe
    argv = [sys.executable, "-m", "launcher.quickstart", "--store", str(store), "--screenshot", str(home / "page.png")]
    return subprocess.Popen(
        argv,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_prints_a_chat_and_leaves_nothing(store: Path, home: Path) -> None:
    scratch = abandoned(store)
    with start(store, home) as process:
        said, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, told
    assert "Traceback" not in told
    assert "warning" not in told
    assert re.search(rf"^question  {re.escape(QUESTION)}$", said, re.MULTILINE)
    answer = re.search(r"^answer    (.*?)^model     ", said, re.MULTILINE | re.DOTALL)
    assert answer is not None
    assert "blue" in answer[1]
    assert re.search(rf"^model     {MODEL}, Apache-2\.0, https://\S+; [\d.]+ tokens a second$", said, re.MULTILINE)
    for machine in (r"llm  llama-server@\S+  10\.120\.0\.1", r"webui  open-webui@\S+  10\.120\.0\.2"):
        assert re.search(rf"^machine {machine}  \(project chat\): created", told, re.MULTILINE)
    assert "Incus     7." in said
    phases = re.search(r"^seconds   (.*); in all ", said, re.MULTILINE)
    assert phases is not None
    named = [phase.split()[0] for phase in phases[1].split(", ")]
    assert named[:5] == ["build", "incus", "models", "launch", "question"]
    assert f"--model {MODEL}" in said
    assert "anklume-launch chat" in said
    if find_chromium():
        assert (home / "page.png").read_bytes().startswith(PNG)
        assert f"screenshot: {home}/page.png" in told
    else:
        assert "no screenshot: there is no Chromium on this host" in told
    assert nothing_left(home)
    assert [path.name for path in home.iterdir() if path.name != "page.png"] == []
    assert abandoned(store) <= scratch


def abandoned(store: Path) -> set[Path]:
    """Scratch folders of the store that no process holds; other tests may be at work in it."""
    found = set()
    for place in (store / "scratch").iterdir():
        with (
            contextlib.suppress(FileNotFoundError, BlockingIOError),
            (place / ".owner").open(encoding="utf-8") as owner,
        ):
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.add(place)
    return found


def test_interrupted_it_leaves_nothing(store: Path, home: Path) -> None:
    scratch = abandoned(store)
    with start(store, home) as process:
        end = time.monotonic() + SECONDS
        while "monitor" not in " ".join(leftovers(home)["processes"]):  # a machine runs
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert nothing_left(home)
    assert list(home.iterdir()) == []
    assert abandoned(store) <= scratch
