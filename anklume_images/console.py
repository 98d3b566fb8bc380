"""What people see: progress on standard error, results on standard output, errors with hints."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO

from anklume_images.sanitize import harmless

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from anklume_images.errors import AnklumeError

__all__ = ["Console", "human_size", "table", "write_anything"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_C1 = re.compile(r"[\x7f-\x9f]")


def human_size(count: float) -> str:
    """A number of bytes with a binary unit: `59.7 MiB`."""
    for unit in _UNITS[:-1]:
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_UNITS[-1]}"


def table(rows: Iterable[Sequence[str]], header: Sequence[str]) -> str:
    """Columns padded to their widest cell."""
    lines = [tuple(header), *[tuple(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def write_anything(stream: TextIO) -> None:
    """Have a stream write what its encoding lacks as `\\u20ac`, and a name's bytes that are no text as `\\udcff`."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


class Console:
    """Progress and results of one command; safe to use from many threads.

    `progress` is what the fetcher talks to: a bar on a terminal, else a line at the end. With `quiet` only results
    and errors are shown. Control characters of what others wrote are shown as such: no name moves a cursor.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._options = ""
        self._terminal = sys.stderr.isatty()
        self._lock = threading.RLock()
        self._bar: Any = None
        self._total = self._count = self._done = 0

    def configure(self, *, quiet: bool, options: Sequence[str]) -> None:
        """What the options before the command say; `options` are those that name store, specs and architecture.

        A command that an error names is shown with them, and so does what it says, to the same store.
        """
        self._quiet = quiet
        self._options = shlex.join(options)

    @property
    def quiet(self) -> bool:
        """Whether only results and errors are shown."""
        return self._quiet

    def note(self, text: str) -> None:
        """One line of progress."""
        if not self._quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        """One line that nobody should miss, quiet or not."""
        self._line(f"warning: {text}")

    def _line(self, text: str) -> None:
        text = harmless(text)
        with self._lock:
            if self._bar is not None:
                self._bar.write(text, file=sys.stderr)
            else:
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()

    def start(self, total_bytes: int, count: int, what: str = "fetching") -> None:
        """Begin a transfer of `count` files."""
        files = "1 file" if count == 1 else f"{count} files"
        with self._lock:
            self._total, self._count, self._done = total_bytes, count, 0
            if self._terminal and not self._quiet and count:
                from tqdm import tqdm

                self._bar = tqdm(
                    total=total_bytes,
                    unit="B",
                    unit_scale=True,
                    unit_divisor=1024,
                    desc=f"{what} {files}",
                    leave=False,
                )
            elif count:
                self.note(f"{what} {files}, {human_size(total_bytes)}")

    def advance(self, n: int) -> None:
        """So many more bytes."""
        with self._lock:
            self._done += n
            if self._bar is not None:
                self._bar.update(n)

    def finish(self) -> None:
        """End the transfer."""
        with self._lock:
            if self._bar is not None:
                self._bar.close()
                self._bar = None

    @contextlib.contextmanager
    def sending(self) -> Iterator[Callable[[int, int], None]]:
        """Gives what is to be told of each piece of one file that is sent: the bytes so far, and their total."""
        sent = 0

        def progress(done: int, total: int) -> None:
            nonlocal sent
            if not sent:  # not before: what is there is not sent
                self.start(total, 1, "sending")
            self.advance(done - sent)
            sent = done

        try:
            yield progress
        finally:
            self.finish()

    def begin(self, total: int, what: str) -> None:
        """Begin work of so many steps."""
        with self._lock:
            if self._terminal and not self._quiet and total:
                from tqdm import tqdm

                self._bar = tqdm(total=total, desc=what, unit="step", leave=False)

    def done(self, text: str) -> None:
        """One step is done: a line, and the bar goes on."""
        with self._lock:
            self.note(text)
            if self._bar is not None:
                self._bar.update(1)

    def result(self, text: str) -> None:
        """A result for standard output."""
        sys.stdout.write(f"{harmless(text)}\n")

    def json(self, document: Any) -> None:
        """A result as JSON for standard output; what its encoding lacks is escaped as JSON has it."""
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
        try:
            text.encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError:
            text = json.dumps(document, indent=2, sort_keys=True)
        text = _C1.sub(lambda match: f"\\u{ord(match[0]):04x}", text)  # which JSON need not escape, and terminals obey
        sys.stdout.write(f"{text}\n")

    def error(self, error: AnklumeError) -> None:
        """What happened, where, what to do."""
        from anklume_images.errors import BuildError

        lines = [f"error: {error}"]
        if isinstance(error, BuildError):
            lines += [f"  | {line}" for line in error.tail]
            if error.log:
                lines.append(f"  log: {error.log}")
            if error.enter:
                lines.append(f"  look around in the sandbox: {self._command(error.enter)}")
        if error.hint:
            lines.append(f"  hint: {self._command(error.hint)}")
        self._line("\n".join(lines))

    def _command(self, text: str) -> str:
        if not self._options:
            return text
        return re.sub(r"\b(anklume-(?:images|launch)) ", lambda match: f"{match[1]} {self._options} ", text)
