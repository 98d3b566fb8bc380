"""Status, verify and doctor upon real machines: what works is shown with evidence, what was broken is recognised."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from launcher.check import doctor, logs, status, verify
from launcher.check.inside import Inside
from launcher.infra.model import ImageChoice, Policy
from launcher.trial import fakegpu
from launcher.trial.private import PrivateIncus
from launcher.trial.tiny_gguf import tiny_gguf
from tests.rig.launched import World, changed, infra, machine
from tests.rig.ollama_standin import build_images, make_tarball
from tests.rig.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anklume_images.build.trees import Tree
    from anklume_images.pipeline import Pipeline
    from anklume_images.store.images import Image
    from launcher.check.evidence import Finding
    from launcher.infra.model import Infra, Machine

pytestmark = [pytest.mark.root, pytest.mark.incus, pytest.mark.build]

CARD = fakegpu.cards(1)[0]
GPU = {"gpu0": {"type": "gpu", "gputype": "physical", "pci": CARD.pci}}
MODELS = "/root/.ollama"
BRAIN = machine("brain", "ai-tools", 1, "ollama", gpu=True, roles=("ollama_server",))
LLAMA = machine("llama", "ai-tools", 2, "llama-server", variables={"llama_server_api_key": 'k$y "\\1'})
BLIND = machine("blind", "ai-tools", 3, "ollama", gpu=True)
WEBUI = machine(
    "webui",
    "web",
    1,
    "open-webui",
    variables={
        "open_webui_ollama_url": f"http://{BRAIN.address}:11434",
        "open_webui_openai_url": f"http://{LLAMA.address}:8080/v1",
        "open_webui_openai_key": 'k$y "\\1',
    },
)
IDLE = machine("idle", "web", 2, "debian")
FOREIGN = machine("foreign", "web", 3, "debian")
GHOST = machine("ghost", "web", 4, "debian")
ENGINES_FOR_WEB = (Policy("web", "ai-tools", (11434, 8080)),)


@pytest.fixture(scope="module")
def images(
    built: Callable[[str], Image], pipeline: Pipeline, toolchain: Tree, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Image]:
    """Real images, and Ollama's made of its stand-in."""
    folder = tmp_path_factory.mktemp("stand-in")
    found = {name: built(name) for name in ("debian", "llama-server", "open-webui")}
    return found | build_images(pipeline, make_tarball(toolchain.root, folder), folder, ("ollama",))


@contextlib.contextmanager
def launched(tree: Path, home: Path, pipeline: Pipeline, images: dict[str, Image]) -> Iterator[World]:
    with PrivateIncus(tree=tree, home=home, fake_gpus=1) as incus, incus.client() as client:
        world = World(incus, client, pipeline, images)
        world.make_domains()
        yield world


@pytest.fixture(scope="module")
def world(
    incus_tree: Callable[[str], Path],
    disk: Path,
    pipeline: Pipeline,
    images: dict[str, Image],
) -> Iterator[World]:
    """The older Incus with all machines but the one that is missing."""
    with launched(incus_tree("incus-6"), disk / "look", pipeline, images) as world:
        world.create(WEBUI)
        world.start(WEBUI)
        world.create(BRAIN, config={"nvidia.runtime": "true"}, devices=GPU, volume=MODELS)
        world.create(LLAMA, volume="/var/lib/models")
        world.create(BLIND, devices=GPU)
        world.create(IDLE)
        world.create(FOREIGN, ours=False)
        for one in (BRAIN, LLAMA, BLIND):
            world.start(one)
        world.push(LLAMA, tiny_gguf(), "/var/lib/models/tiny.gguf")
        world.give_model(BRAIN, "tiny")
        world.wait(BRAIN, LLAMA, BLIND, WEBUI)
        yield world


def rows(world: World, file: Infra) -> dict[str, dict[str, Any]]:
    document = status.as_json(status.statuses(world.client, world.look(file), world.book()))
    return {entry["name"]: entry for entry in document["machines"]}


def checks(world: World, *machines: Machine, prompt: str = "hello") -> dict[tuple[str, str], verify.Check]:
    found = verify.verified(world.client, world.look(infra(*machines)), world.book(), prompt=prompt, seconds=60)
    return {(check.machine, check.name): check for check in found}


def findings(world: World, *machines: Machine, policies: tuple[Policy, ...] = ENGINES_FOR_WEB) -> list[Finding]:
    file = infra(*machines, policies=policies)
    report = doctor.examine(world.client, file, world.look(file), world.book())
    return [finding for finding in report.findings if finding.subject != "host"]


# status


def test_status_of_machines_that_run_are_stopped_missing_and_not_ours(world: World) -> None:
    found = rows(world, infra(BRAIN, LLAMA, WEBUI, IDLE, FOREIGN, GHOST))
    states = {name: (row["state"], row["health"]["state"], row["ok"]) for name, row in found.items()}
    assert states == {
        "brain": ("running", "healthy", True),
        "llama": ("running", "healthy", True),
        "webui": ("running", "healthy", True),
        "idle": ("stopped", "unknown", False),
        "foreign": ("not ours", "unknown", False),
        "ghost": ("missing", "unknown", False),
    }
    brain = found["brain"]
    assert brain["address"] == {"wanted": "10.131.1.1", "actual": ["10.131.1.1"]}
    assert brain["gpus"] == [CARD.pci]
    assert brain["volumes"] == [{"name": "brain-models", "path": MODELS, "pool": "default"}]
    version = world.images["ollama"].ref
    assert brain["image"] == {"wanted": "ollama@latest", "version": version, "running": version, "current": True}


def test_status_takes_one_request_and_one_for_each_healthcheck(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = type(world.client).get

    def counted(self: Any, path: str, **params: Any) -> Any:
        asked.append(path)
        return real(self, path, **params)

    monkeypatch.setattr(type(world.client), "get", counted)
    rows(world, infra(BRAIN, LLAMA, WEBUI, IDLE, GHOST))
    assert [path for path in asked if not path.startswith("operations/")] == ["instances"]


def test_status_tells_what_makes_a_machine_ill(world: World) -> None:
    world.run(LLAMA, "systemctl", "stop", "llama-server")
    try:
        row = rows(world, infra(LLAMA))["llama"]
    finally:
        world.run(LLAMA, "systemctl", "start", "llama-server")
    assert row["health"]["state"] == "unhealthy"
    assert "Failed to connect" in row["health"]["detail"] or "Could not connect" in row["health"]["detail"]
    world.wait(LLAMA)


def test_an_image_that_the_channel_has_moved_on_from_is_shown(world: World) -> None:
    old = changed(BRAIN, image=ImageChoice("debian"))
    (row,) = status.statuses(world.client, world.look(infra(old)), world.book())
    assert row.current is False
    assert f"{world.images['ollama'].ref} (wanted {world.images['debian'].ref})" in status.as_table([row])


# verify


def test_verify_proves_card_models_page_and_answers(world: World) -> None:
    found = checks(world, BRAIN, LLAMA, WEBUI, IDLE)
    assert {name: check.outcome for name, check in found.items()} == {
        ("brain", "gpu"): "ok",
        ("brain", "ollama-api"): "ok",
        ("brain", "ollama-inference"): "ok",
        ("llama", "llama-health"): "ok",
        ("llama", "llama-models"): "ok",
        ("llama", "llama-inference"): "ok",
        ("webui", "webui-page"): "ok",
        ("webui", "webui-engine"): "ok",
        ("idle", "running"): "failed",
    }
    evidence = {name: check.evidence for name, check in found.items()}
    assert evidence["brain", "gpu"] == (
        f"{fakegpu.MODEL}, {CARD.uuid}, {CARD.pci}, driver {fakegpu.DRIVER}: the host's"
    )
    assert evidence["brain", "ollama-api"] == "/api/tags: HTTP 200, models: tiny:latest"
    assert evidence["brain", "ollama-inference"] == "tiny:latest: 'stand-in: hello' (4 tokens, 2000.0 a second)"
    assert evidence["llama", "llama-models"] == "/v1/models: HTTP 200, models: tiny"
    assert evidence["llama", "llama-inference"].startswith("tiny: '")
    assert "title 'Open WebUI'" in evidence["webui", "webui-page"]
    assert evidence["webui", "webui-engine"] == (
        "http://10.131.1.1:11434/api/tags: HTTP 200; http://10.131.1.2:8080/v1/models: HTTP 200"
    )


def test_a_prompt_is_carried_literally(world: World) -> None:
    prompt = "it's $(touch /tmp/owned) `touch /tmp/owned` ; é"
    found = checks(world, BRAIN, LLAMA, prompt=prompt)
    assert found["brain", "ollama-inference"].evidence.startswith(f'tiny:latest: "stand-in: {prompt[:4]}')
    assert found["llama", "llama-inference"].outcome == "ok"
    for one in (BRAIN, LLAMA):
        assert world.run(one, "test", "-e", "/tmp/owned").code == 1


def test_verify_says_what_is_not_there(world: World) -> None:
    found = checks(world, BLIND)
    assert (found["blind", "gpu"].outcome, found["blind", "ollama-api"].outcome) == ("failed", "ok")
    assert "no nvidia-smi" in found["blind", "gpu"].evidence
    inference = found["blind", "ollama-inference"]
    assert (inference.outcome, "there is no model" in inference.evidence) == ("skipped", True)


# doctor


def test_doctor_finds_nothing_wrong_with_machines_that_work(world: World) -> None:
    assert findings(world, BRAIN, LLAMA, WEBUI) == []


def test_trouble_1_and_2_no_nvidia_smi_and_the_engine_on_the_cpu(world: World) -> None:
    found = {finding.code: finding for finding in findings(world, BLIND)}
    assert set(found) == {"nvidia-smi-not-found", "engine-on-cpu"}
    assert "nvidia.runtime" in found["nvidia-smi-not-found"].cause
    assert any("library=cpu" in line for line in found["engine-on-cpu"].evidence)
    assert "nvidia-smi" in found["engine-on-cpu"].cause
    world.change(BLIND, {"nvidia.runtime": "true"})
    world.wait(BLIND)
    assert findings(world, BLIND) == []


def test_trouble_1_without_a_gpu_device(world: World) -> None:
    (found,) = findings(world, changed(LLAMA, gpu=True))
    assert (found.code, found.cause) == ("nvidia-smi-not-found", "the instance has no gpu device")


def test_trouble_3_the_engine_listens_on_loopback_only(world: World) -> None:
    world.change(BRAIN, {"user.anklume.ollama_host": "127.0.0.1:11434"})
    try:
        world.wait(BRAIN)
        assert checks(world, WEBUI)["webui", "webui-engine"].outcome == "failed"
        (found,) = findings(world, BRAIN, LLAMA, WEBUI)
    finally:
        world.change(BRAIN, {"user.anklume.ollama_host": "0.0.0.0:11434"})
        world.wait(BRAIN)
    assert (found.code, found.subject) == ("webui-cannot-reach-engine", "webui")
    assert found.cause == "the engine in brain listens on loopback only"
    assert "ollama_host to 0.0.0.0:11434" in found.remedy
    assert "listening in brain: 127.0.0.1:11434" in found.evidence


def test_trouble_3_no_policy_lets_it_through(world: World) -> None:
    network = world.names.network("ai-tools")
    world.client.send("post", "network-acls", {"name": "closed"})
    closed = {"security.acls": "closed", "security.acls.default.ingress.action": "drop"}
    world.client.send(
        "patch", f"networks/{network}", {"config": closed | {"security.acls.default.egress.action": "drop"}}
    )
    try:
        found = findings(world, BRAIN, LLAMA, WEBUI, policies=())
    finally:
        world.client.send(
            "patch",
            f"networks/{network}",
            {"config": dict.fromkeys(closed, "") | {"security.acls.default.egress.action": ""}},
        )
    assert [finding.code for finding in found] == ["webui-cannot-reach-engine"] * 2
    assert "no network policy lets web reach brain" in found[0].cause
    assert "{from: web, to: brain, ports: [11434], protocol: tcp}" in found[0].remedy


def test_trouble_3_the_engines_machine_is_stopped(world: World) -> None:
    world.client.within("ai-tools").stop("llama", force=True)
    try:
        found = [finding for finding in findings(world, BRAIN, LLAMA, WEBUI) if finding.subject == "webui"]
    finally:
        world.start(LLAMA)
        world.wait(LLAMA)
    assert [finding.cause for finding in found] == ["the engine's machine llama is stopped"]


def test_trouble_4_a_model_that_the_card_has_no_room_for(world: World) -> None:
    world.give_model(BRAIN, "too-large")
    wanted = changed(BRAIN, variables={"ollama_default_model": "too-large"})
    path = "instances/brain"
    project = world.client.within("ai-tools")
    project.send("patch", path, {"config": {"user.anklume.ollama_default_model": "too-large"}})
    try:
        check = checks(world, wanted)["brain", "ollama-inference"]
        (found,) = findings(world, wanted)
    finally:
        project.send("patch", path, {"config": {"user.anklume.ollama_default_model": ""}})
        world.run(BRAIN, "rm", "-r", f"{MODELS}/models/manifests/registry.ollama.ai/library/too-large")
        world.run(BRAIN, "systemctl", "restart", "ollama")
        world.wait(BRAIN)
    assert (check.outcome, "cudaMalloc failed" in check.evidence) == ("failed", True)
    assert found.code == "out-of-vram"
    assert any("cudaMalloc failed: out of memory" in line for line in found.evidence)
    assert any(f"{CARD.pci}: 1.0 MiB of 24.0 GiB" in line for line in found.evidence)
    assert findings(world, BRAIN) == []  # what was said before the last start is over


# logs


def test_journal_of_a_machine_and_of_a_unit(world: World) -> None:
    (seen,) = world.look(infra(LLAMA))
    inside = Inside(world.client, seen)
    text, cursor = logs.journal(inside, 5)
    assert (len(text.splitlines()), bool(cursor)) == (5, True)
    text, cursor = logs.journal(inside, 50, "llama-server")
    assert "serving /var/lib/models/tiny.gguf" in text
    assert "-- cursor" not in text
    world.run(LLAMA, "systemctl", "restart", "llama-server")
    more, _ = logs.journal(inside, 50, "llama-server", cursor)
    assert "Stopping llama-server.service" in more
    assert logs.journal(inside, 5, "no-such-unit") == ("", None)
    world.wait(LLAMA)


def test_last_words_of_a_machine_that_does_not_run(world: World) -> None:
    world.start(IDLE)
    world.wait(IDLE)
    world.client.within("web").stop("idle", force=True)
    (seen,) = world.look(infra(IDLE))
    text = logs.last_words(world.client, seen, 5)
    assert "-- console --" in text
    assert len(text.splitlines()) <= 12


# the command

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

    def argv(self, verb: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "launcher", verb, *arguments]

    def __call__(self, verb: str, *arguments: str, code: int = 0, **environment: str) -> str:
        argv = self.argv(verb, *(str(self.file) if word == "FILE" else word for word in arguments))
        env = self.environment | environment
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
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


def test_command_status(command: Command) -> None:
    text = command("status", "FILE", code=1)
    assert "3 of 4 machines run and are well" in text
    assert command("status", "FILE", "--only", "ai-tools", "--tags", "llm").count("healthy") == 2
    document = command.json("status", "FILE", "--only", "webui")
    assert (document["ok"], [row["name"] for row in document["machines"]]) == (True, ["webui"])
    assert "did you mean 'webui'?" in command("status", "FILE", "--only", "webiu", code=2)
    assert "no machine has the tag 'lm'" in command("status", "FILE", "--tags", "lm", code=2)


def test_command_verify(command: Command) -> None:
    document = command.json("verify", "FILE", "--tags", "llm", "--prompt", "how are you?")
    assert document["ok"]
    evidence = {(check["machine"], check["name"]): check["evidence"] for check in document["checks"]}
    assert evidence["brain", "ollama-inference"].startswith("tiny:latest: 'stand-in: how are you?'")
    assert "8 ok, 0 failed, 0 skipped" in command("verify", "FILE", "--tags", "llm", "--wait", "600")
    assert "the machine is stopped" in command("verify", "FILE", "--only", "idle", code=1)
    assert "longer than 100000 bytes" in command("verify", "FILE", "--prompt", "x" * 100_001, code=2)


def test_command_doctor(command: Command, tmp_path: Path) -> None:
    text = command("doctor", "FILE")
    assert "idle does not run" in text
    assert "nvidia-container-cli: there, LXC hook: there" in text
    assert command.json("doctor")["ok"]
    assert "--only and --tags choose machines" in command("doctor", "--only", "brain", code=2)
    nowhere = str(tmp_path / "none.socket")
    text = command("doctor", code=1, INCUS_SOCKET=nowhere)
    assert "[incus-unreachable]" in text
    assert nowhere in text


def test_command_logs(command: Command) -> None:
    assert len(command("logs", "FILE", "brain", "-n", "3").splitlines()) == 3
    assert "inference compute" in command("logs", "FILE", "brain", "--unit", "ollama")
    assert "idle is stopped" in command("logs", "FILE", "idle")
    assert "did you mean 'brain'?" in command("logs", "FILE", "brian", code=2)
    assert "web is a domain, not a machine" in command("logs", "FILE", "web", code=2)


def test_command_logs_follows_until_ctrl_c(world: World, command: Command) -> None:
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


def test_command_shell_passes_output_and_exit_code(command: Command) -> None:
    argv = command.argv("shell", str(command.file), "brain", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    done = subprocess.run(argv, env=command.environment, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert "a shell needs a terminal" in command("shell", "FILE", "brain", code=1)
    assert "idle is stopped" in command("shell", "FILE", "idle", "--", "true", code=1)


@pytest.mark.parametrize("client", [False, True], ids=["websockets", "incus-client"])
def test_command_shell_is_a_login_shell(world: World, command: Command, tmp_path: Path, client: bool) -> None:
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


# the newer Incus


def test_the_newer_incus_answers_all_the_same(
    incus_tree: Callable[[str], Path], home: Path, pipeline: Pipeline, images: dict[str, Image]
) -> None:
    with launched(incus_tree("incus-7"), home, pipeline, images) as world:
        world.create(BRAIN, config={"nvidia.runtime": "true"}, devices=GPU, volume=MODELS)
        world.create(IDLE)
        world.start(BRAIN)
        world.give_model(BRAIN, "tiny")
        world.wait(BRAIN)
        found = rows(world, infra(BRAIN, IDLE, GHOST))
        assert [(row["state"], row["ok"]) for row in found.values()] == [
            ("running", True),
            ("stopped", False),
            ("missing", False),
        ]
        assert {check.outcome for check in checks(world, BRAIN).values()} == {"ok"}
        assert findings(world, BRAIN) == []
        report = doctor.examine_host(doctor.host_evidence(world.client))
        assert not [finding for finding in report.findings if finding.severity == "error"]
