"""Cards as Incus lists them, and addresses in all their forms."""

from __future__ import annotations

import pytest

from anklume_images.incus.values import pci_address
from launcher.gpu.cards import cards_of, computing, describe
from tests.unit.gpu_host import amd, console_chip, host, nvidia


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("0000:01:00.0", "0000:01:00.0"),
        ("00000000:01:00.0", "0000:01:00.0"),
        ("01:00.0", "0000:01:00.0"),
        ("0000:0A:00.0", "0000:0a:00.0"),
        ("00010000:0A:00.0", "10000:0a:00.0"),
        (" 01:00.0\n", "0000:01:00.0"),
        ("01:00", None),
        ("01:00.8", None),
        ("", None),
        ("0000:01:00.0; rm", None),
        ("\u0660\u0661:00.0", None),
    ],
)
def test_addresses_take_incus_form(text: str, normal: str | None) -> None:
    assert pci_address(text) == normal


def test_card_carries_what_incus_says() -> None:
    (card,) = host(nvidia(1))
    assert (card.pci, card.vendor_id, card.product_id, card.driver_version) == (
        "0000:02:00.0",
        "10de",
        "2684",
        "550.54.15",
    )
    assert card.drm == ("card1", "renderD129")
    assert card.numbers == ("226:1", "226:129")
    assert card.drm_id == "1"
    assert card.nvidia is not None
    assert (card.nvidia.uuid[-1], card.nvidia.cuda_version, card.nvidia.node) == ("1", "12.4", "nvidia1")
    assert card.is_nvidia
    assert describe(card) == "0000:02:00.0 (NVIDIA GeForce RTX 4090)"


def test_cards_are_in_order_of_their_addresses() -> None:
    assert [card.pci for card in host(nvidia(3), amd(0), nvidia(1))] == ["0000:01:00.0", "0000:02:00.0", "0000:04:00.0"]


@pytest.mark.parametrize(
    "resources",
    [
        {},
        {"gpu": None},
        {"gpu": {"cards": None, "total": 0}},
        {"gpu": {"cards": [{"driver": "tegra-soc"}], "total": 1}},
    ],
)
def test_host_without_cards_on_a_bus(resources: dict[str, object]) -> None:
    assert cards_of(resources) == ()


def test_card_without_a_driver() -> None:
    (card,) = cards_of({"gpu": {"cards": [{"pci_address": "0000:01:00.0", "vendor_id": "10DE", "product_id": "2684"}]}})
    assert (card.is_nvidia, card.nvidia, card.drm, card.drm_id) == (True, None, (), None)
    assert card.model == "10de:2684"


def test_virtual_functions_belong_to_their_card() -> None:
    vfs = [{"pci_address": "0000:01:00.4"}, {"pci_address": "0000:01:00.5"}]
    (card,) = host(nvidia(0, sriov={"current_vfs": 2, "maximum_vfs": 16, "vfs": vfs}))
    assert card.virtual == ("0000:01:00.4", "0000:01:00.5")


def test_console_chip_is_no_card_to_compute_on() -> None:
    assert [card.pci for card in computing(host(console_chip(0), nvidia(1)))] == ["0000:02:00.0"]


def test_card_is_where_its_member_is() -> None:
    (card,) = host(nvidia(0), member="one")
    assert card.at("one")
    assert not card.at("two")
    assert card.at("")
    assert describe(card).endswith(" on one")
