"""Other places each time, and the same ones again: a test that fails shows the seed."""

from __future__ import annotations

import random

__all__ = ["seeded"]


def seeded(seed: int | None = None) -> random.Random:
    """A generator of its own; pytest shows what was printed when the test fails."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    print(f"the places are those of seeded({seed})")  # noqa: T201
    return random.Random(seed)  # noqa: S311  places, no secrets
