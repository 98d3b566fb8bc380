"""What all tests share: one store of real inputs, trees and images.

The store (`ANKLUME_TEST_STORE`, else a folder in the user's cache) outlives a run: what is in it is named by its
hash, so a second run finds what the first one made. A test that damages things takes a store of its own.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import pytest
from hypothesis import HealthCheck, settings

from anklume_images.architectures import host_architecture
from anklume_images.console import Console
from anklume_images.pipeline import Options, Pipeline
from anklume_images.settings import load_settings
from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.store.store import Store
from tests.support import preloaded

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from anklume_images.builder.trees import Tree

pytest_plugins = ["tests.support.suite"]

# How long an example takes says how busy the host is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@dataclass(frozen=True)
class Cli:
    """Runs `anklume-images` as a process of its own, upon one store; options are those of `preloaded.run`."""

    store: Path

    def __call__(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        result = preloaded.run("anklume_images", ["--store", str(self.store), *arguments], **options)
        assert "Traceback" not in result.stderr, result.stderr
        if check:
            assert result.returncode == 0, result.stdout + result.stderr
        return result

    def json(self, *arguments: str, **options: Any) -> Any:
        return json.loads(self(*arguments, "--json", **options).stdout)


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether every moment is wanted rather than some."""
    return bool(pytestconfig.option.full)


@pytest.fixture(scope="session")
def test_store() -> Path:
    """The folder of the store that all tests share."""
    named = os.environ.get("ANKLUME_TEST_STORE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("anklume-tests")) / "store"


@pytest.fixture(scope="session")
def anklume(test_store: Path) -> Cli:
    """The command, upon the shared store."""
    return Cli(test_store)


@pytest.fixture(scope="session")
def pipeline(test_store: Path) -> Pipeline:
    """The pipeline, upon the shared store and the committed locks."""
    options = Options(host_architecture(), jobs=2, refresh_missing=True)
    return Pipeline(Store(test_store), Catalog.load([builtin_specs()]), load_settings(), options, Console())


@pytest.fixture(scope="session")
def toolchain(pipeline: Pipeline) -> Tree:
    """The unpacked toolchain."""
    return pipeline.toolchain()


@pytest.fixture(scope="session")
def incus_tree(pipeline: Pipeline) -> Callable[[str], Path]:
    """The root of the unpacked tree `incus-6` or `incus-7`."""
    return lambda name: pipeline.tree(name).root


@pytest.fixture(scope="session")
def built(pipeline: Pipeline) -> Callable[[str], Any]:
    """An image of the shared store, built when it is not there."""

    def build(name: str) -> Any:
        (result,) = [result for result in pipeline.build([name]) if result.name == name]
        assert result.image is not None, result.error
        return result.image

    return build
