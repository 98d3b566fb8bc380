"""Runs steps in a tree, in namespaces of their own; one SIGKILL to the child ends all of it.

A sealed sandbox sees loopback only. What happens inside is in `inner.py`; this side starts it, waits, and turns its
answer into an `Outcome`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anklume_images.errors import HostError

__all__ = ["BuildEnvironment", "Job", "Mount", "Outcome", "Step", "end_all", "require_root", "run_job"]

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


@dataclass(frozen=True)
class BuildEnvironment:
    """The state of the calling process that a sandbox must not let in; `--check` builds again in others.

    `cpus` are the processors that it may run on, all when empty.
    """

    umask: int = 0o022
    locale: str = "C.UTF-8"
    timezone: str = "UTC"
    hostname: str | None = None
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Mount:
    """A file or folder of the host (`source`), or a tmpfs of `size` bytes, at `target` in the sandbox."""

    target: str
    source: str | None = None
    size: int = 0
    writable: bool = False


@dataclass(frozen=True)
class Step:
    """A command, run in the tree.

    `output` is a file of the host for its standard output, else the log; `terminal` gives it the job's terminal.
    """

    name: str
    argv: tuple[str, ...]
    output: str | None = None
    terminal: bool = False


@dataclass(frozen=True)
class Job:
    """What to run and where.

    `root` is a tree, never written to; `stage` an empty folder of the caller's; `mirror` what the loopback mirror
    serves; `keep` (from, to) where a failed run's work folder is copied; `files` texts laid over the tree; `terminal`
    the descriptors that are standard input, output and error of a step with a terminal.
    """

    root: str
    stage: str
    log: str
    steps: tuple[Step, ...]
    sealed: bool = True
    mounts: tuple[Mount, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=lambda: dict(ENVIRONMENT))
    mirror: dict[str, Any] | None = None
    keep: dict[str, str] | None = None
    hostname: str = "localhost"
    around: BuildEnvironment = field(default_factory=BuildEnvironment)
    terminal: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a job ended: the last step that ran, its exit code, and what the mirror had to refuse."""

    step: str
    rc: int
    refused: tuple[str, ...] = ()
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Every step ended with 0 and nothing was asked for that is not locked."""
        return self.rc == 0 and not self.refused and self.error is None


_running: set[subprocess.Popen[bytes]] = set()


def end_all() -> None:
    """Kill every sandbox that this process runs, from whichever thread; their jobs end as failed."""
    for process in list(_running):
        process.kill()


def require_root(what: str) -> None:
    """HostError unless this process may make namespaces and device nodes."""
    if os.geteuid() != 0:
        raise HostError(
            f"{what} needs root: it mounts file systems and makes device nodes in namespaces of its own",
            hint="run it as root (sudo); `render`, `list`, `show`, `verify` and `fetch` work without",
        )


def run_job(job: Job) -> Outcome:
    """Run a job to its end; KeyboardInterrupt and SIGKILL of this process end everything in it."""
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "anklume_images.builder.inner"],
        stdin=subprocess.PIPE,
        pass_fds=[write_end, *job.terminal],
        env={
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": job.around.locale,
            "TZ": job.around.timezone,
        },
        umask=job.around.umask,
        start_new_session=True,
    )
    os.close(write_end)
    _running.add(process)
    document = asdict(job) | {"parent": os.getpid(), "answer_fd": write_end}
    try:
        with process, os.fdopen(read_end, encoding="utf-8") as answer:
            assert process.stdin is not None  # noqa: S101  for the type checker
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(document).encode())
                process.stdin.close()
            text = answer.read()
            process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        _running.discard(process)
    return _outcome(text, Path(job.log))


def _outcome(text: str, log: Path) -> Outcome:
    if not text:
        return Outcome("sandbox", 1, error="it ended without an answer (killed, or out of memory)")
    document = json.loads(text)
    error = document.get("error")
    if error and document["step"] == "sandbox":
        raise HostError(
            f"the sandbox could not be set up: {error}",
            where=str(log),
            hint="the kernel must offer namespaces, overlayfs and tmpfs; inside a container, nesting must be allowed",
        )
    return Outcome(document["step"], document["rc"], tuple(document.get("refused", ())), error)
