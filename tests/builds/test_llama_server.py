"""llama-server, built from Debian's packages and booted in both Incus: it waits for a model, then completes text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from launcher.engines import ENGINES
from launcher.inspect.findings import machine_findings
from launcher.inspect.guest import Guest
from launcher.inspect.placement import placement
from launcher.trial.tiny_gguf import tiny_gguf
from tests.unit import look
from tests.unit.look import HOST, evidence, infra, seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anklume_images.store.images import Image
    from tests.builds.images import Host, Machine

pytest_plugins = ("tests.builds.images",)
UNIT = "llama-server"
MODELS = "/var/lib/models"
HOSTILE = """it's "$(touch /tmp/owned)" `touch /tmp/owned`; touch /tmp/owned \\"""


@pytest.fixture(scope="module")
def image(built: Callable[[str], Image]) -> Image:
    return built("llama-server")


@pytest.fixture(scope="module")
def machine(host: Host, image: Image) -> Iterator[Machine]:
    """An instance with a model; each test restarts it with the settings that it needs."""
    with host.launched(image) as machine:
        machine.push(tiny_gguf(), f"{MODELS}/a model/first.gguf")
        yield machine


def complete(machine: Machine, url: str = "http://127.0.0.1:8080", key: str = "") -> str:
    headers = (f"Authorization: Bearer {key}",) if key else ()
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}
    answer = machine.request(f"{url}/v1/chat/completions", body, headers=headers)
    assert answer.status == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_waits_for_a_model_in_its_volume_and_completes(each_host: Host, image: Image) -> None:
    with each_host.launched(image, volumes={MODELS: "gguf"}) as machine:
        assert machine.boot() == "running"
        machine.wait(lambda: f"waiting for a model: there is no .gguf file in {MODELS}" in machine.journal(UNIT))
        assert not machine.healthy()
        assert machine.show(UNIT, "NRestarts") == "0"
        machine.push(tiny_gguf(), f"{MODELS}/tiny.gguf", mode="0600")
        machine.wait(machine.healthy, UNIT)
        first = complete(machine)
        assert first != ""
        assert complete(machine) == first
        models = machine.request("http://127.0.0.1:8080/v1/models").json()["data"]
        assert [model["id"] for model in models] == ["tiny"]
    with each_host.launched(image, volumes={MODELS: "gguf"}) as another:
        another.wait(another.healthy, UNIT)
        assert complete(another) == first


def test_settings_reach_the_server_as_values(machine: Machine) -> None:
    machine.restart(llama_server_extra_args="--seed 7 /* $(touch /tmp/owned)")
    # Neither a pattern nor a command: llama-server itself refuses what it is given.
    machine.wait(lambda: "error: invalid argument: /*\n" in machine.journal(UNIT), UNIT)
    machine.restart(
        llama_server_port="80",
        llama_server_host="127.0.0.1",
        llama_server_alias=HOSTILE,
        llama_server_api_key="k$y 1",
        llama_server_context="1024",
        llama_server_parallel="2",
        llama_server_extra_args="--metrics --seed 7",
    )
    url = "http://127.0.0.1:80"
    machine.wait(machine.healthy, UNIT)
    assert complete(machine, url, "k$y 1") != ""
    assert machine.request(f"{url}/v1/chat/completions", {"messages": []}).status == 401
    key = ("Authorization: Bearer k$y 1",)
    assert [model["id"] for model in machine.request(f"{url}/v1/models", headers=key).json()["data"]] == [HOSTILE]
    assert [slot["n_ctx"] for slot in machine.request(f"{url}/slots", headers=key).json()] == [512, 512]
    assert machine.request(f"{url}/metrics", headers=key).status == 200
    assert machine.run("test", "-e", "/tmp/owned").code == 1
    assert machine.output("stat", "--format", "%a %U", "/etc/anklume/llama-server.env") == "600 root\n"


def test_a_model_by_name_and_one_that_is_not_there(machine: Machine) -> None:
    machine.push(tiny_gguf(2), f"{MODELS}/b/second.gguf")
    machine.restart(llama_server_model="b/second.gguf")
    machine.wait(machine.healthy, UNIT)
    assert machine.request("http://127.0.0.1:8080/v1/models").json()["data"][0]["id"] == "second"
    machine.restart(llama_server_model="b/third.gguf")
    there = f"{MODELS}/a model/first.gguf {MODELS}/b/second.gguf"
    said = f"waiting for the model b/third.gguf, which is not in {MODELS}; there are: {there}"
    machine.wait(lambda: said in machine.journal(UNIT), UNIT)
    assert not machine.healthy()
    machine.output("rm", f"{MODELS}/b/second.gguf")


def troubles(machine: Machine) -> list[str]:
    """What `doctor` makes of the server's journal."""
    place = replace(seen(look.machine(machine.name)), project="default")
    engine = ENGINES["llama_server"]
    journal = Guest(machine.host.client, place).journal(engine.unit, *engine.journal.patterns)
    facts = evidence(place.machine, engine.role, journal=journal)
    return [finding.code for finding in machine_findings(infra(place.machine), [facts], HOST)]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (tiny_gguf()[:100_000], "model-damaged"),
        (tiny_gguf()[:2_000], "model-damaged"),
        (tiny_gguf().replace(b"llama", b"zebra"), "model-unknown"),
    ],
    ids=["cut short", "cut within its description", "another kind"],
)
def test_a_model_that_cannot_be_loaded_is_found_and_tried_again(machine: Machine, content: bytes, code: str) -> None:
    machine.push(content, f"{MODELS}/0.gguf")
    machine.restart()
    machine.wait(lambda: troubles(machine) == [code], UNIT)
    machine.wait(lambda: machine.show(UNIT, "NRestarts") == "1", UNIT)
    machine.push(tiny_gguf(), f"{MODELS}/0.gguf")
    machine.wait(machine.healthy, UNIT)
    assert troubles(machine) == []
    assert complete(machine) != ""
    machine.output("rm", f"{MODELS}/0.gguf")


def test_server_is_started_again_when_it_dies(machine: Machine) -> None:
    machine.restart()
    machine.wait(machine.healthy, UNIT)
    machine.output("systemctl", "kill", "--signal", "KILL", UNIT)
    machine.wait(lambda: machine.show(UNIT, "NRestarts") == "1" and machine.healthy(), UNIT)


def test_switched_off_it_does_not_run_and_all_is_well(machine: Machine) -> None:
    machine.restart(llama_server_service_enabled="false")
    assert machine.boot() == "running"
    assert machine.show(UNIT, "ActiveState") == "inactive"
    assert machine.healthy()


def test_vulkan_computes_where_there_is_a_card(host: Host, built: Callable[[str], Image]) -> None:
    """By Mesa's software driver; the card's node is a stand-in that leads nowhere, and there to be seen."""
    # Each program for a card is compiled by the CPU here: the fewer the better.
    card = {"type": "unix-char", "source": "/dev/null", "path": "/dev/dri/renderD128", "gid": "44", "mode": "0660"}
    with host.launched(
        built("llama-server-mesa"), nodes={"card": card}, llama_server_extra_args="--no-warmup"
    ) as machine:
        # llama.cpp passes over devices that are no cards, unless they are named.
        settings = (
            "[Service]\nEnvironment=GGML_VK_VISIBLE_DEVICES=0 VK_DRIVER_FILES=/usr/share/vulkan/icd.d/lvp_icd.json\n"
        )
        machine.push(settings.encode(), f"/etc/systemd/system/{UNIT}.service.d/software.conf")
        machine.push(tiny_gguf(), f"{MODELS}/tiny.gguf")
        machine.output("systemctl", "daemon-reload")
        machine.output("systemctl", "restart", UNIT)
        machine.wait(machine.healthy, UNIT)
        body = {"prompt": "a", "n_predict": 1}
        assert machine.request("http://127.0.0.1:8080/completion", body).json()["tokens_predicted"] == 1
        outcome = placement(ENGINES["llama_server"], machine.journal(UNIT).splitlines())
        assert (outcome.state, "3 of 3 layers on a card (Vulkan0" in outcome.evidence) == ("ok", True), outcome.evidence
        assert "Permission denied" not in machine.journal(UNIT)
        assert "44" in machine.status(UNIT)["Groups"].split()


@pytest.mark.large
@pytest.mark.parametrize(("variant", "node"), [("cuda", "/dev/nvidia0"), ("hip", "/dev/kfd")])
def test_a_makers_backend_is_there_and_the_cpu_computes_without_a_card(
    variant: str, node: str, host: Host, built: Callable[[str], Image]
) -> None:
    """The card's node is a stand-in that leads nowhere: what the backend says of that is its own."""
    card = {"type": "unix-char", "source": "/dev/null", "path": node, "gid": "44", "mode": "0660"}
    with host.launched(built(f"llama-server-{variant}"), nodes={"card": card}) as machine:
        machine.push(tiny_gguf(), f"{MODELS}/tiny.gguf")
        machine.wait(machine.healthy, UNIT)
        assert complete(machine) != ""
        assert machine.show(UNIT, "MemoryDenyWriteExecute") == "no"
        cached = "CUDA_CACHE_PATH=/var/cache/llama-server/cuda" in machine.show(UNIT, "Environment").split()
        assert cached == (variant == "cuda")
        listed = machine.output("find", "/usr/lib/x86_64-linux-gnu", "-name", f"libggml-{variant}.so")
        assert len(listed.splitlines()) == 1
        assert placement(ENGINES["llama_server"], machine.journal(UNIT).splitlines()).state == "failed"
        # The driver is the host's, and dpkg and apt know that.
        assert machine.output("find", "/usr/lib", "-name", "libcuda.so*", "-o", "-name", "libnvidia-*") == ""
        assert machine.output("dpkg", "--audit") == ""
        machine.output("apt-get", "check")


def test_server_runs_confined(machine: Machine) -> None:
    machine.restart()
    machine.wait(machine.healthy, UNIT)
    pid, status = machine.show(UNIT, "MainPID"), machine.status(UNIT)
    assert machine.show(UNIT, "MemoryDenyWriteExecute") == "yes"  # there is no card
    assert status["Uid"].split() == [machine.output("id", "-u", "llama-server").strip()] * 4
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    # Reading whatever mode a model has (2), and ports below 1024 (10).
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 1 << 2 | 1 << 10
    mounts = machine.output("cat", f"/proc/{pid}/mountinfo").splitlines()
    options = {line.split()[4]: line.split()[5].split(",") for line in mounts}
    assert "ro" in options["/"]
