"""The stand-in as a process on loopback: its log, requests to it, and models in its store."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.ollama import program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["CARD", "NVIDIA", "SECONDS", "Answer", "StandIn", "model_files"]

SECONDS = 20.0
CARD = ("dev/dri/renderD128", "usr/lib/libvulkan.so.1", "usr/share/vulkan/icd.d/radeon_icd.x86_64.json")
NVIDIA = ("dev/nvidia0", "usr/lib/libcuda.so.1")
_MEDIA = "application/vnd.ollama.image"
_CONFIG = {
    "model_format": "gguf",
    "model_family": "llama",
    "model_families": ["llama"],
    "model_type": "134.52M",
    "file_type": "Q4_1",
    "architecture": "amd64",
    "os": "linux",
}


@dataclass(frozen=True)
class Answer:
    """An answer over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def lines(self) -> list[Any]:
        """An answer that is a JSON document a line."""
        return [json.loads(line) for line in self.body.splitlines() if line.strip()]


@dataclass
class StandIn:
    """The stand-in, unpacked in a folder, with a home of its own; `root` is where it looks for a host's devices."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    port: int = 0

    def __post_init__(self) -> None:
        self.home, self.root, self.log_file = self.folder / "home", self.folder / "root", self.folder / "log"
        for folder in (self.home, self.root):
            folder.mkdir(parents=True)
        self.program = program.write(self.folder / "tree")
        self.models = self.home / ".ollama/models"
        self.libraries = self.folder / "tree/lib/ollama"

    def variables(self, **changed: str) -> dict[str, str]:
        found = {"HOME": str(self.home), "PATH": os.environ["PATH"], "STAND_IN_ROOT": str(self.root)}
        return found | {"OLLAMA_HOST": "127.0.0.1:0"} | self.environment | changed

    def command(self, *words: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run it as a command."""
        environment = self.variables(OLLAMA_HOST=f"127.0.0.1:{self.port}") | changed
        argv = [str(self.program), *words]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)

    def start(self, **changed: str) -> None:
        """Serve, with a log that begins anew, and wait until it has told of its devices."""
        with self.log_file.open("wb") as log:
            argv, environment = [str(self.program), "serve"], self.variables(**changed)
            self.process = subprocess.Popen(argv, env=environment, stderr=log, start_new_session=True)
        self.until("vram-based default context")
        found = re.search(r'msg="Listening on (?:\S*):(\d+) ', self.log())
        assert found, self.log()
        self.port = int(found[1])

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL if kill else signal.SIGTERM)
            self.process.wait(SECONDS)
            self.process = None

    @contextlib.contextmanager
    def serving(self, **changed: str) -> Iterator[StandIn]:
        self.start(**changed)
        try:
            yield self
        finally:
            self.stop()

    def log(self) -> str:
        return self.log_file.read_text()

    def until(self, text: str) -> str:
        """The log, once this is in it."""
        end = time.monotonic() + SECONDS
        while text not in (found := self.log()):
            assert time.monotonic() < end, found
            assert self.process is None or self.process.poll() is None, found
            time.sleep(0.01)
        return found

    def ask(self, path: str, body: Any = None, *, method: str = "", host: str = "127.0.0.1", **headers: str) -> Answer:
        """A request; a body is sent as JSON unless it is bytes."""
        connection = http.client.HTTPConnection(host, self.port, timeout=SECONDS)
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, sent, headers)
            reply = connection.getresponse()
            return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def names(self) -> list[str]:
        return [model["name"] for model in self.ask("/api/tags").json()["models"]]

    def put(self, *paths: str) -> None:
        """Files of its host: nodes, drivers, libraries."""
        for path in paths:
            file = self.root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    def give(self, name: str, **parts: Any) -> None:
        """Put a model into its store, as one brings a folder."""
        for path, content in model_files(name, **parts).items():
            file = self.models / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def model_files(
    name: str, *, model: bytes = b"GGUF of a stand-in", template: bool = True, registry: str = "registry.ollama.ai"
) -> dict[str, bytes]:
    """The files of a model in the store's layout, by their paths below `models`; a base model has no template."""
    blobs: dict[str, bytes] = {}

    def described(kind: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256-{digest}"] = content
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

    layers = [described(f"{_MEDIA}.model", model)]
    if template:
        layers.append(described(f"{_MEDIA}.template", b"{{ .Prompt }}"))
        layers.append(described(f"{_MEDIA}.params", b'{"stop":["<|im_end|>"]}'))
    config = json.dumps(_CONFIG, separators=(",", ":")).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": described("application/vnd.docker.container.image.v1+json", config),
        "layers": layers,
    }
    model_name, _, tag = name.partition(":")
    return blobs | {f"manifests/{registry}/library/{model_name}/{tag or 'latest'}": json.dumps(manifest).encode()}
