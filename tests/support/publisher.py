"""A store that is signed by one person, at a time that the test chooses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from anklume_images.store.images import Images
from anklume_images.store.store import Store
from anklume_images.trust.contents import signed_contents
from anklume_images.trust.keys import KeyRing
from anklume_images.trust.repository import Repository
from anklume_images.trust.roles import ONE, ROLES
from tests.support.stored_images import put

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.store.images import Image

FIRST = "1.0-00000000000a"
"""The version of the image that a publisher has first."""


class Publisher:
    """A store, `theirs` in a folder if no other one is named, with its keys in that folder."""

    def __init__(self, folder: Path, store: Store | None = None) -> None:
        self.store = store or Store(folder / "theirs")
        self.images = Images(self.store)
        self.ring = KeyRing(folder / "keys")
        self.now = datetime.now(UTC)
        self.repository = Repository(self.store.home, self.ring, lambda: self.now)

    def sign(self, *, renew: bool = False) -> None:
        if not self.repository.exists:
            self.store.create()
            self.repository.init(ONE, {role: [self.ring.make(role)] for role in ROLES})
        outcome = self.repository.publish(lambda: signed_contents(self.store, self.images), renew=renew)
        assert not outcome.wanted

    def put(self, version: str) -> Image:
        return put(self.store, "box", version, inputs=(version.encode(),))
