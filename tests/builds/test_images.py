"""Every image that we ship, built from the committed locks and verified; other tests find them in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Cli

# Ollama's release is of a host that tests do not ask: see test_ollama.py.
NAMES = ("debian", "llama-server", "debian-12", "open-webui", "llama-server-mesa")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_built_and_whole(name: str, built: Callable[[str], Any], anklume: Cli) -> None:
    image = built(name)
    assert image.name == name
    assert anklume("verify", image.ref).stdout == "2 files checked, 0 damaged\n"


def test_the_model_is_had(anklume: Cli) -> None:
    anklume("models", "pull", "smollm2-135m")
