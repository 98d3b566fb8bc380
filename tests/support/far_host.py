"""Runs a shell's line as on another host: in a network namespace with nothing but loopback, with folders hidden.

python -m tests.support.far_host LINE [HIDDEN]...
"""

from __future__ import annotations

import os
import sys

from anklume_images import linux


def main(line: str, *hidden: str) -> None:
    """Become that line; an empty folder lies over each hidden one."""
    linux.unshare(linux.NEWNET | linux.NEWNS)
    linux.mount("none", "/", flags=linux.REC | linux.PRIVATE)
    linux.loopback_up()
    for folder in hidden:
        linux.mount("tmpfs", folder, "tmpfs")
    os.chdir(os.environ["HOME"])
    os.execvp("sh", ["sh", "-ec", line])  # noqa: S606 - the line of the page


if __name__ == "__main__":
    main(*sys.argv[1:])
