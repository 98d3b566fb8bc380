"""What holds for all unit tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from anklume_images.store.store import Store
from anklume_images.trust.origins import Origins
from anklume_images.trust.place import Place
from tests.support.publisher import FIRST, Publisher

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug of a test: a signed store takes 0.02 s then, in place of 0.3 s."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of the test are asked directly, whatever proxy the host has."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def theirs(tmp_path: Path) -> Publisher:
    """A signed store with one image."""
    publisher = Publisher(tmp_path)
    publisher.put(FIRST)
    publisher.sign()
    return publisher


@pytest.fixture
def mine(tmp_path: Path) -> Store:
    """An empty store."""
    store = Store(tmp_path / "mine")
    store.create()
    return store


@pytest.fixture
def origins(theirs: Publisher, mine: Store) -> Origins:
    """Those of the empty store, which believes the other one."""
    found = Origins(mine)
    found.accept(Place(str(theirs.store.home)), theirs.repository.identity, "me@here")
    return found
