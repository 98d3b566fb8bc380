"""What a volume holds of a model: one file, or what Ollama's own `create` writes, as that was seen."""

from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.errors import AnklumeError, StoreError
from anklume_images.models.layout import as_gguf, as_manifest, gguf_name, manifest_path
from anklume_images.models.library import Model
from anklume_images.store.images import StoredFile
from anklume_images.store.models import ModelRecord
from anklume_images.store.store import Store
from launcher.trial.tiny_gguf import STRING, UINT32, _text
from tests.support.blobs import put_blob

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.store.models import ModelFile

# SmolLM2-135M-Instruct in Q4_1 as `ollama create` of 0.33.0-rc2 wrote it, but for the digests.
SEEN_CONFIG = (
    '{"model_format":"gguf","model_family":"llama","model_families":["llama"],"model_type":"134.52M",'
    '"file_type":"Q4_1","architecture":"amd64","os":"linux"}'
)
SEEN_PARAMS = '{"stop":["<|im_start|>","<|im_end|>"]}'
SEEN_SIZES = {"config": 152, "template": 102}
CHATML = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'}}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.create()
    return store


def model_of(store: Store, content: bytes, *, whole: int | None = None, name: str = "m") -> Model:
    """A model with this file; `whole` is how long it claims to be, with a hole at its end."""
    sha256 = put_blob(store.blobs, content)
    if whole:
        os.truncate(store.blobs.path(sha256), whole)
    return Model(name, "", "", "", sha256, whole or len(content), present=True)


def gguf(template: str, *, parameters: int = 134_515_008, file_type: int = 3) -> bytes:
    """A description with one tensor of so many weights, which are left out."""
    content = b"GGUF" + struct.pack("<IQQ", 3, 1, 3)
    content += _text("general.architecture") + struct.pack("<I", STRING) + _text("llama")
    content += _text("general.file_type") + struct.pack("<II", UINT32, file_type)
    content += _text("tokenizer.chat_template") + struct.pack("<I", STRING) + _text(template)
    return content + _text("t") + struct.pack("<IQIQ", 1, parameters, 24, 0)  # 24: a byte for each


def smollm(store: Store, template: str = CHATML, **options: Any) -> Model:
    content = gguf(template, **options)
    return model_of(store, content, whole=len(content) + 32 + options.get("parameters", 134_515_008))


def manifest_of(files: tuple[ModelFile, ...]) -> dict[str, Any]:
    document = json.loads(files[-1].content or b"")
    assert isinstance(document, dict)
    return document


def test_it_is_what_ollama_writes(store: Store) -> None:
    model = smollm(store)
    files = as_manifest(model, "smollm2", store.blobs)
    assert files[-1].path == "models/manifests/registry.ollama.ai/library/smollm2/latest"
    manifest = manifest_of(files)
    assert list(manifest) == ["schemaVersion", "mediaType", "config", "layers"]
    assert (manifest["schemaVersion"], manifest["mediaType"]) == (
        2,
        "application/vnd.docker.distribution.manifest.v2+json",
    )
    assert manifest["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    kinds = [layer["mediaType"] for layer in manifest["layers"]]
    assert kinds == [f"application/vnd.ollama.image.{kind}" for kind in ("model", "template", "params")]
    contents = {f"sha256:{file.sha256}": file for file in files}
    whole, template, params = (contents[layer["digest"]] for layer in manifest["layers"])
    assert (whole.sha256, whole.content, whole.size) == (model.sha256, None, model.size)
    assert (contents[manifest["config"]["digest"]].content or b"").decode() == SEEN_CONFIG + "\n"
    assert (params.content or b"").decode() == SEEN_PARAMS + "\n"
    assert {"config": manifest["config"]["size"], "template": template.size} == SEEN_SIZES
    assert all(file.path == f"models/blobs/sha256-{file.sha256}" for file in files[:-1])


@pytest.mark.parametrize(
    ("template", "stop"),
    [
        ("<|start_header_id|>user<|end_header_id|>{{ x }}<|eot_id|>", "<|eot_id|>"),
        ("<start_of_turn>user", "<end_of_turn>"),
        ("[INST] {{ x }} [/INST]", "[/INST]"),
        ("<|user|>\n{{ x }}<|end|>", "<|end|>"),
        ("<|user|>\n{{ x }}</s>", "</s>"),
    ],
)
def test_other_ways_of_speaking_are_known_by_their_marks(store: Store, template: str, stop: str) -> None:
    files = as_manifest(smollm(store, template, parameters=1000), "m", store.blobs)
    texts = [file.content.decode() for file in files if file.content]
    written = next(text for text in texts if text.startswith("{{- range .Messages }}"))
    # Go would refuse what opens and does not end.
    assert written.count("{{") == written.count("}}")
    assert written.count("{{- range") + written.count("{{ if") == written.count("{{ end }}")
    assert any(json.loads(text)["stop"].count(stop) for text in texts if text.startswith('{"stop"'))


@pytest.mark.parametrize("template", ["", "{{ something else }}"])
def test_without_a_known_one_there_is_no_template(store: Store, template: str) -> None:
    manifest = manifest_of(as_manifest(smollm(store, template, parameters=1000), "m", store.blobs))
    assert [layer["mediaType"].rpartition(".")[2] for layer in manifest["layers"]] == ["model"]


@pytest.mark.parametrize(
    ("count", "said"), [(999, "999"), (128_000, "128K"), (1_235_814_432, "1.2B"), (7_000_000_000, "7B")]
)
def test_numbers_of_parameters_are_said_as_ollama_says_them(store: Store, count: int, said: str) -> None:
    files = as_manifest(smollm(store, parameters=count), "m", store.blobs)
    configs = [json.loads(file.content) for file in files if file.content and b"model_format" in file.content]
    assert [config["model_type"] for config in configs] == [said]


def test_what_a_registry_had_is_left_as_it_was(store: Store) -> None:
    layers = [StoredFile(put_blob(store.blobs, text), len(text)) for text in (b"{}", b"a template")]
    content = b'{"schemaVersion":2}'
    manifest = StoredFile(put_blob(store.blobs, content), len(content))
    record = ModelRecord("llama3.2:3b", "a" * 64, 7, manifest=manifest, layers=tuple(layers))
    model = Model(record.name, "", "", "", record.sha256, 7, present=True, record=record)
    files = as_manifest(model, "llama3.2:3b", store.blobs)
    assert [(file.path, file.content) for file in files] == [
        ("models/blobs/sha256-" + "a" * 64, None),
        *((f"models/blobs/sha256-{layer.sha256}", None) for layer in layers),
        ("models/manifests/registry.ollama.ai/library/llama3.2/3b", content),
    ]
    store.blobs.remove(manifest.sha256)
    with pytest.raises(StoreError, match="manifest"):
        as_manifest(model, "llama3.2:3b", store.blobs)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("m", "registry.ollama.ai/library/m/latest"),
        ("m:1b", "registry.ollama.ai/library/m/1b"),
        ("user/m", "registry.ollama.ai/user/m/latest"),
        ("hf.co/org/repo:Q4", "hf.co/org/repo/Q4"),
        ("127.0.0.1:5000/org/m", "127.0.0.1:5000/org/m/latest"),
    ],
)
def test_manifests_lie_by_host_namespace_model_and_tag(name: str, path: str) -> None:
    assert manifest_path(name) == path


def test_names_with_more_parts_are_none_of_ollamas() -> None:
    with pytest.raises(AnklumeError):
        manifest_path("host/a/b/c")


def test_one_file_for_a_server_of_such(store: Store) -> None:
    model = model_of(store, b"x", name="user/m:1b")
    (file,) = as_gguf(model, "user/m:1b", store.blobs)
    assert (file.path, file.sha256, file.size) == ("user-m-1b.gguf", model.sha256, 1)
    assert gguf_name("smollm2-135m") == "smollm2-135m.gguf"
