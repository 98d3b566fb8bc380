"""Where an engine computes, read from the lines that llama.cpp writes and from what Ollama says is loaded."""

from __future__ import annotations

import pytest

from launcher.engines import ENGINES
from launcher.engines.engine import Loaded
from launcher.inspect.placement import placement

OLLAMA, LLAMA = ENGINES["ollama_server"], ENGINES["llama_server"]
GIB = 1 << 30
LOADED = (
    "load_tensors: offloading 30 repeating layers to GPU",
    "load_tensors: offloaded 31/31 layers to GPU",
    "load_tensors:   CPU_Mapped model buffer size =    28.12 MiB",
    "load_tensors:      Vulkan0 model buffer size =    87.74 MiB",
    "load_tensors:  Vulkan_Host model buffer size =    12.00 MiB",
)


@pytest.mark.parametrize("engine", [OLLAMA, LLAMA], ids=lambda engine: engine.title)
def test_all_of_a_model_on_a_card(engine) -> None:
    outcome = placement(engine, LOADED)
    assert outcome.state == "ok"
    assert outcome.evidence == "31 of 31 layers are on a card: Vulkan0 has 87.7 MiB of the model"


@pytest.mark.parametrize("name", ["CUDA", "ROCm"])
def test_backends_call_their_cards_by_their_own_names(name: str) -> None:
    lines = [line.replace("Vulkan", name) for line in LOADED]
    assert placement(LLAMA, lines).evidence == f"31 of 31 layers are on a card: {name}0 has 87.7 MiB of the model"


def test_the_last_model_counts() -> None:
    assert placement(LLAMA, (*LOADED, "load_tensors: offloaded 0/31 layers to GPU")).state == "failed"
    assert placement(LLAMA, ("load_tensors: offloaded 0/31 layers to GPU", *LOADED)).state == "ok"


@pytest.mark.parametrize(("in_vram", "state"), [(2 * GIB, "ok"), (GIB, "ok"), (0, "failed")])
def test_without_such_lines_what_is_loaded_counts(in_vram: int, state: str) -> None:
    assert placement(OLLAMA, (), (Loaded("m", 2 * GIB, in_vram),)).state == state


@pytest.mark.parametrize(("library", "state"), [("Vulkan", "skipped"), ("cpu", "failed")])
def test_without_a_model_it_is_known_which_devices_were_found(library: str, state: str) -> None:
    line = f'level=INFO msg="inference compute" id=0 library={library} compute=0.0'
    assert placement(OLLAMA, (line,)).state == state


def test_who_says_nothing_proves_nothing() -> None:
    assert placement(LLAMA, ("listening",)).state == "failed"
