"""The commands that look at machines, each run as a command upon real ones."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import preloaded
from tests.support.look_machines import BRAIN, IDLE, LLAMA, WEBUI
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.launched import World

pytest_plugins = ("tests.incus.look_world",)
FILE = f"""
project_name: look
global: {{base_subnet: "10.131"}}
domains:
  ai-tools:
    subnet_id: 1
    machines:
      brain: {{ip: {BRAIN.address}, roles: [base_system, ollama_server], gpu: true}}
      llama: {{ip: {LLAMA.address}, image: llama-server, vars: {{llama_server_api_key: 'k$y "\\1'}}}}
  web:
    subnet_id: 2
    machines:
      webui:
        ip: {WEBUI.address}
        roles: [open_webui]
        vars:
          open_webui_openai_url: http://{LLAMA.address}:8080/v1
          open_webui_openai_key: 'k$y "\\1'
      idle: {{ip: {IDLE.address}, image: debian}}
network_policies:
  - {{from: web, to: ai-tools, ports: [11434, 8080], protocol: tcp}}
"""


@dataclass(frozen=True)
class Command:
    """Runs `anklume-launch` upon the private Incus, as a process of its own."""

    file: Path
    environment: dict[str, str]

    def argv(self, command: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "launcher", command, *arguments]

    def __call__(self, command: str, *arguments: str, code: int = 0, **environment: str) -> str:
        words = [command, *(str(self.file) if word == "FILE" else word for word in arguments)]
        done = preloaded.run("launcher", words, env=self.environment | environment)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))


@pytest.fixture
def command(world: World, test_store: Path, tmp_path: Path) -> Command:
    file = tmp_path / "infra.yml"
    file.write_text(FILE)
    environment = {
        **os.environ,
        "INCUS_SOCKET": str(world.incus.socket),
        "ANKLUME_STORE": str(test_store),
        "PATH": "/usr/bin:/bin",
    }
    return Command(file, environment)


def test_status(command: Command) -> None:
    text = command("status", "FILE", code=1)
    assert "3 of 4 machines running and healthy" in text
    assert (
        command("status", "FILE", "--only", "ai-tools", "--tags", "llm").count(" healthy\n") == 3
    )  # and the line that counts them
    document = command.json("status", "FILE", "--only", "webui")
    assert (document["ok"], [row["name"] for row in document["machines"]]) == (True, ["webui"])
    assert "did you mean 'webui'?" in command("status", "FILE", "--only", "webiu", code=2)
    assert "no machine has the tag 'lm'" in command("status", "FILE", "--tags", "lm", code=2)


def test_verify(command: Command) -> None:
    document = command.json("verify", "FILE", "--tags", "llm", "--prompt", "how are you?")
    assert document["ok"]
    evidence = {(check["machine"], check["name"]): check["evidence"] for check in document["checks"]}
    assert evidence["brain", "ollama-inference"].startswith("tiny:latest: 'stand-in: how are you?'")
    assert "9 ok, 0 failed, 0 skipped" in command("verify", "FILE", "--tags", "llm", "--wait", "600")
    assert "the machine is stopped" in command("verify", "FILE", "--only", "idle", code=1)
    assert "longer than 100000 bytes" in command("verify", "FILE", "--prompt", "x" * 100_001, code=2)


def test_doctor(command: Command, tmp_path: Path) -> None:
    text = command("doctor", "FILE")
    assert "idle does not run" in text
    assert "nvidia-container-cli: there, LXC hook: there" in text
    assert command.json("doctor")["ok"]
    assert "--only and --tags choose machines" in command("doctor", "--only", "brain", code=2)
    nowhere = str(tmp_path / "none.socket")
    text = command("doctor", code=1, INCUS_SOCKET=nowhere)
    assert "[incus-unreachable]" in text
    assert nowhere in text


def test_logs(command: Command) -> None:
    assert len(command("logs", "FILE", "brain", "-n", "3").splitlines()) == 3
    assert "inference compute" in command("logs", "FILE", "brain", "--unit", "ollama")
    assert "idle is stopped" in command("logs", "FILE", "idle")
    assert "did you mean 'brain'?" in command("logs", "FILE", "brian", code=2)
    assert "web is a domain, not a machine" in command("logs", "FILE", "web", code=2)


def test_logs_follows_until_ctrl_c(world: World, command: Command) -> None:
    argv = command.argv("logs", str(command.file), "llama", "--unit", "look-test", "--follow")
    with subprocess.Popen(
        argv, env=command.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as one:
        assert one.stdout is not None
        for word in ("first", "second"):
            world.run(LLAMA, "systemd-run", "--quiet", "--unit=look-test", "--wait", "--collect", "echo", word)
            while word not in (line := one.stdout.readline()):
                assert line, one.communicate()
        one.send_signal(signal.SIGINT)
        assert one.wait(10) == 130


def test_shell_passes_output_and_exit_code(command: Command) -> None:
    argv = command.argv("shell", str(command.file), "brain", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    done = subprocess.run(argv, env=command.environment, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert "a shell needs a terminal" in command("shell", "FILE", "brain", code=1)
    assert "idle is stopped" in command("shell", "FILE", "idle", "--", "true", code=1)


@pytest.mark.parametrize("client", [False, True], ids=["websockets", "incus-client"])
def test_shell_is_a_login_shell(world: World, command: Command, tmp_path: Path, client: bool) -> None:
    environment = command.environment | {"TERM": "dumb"}
    if client:  # the tree's own, run inside
        program = tmp_path / "bin/incus"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nunset INCUS_SOCKET\nexec {shlex.join(world.incus.command(["incus"]))} "$@"\n')
        program.chmod(0o755)
        environment |= {"PATH": f"{program.parent}:{environment['PATH']}", "INCUS_DIR": "/var/lib/incus"}
    terminal = Terminal(command.argv("shell", str(command.file), "brain"), env=environment)
    try:
        terminal.type("echo $((40 + 2)) $PWD $0\r")
        terminal.read_until(r"42 /root /bin/bash|42 /root -bash")
        terminal.type("exit 4\r")
        assert terminal.end() == 4
    finally:
        terminal.close()
