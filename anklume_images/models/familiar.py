"""Which kinds of models llama.cpp runs, and with it both engines: `general.architecture` of a GGUF file.

The names are those in libllama of llama.cpp 0.7.0; a later one knows more, so that another name is told and not
refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anklume_images.models.gguf import Gguf

__all__ = ["why_unfamiliar"]

_NAMES = """
afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bert bitnet bloom chameleon chatglm
codeshell cogvlm cohere2 cohere2moe command-r dbrx deci deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 dots1
dream ernie4_5 ernie4_5-moe eurobert exaone exaone-moe exaone4 falcon falcon-h1 gemma gemma-embedding gemma2 gemma3
gemma3n gemma4 glm-dsa glm4 glm4moe gpt-oss gpt2 gptj gptneox granite granitehybrid granitemoe grok grovemoe
hunyuan-dense hunyuan-moe hunyuan_vl internlm2 jais jais2 jamba jina-bert-v2 jina-bert-v3 kimi-linear laguna lfm2
lfm2moe llada llada-moe llama llama-embed llama4 maincoder mamba mamba2 mellum mimo2 minicpm minicpm3 minimax-m2
minimax-m3 mistral3 mistral4 modern-bert mpt nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert
nomic-bert-moe olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo plamo2 plamo3 plm qwen
qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next qwen3vl qwen3vlmoe refact rnd1 rwkv6 rwkv6qwen2
rwkv7 seed_oss smallthinker smollm3 stablelm starcoder starcoder2 step35 t5 t5encoder wavtokenizer-dec xverse
"""
_ARCHITECTURES = frozenset(_NAMES.split())


def why_unfamiliar(gguf: Gguf) -> str:
    """What to tell of a model that the engines may not run; empty for one that they do."""
    architecture = gguf.text("general.architecture")
    if architecture in _ARCHITECTURES:
        return ""
    shown = "".join(character if character.isprintable() else "?" for character in architecture)[:60]
    kind = f"of the kind '{shown}'" if shown else "of no kind that its file names"
    return f"it is {kind}, which llama.cpp 0.7.0 does not know: an engine may refuse it"
