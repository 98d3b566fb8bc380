"""What came of a plan that was carried out: what was done, and what failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError, PolicyError

if TYPE_CHECKING:
    from launcher.plan.difference import Step
    from launcher.resources import Key

__all__ = ["FailedError", "RefusedError", "Report"]


class FailedError(AnklumeError):
    """Some steps failed; what did not need them was done, and a second run goes on from there."""

    def __init__(self, failures: dict[Key, AnklumeError], skipped: int) -> None:
        lines = [f"{_named(key)}: {error.message}" for key, error in failures.items()]
        if skipped:
            lines.append(f"{skipped} steps that need these were left out")
        hints = dict.fromkeys(error.hint for error in failures.values() if error.hint)
        super().__init__("\n".join(lines), hint="; ".join(hints) or "run it again: what is done stays done")
        self.failures = failures


class RefusedError(FailedError):
    """Nothing failed but what the policy refused."""

    exit_code = PolicyError.exit_code


@dataclass
class Report:
    """What was done: the steps, and the seconds until each machine was healthy."""

    done: list[Step] = field(default_factory=list)
    healthy: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0


def _named(key: Key) -> str:
    if key.kind == "image":
        return f"image {key.name[:12]}"
    return f"{key.kind} {key.name}" + (f" (project {key.project})" if key.project not in ("", "default") else "")
