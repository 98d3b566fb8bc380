"""Where specs are that nobody has to name."""

from __future__ import annotations

from pathlib import Path

__all__ = ["builtin_specs"]


def builtin_specs() -> Path:
    """The folder of specs that comes with the program."""
    return Path(__file__).resolve().parents[2] / "image_specs"
