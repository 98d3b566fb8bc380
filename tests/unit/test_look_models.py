"""Models that an engine cannot load, recognised from what llama.cpp 0.7.0 wrote of such files into its journal."""

from __future__ import annotations

import pytest

from launcher.engines import ENGINES
from launcher.inspect.findings import machine_findings
from tests.unit.look import HOST, evidence, infra, machine

LLM = machine("llm")
FAILED = "0.00.023.134 E llama_model_load_from_file_impl: failed to load model"
FITTING = (
    "0.00.022.939 E common_fit_params: encountered an error while trying to fit params to free device memory: "
    "failed to load model"
)
LAST = "0.00.023.421 E srv  llama_server: exiting due to model loading error"
CUT = (
    "0.00.023.111 E llama_model_load: error loading model: tensor 'blk.1.ffn_down.weight' data is not within the file "
    "bounds, model is corrupted or incomplete"
)
DESCRIPTION = "0.00.053.243 E llama_model_load: error loading model: llama_model_loader: failed to load model from /m"
NEWER = (
    "0.00.017.813 E gguf_init_from_reader: this GGUF file is version 9 but this software only supports up to version 3"
)
KIND = "0.00.122.546 E llama_model_load: error loading model: unknown model architecture: 'of-tomorrow'"
NO_KEY = (
    "0.00.030.303 E llama_model_load: error loading model: error loading model hyperparameters: key not found in "
    "model: llama.block_count"
)
NO_ROOM = "0.00.030.303 E llama_model_load: error loading model: unable to allocate Vulkan0 buffer"


def file_line(name: str) -> str:
    return f"0.00.023.151 E cmn  common_init_: failed to load model '/var/lib/models/{name}'"


def codes(*journal: str, role: str = "llama_server") -> list[str]:
    return [finding.code for finding in machine_findings(infra(LLM), [evidence(LLM, role, journal=journal)], HOST)]


@pytest.mark.parametrize(
    "said",
    [
        (CUT,),
        ("0.00.053.307 E gguf_init_from_reader: failed to read key-value pairs", DESCRIPTION),
        ("0.00.032.236 E gguf_init_from_reader: failed to read header", DESCRIPTION),
        ("0.00.051.051 E gguf_init_from_reader: failed to read magic", DESCRIPTION),
        ("0.00.018.124 E gguf_init_from_reader: invalid magic characters: 'not ', expected 'GGUF'", DESCRIPTION),
        ("0.00.017.838 E gguf_init_from_reader: bad GGUF version: 0", DESCRIPTION),
        (NEWER, DESCRIPTION),
    ],
    ids=lambda said: said[0].partition(" E ")[2][:60],
)
@pytest.mark.parametrize("role", ENGINES)
def test_a_damaged_file_is_known_by_the_engines_words(said: tuple[str, ...], role: str) -> None:
    journal = (*said, FAILED, FITTING, *said, FAILED, file_line("m.gguf"), LAST)
    (finding,) = machine_findings(infra(LLM), [evidence(LLM, role, journal=journal)], HOST)
    assert (finding.code, finding.severity, finding.subject) == ("model-damaged", "error", "llm")
    assert finding.evidence[-1] == file_line("m.gguf")
    assert said[0] in finding.evidence
    assert len(finding.evidence) == 3


@pytest.mark.parametrize("role", ENGINES)
def test_a_model_of_a_kind_that_the_engine_does_not_know(role: str) -> None:
    journal = (KIND, FAILED, file_line("m.gguf"), LAST)
    (finding,) = machine_findings(infra(LLM), [evidence(LLM, role, journal=journal)], HOST)
    assert (finding.code, finding.severity) == ("model-unknown", "error")
    assert finding.evidence == (KIND, file_line("m.gguf"))
    assert "'of-tomorrow'" in finding.cause


def test_another_reason_is_told_in_the_engines_own_words() -> None:
    (finding,) = machine_findings(
        infra(LLM), [evidence(LLM, "llama_server", journal=(NO_KEY, FAILED, file_line("m.gguf"), LAST))], HOST
    )
    assert (finding.code, finding.evidence) == ("model-not-loaded", (NO_KEY, file_line("m.gguf")))
    assert finding.cause.endswith("key not found in model: llama.block_count")


def test_a_model_that_is_too_large_for_its_card_is_another_trouble() -> None:
    assert codes(NO_ROOM, FAILED, file_line("m.gguf"), LAST) == ["out-of-vram"]


def test_a_runner_that_ended_as_it_could_not_load_did_not_die_as_it_computed() -> None:
    """Ollama repeats the last error of its runner."""
    ended = 'level=ERROR msg="load failed" error="llama-server process has terminated: {}"'
    words = KIND.partition("llama_model_load: ")[2]
    assert codes(KIND, ended.format(words), role="ollama_server") == ["model-unknown"]
    assert codes(ended.format(words), role="ollama_server") == ["model-unknown"]
    assert codes(KIND, ended.format("signal: killed"), role="ollama_server") == ["model-unknown", "runner-died"]


def test_a_model_that_cannot_be_pulled_is_told_of_once() -> None:
    reason = "pull model manifest: file does not exist"
    pulling = (f"a:1b cannot be pulled: {reason}", "b cannot be pulled: no", f"a:1b cannot be pulled: {reason} yet")
    first, second = machine_findings(infra(LLM), [evidence(LLM, "ollama_server", pulling=pulling)], HOST)
    assert (first.code, first.severity, first.subject) == ("model-not-pulled", "error", "llm")
    assert first.what == "the engine wants the model a:1b and cannot get it"
    assert first.evidence == (pulling[2],)
    assert first.cause.endswith(f"{reason} yet")
    assert first.remedy.startswith("anklume-images models pull a:1b ")
    assert second.evidence == (pulling[1],)


def test_each_of_several_models_is_told_of() -> None:
    assert codes(KIND, file_line("a.gguf"), CUT, file_line("b.gguf"), role="ollama_server") == [
        "model-unknown",
        "model-damaged",
    ]


def test_a_journal_is_asked_for_these_lines() -> None:
    for engine in ENGINES.values():
        for line in (CUT, DESCRIPTION, KIND, NO_KEY, file_line("m.gguf")):
            assert any(pattern.search(line) for pattern in engine.journal.patterns), (engine.role, line)
