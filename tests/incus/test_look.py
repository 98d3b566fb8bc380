"""Status, verify and doctor upon real machines: what works is shown with evidence, what was broken is recognised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.infra.model import ImageChoice, Policy
from launcher.inspect import doctor, logs, status, verify
from launcher.inspect.guest import Guest
from launcher.private_incus import fake_gpu as fakegpu
from tests.support.launched import changed, infra
from tests.support.look_machines import (
    BLIND,
    BRAIN,
    CARD,
    ENGINES_FOR_WEB,
    FOREIGN,
    GHOST,
    GPU,
    IDLE,
    LLAMA,
    MODELS,
    WEBUI,
    launched,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from anklume_images.pipeline import Pipeline
    from anklume_images.store.images import Image
    from launcher.infra.model import Infra, Machine
    from launcher.inspect.facts import Finding
    from tests.support.launched import World

pytest_plugins = ("tests.incus.look_world",)


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
        ("brain", "gpu-compute"): "ok",
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
    assert evidence["llama", "llama-inference"].startswith(("tiny: '", 'tiny: "'))  # the toy may say a quote itself
    assert evidence["brain", "gpu-compute"] == (
        "tiny:latest: 31 of 31 layers on a card (CUDA0 87.7 MiB), 310.6 MiB of 310.6 MiB in its memory (/api/ps)"
    )
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
    try:
        world.wait(BLIND)
        assert findings(world, BLIND) == []
    finally:
        world.run(BLIND, "rm", "/usr/bin/nvidia-smi")  # the stand-in is a file, where the real one is a mount
        world.change(BLIND, {"nvidia.runtime": ""})
        world.wait(BLIND)


def test_trouble_1_without_a_gpu_device(world: World) -> None:
    found, follows = findings(world, changed(LLAMA, gpu=True))
    assert (found.code, found.cause) == ("nvidia-smi-not-found", "the instance has no gpu device")
    assert follows.code == "engine-on-cpu"


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
    inside = Guest(world.client, seen)
    text, cursor = logs.journal(inside, 5)
    assert (len(text.splitlines()), bool(cursor)) == (5, True)
    text, cursor = logs.journal(inside, 300, "llama-server")
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


# the newer Incus


def test_the_newer_incus_answers_all_the_same(
    incus_tree: Callable[[str], Path], home: Path, pipeline: Pipeline, look_images: dict[str, Image]
) -> None:
    with launched(incus_tree("incus-7"), home, pipeline, look_images) as world:
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
        report = doctor.examine_host(doctor.server_facts(world.client))
        assert not [finding for finding in report.findings if finding.severity == "error"]
