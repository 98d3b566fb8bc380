"""Which images can use which cards, by their specs, for every maker that there is code for; and which models fit."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.specs.keys import NAME
from launcher.gpu.cards import Card
from launcher.gpu.grants import Grant
from launcher.gpu.images import makers, unusable, ways_on, why_unusable
from launcher.gpu.memory import too_large
from launcher.gpu.vendors import VENDORS
from launcher.infra.models import MachineModels, WantedModel
from launcher.inspect.cards import nodes_of

if TYPE_CHECKING:
    from launcher.gpu.images import Gpus

NVIDIA, AMD, INTEL, OTHER = (
    Card(f"0000:0{number}:00.0", vendor) for number, vendor in enumerate(("10de", "1002", "8086", "1d17"))
)


@pytest.mark.parametrize(
    ("gpus", "cards"),
    [
        (None, ()),
        ({}, (NVIDIA, AMD, INTEL)),
        ({"nvidia": ("cuda",)}, (AMD, INTEL)),
        (dict.fromkeys(("nvidia", "amd", "intel"), ("vulkan",)), ()),
    ],
)
def test_cards_that_an_image_cannot_use(gpus: Gpus, cards: tuple[Card, ...]) -> None:
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
        ("llama-server", {"nvidia": ("vulkan",)}),
        ("llama-server-mesa", dict.fromkeys(("nvidia", "amd", "intel"), ("vulkan",))),
        ("llama-server-cuda", {"nvidia": ("cuda", "vulkan")}),
        ("llama-server-hip", {"amd": ("hip",)}),
        ("ollama", {"nvidia": ("cuda", "vulkan")}),
        ("ollama-mesa", {"nvidia": ("cuda", "vulkan"), "amd": ("vulkan",), "intel": ("vulkan",)}),
        ("ollama-cpu", {}),
    ],
)
def test_what_our_images_can_use(image: str, gpus: Gpus) -> None:
    found = Catalog.load([builtin_specs()]).gpus(image)
    assert found == gpus
    for vendor in VENDORS:
        assert ways_on(found, vendor) == (None if gpus is None else tuple(gpus.get(vendor.name.lower(), ())))


@pytest.mark.parametrize(
    ("vendor", "gpus", "nodes"),
    [
        ("1002", {"amd": ("vulkan",)}, ["/dev/dri/renderD129"]),
        ("1002", {"amd": ("hip",)}, ["/dev/dri/renderD129", "/dev/kfd"]),
        ("1002", {"nvidia": ("cuda",)}, ["/dev/dri/renderD129"]),
        ("1002", None, ["/dev/dri/renderD129"]),
        ("8086", {"intel": ("vulkan",)}, ["/dev/dri/renderD129"]),
        ("1d17", None, ["/dev/dri/renderD129"]),
    ],
)
def test_nodes_by_which_an_image_computes_on_a_card(vendor: str, gpus: Gpus, nodes: list[str]) -> None:
    card = Card("0000:01:00.0", vendor, drm=("card1", "renderD129"))
    assert list(nodes_of(card, gpus)) == nodes
    assert nodes_of(replace(card, drm=("card1",)), None) == ()


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
