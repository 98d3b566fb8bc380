"""The process that stands outside and keeps a private Incus: starts its pid 1, ends it, and clears up after it.

Run as a program by `private.PrivateIncus`: standard input carries one JSON line and then stays open for as long as
the caller lives, standard output carries JSON lines back. When standard input ends (the caller left, or was killed)
everything is killed and removed. When the supervisor itself is killed, the kernel kills pid 1 (PR_SET_PDEATHSIG) and
with it every process of the pid namespace; the caller, or the next start, then removes the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from anklume_images import linux
from launcher.private_incus import init
from launcher.private_incus.state_directory import clear

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["main"]


class _AskedToEndError(Exception):
    """SIGTERM arrived."""


def main() -> None:
    """Keep the private Incus whose folder, and the descriptor that holds its lock, are the arguments."""
    home = Path(sys.argv[1])
    os.set_inheritable(int(sys.argv[2]), False)  # for pid 1 too, but not for what that starts
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    child = 0
    try:
        line = _read_line()
        if line:
            child = _start(init.Spec(**json.loads(line)))
            _wait_for_end_of_input()
    except _AskedToEndError:
        pass
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)  # returns when the whole pid namespace is empty
        clear(home)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _AskedToEndError


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 65536)
        if not piece:
            return b""
        line += piece
    return line


def _start(spec: init.Spec) -> int:
    linux.unshare(linux.NEWPID)  # for the children
    alive, keep_alive = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(keep_alive)
        init.main(spec, supervisor_alive=alive, status=1)
    os.close(alive)
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps({"pid": child}).encode() + b"\n")
    os.close(1)  # so that the caller sees the end of the messages when pid 1 ends
    return child


def _wait_for_end_of_input() -> None:
    # Not for the end of pid 1: the caller reads the log first.
    poll = select.poll()
    poll.register(0, select.POLLIN)
    while True:
        poll.poll()
        if not os.read(0, 4096):
            return
