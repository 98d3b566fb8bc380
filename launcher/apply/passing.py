"""What of Incus' errors passes by itself: then the same is done once more, a moment later."""

from __future__ import annotations

from anklume_images.errors import IncusError, IncusUnreachableError
from anklume_images.incus.client import is_missing

__all__ = ["PAUSE_SECONDS", "RETRIES", "passes"]

RETRIES = 4
PAUSE_SECONDS = 0.3  # before the first time, and twice as long before each further one
_WORDS = (
    "is busy running",  # an operation that a killed command began goes on in the daemon
    # A daemon that starts again starts what ran before, while one looks at it as something that does not run.
    "Instance is running",
    "is already running",
    # Making a bridge, Incus looks at each interface of the host, and fails when one of a starting instance goes.
    "Failed to delete bridge children interfaces",
)


def passes(error: IncusError) -> bool:
    """Whether the daemon went away, with what it was doing, or is about to end what is in the way."""
    lost = isinstance(error, IncusUnreachableError) or is_missing(error)
    return lost or any(words in error.message for words in _WORDS)
