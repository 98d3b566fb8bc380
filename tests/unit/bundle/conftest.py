"""A signed store, a bundle of it, and the host that it is for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anklume_images.bundle.gather import gather
from anklume_images.bundle.parts import PartsSink
from anklume_images.bundle.writer import write_bundle
from anklume_images.store.store import Store
from anklume_images.trust.origins import Origins
from anklume_images.trust.place import Place
from tests.support.publisher import Publisher
from tests.support.stored_images import put_model
from tests.unit.bundle.bundling import FIRST, MODEL, QUIET, Far, everything, make

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def theirs(tmp_path: Path) -> Publisher:
    publisher = Publisher(tmp_path)
    publisher.put(FIRST)
    put_model(publisher.store, "org/toy:1b", MODEL, license="MIT")
    publisher.sign()
    return publisher


@pytest.fixture
def far(tmp_path: Path) -> Far:
    store = Store(tmp_path / "far")
    store.create()
    return Far(store)


@pytest.fixture
def site(theirs: Publisher, tmp_path: Path) -> Path:
    make(theirs, tmp_path / "site.anklume")
    return tmp_path / "site.anklume"


@pytest.fixture
def believing(theirs: Publisher, far: Far) -> Far:
    """Which has accepted the store before."""
    Origins(far.store).accept(Place(str(theirs.store.home)), theirs.repository.identity, "me@here")
    return far


@pytest.fixture
def parts(theirs: Publisher, tmp_path: Path) -> list[Path]:
    sink = PartsSink(tmp_path / "site.anklume", 20_000)
    with theirs.store.lease() as lease:
        write_bundle(gather(theirs.store, theirs.repository, everything(theirs), lease), sink, QUIET)
    return sink.written
