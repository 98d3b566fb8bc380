"""What a machine's volume holds of a model: one GGUF file, or a manifest and blobs as Ollama keeps them.

What Ollama keeps: server/images.go, types/model/name.go and template/ of https://github.com/ollama/ollama. Of a model
that came out of its registry it is what the registry has; of another it is made of what the GGUF file says, as `ollama
create` would, but that the file itself stays as it is. The template is one of a few forms in Go's language of
templates, chosen by the marks that the file's own (Jinja2) has.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from anklume_images.errors import AnklumeError, StoreError
from anklume_images.models.gguf import read_gguf
from anklume_images.store.models import ModelFile

if TYPE_CHECKING:
    from anklume_images.models.gguf import Gguf
    from anklume_images.models.library import Model
    from anklume_images.store.blobs import Blobs

__all__ = ["as_gguf", "as_manifest", "gguf_name", "manifest_path"]

_DOCKER, _OLLAMA = "application/vnd.docker.", "application/vnd.ollama.image."
_MANIFEST, _CONFIG = f"{_DOCKER}distribution.manifest.v2+json", f"{_DOCKER}container.image.v1+json"
_ROOT = "models"  # below /root/.ollama
_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"

# general.file_type: include/llama.h of https://github.com/ggml-org/llama.cpp, `llama_ftype`.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip


class _Dialect(NamedTuple):
    """How a family of models is spoken to: what its own template has in it, the template for Go, where to stop."""

    mark: str
    template: str
    stop: tuple[str, ...]


_TURN = "{{- range .Messages }}"
_DIALECTS = (
    _Dialect(
        "<|im_start|>",
        f"{_TURN}<|im_start|>{{{{ .Role }}}}\n{{{{ .Content }}}}<|im_end|>\n{{{{ end }}}}<|im_start|>assistant\n",
        ("<|im_start|>", "<|im_end|>"),
    ),
    _Dialect(
        "<|start_header_id|>",
        f"{_TURN}<|start_header_id|>{{{{ .Role }}}}<|end_header_id|>\n\n{{{{ .Content }}}}<|eot_id|>{{{{ end }}}}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    _Dialect(
        "<start_of_turn>",
        f'{_TURN}<start_of_turn>{{{{ if eq .Role "assistant" }}}}model{{{{ else }}}}user{{{{ end }}}}\n'
        "{{ .Content }}<end_of_turn>\n{{ end }}<start_of_turn>model\n",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    _Dialect(
        "[INST]",
        f'{_TURN}{{{{ if eq .Role "assistant" }}}} {{{{ .Content }}}}</s>'
        "{{ else }}[INST] {{ .Content }} [/INST]{{ end }}{{ end }}",
        ("[INST]", "[/INST]"),
    ),
    _Dialect(
        "<|end|>",
        f"{_TURN}<|{{{{ .Role }}}}|>\n{{{{ .Content }}}}<|end|>\n{{{{ end }}}}<|assistant|>\n",
        ("<|end|>", "<|user|>", "<|system|>", "<|assistant|>"),
    ),
    _Dialect(
        "<|user|>",
        f"{_TURN}<|{{{{ .Role }}}}|>\n{{{{ .Content }}}}</s>\n{{{{ end }}}}<|assistant|>\n",
        ("<|user|>", "<|system|>", "<|assistant|>", "</s>"),
    ),
)


def gguf_name(name: str) -> str:
    """What the file of a model is called in a volume of such files."""
    return f"{re.sub('[^A-Za-z0-9._-]', '-', name)}.gguf"


def as_gguf(model: Model, _name: str, _blobs: Blobs) -> tuple[ModelFile, ...]:
    """The one file, for a server that takes such."""
    return (ModelFile(gguf_name(model.name), model.sha256, model.size),)


def as_manifest(model: Model, name: str, blobs: Blobs) -> tuple[ModelFile, ...]:
    """The blobs and then the manifest by which they are a model called `name`; StoreError where one is missing."""
    record = model.record
    if record and record.manifest:
        sha256 = record.manifest.sha256
        try:
            content = blobs.path(sha256).read_bytes()
        except OSError as error:
            raise StoreError(
                f"the manifest of {model.name} cannot be read: {error.strerror}", hint=_again(model)
            ) from None
        layers = [_blob(digest, size) for digest, size in record.blobs().items() if digest != sha256]
    else:
        content, layers = _made(model, read_gguf(blobs.path(model.sha256)))
    path = f"{_ROOT}/manifests/{manifest_path(name)}"
    return (*layers, ModelFile(path, hashlib.sha256(content).hexdigest(), len(content), content))


def _again(model: Model) -> str:
    return f"pull it again: anklume-images models pull {model.name}"


def manifest_path(name: str) -> str:
    """Where the manifest of a model is, below the folder of manifests: host, namespace, model, tag."""
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        head, tag = name, _TAG
    parts = head.split("/")
    if len(parts) > 3:
        raise AnklumeError(
            f"Ollama has no models of names like '{name}'", hint="[[HOST/]NAMESPACE/]MODEL[:TAG] is what it takes"
        )
    host, namespace, model = [_HOST, _NAMESPACE][: 3 - len(parts)] + parts
    return f"{host}/{namespace}/{model}/{tag}"


def _made(model: Model, gguf: Gguf) -> tuple[bytes, list[ModelFile]]:
    """A manifest of one's own for a GGUF file, and the blobs that it names."""
    architecture = gguf.text("general.architecture")
    config = {
        "model_format": "gguf",
        "model_family": architecture,
        "model_families": [architecture],
        "model_type": _parameters(gguf.parameters),
        "file_type": _FILE_TYPES.get(gguf.number("general.file_type") or 0, "unknown"),
        "architecture": "amd64",  # of the machine that made it; it says nothing about the model
        "os": "linux",
    }
    files = [(f"{_OLLAMA}model", _blob(model.sha256, model.size))]
    if dialect := _dialect(gguf.text("tokenizer.chat_template")):
        files.append((f"{_OLLAMA}template", _small(dialect.template.encode())))
        files.append((f"{_OLLAMA}params", _small(_compact({"stop": list(dialect.stop)}))))
    kept = _small(_compact(config))
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _entry(_CONFIG, kept),
        "layers": [_entry(media, file) for media, file in files],
    }
    return _compact(manifest), [file for _, file in files] + [kept]


def _dialect(template: str) -> _Dialect | None:
    """How a model wants to be spoken to; None where its file says nothing, or nothing that is known here."""
    return next((dialect for dialect in _DIALECTS if dialect.mark in template), None)


def _blob(sha256: str, size: int, content: bytes | None = None) -> ModelFile:
    return ModelFile(f"{_ROOT}/blobs/sha256-{sha256}", sha256, size, content)


def _small(content: bytes) -> ModelFile:
    return _blob(hashlib.sha256(content).hexdigest(), len(content), content)


def _entry(media: str, file: ModelFile) -> dict[str, Any]:
    return {"mediaType": media, "digest": f"sha256:{file.sha256}", "size": file.size}


def _compact(document: Any) -> bytes:
    """JSON as Go's encoder writes it, with a line's end behind it."""
    return (json.dumps(document, separators=(",", ":"), ensure_ascii=False) + "\n").encode()


def _parameters(count: int) -> str:
    """How many there are as Ollama says it: 134.52M, 1.2B."""
    for unit, digits, letter in ((10**9, 1, "B"), (10**6, 2, "M"), (10**3, 0, "K")):
        if count >= unit:
            number = count / unit
            return f"{number:.0f}{letter}" if number == int(number) else f"{number:.{digits}f}{letter}"
    return str(count)
