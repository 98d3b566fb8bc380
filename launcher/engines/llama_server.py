"""llama.cpp's server: one GGUF file, OpenAI's interface."""

from __future__ import annotations

import re

from anklume_images.models.layout import as_gguf, gguf_name
from launcher.engines import ggml, openai_api
from launcher.engines.engine import Engine, Journal, StoreModels, any_of
from launcher.engines.open_webui import OPENAI_API
from launcher.engines.probe import answers_at

__all__ = ["ENGINE"]

# common/common.cpp: `common_params_print_info:   - Vulkan0 : NVIDIA H100 … (81559 MiB, 81062 MiB free)`, and so on.
_DEVICES = re.compile(r"common_param\w*: +- ([A-Za-z]+)\d* *: ")

ENGINE = Engine(
    role="llama_server",
    title="llama-server",
    unit="llama-server",
    prefix="llama_server",
    port=8080,
    connection=OPENAI_API,
    chat=openai_api.CHAT,
    checks={
        "llama-health": answers_at("/health"),  # 200 once the model is loaded
        "llama-models": openai_api.models,
        "llama-inference": openai_api.answer,
    },
    journal=Journal(
        on_cpu=any_of(*ggml.ON_CPU),
        devices=_DEVICES,
        no_vram=any_of(*ggml.NO_VRAM),
        died=any_of(*ggml.DIED),
        model=ggml.MODEL,
        layers=ggml.LAYERS,
        shortage=ggml.SHORTAGE,
        buffers=ggml.BUFFERS,
        not_loaded=ggml.NOT_LOADED,
        unknown=ggml.UNKNOWN,
        damaged=any_of(*ggml.DAMAGED),
    ),
    from_store=StoreModels(("llama_server_model",), as_gguf, gguf_name, own_files=(".gguf",)),
    smaller_model="one of 3B parameters in Q4_K_M needs about 2 GiB",
)
