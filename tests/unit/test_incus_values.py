"""What Incus takes for a boolean, a whole number and a size, and how addresses are found in texts."""

from __future__ import annotations

import pytest

from anklume_images.incus.values import bytes_of, is_boolean, is_false, is_integer, is_true, pci_addresses_in


@pytest.mark.parametrize("text", ["true", "1", "yes", "on", "TRUE", "Yes"])
def test_true(text):
    assert is_true(text)
    assert is_boolean(text)
    assert not is_false(text)


@pytest.mark.parametrize("text", ["false", "0", "no", "off", "OFF"])
def test_false(text):
    assert is_false(text)
    assert is_boolean(text)
    assert not is_true(text)


@pytest.mark.parametrize("text", ["", "maybe", "2", "y", " true", None])
def test_neither(text):
    assert not is_true(text)
    assert not is_false(text)
    assert not is_boolean(text or "")


def test_whole_numbers_have_64_bits():
    assert all(map(is_integer, ["0", "-1", "+7", "007", str(2**63 - 1), str(-(2**63))]))
    assert not any(map(is_integer, ["", "1.0", "1e3", "0x1", str(2**63), "9" * 5000, "٣"]))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("0", 0), ("7B", 7), ("4kB", 4000), ("2MiB", 2 << 20), ("3GB", 3_000_000_000), ("1TiB", 1 << 40)),
        *(("3 bytes", 3), ("8GiB", 8 << 30)),
    ],
)
def test_sizes(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1.5GiB", "4 GB", "4gib", "5KB", "1gb", "99999EiB", "٣"])
def test_what_is_no_size(text):
    assert bytes_of(text) is None


def test_addresses_in_a_text():
    text = "/dev/dri/by-path/pci-0000:01:00.0-render, 02:00.1, 00000001:03:00.0; 12:34:56.78, a1:2:3"
    assert pci_addresses_in(text) == {"0000:01:00.0", "0000:02:00.1", "0001:03:00.0"}
