"""`enter`: a shell in the sandbox of the last failed build, with its files as they were and the loopback mirror up."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anklume_images.builder.rootfs import mirror_entries
from anklume_images.builder.sandbox import ENVIRONMENT, Job, Mount, Step, require_root, run_job
from anklume_images.builder.terminal import terminal
from anklume_images.errors import StoreError
from anklume_images.inputs.from_host import host_package

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.pipeline import Pipeline

__all__ = ["enter"]

# With what distrobuilder mounts there, too; in the sandbox's own mount namespace, so nothing of it stays.
_SHELL = """
if [ "$1" != / ]; then for name in proc sys dev; do mount --rbind "/$name" "$1/$name"; done; fi
exec chroot "$1" /bin/sh -c 'if [ -x /bin/bash ]; then exec bash; else exec sh; fi'
"""
# Where distrobuilder works: on its copy of the base, on the tree it downloads, or nowhere yet.
_ROOTS = ("cache/overlay", "cache/rootfs", "base")


def enter(pipeline: Pipeline, name: str) -> int:
    """Open a shell in the root file system of the failed build, else in the toolchain; returns its exit code."""
    require_root("entering a sandbox")
    kept = pipeline.store.home / "failed" / name
    if not kept.is_dir() or not any(kept.iterdir()):
        raise StoreError(f"no failed build of {name} is kept", where=str(kept), hint=f"anklume-images build {name}")
    prepared = pipeline.prepare(name)
    tree = pipeline.toolchain()
    with pipeline.store.scratch(f"enter-{name}") as scratch, terminal() as streams:
        (scratch / "stage").mkdir()
        job = Job(
            root=str(tree.root),
            stage=str(scratch / "stage"),
            log=str(scratch / "log"),
            steps=(Step("shell", ("/bin/sh", "-ec", _SHELL, "sh", _root(kept)), terminal=True),),
            mounts=(Mount("/build", str(kept), writable=True),),
            files={"/etc/resolv.conf": "", "/etc/hostname": "localhost\n"},
            env=ENVIRONMENT | {"TERM": os.environ.get("TERM", "dumb")},
            terminal=streams,
            mirror=mirror_entries(
                prepared.lock,
                str(prepared.spec.release),
                prepared.epoch,
                pipeline.store.blobs,
                host_package(prepared.spec),
            ),
        )
        return run_job(job).rc


def _root(kept: Path) -> str:
    for place in _ROOTS:
        if (kept / place / "bin").exists():
            return f"/build/{place}"
    return "/"
