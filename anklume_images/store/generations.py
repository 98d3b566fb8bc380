"""What a channel can go back to, read from its moves: decisions only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anklume_images.store.channel_log import Move

__all__ = ["GENERATIONS", "ROLLBACK", "TAKEN_BACK", "generations", "versions"]

GENERATIONS = 2  # versions that a channel keeps, the one that it names included
# Commands by which a move counts as one back: what came after the version that it went to counts no more.
ROLLBACK = "channel rollback"
TAKEN_BACK = "promote, taken back"


def versions(moves: Sequence[Move]) -> tuple[str, ...]:
    """The versions of one channel in their order, the present one last; `moves` are its own.

    A rollback takes away what came after the version that it went to, so that a second one goes back further. A
    channel that was removed begins anew.
    """
    stack: list[str] = []
    for move in moves:
        if move.after is None:
            stack = []
        elif move.command in (ROLLBACK, TAKEN_BACK) and move.after in stack:
            del stack[stack.index(move.after) + 1 :]
        else:
            stack = [version for version in stack if version != move.after] + [move.after]
    return tuple(stack)


def generations(moves: Sequence[Move], keep: int) -> set[str]:
    """The versions that a channel keeps from gc: the `keep` last ones, and what its last move left.

    With 1 it keeps the one that it names.
    """
    kept = set(versions(moves)[-keep:])
    if keep > 1 and kept and moves[-1].before:
        kept.add(moves[-1].before)
    return kept
