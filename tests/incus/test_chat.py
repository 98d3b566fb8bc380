"""A real model in the real llama-server image, asked from the terminal: by an argument, a pipe, and line by line."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.console import Console
from anklume_images.models.library import Models
from anklume_images.settings import load_settings
from anklume_images.specs.catalog import builtin_specs
from anklume_images.store.store import Store
from launcher.quickstart import MODEL
from tests.support.terminal import SECONDS, Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.launching import Launcher

pytestmark = pytest.mark.both_versions

INFRA = """\
domains:
  chat:
    ephemeral: true
    machines:
      llm: {roles: [llama_server], vars: {llama_server_api_key: 'k$y "1', llama_server_model: smollm2-135m}}
"""


@pytest.fixture(scope="session")
def model(test_store: Path) -> Iterator[Path]:
    """The quickstart's model, fetched where the shared store lacks it."""
    models = Models(Store(test_store), [builtin_specs()], load_settings(), Console())
    with models.pulled(MODEL) as file:
        yield file


@pytest.fixture
def llm(launcher: Launcher, built: Any, model: Path) -> Launcher:
    """A launched machine whose llama-server has loaded it, out of the store."""
    built("llama-server")
    launcher.write(INFRA, zone=140)
    launcher("apply")
    return launcher


def test_it_answers(llm: Launcher) -> None:
    # By an argument, as JSON.
    answer = llm.json("chat", "What is 2+2?", "--temperature", "0", "--max-tokens", "64")
    assert "4" in answer["answer"]
    assert (answer["machine"], answer["engine"], answer["model"]) == ("llm", "llama_server", MODEL)
    assert answer["tokens"] > 1
    assert answer["tokens_per_second"] > 0
    # By a pipe: the same words, its figures beside them.
    argv = llm.argv("chat", "--temperature", "0", "--max-tokens", "64")
    piped = subprocess.run(
        argv, input="What is 2+2?", env=llm.environment(), capture_output=True, text=True, check=True, timeout=SECONDS
    )
    assert piped.stdout == answer["answer"] + "\n"
    assert re.search(r"^\(\d+ tokens, [\d.]+ a second; the first after [\d.]+ s\)$", piped.stderr, re.MULTILINE)
    # Interrupted: what came is there, and nothing goes on in the machine.
    argv = llm.argv("chat", "Count from one to one thousand in words.", "--temperature", "0")
    with subprocess.Popen(argv, env=llm.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(10)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert said.strip() == b"interrupted"
    end = time.monotonic() + SECONDS
    while llm.execute("chat", "llm", "sh", "-c", "grep -sqx curl /proc/[0-9]*/comm").code == 0:
        assert time.monotonic() < end
        time.sleep(0.1)
    # Line by line: Ctrl-C ends an answer, the end of input the talk.
    terminal = Terminal(llm.argv("chat", "--temperature", "0", "--max-tokens", "400"), env=llm.environment())
    try:
        terminal.read_until(r"> ")
        terminal.type("Count from one to one thousand in words.\r")
        terminal.read_until(r"words\.\r\n[^>]{10}")
        terminal.type("\x03")
        terminal.read_until(r"\r\n> ")
        terminal.type("What is 2+2?\r")
        terminal.read_until(r"[^>]*tokens, [^>]*\r\n> ")
        terminal.type("\x04")
        assert terminal.end() == 0, terminal.text
    finally:
        terminal.close()
