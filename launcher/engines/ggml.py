"""What ggml's backends write when a card does not do: common to llama.cpp and what is built upon it.

From ggml/src/ of https://github.com/ggml-org/llama.cpp: its CUDA and Vulkan backends.
"""

from __future__ import annotations

__all__ = ["DIED", "NO_VRAM", "ON_CPU"]

ON_CPU = (
    r"ggml_cuda_init: failed to initialize CUDA",
    r"no CUDA-capable device is detected",
    r"CUDA driver version is insufficient",
    r"offloaded 0/\d+ layers to GPU",
    r"no usable GPU found",
)
NO_VRAM = (
    r"cudaMalloc failed: out of memory",
    r"CUDA error: out of memory",
    r"ErrorOutOfDeviceMemory",
    r"failed to allocate (?:CUDA|Vulkan|ROCm)\d+ buffer",
    r"unable to allocate (?:CUDA|Vulkan|ROCm)\d+ buffer",
)
DIED = (r"(?:CUDA|ROCm|HIP) error(?: \d+)?: \S",)
