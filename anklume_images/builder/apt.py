"""apt out of the toolchain tree, for locking: it sees the network, its own state, and nothing of the host's apt."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images.builder.sandbox import ENVIRONMENT, Job, Mount, Step, run_job
from anklume_images.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TreeApt", "sandbox_network"]

_KEYRINGS = ("usr/share/keyrings/debian-archive-keyring.gpg", "usr/share/keyrings/debian-archive-keyring.pgp")
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy")  # for servers that a mirror sends apt to


class TreeApt:
    """Runs apt of the tree at `tree` in a sandbox that is not sealed; `scratch` is visible at /scratch."""

    mounted = "/scratch"

    def __init__(self, tree: Path, scratch: Path) -> None:
        self.scratch = scratch
        self._tree = tree
        self._mirrors: dict[Path, str] = {}

    def sees(self, folder: Path) -> str:
        """A mirror on this host's disk is laid into the sandbox, for reading."""
        if not folder.is_dir():
            raise LockError("no mirror is there", where=str(folder), hint="mount it, or take it out of the settings")
        return self._mirrors.setdefault(folder, f"/mirrors/{len(self._mirrors)}")

    def keyring(self) -> str:
        """Debian's keyring in the tree."""
        for path in _KEYRINGS:
            if (self._tree / path).exists():
                return f"/{path}"
        raise LockError("the toolchain has no Debian archive keyring", hint="lock the toolchain again")

    def run(self, argv: Sequence[str], config: str) -> subprocess.CompletedProcess[str]:
        """Run with APT_CONFIG=`config`."""
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="run-") as folder:
            place = Path(folder)
            (place / "stage").mkdir()
            job = Job(
                root=str(self._tree),
                stage=str(place / "stage"),
                log=str(place / "log"),
                sealed=False,
                steps=(Step(argv[0], tuple(argv), output=str(place / "out")),),
                mounts=(
                    Mount(self.mounted, str(self.scratch), writable=True),
                    *(Mount(target, str(folder)) for folder, target in self._mirrors.items()),
                ),
                files=sandbox_network(),
                env=ENVIRONMENT
                | {"APT_CONFIG": config}
                | {name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            )
            outcome = run_job(job)
            if outcome.error:
                raise LockError(f"{argv[0]} ended in the sandbox: {outcome.error}")
            return subprocess.CompletedProcess(
                list(argv),
                outcome.rc,
                (place / "out").read_text("utf-8", errors="replace"),
                (place / "log").read_text("utf-8", errors="replace"),
            )


def sandbox_network() -> dict[str, str]:
    """The files that a sandbox which is not sealed needs to find hosts by name, as this host has them."""
    return {path: _text(path) for path in ("/etc/resolv.conf", "/etc/hosts")}


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
