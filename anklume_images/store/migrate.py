"""Older stores become stores of today, in place, when something is first written to them.

Each step may be killed at any moment and is done again by the next command; the store's number moves last. What a
program of the older schema reads stays as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.files import write_atomic
from anklume_images.store.channel_log import ChannelLog
from anklume_images.store.sums import SUMS, write_sums

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SCHEMA", "migrate"]

SCHEMA = 2


def migrate(home: Path, schema: int) -> None:
    """Bring the store at `home` from an older schema to this one; the caller holds `gc.lock` exclusively."""
    if schema < 2:
        _record_what_is_there(home)
    write_atomic(home / "schema", f"{SCHEMA}\n".encode())


def _record_what_is_there(home: Path) -> None:
    """2: images' documents have their hashes, moves of channels are logged from here on."""
    for manifest in sorted(home.glob("images/*/*/*/manifest.json")):
        if not (manifest.parent / SUMS).exists():
            write_sums(manifest.parent)
    ChannelLog(home).begin(command="migration", why="the store became one of schema 2")
