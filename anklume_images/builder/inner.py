"""What runs inside a sandbox: sets up the namespaces, serves the loopback mirror, runs the steps.

Started by `sandbox.py` as a process of its own with a job (JSON) on standard input; answers with one JSON document
on the descriptor that the job names. Nothing here outlives the process: every mount lives in its mount namespace,
every process in its process namespace, whose init it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from anklume_images import linux
from anklume_images.builder.mirror import LoopbackMirror

_PACKAGES = str(Path(__file__).resolve().parents[2])
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}


def main() -> int:
    """Read the job, enter the namespaces, fork their init, and wait for it."""
    text = sys.stdin.read()
    if not text.endswith("}"):
        return 1  # our parent was killed before it had said all
    job: dict[str, Any] = json.loads(text)
    linux.die_with_parent(job["parent"])
    try:
        _enter(job)
    except OSError as error:
        return _tell(job, {"step": "sandbox", "rc": 1, "error": str(error)})
    alive, held = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(held)
        linux.die_with_parent(0)  # our parent is outside this process namespace: its pid reads as 0 here
        if select.select([alive], [], [], 0)[0]:  # it was gone before the request: its end of the pipe is closed
            os._exit(1)
        os._exit(_init(job))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; it kills us if it must
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF


def _enter(job: dict[str, Any]) -> None:
    """Leave the caller's surroundings: its umask and groups, its namespaces."""
    os.umask(0o022)
    with contextlib.suppress(PermissionError):  # in a user namespace it may be forbidden, and then there are none
        os.setgroups([])
    os.setgid(0)
    flags = linux.NEWNS | linux.NEWPID | linux.NEWIPC | linux.NEWUTS
    linux.unshare(flags | (linux.NEWNET if job["sealed"] else 0))
    around = job["around"]
    if around["cpus"]:
        os.sched_setaffinity(0, around["cpus"])
    if around["hostname"]:
        linux.sethostname(around["hostname"])


def _init(job: dict[str, Any]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer: dict[str, Any] = {"step": "sandbox", "rc": 1}
    try:
        _run(job, answer)
    except OSError as error:
        answer["error"] = str(error)
    return _tell(job, answer)


def _tell(job: dict[str, Any], answer: dict[str, Any]) -> int:
    with os.fdopen(job["answer_fd"], "w", encoding="utf-8") as stream:
        json.dump(answer, stream)
    return 0


def _run(job: dict[str, Any], answer: dict[str, Any]) -> None:
    root = _assemble(job)
    linux.sethostname(job["hostname"])
    if job["sealed"]:
        linux.loopback_up()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(Path(job["log"]).open("ab", buffering=0))
        mirror = None
        if job["mirror"]:
            mirror = stack.enter_context(LoopbackMirror(job["mirror"], Path(job["log"]).with_suffix(".mirror.log")))
        for step in job["steps"]:
            answer["step"] = step["name"]
            log.write(f"--- {step['name']}: {' '.join(step['argv'])}\n".encode())
            answer["rc"] = _step(step, root, job, log)
            if answer["rc"]:
                break
        if mirror:
            answer["refused"] = mirror.refused
    if (answer["rc"] or answer.get("refused")) and job["keep"]:
        _keep(root, job)


def _step(step: dict[str, Any], root: Path, job: dict[str, Any], log: Any) -> int:
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(Path(step["output"]).open("wb")) if step["output"] else log
        streams = job["terminal"] if step["terminal"] else (subprocess.DEVNULL, out, log)
        process = subprocess.Popen(
            _confined(root, step["argv"]),
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            env=job["env"],
            start_new_session=step["terminal"],
        )
        return process.wait()


def _confined(root: Path, argv: list[str]) -> list[str]:
    """The command, run in `root` by `step.py`: a fork of this program, whose mirror has threads, could hang."""
    code = f"import sys; sys.path.insert(0, {_PACKAGES!r}); from anklume_images.builder.step import main; main()"
    return [sys.executable, "-I", "-S", "-c", code, str(root), *argv]


def _assemble(job: dict[str, Any]) -> Path:
    """Lay the job's root together: the tree, read-only below a private layer, and the mounts asked for."""
    linux.mount("none", "/", flags=linux.REC | linux.PRIVATE)
    stage = Path(job["stage"])
    linux.mount("tmpfs", stage, "tmpfs", 0, "mode=755")
    for name in ("tree", "upper", "work", "root"):
        (stage / name).mkdir()
    linux.mount(job["root"], stage / "tree", flags=linux.BIND)
    os.chdir(stage)  # layers by relative paths: commas and colons in others would have a meaning
    linux.mount("overlay", "root", "overlay", 0, "lowerdir=tree,upperdir=upper,workdir=work")
    os.chdir("/")
    root = stage / "root"
    for name in ("proc", "sys", "dev", "tmp", "run"):
        (root / name).mkdir(exist_ok=True)
    linux.mount("proc", root / "proc", "proc", linux.NOSUID)
    linux.mount("sysfs", root / "sys", "sysfs", linux.NOSUID | linux.RDONLY)
    linux.mount("tmpfs", root / "tmp", "tmpfs", linux.NOSUID, "mode=1777")
    linux.mount("tmpfs", root / "run", "tmpfs", linux.NOSUID, "mode=755")
    _devices(root / "dev")
    for entry in job["mounts"]:
        _mount(entry, root / entry["target"].lstrip("/"))
    for path, text in job["files"].items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        replaced = file.is_file() and not file.is_symlink()
        mode = stat.S_IMODE(file.stat().st_mode) if replaced else 0o644
        file.unlink(missing_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)
    return root


def _mount(entry: dict[str, Any], target: Path) -> None:
    if entry["source"] is None:
        target.mkdir(parents=True, exist_ok=True)
        linux.mount("tmpfs", target, "tmpfs", 0, f"mode=755,size={entry['size']}")
        return
    if Path(entry["source"]).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    linux.mount(entry["source"], target, flags=linux.BIND)
    if not entry["writable"]:
        linux.mount("none", target, flags=linux.BIND | linux.REMOUNT | linux.RDONLY)


def _devices(dev: Path) -> None:
    linux.mount("tmpfs", dev, "tmpfs", linux.NOSUID, "mode=755")
    previous = os.umask(0)
    for name, (major, minor) in _DEVICES.items():
        os.mknod(dev / name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
    os.umask(previous)
    for name, target in _LINKS.items():
        (dev / name).symlink_to(target)
    for name in ("pts", "shm"):
        (dev / name).mkdir()
    linux.mount("devpts", dev / "pts", "devpts", linux.NOSUID, "newinstance,ptmxmode=0666,mode=620")
    linux.mount("tmpfs", dev / "shm", "tmpfs", linux.NOSUID, "mode=1777")


def _keep(root: Path, job: dict[str, Any]) -> None:
    """Copy the work folder of a failed build out of the namespace, for `enter`."""
    keep = job["keep"]
    target = root / "kept"
    target.mkdir()
    linux.mount(keep["to"], target, flags=linux.BIND)
    source = keep["from"].rstrip("/")
    argv = _confined(root, ["cp", "-ax", f"{source}/.", "/kept/"])
    subprocess.run(argv, env=job["env"], check=False, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
