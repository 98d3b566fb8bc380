"""What ggml's backends write when a card does not do: common to llama.cpp and what is built upon it.

From ggml/src/ of https://github.com/ggml-org/llama.cpp: its CUDA and Vulkan backends.
"""

from __future__ import annotations

import re

__all__ = ["BUFFERS", "DIED", "LAYERS", "MODEL", "NO_VRAM", "ON_CPU", "SHORTAGE"]

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
