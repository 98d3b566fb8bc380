"""Where specs are that nobody has to name."""

from __future__ import annotations

from pathlib import Path

__all__ = ["builtin_specs", "checkout"]


def builtin_specs() -> Path:
    """The folder of specs that comes with the program."""
    return Path(__file__).resolve().parents[2] / "image_specs"


def checkout() -> Path | None:
    """The project's folder where the program runs from a checkout; None where it was installed."""
    project = builtin_specs().parent
    return project if (project / "pyproject.toml").is_file() else None
