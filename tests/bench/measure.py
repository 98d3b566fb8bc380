"""How figures are taken and printed: ratios of things measured in turn within one run, `RUNS` times each."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anklume_images.pipeline import Pipeline

RUNS = 3
_BETWEEN = """
import os, resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@dataclass
class Bench:
    """The pipeline, a folder for what the runs leave, and the tree of the Incus that the launcher is measured on."""

    pipeline: Pipeline
    scratch: Path
    incus: str

    def place(self) -> Path:
        """A new empty folder."""
        return Path(tempfile.mkdtemp(dir=self.scratch))


def say(text: str) -> None:
    """Print a line of the report at once."""
    print(text, flush=True)  # noqa: T201 - the report is what it is for


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


def pairs(name: str, goal: str, ours: Callable[[], object], other: Callable[[], object]) -> None:
    """Measure two things in turn and print the ratio pair by pair."""
    rows = [(seconds(ours), seconds(other)) for _ in range(RUNS)]
    ratio(name, goal, [row[0] for row in rows], [row[1] for row in rows])


def rounds(actions: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """The seconds of several things, measured in turn; each action says itself how long its part took."""
    rows = [{name: action() for name, action in actions.items()} for _ in range(RUNS)]
    return {name: [row[name] for row in rows] for name in actions}


def share(name: str, goal: str, ours: list[int], whole: int) -> None:
    """Print the median of sizes as a share of the whole, in bytes."""
    each = "  ".join(f"{size / (1 << 20):.1f}" for size in ours)
    record(name, goal, [100 * size / whole for size in ours], "%", f"{each} of {whole / (1 << 20):.1f} MiB")


def memory_of(name: str, goal: str, most: int) -> None:
    """Print the most memory that something had, in bytes."""
    record(f"memory of {name}", goal, [most / (1 << 20)], "MiB")


def peak(argv: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> tuple[str, int]:
    """Run a program; its output, and the most memory that it or a program of its own had, in bytes.

    A small program stands between: the kernel counts for a process what the one had that started it.
    """
    between = [sys.executable, "-I", "-S", "-c", _BETWEEN, *map(str, argv)]
    result = subprocess.run(between, env=environment, check=True, capture_output=True, text=True)
    *lines, most = result.stdout.splitlines(keepends=True)
    return "".join(lines), int(most) << 10


def ratio(name: str, goal: str, ours: list[float], other: list[float]) -> None:
    """Print the median of the ratios, pair by pair."""
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    each = "  ".join(f"{a:.2f}/{b:.2f} s" for a, b in zip(ours, other, strict=True))
    record(name, goal, ratios, "", each)


def single(name: str, goal: str, action: Callable[[], object]) -> None:
    """Measure one thing that has an absolute goal."""
    figures(name, goal, [seconds(action) for _ in range(RUNS)])


def figures(name: str, goal: str, rows: list[float]) -> None:
    """Print the median of seconds that have an absolute goal."""
    record(name, goal, rows, "s", "  ".join(f"{row:.3f}" for row in rows))


def record(name: str, goal: str, rows: list[float], unit: str, each: str = "") -> None:
    """Print the median of what was measured, beside its goal (`≤ 0.5 s`, `≥ 0.8`, `-`), and keep it for the table."""
    row = Row(name.strip(), goal, statistics.median(rows), min(rows), max(rows), unit, os.getloadavg()[0])
    ROWS.append(row)
    say(f"{name}: {row.figure} (goal {goal})" + (f"; {each}" if each else ""))


@dataclass(frozen=True)
class Row:
    """One figure; `load` is the machine's when it was taken, the mean of a minute."""

    name: str
    goal: str
    median: float
    least: float
    most: float
    unit: str
    load: float

    @property
    def figure(self) -> str:
        """The median as it is printed."""
        return f"{self._text(self.median)} {self.unit}".rstrip()

    @property
    def spread(self) -> str:
        """From the least to the most."""
        return f"{self._text(self.least)} - {self._text(self.most)}" if self.least != self.most else ""

    @property
    def met(self) -> str:
        """`yes` or `no`; nothing where there is no goal."""
        match = re.match(r"([≤≥<>]) ?([0-9.]+)", self.goal)
        if not match:
            return ""
        bound = float(match[2])
        return "yes" if (self.median <= bound if match[1] in "≤<" else self.median >= bound) else "no"

    def _text(self, value: float) -> str:
        return f"{value:.0f}" if self.unit in ("MiB", "MB") else f"{value:.1f}" if self.unit == "%" else f"{value:.2f}"


ROWS: list[Row] = []
"""What was measured, in order."""


def table() -> str:
    """All of it, as Markdown."""
    lines = ["| what | goal | figure | spread | load | met |", "|---|---|---|---|---|---|"]
    for row in ROWS:
        cells = (row.name, row.goal, row.figure, row.spread, f"{row.load:.1f}", row.met)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
