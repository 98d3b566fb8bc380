"""What the tests of infra.yml share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anklume_images.specs.catalog import Catalog, builtin_specs
from launcher.infra.host import HostFacts
from launcher.infra.load import check_infra

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from launcher.infra.load import Checked


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog.load([builtin_specs()])


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes files below a folder of the test's own."""

    def put(**files: str) -> Path:
        for name, text in files.items():
            file = tmp_path / name.replace("__", "/").replace("_yml", ".yml").replace("_yaml", ".yaml")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return put


@pytest.fixture
def check(catalog: Catalog) -> Callable[..., Checked]:
    """Checks a file as a host does of which nothing is known."""

    def run(path: Path, **options: object) -> Checked:
        return check_infra(path, catalog, **{"host": HostFacts(), **options})

    return run
