"""Which images can use which cards, by their specs, for every maker that there is code for; and which models fit."""

from __future__ import annotations

import re

import pytest

from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.specs.model import NAME
from launcher.gpu.cards import Card
from launcher.gpu.grants import Grant
from launcher.gpu.images import makers, unusable, why_unusable
from launcher.gpu.memory import too_large
from launcher.gpu.vendors import VENDORS
from launcher.infra.models import MachineModels, WantedModel

NVIDIA, AMD, INTEL, OTHER = (
    Card(f"0000:0{number}:00.0", vendor) for number, vendor in enumerate(("10de", "1002", "8086", "1d17"))
)


@pytest.mark.parametrize(
    ("gpus", "cards"),
    [
        (None, ()),
        ((), (NVIDIA, AMD, INTEL)),
        (("nvidia",), (AMD, INTEL)),
        (("nvidia", "amd", "intel"), ()),
    ],
)
def test_cards_that_an_image_cannot_use(gpus: tuple[str, ...] | None, cards: tuple[Card, ...]) -> None:
    assert unusable(gpus, (NVIDIA, AMD, INTEL, OTHER)) == cards


def test_the_reason_names_image_maker_and_card() -> None:
    text = why_unusable("llama-server", [AMD])
    assert all(word in text for word in ("llama-server", "AMD", AMD.pci))


def test_specs_name_makers_that_are_known() -> None:
    catalog = Catalog.load([builtin_specs()])
    known = makers([Card(f"0000:0{number}:00.0", vendor.pci_id) for number, vendor in enumerate(VENDORS)])
    assert {maker for name in catalog.names() for maker in catalog.gpus(name) or ()} <= known
    assert makers([NVIDIA, AMD, INTEL, OTHER]) == {"nvidia", "amd", "intel"}


def test_a_spec_can_name_every_maker() -> None:
    assert [vendor.name for vendor in VENDORS if not re.fullmatch(NAME, vendor.name.lower())] == []


@pytest.mark.parametrize(
    ("image", "gpus"),
    [
        ("debian", None),
        ("llama-server", {"nvidia"}),
        ("llama-server-mesa", {"nvidia", "amd", "intel"}),
        ("llama-server-cuda", {"nvidia"}),
        ("llama-server-hip", {"amd"}),
        ("ollama", {"nvidia"}),
        ("ollama-mesa", {"nvidia", "amd", "intel"}),
        ("ollama-cpu", set()),
    ],
)
def test_what_our_images_can_use(image: str, gpus: set[str] | None) -> None:
    assert Catalog.load([builtin_specs()]).gpus(image) == gpus


GIB = 1 << 30
MODELS = {"llm": MachineModels("/m", (WantedModel("small", 4 * GIB, ()), WantedModel("large", 30 * GIB, ())))}


@pytest.mark.parametrize(
    ("grants", "sizes", "named"),
    [
        ([Grant(NVIDIA, "gpu")], {NVIDIA.pci: 24 * GIB}, ["large"]),
        ([Grant(NVIDIA, "gpu")], {NVIDIA.pci: 2 * GIB}, ["small", "large"]),
        ([Grant(NVIDIA, "a"), Grant(AMD, "b")], {NVIDIA.pci: 24 * GIB, AMD.pci: 24 * GIB}, []),
        ([Grant(NVIDIA, "a"), Grant(AMD, "b")], {NVIDIA.pci: 2 * GIB}, []),  # nobody knows the other's
        ([Grant(NVIDIA, "gpu", mode="mig", part="x")], {NVIDIA.pci: 2 * GIB}, []),
    ],
)
def test_models_that_are_larger_than_their_cards(grants: list[Grant], sizes: dict[str, int], named: list[str]) -> None:
    notices = too_large({"llm": grants, "other": grants}, MODELS, sizes)
    assert [notice.split()[1] for notice in notices] == named
    assert all(notice.startswith("llm: ") and "GiB" in notice for notice in notices)
