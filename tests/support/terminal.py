"""A program under test with a terminal of its own, which the test types into and reads."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from typing import Any

SECONDS = 30.0


class Terminal:
    """A program with a terminal of its own."""

    def __init__(self, argv: list[str], rows: int = 24, columns: int = 80, **options: Any) -> None:
        self.own, inner = pty.openpty()
        self.resize(rows, columns)
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), inner)
        self.process = subprocess.Popen(argv, **streams, start_new_session=True, **options)
        self.before = termios.tcgetattr(inner)
        self.inner = inner
        self.text = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.own, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.own, text.encode())

    def read_until(self, pattern: str) -> re.Match[str]:
        end = time.monotonic() + SECONDS
        while (found := re.search(pattern, self.text)) is None:
            assert time.monotonic() < end, self.text
            self.read(0.2)
        self.text = self.text[found.end() :]
        return found

    def read(self, seconds: float) -> bool:
        """What is said within that time; False when it is nothing."""
        if not select.select([self.own], [], [], seconds)[0]:
            return False
        self.text += os.read(self.own, 1 << 16).decode(errors="replace")
        return True

    def end(self) -> int:
        """Its exit code; all that it said is in `text`."""
        end = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < end, self.text
            self.read(0.05)
        while self.read(0):
            pass
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.own)
        os.close(self.inner)
