"""Ollama's image, made of the stand-in, asked from the terminal: locally, over a remote, and with models that fail."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.console import Console
from anklume_images.models.importing import import_file
from anklume_images.models.library import Models
from anklume_images.settings import Settings
from anklume_images.store.store import Store
from launcher.private_incus.certificate import make_client_certificate
from launcher.private_incus.init import HOME
from launcher.trial.tiny_gguf import tiny_gguf
from tests.support.ollama.release import build_images, make_tarball
from tests.support.ollama.running import model_files
from tests.support.terminal import SECONDS

if TYPE_CHECKING:
    from anklume_images.builder.trees import Tree
    from anklume_images.pipeline import Pipeline
    from anklume_images.store.images import Image
    from launcher.private_incus.daemon import Endpoint
    from tests.support.launching import Launcher

pytestmark = pytest.mark.both_versions

ROOT = Path(__file__).resolve().parents[2]
INFRA = """\
domains:
  chat:
    ephemeral: true
    machines:
      llm: {roles: [ollama_server], vars: {ollama_default_model: tiny}}
"""
GONE = b"GGUF that is not there"
FIGURES = r"^\((\d+) tokens, 2000\.0 a second; the first after [\d.]+ s\)$"


@pytest.fixture(scope="session")
def ollama_image(pipeline: Pipeline, toolchain: Tree, tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("stand-in")
    return build_images(pipeline, make_tarball(toolchain.root, folder), folder, ("ollama",))["ollama"]


@pytest.fixture
def llm(launcher: Launcher, ollama_image: Image) -> Launcher:
    """A launched machine whose Ollama answers and has no model yet."""
    launcher.write(INFRA, zone=150)
    launcher("apply", "--no-wait")
    end = time.monotonic() + SECONDS
    while launcher.execute("chat", "llm", "/usr/lib/anklume/healthcheck").code != 0:
        assert time.monotonic() < end
        time.sleep(0.2)
    return launcher


def give(llm: Launcher, *names: str) -> None:
    """Models in the machine's store; that of `gone` is there by all but its weights."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in names:
            for path, content in model_files(name, model=GONE if name == "gone" else b"GGUF").items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                if content != GONE:
                    archive.addfile(member, io.BytesIO(content))
    home = llm.incus.home
    assert home is not None
    (home / "pushed").write_bytes(packed.getvalue())
    argv = ["incus", "file", "push", "--quiet", "--project", "chat", f"{HOME}/pushed", "llm/root/models.tar"]
    assert llm.incus.run(argv, capture_output=True).returncode == 0
    assert llm.execute("chat", "llm", "tar", "-C", "/root/.ollama/models", "-xf", "/root/models.tar").code == 0


def interrupted(argv: list[str], environment: dict[str, str]) -> None:
    """A model that never ends its answer: its first word comes all the same, and Ctrl-C ends it."""
    with subprocess.Popen(argv, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"stand"
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=SECONDS)
    assert (process.returncode, rest, said.strip()) == (130, b"\n", b"interrupted")


def refused(llm: Launcher, *arguments: str) -> str:
    return llm("chat", "hello", *arguments, code=1).stderr


def test_it_answers_in_pieces_and_tells_what_failed(llm: Launcher, tmp_path: Path) -> None:
    says_why_it_has_no_model(llm)
    answers(llm)
    answers_from_the_store(llm, tmp_path)
    fails(llm)
    answers_over_a_remote(llm, tmp_path)
    llm.execute("chat", "llm", "systemctl", "stop", "ollama")
    said = refused(llm)
    assert "does not answer" in said
    assert "doctor" in said


def says_why_it_has_no_model(llm: Launcher) -> None:
    """It tries to pull its default model, again and again; there is no network."""
    end = time.monotonic() + SECONDS
    while llm("doctor", "--json", code=None).returncode == 0:
        assert time.monotonic() < end
    (finding,) = [one for one in llm.json("doctor", code=1)["findings"] if one["subject"] == "llm"]
    assert finding["code"] == "model-not-pulled"
    assert finding["what"] == "the engine wants the model tiny and cannot get it"
    assert "from inside fails: pull model manifest: Get " in finding["cause"]


def answers(llm: Launcher) -> None:
    """From its default model, which is there at first by its name only."""
    assert "it has no model" in refused(llm)
    give(llm, "other")
    said = refused(llm)
    assert "it has no model tiny" in said
    assert "there are: other:latest" in said
    give(llm, "tiny", "slow", "gone", "dies")
    assert [one for one in llm.json("doctor")["findings"] if one["subject"] == "llm"] == []
    assert llm.json("chat", "What is 2+2?") | {"first_seconds": 0, "seconds": 0} == {
        "machine": "llm",
        "engine": "ollama_server",
        "model": "tiny:latest",
        "answer": "stand-in: What is 2+2?",
        "tokens": 6,
        "tokens_per_second": 2000.0,
        "first_seconds": 0,
        "seconds": 0,
    }
    told = llm("chat", "Grün?", "--max-tokens", "3")
    assert told.stdout == "stand-in: Grün?\n"
    found = re.search(FIGURES, told.stderr, re.MULTILINE)
    assert found, told.stderr
    assert found[1] == "3"
    interrupted(llm.argv("chat", "Long?", "--model", "slow"), llm.environment())


def answers_from_the_store(llm: Launcher, folder: Path) -> None:
    """A model of the store is there before the engine starts with it: nothing is pulled."""
    own = f"{os.getpid()}"  # the other version's machine has one of its own in the same store
    store, name = Store(llm.store), f"of-the-store-{own}:1b"
    (folder / "model.gguf").write_bytes(tiny_gguf() + own.encode())
    import_file(store, folder / "model.gguf", name, progress=Console(quiet=True))
    try:
        llm.write(INFRA.replace("tiny}}", f'tiny, ollama_extra_models: ["{name}"]}}}}'), zone=150)
        assert f"models in volume default/llm-models: {name}" in llm("plan", code=3).stdout
        llm("apply", "--yes")
        # Of no form of conversation that Ollama knows, it would never end by itself.
        answer = llm.json("chat", "From where?", "--model", name, "--max-tokens", "4")["answer"]
        assert answer.startswith("stand-in: From where")
        end = time.monotonic() + SECONDS
        while f"{name} is there" not in (said := llm("logs", "llm", "--unit", "ollama-models").stdout):
            assert time.monotonic() < end, said
            time.sleep(0.2)
        assert f"{name} is missing" not in said
    finally:
        Models(store, [], Settings(), Console(quiet=True)).remove(name)


def fails(llm: Launcher) -> None:
    """In the engine's own words."""
    said = refused(llm, "--model", "gone")
    assert 'Ollama of llm: "gone:latest" does not support chat' in said
    assert "http://127.0.0.1:11434/api/chat" in said
    assert "llama-server process has terminated: signal: killed" in refused(llm, "--model", "dies")
    assert "did you mean 'dies'?" in refused(llm, "--model", "die")


def client_of(endpoint: Endpoint, folder: Path, cert: Path, key: Path) -> Path:
    """The configuration of a client that has the daemon as the remote `lab`."""
    (folder / "servercerts").mkdir(parents=True)
    (folder / "config.yml").write_text(f"remotes:\n  lab: {{addr: '{endpoint.url}', protocol: incus}}\n")
    shutil.copyfile(endpoint.server_cert, folder / "servercerts/lab.crt")
    shutil.copyfile(cert, folder / "client.crt")
    shutil.copyfile(key, folder / "client.key")
    return folder


def answers_over_a_remote(llm: Launcher, tmp_path: Path) -> None:
    """With the client's certificate; streamed, and an error, as without; a stranger's is refused."""
    endpoint = llm.incus.https()

    def argv(*arguments: str) -> list[str]:
        return llm.incus.command(llm.argv("chat", *arguments, "--remote", "lab"), network_only=True)

    def environment(folder: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("INCUS_")}
        return kept | {"INCUS_CONF": str(folder)}

    def told(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv(*arguments),
            cwd=ROOT,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    known = client_of(endpoint, tmp_path / "known", endpoint.cert, endpoint.key)
    answer = told(known, "Which colour?")
    assert (answer.returncode, answer.stdout) == (0, "stand-in: Which colour?\n"), answer.stderr
    assert re.search(FIGURES, answer.stderr, re.MULTILINE), answer.stderr
    failed = told(known, "hello", "--model", "dies")
    assert (failed.returncode, "llama-server process has terminated" in failed.stderr) == (1, True)
    interrupted(argv("Long?", "--model", "slow"), environment(known))
    cert, key, _ = make_client_certificate(tmp_path / "stranger-key")
    stranger = told(client_of(endpoint, tmp_path / "stranger", cert, key), "hello")
    assert (stranger.returncode, "does not know this client's certificate" in stranger.stderr) == (1, True)
