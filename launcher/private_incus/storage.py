"""Where a private Incus keeps its instances: btrfs on a loop file where the kernel can, else plain directories.

btrfs makes a second instance of one image in a second and enforces sizes. The loop device is set to clear itself in
the same call that attaches it (LOOP_CONFIGURE, Linux 5.8), so that no kill, at whatever moment, leaves one behind;
Incus' own loop handling has such a moment.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from pathlib import Path

from anklume_images import linux
from anklume_images.errors import HostError

__all__ = ["MOUNT", "POOL_SOURCE", "pool_config", "prepare"]

MOUNT = Path("/srv/pool")
POOL_SOURCE = MOUNT / "default"
_MKFS = Path("/usr/sbin/mkfs.btrfs")
# <linux/loop.h>
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _AUTOCLEAR = 0x4C82, 0x4C0A, 4
_LOOP_CONFIG = struct.Struct("=II 5Q 4I 64s 64s 32s 2Q 8Q")  # fd, block size, loop_info64, reserved
_ATTEMPTS = 16


def prepare(storage: str, image: Path, size: int, environment: dict[str, str]) -> str:
    """Make the pool's file system inside the private root and return the driver: btrfs or dir."""
    if storage == "dir":
        return "dir"
    missing = _why_not_btrfs()
    if missing is None:
        _make_btrfs(image, size, environment)
        return "btrfs"
    if storage == "btrfs":
        raise HostError(f"no btrfs pool here: {missing}", hint="use storage='dir', or 'auto'")
    return "dir"


def pool_config(driver: str) -> dict[str, str]:
    """The configuration of Incus' pool for that driver."""
    return {"source": str(POOL_SOURCE)} if driver == "btrfs" else {}


def _why_not_btrfs() -> str | None:
    if not _MKFS.exists():
        return "the tree has no mkfs.btrfs"
    if not Path("/dev/loop-control").exists():
        return "no /dev/loop-control"
    # Mounting nothing makes the kernel load the module; ENODEV then means that there is none.
    with contextlib.suppress(OSError):
        linux.mount("none", "/mnt", "btrfs")
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text(encoding="utf-8").splitlines()}
    return None if "btrfs" in known else "the kernel has no btrfs"


def _make_btrfs(image: Path, size: int, environment: dict[str, str]) -> None:
    with image.open("wb") as file:
        file.truncate(size)
    _run([str(_MKFS), "--quiet", str(image)], environment)
    MOUNT.mkdir(parents=True, exist_ok=True)
    descriptor, device = _attach(image)
    try:
        linux.mount(device, MOUNT, "btrfs")
    finally:
        os.close(descriptor)  # the mount holds the device from here on
    _run(["/usr/bin/btrfs", "subvolume", "create", str(POOL_SOURCE)], environment)


def _run(argv: list[str], environment: dict[str, str]) -> None:
    silent = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    pid = os.posix_spawn(argv[0], argv, environment, file_actions=silent)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        raise HostError(f"{argv[0]} ended with {code}", hint="is there room on the disk?")


def _attach(image: Path) -> tuple[int, Path]:
    backing = os.open(image, os.O_RDWR)
    control = os.open("/dev/loop-control", os.O_RDWR)
    try:
        for _ in range(_ATTEMPTS):
            device = Path(f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}")
            descriptor = os.open(device, os.O_RDWR)
            try:
                fcntl.ioctl(descriptor, _LOOP_CONFIGURE, _loop_config(backing))
            except OSError as error:
                os.close(descriptor)
                if error.errno != errno.EBUSY:  # else another process was quicker
                    raise
            else:
                return descriptor, device
    finally:
        os.close(backing)
        os.close(control)
    raise HostError("no free loop device", hint="losetup --list shows who holds them")


def _loop_config(backing: int) -> bytes:
    return _LOOP_CONFIG.pack(backing, 0, *(0,) * 5, 0, 0, 0, _AUTOCLEAR, b"", b"", b"", 0, 0, *(0,) * 8)
