"""The stand-in's files: its programs are Perl, as every Debian has Perl, and its other libraries are empty words."""

from __future__ import annotations

from pathlib import Path

__all__ = ["LIBRARIES", "VERSION", "members", "write"]

VERSION = "0.32.7-stand-in"
LIBRARIES = (
    "libggml-base.so libggml-cpu-haswell.so llama-quantize llama-server cuda_v12/libggml-cuda.so "
    "cuda_v12/libcublas.so.12 cuda_v13/libggml-cuda.so vulkan/libggml-vulkan.so"
)
_SOURCES = Path(__file__).with_name("program")
_PARTS = ("settings", "json", "http", "devices", "store", "pull", "answers", "main")


def members() -> dict[str, bytes]:
    """What is in the release, by path."""
    whole = "".join((_SOURCES / f"{part}.pl").read_text("utf-8") for part in _PARTS)
    found = {"bin/ollama": whole.replace("VERSION", VERSION, 1).encode()}
    found |= {f"lib/ollama/{name}": f"a stand-in for {name}\n".encode() for name in LIBRARIES.split()}
    return found | {"lib/ollama/llama-quantize": (_SOURCES / "llama-quantize.pl").read_bytes()}


def write(folder: Path) -> Path:
    """Unpack it all into a folder; the path of `ollama`."""
    for name, content in members().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755)
    return folder / "bin/ollama"
