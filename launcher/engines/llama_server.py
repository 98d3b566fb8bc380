"""llama.cpp's server: one GGUF file, OpenAI's interface."""

from __future__ import annotations

from anklume_images.models.layout import as_gguf, gguf_name
from launcher.engines import ggml, openai_api
from launcher.engines.engine import Engine, Journal, StoreModels, any_of
from launcher.engines.open_webui import OPENAI_API
from launcher.engines.probe import answers_at

__all__ = ["ENGINE"]

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
        no_vram=any_of(*ggml.NO_VRAM),
        died=any_of(*ggml.DIED),
        layers=ggml.LAYERS,
        buffers=ggml.BUFFERS,
    ),
    from_store=StoreModels(("llama_server_model",), as_gguf, gguf_name, own_files=(".gguf",)),
    smaller_model="one of 3B parameters in Q4_K_M needs about 2 GiB",
)
