"""What a registry that speaks Ollama's protocol answers, and a hub of repositories: both served by a FaultyMirror."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.faulty_mirror import Fault

if TYPE_CHECKING:
    from tests.support.faulty_mirror import FaultyMirror

CONFIG = b'{"model_format":"gguf"}'
LICENSE = b"\n  Apache License\n  Version 2.0\n"
TEMPLATE = b"{{ .Prompt }}"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Registry:
    """A registry whose blobs are at another address, where it sends its clients, as Ollama's own does."""

    server: FaultyMirror

    @property
    def host(self) -> str:
        return self.server.url.partition("://")[2]

    def blob_path(self, content: bytes, name: str = "library/m") -> str:
        return f"/v2/{name}/blobs/sha256:{sha256(content)}"

    def data_path(self, content: bytes) -> str:
        return f"/data/{sha256(content)}"

    def publish(self, model: bytes, *, name: str = "library/m", tag: str = "1b", **changes: Any) -> bytes:
        """A model of these bytes, with a licence and a template; `changes` are of its manifest, which is returned."""
        layers = [("model", model), ("license", LICENSE), ("template", TEMPLATE)]
        for content in (CONFIG, *(content for _, content in layers)):
            self.server.serve(self.data_path(content), content)
            redirect = Fault(status=307, headers={"Location": self.server.url + self.data_path(content)})
            self.server.fault(self.blob_path(content, name), always=redirect)
        entries = [_entry(f"application/vnd.ollama.image.{kind}", content) for kind, content in layers]
        config = _entry("application/vnd.docker.container.image.v1+json", CONFIG)
        document = {"schemaVersion": 2, "config": config, "layers": entries} | changes
        manifest = json.dumps(document).encode()
        self.server.serve(f"/v2/{name}/manifests/{tag}", manifest)
        return manifest


def _entry(media: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media, "digest": f"sha256:{sha256(content)}", "size": len(content)}


def publish_at_hub(server: FaultyMirror, content: bytes, path: str, **headers: str) -> None:
    """A large file of a repository: its address tells hash and size, and leads to where the bytes are."""
    server.serve(f"/cdn/{path}", content)
    told = {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": "c" * 40}
    server.fault(
        f"/{path}", always=Fault(status=302, headers={"Location": f"{server.url}/cdn/{path}"} | told | headers)
    )
