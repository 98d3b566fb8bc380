"""The machines that the tests of what looks at machines are about."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from launcher.infra.model import Policy
from launcher.private_incus import fake_gpu as fakegpu
from launcher.private_incus.daemon import PrivateIncus
from tests.support.launched import World, machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.pipeline import Pipeline
    from anklume_images.store.images import Image

CARD = fakegpu.cards(1)[0]
GPU = {"gpu0": {"type": "gpu", "gputype": "physical", "pci": CARD.pci}}
MODELS = "/root/.ollama"
BRAIN = machine("brain", "ai-tools", 1, "ollama", gpu=True, roles=("ollama_server",))
LLAMA = machine("llama", "ai-tools", 2, "llama-server", variables={"llama_server_api_key": 'k$y "\\1'})
BLIND = machine("blind", "ai-tools", 3, "ollama", gpu=True)
WEBUI = machine(
    "webui",
    "web",
    1,
    "open-webui",
    variables={
        "open_webui_ollama_url": f"http://{BRAIN.address}:11434",
        "open_webui_openai_url": f"http://{LLAMA.address}:8080/v1",
        "open_webui_openai_key": 'k$y "\\1',
    },
)
IDLE = machine("idle", "web", 2, "debian")
FOREIGN = machine("foreign", "web", 3, "debian")
GHOST = machine("ghost", "web", 4, "debian")
ENGINES_FOR_WEB = (Policy("web", "ai-tools", (11434, 8080)),)


@contextlib.contextmanager
def launched(tree: Path, home: Path, pipeline: Pipeline, images: dict[str, Image]) -> Iterator[World]:
    with PrivateIncus(tree=tree, home=home, fake_gpus=1) as incus, incus.client() as client:
        world = World(incus, client, pipeline, images)
        world.make_domains()
        yield world
