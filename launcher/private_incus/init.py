"""Pid 1 of a private Incus: makes its root file system, network and storage, starts incusd, and reaps.

The root is an overlay: the tree below (never written to), a tmpfs above. Everything is imported before the root
changes; Python itself is not in the tree.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from anklume_images import linux
from anklume_images.errors import AnklumeError, HostError
from launcher.private_incus import fake_gpu as fakegpu
from launcher.private_incus import storage
from launcher.private_incus.state_directory import cgroup_of

__all__ = ["INCUSD", "STATE", "Spec", "main"]

STATE = "/var/lib/incus"
INCUSD = "usr/libexec/incus/incusd"
HOME = "/srv/trial"  # the folder on the host's disk, inside
_OPEN_FILES = 1 << 20  # what Incus' own service unit asks for
ENVIRONMENT = {
    "PATH": "/usr/libexec/incus:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "INCUS_DIR": STATE,
    # Profiles would be loaded into the host's kernel and stay there.
    "INCUS_SECURITY_APPARMOR": "false",
    # Else the daemon asks the network for a list.
    "INCUS_SKIP_INSTANCE_TYPES": "true",
}


@dataclass(frozen=True)
class Spec:
    """What to start: paths of the host, sizes in bytes; `storage` is auto, btrfs or dir.

    `borrowed` are files and folders of the host that are seen inside, read-only, by their paths there.
    """

    tree: str
    home: str
    hostname: str
    storage: str
    pool_size: int
    fake_gpus: int
    borrowed: dict[str, str]


def main(spec: Spec, *, supervisor_alive: int, status: int) -> NoReturn:
    """Become the private Incus; `supervisor_alive` is a pipe whose other end only the supervisor holds."""
    code = 1
    try:
        _die_with_supervisor(supervisor_alive)
        driver = _prepare(spec)
        daemon = _start_daemon()
        os.write(status, json.dumps({"up": driver}).encode() + b"\n")
        os.close(status)
        code = _reap_until(daemon)
    except AnklumeError as error:
        _report(status, str(error), error.hint)
    except OSError as error:
        _report(status, str(error), None)
    except BaseException:  # noqa: BLE001 - nothing above this frame can show it
        traceback.print_exc()
        _report(status, f"unexpected: {traceback.format_exc()}", None)
    finally:
        os._exit(code)


def _die_with_supervisor(alive: int) -> None:
    linux.die_with_parent(0)  # the supervisor is outside this pid namespace: getppid() is 0
    if select.select([alive], [], [], 0)[0]:  # it ended before the line above
        os._exit(1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _report(status: int, message: str, hint: str | None) -> None:
    with contextlib.suppress(OSError):
        os.write(status, json.dumps({"error": message, "hint": hint}).encode() + b"\n")


def _prepare(spec: Spec) -> str:
    os.umask(0o022)
    own_cgroup = _join_cgroup(Path(spec.home))
    namespaces = linux.NEWNS | linux.NEWNET | linux.NEWUTS | linux.NEWIPC
    linux.unshare(namespaces | (linux.NEWCGROUP if own_cgroup else 0))
    linux.mount("none", "/", flags=linux.REC | linux.PRIVATE)
    root = _mount_root(Path(spec.tree), Path(spec.home))
    _mount_kernel(root, leaf=own_cgroup)
    _write_etc(root / "etc", spec.hostname)
    for inside, outside in spec.borrowed.items():
        _borrow(root, inside, Path(outside))
    if spec.fake_gpus:
        fakegpu.install(root, spec.fake_gpus)
    linux.pivot_root(root)
    linux.sethostname(spec.hostname)
    linux.loopback_up()
    _raise_limits()
    return storage.prepare(spec.storage, Path(HOME) / f"{Path(spec.home).name}.img", spec.pool_size, ENVIRONMENT)


def _join_cgroup(home: Path) -> bool:
    """Enter a cgroup of one's own, so that those of the containers vanish with it; False where that cannot be."""
    cgroup = cgroup_of(home)
    if cgroup is None:
        return False
    try:
        cgroup.mkdir(exist_ok=True)
        (cgroup / "cgroup.procs").write_text("0", encoding="utf-8")
    except OSError:
        return False
    return True


def _mount_root(tree: Path, home: Path) -> Path:
    stage = home / "mnt"
    linux.mount("trial", stage, "tmpfs", data="mode=755")
    for name in ("lower", "upper", "work", "root"):
        (stage / name).mkdir()
    linux.mount(tree, stage / "lower", flags=linux.BIND)
    linux.mount("none", stage / "lower", flags=linux.BIND | linux.REMOUNT | linux.RDONLY)
    os.chdir(stage)  # relative paths: commas and colons of the real ones would end the option
    try:
        linux.mount("trial", "root", "overlay", data="lowerdir=lower,upperdir=upper,workdir=work")
    except OSError as error:
        raise HostError(f"no overlay file system: {error}", hint="load the kernel's overlay module") from None
    root = stage / "root"
    for inside, outside in ((STATE, home / "state"), (HOME, home)):
        place = root / inside[1:]
        place.mkdir(parents=True, exist_ok=True)
        linux.mount(outside, place, flags=linux.BIND)
    return root


def _borrow(root: Path, inside: str, outside: Path) -> None:
    place = root / inside.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    if outside.is_dir():
        place.mkdir(exist_ok=True)
    else:
        place.touch()
    linux.mount(outside, place, flags=linux.BIND)
    linux.mount("none", place, flags=linux.BIND | linux.REMOUNT | linux.RDONLY)


def _mount_kernel(root: Path, *, leaf: bool) -> None:
    for name in ("proc", "sys", "dev", "run", "tmp"):
        (root / name).mkdir(exist_ok=True)
    linux.mount("proc", root / "proc", "proc")
    linux.mount("sysfs", root / "sys", "sysfs")
    linux.mount("cgroup2", root / "sys/fs/cgroup", "cgroup2")
    linux.mount("/dev", root / "dev", flags=linux.BIND | linux.REC)
    linux.mount("tmpfs", root / "run", "tmpfs", linux.NOSUID | linux.NODEV, "mode=755")
    linux.mount("tmpfs", root / "tmp", "tmpfs", linux.NOSUID | linux.NODEV, "mode=1777")
    if leaf:
        # Only a cgroup without processes may hand controllers on; liblxc takes pid 1's cgroup less this very name.
        scope = root / "sys/fs/cgroup/init.scope"
        scope.mkdir()
        (scope / "cgroup.procs").write_text("0", encoding="utf-8")
        _enable_controllers(root / "sys/fs/cgroup")


def _enable_controllers(cgroup: Path) -> None:
    for controller in (cgroup / "cgroup.controllers").read_text(encoding="utf-8").split():
        with contextlib.suppress(OSError):
            (cgroup / "cgroup.subtree_control").write_text(f"+{controller}", encoding="utf-8")


def _write_etc(etc: Path, hostname: str) -> None:
    master = etc.parent / "usr/share/base-passwd"
    for name in ("passwd", "group"):
        if not (etc / name).exists():
            (etc / name).write_bytes((master / f"{name}.master").read_bytes())
    for name in ("subuid", "subgid"):
        (etc / name).write_text("root:1000000:1000000000\n", encoding="utf-8")
    for name, text in (
        ("hostname", f"{hostname}\n"),
        ("hosts", f"127.0.0.1 localhost {hostname}\n::1 localhost\n"),
        ("resolv.conf", ""),
    ):
        (etc / name).unlink(missing_ok=True)
        (etc / name).write_text(text, encoding="utf-8")


def _raise_limits() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, max(hard, _OPEN_FILES)))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _start_daemon() -> int:
    path = f"/{INCUSD}"
    log = f"{HOME}/incusd.log"
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(path, [path, "--group", "root", "--verbose"], ENVIRONMENT, file_actions=actions)


def _reap_until(daemon: int) -> int:
    """Wait for every orphan that lands here; return the daemon's exit code when it ends."""
    while True:
        pid, status = os.wait()
        if pid == daemon:
            code = os.waitstatus_to_exitcode(status)
            sys.stderr.write(f"incusd ended with {code}\n")
            return code if code > 0 else 1
