"""A terminal for a program in a sandbox: a pseudo terminal of its own, connected to the caller's.

The caller's own would not do: it belongs to a session outside the sandbox's process namespace, so there would be no
job control, and Ctrl-C would end the sandbox rather than the program in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import termios
import threading
import tty
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["terminal"]

_PIECE = 1 << 16


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int, int]]:
    """Descriptors for standard input, output and error; the caller's own where its input is no terminal."""
    sys.stdout.flush()
    if not os.isatty(0):
        with contextlib.ExitStack() as stack:  # copies: whoever starts a process puts other things at 0, 1 and 2
            copies = [os.dup(number) for number in (0, 1, 2)]
            for descriptor in copies:
                stack.callback(os.close, descriptor)
            yield copies[0], copies[1], copies[2]
        return
    outer, inner = os.openpty()
    done, end = os.pipe()
    before = termios.tcgetattr(0)
    termios.tcsetattr(inner, termios.TCSANOW, before)
    resized = signal.signal(signal.SIGWINCH, lambda *_: _copy_size(outer))
    _copy_size(outer)
    relay = threading.Thread(target=_relay, args=(outer, done), name="terminal")
    try:
        tty.setraw(0, termios.TCSANOW)  # what was typed ahead is kept
        relay.start()
        yield inner, inner, inner
    finally:
        os.close(inner)
        os.close(end)
        relay.join()
        termios.tcsetattr(0, termios.TCSANOW, before)  # draining could wait for ever for a reader
        signal.signal(signal.SIGWINCH, resized)
        for descriptor in (outer, done):
            os.close(descriptor)


def _copy_size(target: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))


def _relay(outer: int, done: int) -> None:
    """Pass on what is typed and what is shown; at the end, what is left to be shown."""
    sources = [outer, 0, done]
    while True:
        ready = select.select(sources, [], [])[0]
        if outer in ready and not _pass(outer, 1):  # its other side is closed, and nothing is left to be shown
            return
        if done in ready:
            sources = [outer]
        elif 0 in ready and not _pass(0, outer):
            sources.remove(0)


def _pass(source: int, target: int) -> bool:
    try:
        piece = os.read(source, _PIECE)  # EIO when the other side of a pseudo terminal is closed
        while piece:
            piece = piece[os.write(target, piece) :]
            if not piece:
                return True
    except OSError:
        pass
    return False
