"""A Chromium for hosts that have none: Debian's, unpacked like any other tree and run from there."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from anklume_images.architectures import host_architecture
from anklume_images.builder.apt import TreeApt
from anklume_images.builder.trees import ensure_tree, stored_tree
from anklume_images.inputs.debian import DebianRequest, resolve
from anklume_images.inputs.fetch import fetch
from anklume_images.inputs.lockfile import Lock
from anklume_images.specs.keys import Suite
from launcher.trial.browser import find_chromium

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.pipeline import Pipeline

_REQUEST = DebianRequest(
    (Suite(archive="debian", suite="trixie"),), ("chromium-headless-shell", "fonts-dejavu-core"), host_architecture()
)
# It sees its own tree, and of the host what a browser's page and profile need.
_WRAPPER = """#!/bin/sh
exec unshare --mount sh -c '
    root=$1; shift
    for folder in /proc /sys /dev /tmp /var/tmp; do
        mkdir -p "$root$folder"
        mount --rbind "$folder" "$root$folder"
    done
    exec chroot "$root" /usr/bin/chromium-headless-shell "$@"
' sh {root} "$@"
"""


def chromium(pipeline: Pipeline, folder: Path) -> str:
    """The host's Chromium, or a program in `folder` that runs Debian's newest out of the store."""
    if program := find_chromium():
        return program
    root = _unpacked(pipeline)
    program = folder / "chromium"
    program.write_text(_WRAPPER.format(root=shlex.quote(str(root))), encoding="utf-8")
    program.chmod(0o755)
    return str(program)


def _unpacked(pipeline: Pipeline) -> Path:
    store = pipeline.store
    sources = pipeline.sources()
    with pipeline.leased() as lease, store.scratch("chromium") as scratch:
        found = resolve(_REQUEST, sources.bases, TreeApt(pipeline.toolchain().root, scratch), access=sources.access)
        lock = Lock("chromium", _REQUEST.architecture, "", found.epoch, "tree", found.indexes, found.debs)
        lease.add([stored_tree(lock, store.home).folder.name, *(entry.sha256 for entry in lock)])
        fetch(lock, store.blobs, sources)
        return ensure_tree(lock, store.blobs, store.home).root
