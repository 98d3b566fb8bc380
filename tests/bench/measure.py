"""How figures are taken and printed: ratios of things measured in turn within one run, `RUNS` times each."""

from __future__ import annotations

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
    percent = 100 * statistics.median(ours) / whole
    say(f"{name}: median {percent:.1f} % of {whole / (1 << 20):.1f} MiB (goal {goal}); {each} MiB")


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
    say(f"{name}: median ratio {statistics.median(ratios):.2f} (goal {goal}); {each}")


def single(name: str, goal: str, action: Callable[[], object]) -> None:
    """Measure one thing that has an absolute goal."""
    figures(name, goal, [seconds(action) for _ in range(RUNS)])


def figures(name: str, goal: str, rows: list[float]) -> None:
    """Print the median of seconds that have an absolute goal."""
    each = "  ".join(f"{row:.3f}" for row in rows)
    say(f"{name}: median {statistics.median(rows):.3f} s (goal {goal}); {each}")
