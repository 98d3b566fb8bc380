"""What Python's standard library lacks of Linux: namespaces, mounts, death signals, loopback, free memory.

Effects only, no policy. Everything raises OSError with the path or call in it. Constants are those of
<linux/mount.h>, <linux/sched.h> and <linux/prctl.h>.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "BIND",
    "NEWCGROUP",
    "NEWIPC",
    "NEWNET",
    "NEWNS",
    "NEWPID",
    "NEWUTS",
    "NODEV",
    "NOSUID",
    "PRIVATE",
    "RDONLY",
    "REC",
    "REMOUNT",
    "available_memory",
    "die_with_parent",
    "drop_capability",
    "ignore_syncs",
    "loopback_up",
    "mount",
    "pivot_root",
    "sethostname",
    "setns",
    "umount",
    "unshare",
]

NEWNS, NEWUTS, NEWIPC, NEWPID, NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000
NEWCGROUP = 0x02000000
RDONLY, NOSUID, NODEV, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH = 2
_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
# arch/*/syscall tables; libc has no wrapper for the one, and refuses its own signals in the other
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_RT_SIGACTION = {"x86_64": 13, "aarch64": 134}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # <linux/audit.h>
# fsync, fdatasync, sync, sync_file_range, syncfs
_SYNCS = {"x86_64": (74, 75, 162, 277, 306), "aarch64": (82, 83, 81, 84, 267)}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move the calling process into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, flags: int) -> None:
    """Move the calling process into the namespaces, named by `flags`, of the process behind a pidfd (Linux 5.8)."""
    _check(_libc.setns(descriptor, flags), "setns")


def mount(source: str | Path, target: str | Path, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fstype.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _check(result, f"mount {fstype or source} on {target}")


def umount(target: str | Path) -> None:
    """Detach the mount at `target` at once; it goes when its last user does (umount2 with MNT_DETACH)."""
    _check(_libc.umount2(os.fsencode(target), _DETACH), f"umount {target}")


def pivot_root(new_root: Path) -> None:
    """Make the mount point `new_root` the root of this mount namespace and let go of the old one."""
    os.chdir(new_root)
    _check(_libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), f"pivot_root {new_root}")
    umount(".")
    os.chdir("/")


def sethostname(name: str) -> None:
    """Set the host name of this UTS namespace."""
    raw = name.encode()
    _check(_libc.sethostname(raw, len(raw)), "sethostname")


def die_with_parent(parent: int) -> None:
    """Ask the kernel to SIGKILL this process when the thread that made it ends; `parent` is that process' pid.

    The parent may already be gone when the request arrives, hence the second look.
    """
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def default_signals() -> None:
    """Have every signal do what it does by default, those that the C library keeps for itself included: a caller may
    have ignored them, and a program begun by it would too.
    """
    action = bytes(32)  # struct sigaction of the kernel: SIG_DFL, no flags, no signal blocked
    for number in set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP}:
        result = _libc.syscall(_RT_SIGACTION[os.uname().machine], number, action, None, 8)
        _check(result, f"rt_sigaction {number}")


def drop_capability(number: int) -> None:
    """Take a capability (capabilities(7)) from whatever this process executes next, for good."""
    _check(_libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), "prctl")


def ignore_syncs() -> None:
    """Have this process and whatever comes of it be told at once that files are on the disk: seccomp(2) answers 0 to
    fsync and its like. Needs CAP_SYS_ADMIN.
    """
    machine = os.uname().machine
    load, equal, answer = 0x20, 0x15, 0x06  # classic BPF: BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    allow, success = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with 0
    syncs = _SYNCS[machine]
    program = [(load, 0, 0, 4), (equal, 0, len(syncs) + 1, _AUDIT_ARCH[machine]), (load, 0, 0, 0)]
    program += [(equal, len(syncs) - index, 0, number) for index, number in enumerate(syncs)]
    program += [(answer, 0, 0, allow), (answer, 0, 0, success)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = struct.pack("HP", len(program), ctypes.addressof(code))  # struct sock_fprog
    # SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_SPEC_ALLOW: without that some kernels slow all of it down
    _check(_libc.syscall(_SECCOMP[machine], 1, 4, header), "seccomp")


def loopback_up() -> None:
    """Bring up `lo` in this network namespace (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        flags = struct.unpack("16sH14s", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", flags | _IFF_UP, b""))


def available_memory() -> int:
    """The bytes of memory that programs can still have; 0 where the kernel does not say it (proc(5), meminfo)."""
    with open("/proc/meminfo", encoding="ascii") as stream:
        for line in stream:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 0
