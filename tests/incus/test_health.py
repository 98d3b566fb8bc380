"""Waiting for machines that do not become healthy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from anklume_images.store.store import Store
from tests.support.tiny_store import put_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.launching import Launcher


def test_a_machine_that_ends_again_is_not_waited_for(tiny: Launcher, tiny_rootfs: Path, tmp_path: Path) -> None:
    ends = ["sh", "-c", "echo that was all > /dev/console; kill -PWR 1; false"]
    put_tiny(Store(tiny.store), tiny_rootfs, tmp_path, 2, healthcheck={"command": ends, "timeout": 300})
    tiny.write("domains: {lab: {machines: {box: {image: tiny}}}}\n")
    begun = time.monotonic()
    said = tiny("apply", code=1).stderr
    assert "box was started and has ended again" in said
    assert time.monotonic() - begun < 60
