"""One step of a sandbox: a program of its own that leaves the host's files behind and becomes the command.

A chroot is no wall to root, so the step gets a mount namespace whose only root is the sandbox's; and without the
right to trace others it cannot look through `/proc/1/root`: the init serves the mirror from the host's files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import warnings  # noqa: F401  os.execvp imports it, and could not find it any more
from pathlib import Path
from typing import NoReturn

from anklume_images import linux

_TIOCSCTTY = 0x540E
_SYS_PTRACE = 19  # capabilities(7)


def main() -> NoReturn:
    """Arguments: the folder that becomes /, then the command with its own."""
    root, argv = Path(sys.argv[1]), sys.argv[2:]
    if os.isatty(0) and os.getsid(0) == os.getpid():
        fcntl.ioctl(0, _TIOCSCTTY, 0)  # Ctrl-C and job control are this program's
    linux.unshare(linux.NEWNS)
    linux.mount(root, root, flags=linux.BIND | linux.REC)
    linux.pivot_root(root)
    with contextlib.suppress(OSError):  # where the kernel will not, all is as it was, but slower on a disk
        linux.ignore_syncs()
    linux.drop_capability(_SYS_PTRACE)
    linux.default_signals()  # Python ignores some, the caller may ignore others
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execvp(argv[0], argv)  # noqa: S606  no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
        sys.exit(127)
