"""Where an engine computes, read from the lines that llama.cpp writes and from what Ollama says is loaded."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from anklume_images.errors import IncusError
from anklume_images.incus.client import Result
from launcher.engines import ENGINES
from launcher.engines.engine import Loaded
from launcher.gpu.cards import Card
from launcher.gpu.nvidia_smi import parse_processes
from launcher.inspect.card_memory import card_memory, held_by
from launcher.inspect.guest import Answer
from launcher.inspect.placement import loadings, placement
from tests.unit.look import CARD, machine, seen

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.incus.client import Incus

OLLAMA, LLAMA = ENGINES["ollama_server"], ENGINES["llama_server"]
GIB = 1 << 30
BLOBS = "/root/.ollama/models/blobs"


def load(on_cards: int, layers: int = 31, file: str = "", device: str = "Vulkan0") -> tuple[str, ...]:
    """The lines of one loading, as llama.cpp writes them; without a file, as one would that does not name it."""
    named = f"0.00.441 I llama_model_loader: loaded meta data with 23 key-value pairs and 21 tensors from {file} "
    card = f"load_tensors:      {device} model buffer size =    87.74 MiB"
    return (
        *([f"{named}(version GGUF V3 (latest))"] if file else []),
        f"load_tensors: offloading {max(0, on_cards - 1)} repeating layers to GPU",
        f"load_tensors: offloaded {on_cards}/{layers} layers to GPU",
        "load_tensors:   CPU_Mapped model buffer size =    28.12 MiB",
        *([card] if on_cards else []),
        "load_tensors:  Vulkan_Host model buffer size =    12.00 MiB",
    )


# llama-server: its journal alone


def test_all_of_a_model_on_a_card() -> None:
    outcome = placement(LLAMA, load(31, file="/var/lib/models/a model.gguf"))
    assert outcome.state == "ok"
    assert outcome.evidence == "a model.gguf: 31 of 31 layers on a card (Vulkan0 87.7 MiB)"


@pytest.mark.parametrize("name", ["CUDA1", "ROCm0"])
def test_backends_call_their_cards_by_their_own_names(name: str) -> None:
    assert placement(LLAMA, load(31, device=name)).evidence == f"the model: 31 of 31 layers on a card ({name} 87.7 MiB)"


def test_a_model_on_several_cards_names_each() -> None:
    lines = (*load(31), "load_tensors:      CUDA1 model buffer size =    10.00 MiB", load(31)[-2])
    assert loadings(LLAMA.journal, lines)[0].buffers == {"Vulkan0": 87.74 * 2, "CUDA1": 10}


@pytest.mark.parametrize(
    ("on_cards", "state", "start"), [(31, "ok", "m.gguf"), (1, "ok", "partly"), (0, "failed", "computes on the CPU")]
)
def test_some_layers_are_told_and_none_is_a_failure(on_cards: int, state: str, start: str) -> None:
    outcome = placement(LLAMA, load(on_cards, file="/m.gguf"))
    assert (outcome.state, outcome.evidence.startswith(start)) == (state, True)
    assert f"{on_cards} of 31 layers" in outcome.evidence


def test_every_model_counts_and_of_each_its_last_loading() -> None:
    both = (*load(0, file="/draft.gguf"), *load(31, file="/m.gguf"))
    outcome = placement(LLAMA, both)
    assert outcome.state == "failed"
    assert outcome.evidence.startswith("not every model is on a card: draft.gguf: 0 of 31")
    assert placement(LLAMA, (*both, *load(31, file="/draft.gguf"))).state == "ok"
    assert placement(LLAMA, (*load(31), *load(0))).state == "failed"
    assert placement(LLAMA, (*load(0), *load(31))).state == "ok"


def test_a_loading_that_came_to_nothing_ends_what_was_there() -> None:
    lines = load(31, file="/m.gguf")
    assert placement(LLAMA, (*lines, lines[0], "unable to allocate CUDA0 buffer")).state == "failed"


def test_who_says_nothing_proves_nothing() -> None:
    assert placement(LLAMA, ("listening",)).state == "failed"


# Ollama: what it says is loaded, beside its journal


def ollama(name: str, in_vram: int, size: int = 2 * GIB) -> Loaded:
    return Loaded(name, size, in_vram, f"{BLOBS}/sha256-{name}")


def test_each_model_that_is_loaded_is_told_with_its_layers_and_its_memory() -> None:
    lines = (*load(31, file=f"{BLOBS}/sha256-a"), *load(19, 19, f"{BLOBS}/sha256-b", "CUDA0"))
    outcome = placement(OLLAMA, lines, (ollama("b", 2 * GIB), ollama("a", 2 * GIB)))
    assert outcome.state == "ok"
    assert outcome.evidence == (
        "b: 19 of 19 layers on a card (CUDA0 87.7 MiB), 2.0 GiB of 2.0 GiB in its memory (/api/ps); "
        "a: 31 of 31 layers on a card (Vulkan0 87.7 MiB), 2.0 GiB of 2.0 GiB in its memory (/api/ps)"
    )


def test_one_of_two_on_the_cpu_is_a_failure_whichever_came_last() -> None:
    lines = (*load(0, file=f"{BLOBS}/sha256-a"), *load(31, file=f"{BLOBS}/sha256-b"))
    for models in ((ollama("a", 0), ollama("b", GIB)), (ollama("b", GIB), ollama("a", 0))):
        assert placement(OLLAMA, lines, models).state == "failed"
    assert placement(OLLAMA, lines, (ollama("b", GIB),)).state == "ok"  # the other one is gone


def test_what_is_loaded_now_beats_what_the_journal_said_of_it() -> None:
    assert placement(OLLAMA, load(31, file=f"{BLOBS}/sha256-a"), (ollama("a", 0),)).state == "failed"


@pytest.mark.parametrize(
    ("in_vram", "state", "start"),
    [(2 * GIB, "ok", "m: 2.0"), (GIB, "ok", "partly"), (0, "failed", "computes on the CPU: m: 0 B of 2.0 GiB")],
)
def test_without_such_lines_the_memory_counts(in_vram: int, state: str, start: str) -> None:
    for lines in ((), load(31, file="/another")):
        outcome = placement(OLLAMA, lines, (ollama("m", in_vram),))
        assert (outcome.state, outcome.evidence.startswith(start)) == (state, True), outcome.evidence


def test_of_models_that_are_loaded_no_more_the_last_one_counts() -> None:
    lines = (*load(0, file=f"{BLOBS}/sha256-a"), *load(31, file=f"{BLOBS}/sha256-b"))
    outcome = placement(OLLAMA, lines)
    assert outcome.state == "ok"
    assert outcome.evidence.startswith("31 of 31 layers on a card")


@pytest.mark.parametrize(("library", "state"), [("Vulkan", "skipped"), ("cpu", "failed")])
def test_without_a_model_it_is_known_which_devices_were_found(library: str, state: str) -> None:
    line = f'level=INFO msg="inference compute" id=0 library={library} compute=0.0'
    assert placement(OLLAMA, (line,)).state == state


class Shows:
    """A stand-in for a machine whose Ollama shows this of a model."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def run(self, *_command: str) -> Result:
        raise AssertionError

    def request(self, url: str, body: Any = None, **_options: Any) -> Answer:
        self.asked.append((url, body))
        return self.answer


@pytest.mark.parametrize(
    ("answer", "file"),
    [
        (
            Answer(0, 200, json.dumps({"modelfile": f"# FROM a:b\n\nFROM {BLOBS}/sha256-1\nFROM /projector\n"})),
            f"{BLOBS}/sha256-1",
        ),
        (Answer(0, 200, json.dumps({"modelfile": "FROM a:b\n"})), ""),
        (Answer(0, 200, "[]"), ""),
        (Answer(0, 404, '{"error": "not found"}'), ""),
    ],
)
def test_ollama_tells_the_file_of_a_model(answer: Answer, file: str) -> None:
    inside = Shows(answer)
    assert OLLAMA.file_of(inside, "http://a", "m") == file
    assert inside.asked == [("http://a/api/show", {"model": "m"})]


# the cards' drivers: evidence alone


@pytest.mark.parametrize("on_cards", [31, 0])
def test_what_the_driver_says_is_shown_and_decides_nothing(on_cards: int) -> None:
    lines = load(on_cards)
    bare, told = placement(LLAMA, lines), placement(LLAMA, lines, (), ("nvidia-smi: x has 1 B", "card: 2 B"))
    assert (told.state, told.evidence) == (bare.state, f"{bare.evidence}; nvidia-smi: x has 1 B; card: 2 B")


MIB = 1 << 20
HOST = {
    10: "0::/lxc.payload.ai_llm/system.slice/ollama.service\n",
    11: "12:cpu:/other\n1:name=systemd:/lxc.payload.ai_llm/system.slice/ollama.service/runner\n",
    12: "0::/lxc.payload.ai_llm/system.slice/other-ollama.service\n",
    13: "0::/lxc.payload.ai_llm2/system.slice/ollama.service\n",
    14: "0::/system.slice/ollama.service\n",
    15: "",
}


def test_of_the_hosts_processes_those_of_the_machines_unit_count() -> None:
    processes = {pid: MIB << number for number, pid in enumerate(HOST)}
    assert held_by("ollama", processes, HOST.__getitem__, "lxc.payload.ai_llm") == 3 * MIB
    assert held_by("ollama", {14: 5}, HOST.__getitem__) == 5  # as the machine itself sees it
    assert held_by("ollama", {}, HOST.__getitem__, "lxc.payload.ai_llm") == 0


def test_processes_as_nvidia_smi_lists_them() -> None:
    assert parse_processes("1234, 334 MiB\n7, [N/A]\n1234, 6 MiB\n") == {1234: 340 * MIB}
    assert parse_processes("No running processes found\n") == parse_processes("") == {}


class Lists:
    """A stand-in for a machine whose nvidia-smi lists a process of its engine, or cannot be asked."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails

    def run(self, *command: str) -> Result:
        if self.fails:
            raise IncusError("the machine went away")
        text = "14, 334 MiB\n15, 1 MiB\n" if command[0] == "nvidia-smi" else HOST[int(command[1].split("/")[2])]
        return Result(0, text.encode(), b"")

    def request(self, *_arguments: Any, **_options: Any) -> Answer:
        raise AssertionError


AMD = Card("0000:03:00.0", "1002", driver="amdgpu")


def asked(inside: Lists, address: str, *cards: Card) -> tuple[str, ...]:
    """What is said of a machine that has all of these cards, on the server at this address."""
    incus = cast("Incus", SimpleNamespace(address=address))
    return card_memory(incus, inside, seen(machine("llm"), devices={"gpu0": {"type": "gpu"}}), "ollama", cards)


def test_on_a_remote_the_machine_itself_is_asked_for_its_processes() -> None:
    assert asked(Lists(), "https://far:8443", CARD) == ("nvidia-smi: ollama has 334.0 MiB",)
    assert asked(Lists(), "https://far:8443", AMD) == ()


def test_the_hosts_list_goes_before_the_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.inspect.card_memory.ask_processes", lambda: {10: MIB})
    monkeypatch.setattr("launcher.inspect.card_memory._cgroup", HOST.__getitem__)
    assert asked(Lists(fails=True), "/run/incus.socket", CARD) == ("nvidia-smi: ollama has 1.0 MiB",)


def test_who_cannot_be_asked_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.inspect.card_memory.ask_processes", dict)
    assert asked(Lists(fails=True), "/nowhere/unix.socket", CARD, AMD) == ()


def test_amds_driver_tells_what_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "sys/bus/pci/devices" / AMD.pci
    device.mkdir(parents=True)
    for name, size in (("total", 16 * GIB), ("used", GIB)):
        (device / f"mem_info_vram_{name}").write_text(f"{size}\n")
    monkeypatch.setattr("launcher.inspect.card_memory.daemon_root", lambda _address: tmp_path)
    assert asked(Lists(fails=True), "/run/incus.socket", AMD) == ("0000:03:00.0: 1.0 GiB of 16.0 GiB in use",)
