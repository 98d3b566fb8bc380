"""A GGUF file that was cut short is told from a whole one, wherever it was cut."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import AnklumeError
from anklume_images.models.gguf import check_whole
from launcher.trial.tiny_gguf import tiny_gguf

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def test_a_whole_one_and_more_than_that_passes(file: Path) -> None:
    file.write_bytes(tiny_gguf())
    check_whole(file)
    file.write_bytes(tiny_gguf() + b"behind it")
    check_whole(file)


@pytest.mark.parametrize("kept", [4, 8, 20, 100, 5_000, 100_000, -1000, -1])
def test_one_that_was_cut_is_refused_with_both_sizes(file: Path, kept: int) -> None:
    whole = tiny_gguf()
    file.write_bytes(whole[:kept])
    with pytest.raises(AnklumeError, match="cut short") as failed:
        check_whole(file)
    assert failed.value.where == str(file)
    assert f"{file.stat().st_size:,} bytes" in failed.value.message
    if kept > 20_000 or kept < 0:
        assert f"{len(whole):,}" in failed.value.message


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04" + bytes(100)])
def test_what_is_none_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(AnklumeError, match="no GGUF file"):
        check_whole(file)


@pytest.mark.parametrize(
    "description",
    [
        struct.pack("<I", 9),  # of a version to come
        struct.pack("<IQQ", 3, 0, 1 << 60),
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99),  # a type to come
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 9, 1),  # a list of lists
    ],
)
def test_what_cannot_be_judged_passes(file: Path, description: bytes) -> None:
    file.write_bytes(b"GGUF" + description + bytes(64))
    check_whole(file)
