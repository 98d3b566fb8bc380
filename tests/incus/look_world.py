"""The machines of tests/support/look_machines.py, launched once in the older Incus and shared by tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from launcher.trial.tiny_gguf import tiny_gguf
from tests.support.look_machines import BLIND, BRAIN, FOREIGN, GPU, IDLE, LLAMA, MODELS, WEBUI, launched
from tests.support.ollama.release import build_images, make_tarball

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anklume_images.builder.trees import Tree
    from anklume_images.pipeline import Pipeline
    from anklume_images.store.images import Image
    from tests.support.launched import World


@pytest.fixture(scope="session")
def look_images(
    built: Callable[[str], Image], pipeline: Pipeline, toolchain: Tree, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Image]:
    """Real images, and Ollama's made of its stand-in."""
    folder = tmp_path_factory.mktemp("stand-in")
    found = {name: built(name) for name in ("debian", "llama-server", "open-webui")}
    return found | build_images(pipeline, make_tarball(toolchain.root, folder), folder, ("ollama",))


@pytest.fixture(scope="session")
def world(
    incus_tree: Callable[[str], Path],
    disk: Path,
    pipeline: Pipeline,
    look_images: dict[str, Image],
) -> Iterator[World]:
    """The older Incus with all machines but the one that is missing."""
    with launched(incus_tree("incus-6"), disk / "look", pipeline, look_images) as world:
        world.create(WEBUI)
        world.start(WEBUI)
        world.create(BRAIN, config={"nvidia.runtime": "true"}, devices=GPU, volume=MODELS)
        world.create(LLAMA, volume="/var/lib/models")
        world.create(BLIND, devices=GPU)
        world.create(IDLE)
        world.create(FOREIGN, ours=False)
        for one in (BRAIN, LLAMA, BLIND):
            world.start(one)
        world.push(LLAMA, tiny_gguf(), "/var/lib/models/tiny.gguf")
        world.give_model(BRAIN, "tiny")
        world.wait(BRAIN, LLAMA, BLIND, WEBUI)
        yield world
