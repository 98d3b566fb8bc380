"""What ggml's backends write when a card does not do, and llama.cpp when a model does not: common to all built upon it.

From ggml/src/ of https://github.com/ggml-org/llama.cpp: its CUDA and Vulkan backends. What is said of models was seen
of llama.cpp 0.7.0.
"""

from __future__ import annotations

import re

__all__ = ["BUFFERS", "DAMAGED", "DIED", "LAYERS", "MODEL", "NOT_LOADED", "NO_VRAM", "ON_CPU", "SHORTAGE", "UNKNOWN"]

# src/llama-model-loader.cpp: `llama_model_loader: loaded meta data with 23 key-value pairs and 21 tensors from
# /var/lib/models/tiny.gguf (version GGUF V3 (latest))`, before all else of a model.
MODEL = re.compile(r"loaded meta data with \d+ key-value pairs and \d+ tensors from (.+) \(version ")
# src/llama-model.cpp: `load_tensors: offloaded 31/31 layers to GPU`, `load_tensors:      Vulkan0 model buffer size =
# 87.74 MiB`; the CPU keeps a part of every model, and a buffer of the host's that a card reads is of the host.
LAYERS = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
BUFFERS = re.compile(r"\s(?!CPU|\w*_Host\b)(\w+) model buffer size = +([\d.]+) MiB")
# common/fit.cpp, before it takes fewer layers.
SHORTAGE = re.compile(r"projected to use (\d+) MiB of device memory vs\. (\d+) MiB of free device memory")

ON_CPU = (
    r"ggml_cuda_init: failed to initialize (?:CUDA|ROCm)",  # ROCm's backend is CUDA's source
    r"no (?:CUDA|ROCm)-capable device is detected",
    r"CUDA driver version is insufficient",
    r"offloaded 0/\d+ layers to GPU",
    r"no usable GPU found",
    r"ggml_vulkan: No devices found",
)
NO_VRAM = (
    r"cudaMalloc failed: out of memory",
    r"CUDA error: out of memory",
    r"ErrorOutOfDeviceMemory",
    r"failed to allocate (?:CUDA|Vulkan|ROCm)\d+ buffer",
    r"unable to allocate (?:CUDA|Vulkan|ROCm)\d+ buffer",
)
DIED = (r"(?:CUDA|ROCm|HIP) error(?: \d+)?: \S", r"rocBLAS error: \S")

# `llama_model_load: error loading model: …`, then `common_init_: failed to load model '/models/cut.gguf'`. Whatever is
# wrong with a file's description is said by gguf_init_from_reader, and the error that follows names the file alone.
NOT_LOADED = re.compile(r"error loading model: (.+)|common_init_\w*: failed to load model '")
UNKNOWN = re.compile(r"unknown model architecture: '(.*)'")
DAMAGED = (
    r"gguf_init_from_reader: \S",
    r"data is not within the file bounds, model is corrupted or incomplete",
    r"corrupted model: \d+ tensors expected but \d+ found",
)
