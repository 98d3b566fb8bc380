"""Two mirrors that can fail in every way, and a store."""

from __future__ import annotations

import pytest

from anklume_images.store.blobs import Blobs
from tests.support.faulty_mirror import FaultyMirror


@pytest.fixture(autouse=True)
def _asked_directly(no_proxy):
    pass


@pytest.fixture
def mirror():
    with FaultyMirror() as server:
        yield server


@pytest.fixture
def other():
    with FaultyMirror() as server:
        yield server


@pytest.fixture
def blobs(tmp_path):
    return Blobs(tmp_path)
