"""The commands that look at machines read the specs once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.console import Console
from anklume_images.specs.catalog import Catalog
from launcher.cli.machines import image_lookup
from launcher.cli.session import Session

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

FILE = "project_name: p\nglobal: {addressing: {}}\ndomains: {lab: {machines: {a: {}}}}\n"


def test_the_specs_are_read_once_for_the_file_and_for_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, real = [], Catalog.load

    def load(*arguments: object, **options: object) -> Catalog:
        loaded.append(real(*arguments, **options))  # type: ignore[arg-type]
        return loaded[-1]

    monkeypatch.setattr(Catalog, "load", load)
    (tmp_path / "infra.yml").write_text(FILE)
    session = Session((), tmp_path / "store", Console())
    session.infra(tmp_path / "infra.yml")
    image_lookup(session)
    assert len(loaded) == 1
