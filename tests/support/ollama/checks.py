"""The checks of facts, noted by the facts' codes: each is handed the stand-in, not yet started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.ollama.running import StandIn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.ollama.facts import Fact

__all__ = ["Checks"]


class Checks(dict[str, "Callable[[StandIn], None]"]):
    """Checks by code; called with a code, it notes the function that follows."""

    def __call__(self, code: str) -> Callable[[Callable[[StandIn], None]], Callable[[StandIn], None]]:
        def noted(function: Callable[[StandIn], None]) -> Callable[[StandIn], None]:
            assert code not in self
            self[code] = function
            return function

        return noted

    def hold(self, fact: Fact, folder: Path) -> None:
        """Check a fact on a stand-in in this folder."""
        stand_in = StandIn(folder)
        try:
            self[fact.code](stand_in)
        finally:
            stand_in.stop()
