"""A store for the examples: real images by hard links to those of the tests' own store, and Ollama's stand-in.

The stand-in is built into it under the name `ollama`, so nothing else ever takes it for the real one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images.console import Console
from anklume_images.pipeline import Pipeline
from anklume_images.settings import load_settings
from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.store.store import Store
from tests.support.ollama.release import build_images, make_tarball

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anklume_images.store.images import Image

__all__ = ["example_store", "linked_store"]


@contextlib.contextmanager
def linked_store(shared: Pipeline, images: Sequence[Image]) -> Iterator[Path]:
    """The folder of a store with these images of the shared one, and its inputs and trees; gone when left."""
    origin = shared.store.home
    with tempfile.TemporaryDirectory(prefix="anklume-test-", dir=origin.parent) as folder:
        home = Path(folder) / "store"
        Store(home).create()
        for name in shared.store.blobs:  # inputs too, or they would be fetched again
            target = home / shared.store.blobs.path(name).relative_to(origin)
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another command may have removed it meanwhile
                os.link(shared.store.blobs.path(name), target)
        for image in images:
            version = f"images/{image.name}/{image.version}"
            shutil.copytree(origin / version, home / version)
            channel = home / f"channels/{image.name}/{image.architecture}/latest"
            channel.parent.mkdir(parents=True)
            channel.write_text(f"{image.version}\n")
        if (origin / "locks").is_dir():
            shutil.copytree(origin / "locks", home / "locks")
        (home / "trees").symlink_to(origin / "trees")
        yield home


@contextlib.contextmanager
def example_store(shared: Pipeline, images: Sequence[Image]) -> Iterator[Path]:
    """The folder of such a store, with these images of the shared one; gone when left."""
    with linked_store(shared, images) as home:
        own = Pipeline(Store(home), Catalog.load([builtin_specs()]), load_settings(), shared.options, Console())
        work = home.parent / "stand-in"
        work.mkdir()
        build_images(own, make_tarball(shared.toolchain().root, work), work, ("ollama",))
        yield home
