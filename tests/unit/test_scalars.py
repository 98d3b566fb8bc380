"""What YAML makes of a plain scalar, against what a person wrote."""

from __future__ import annotations

import pytest

from anklume_images.scalars import Scalar
from anklume_images.specs.yamlfile import loads


def only(written: str) -> Scalar | None:
    document = loads(f"a: {written}\n".encode(), "a.yml")
    return document.scalar(("a",))


@pytest.mark.parametrize(
    ("written", "value", "hint"),
    [
        ("010", 8, "write 8, or 10"),
        ("-010", -8, "write -8, or -10"),
        ("0x1F", 31, "write 31"),
        ("0b11", 3, "write 3"),
        ("12:30:45", 45045, "write 45045"),
        ("1:30.5", 90.5, "write 90.5"),
        (".inf", float("inf"), "write a number in digits"),
    ],
)
def test_a_number_that_its_digits_do_not_say(written, value, hint):
    odd = only(written)
    assert odd is not None
    assert odd.other_number
    assert (odd.value, odd.plain) == (value, hint)
    assert len(str(odd)) < 200


def test_a_number_that_python_would_not_write_is_told_all_the_same():
    odd = only("0x" + "f" * 5000)
    assert odd is not None
    assert odd.other_number
    assert odd.plain == "write a number in digits"
    assert len(str(odd)) < 200


@pytest.mark.parametrize("written", ["3.10", "1_000", "+5", "1.0e+3", "00", ".5", "yes", "No", "ON", "True"])
def test_the_same_value_as_another_text(written):
    odd = only(written)
    assert odd is not None
    assert not odd.other_number
    assert odd.quoted == f'write "{written}", in quotes'


@pytest.mark.parametrize(
    "written", ["10", "-3", "3.11", "true", "false", "'010'", '"yes"', "08", "1e3", "0o7", "~", "", "2024-01-01", "a"]
)
def test_what_comes_out_as_it_was_written(written):
    assert only(written) is None


def test_keys_items_aliases_and_merged_values_have_it_too():
    document = loads(b"a: &a {n: 010}\nb: {<<: *a}\nc: *a\nd: [1, 020]\n0x1f: x\n", "a.yml")
    assert {path: odd.written for path, odd in document.scalars.items()} == {
        ("a", "n"): "010",
        ("b", "n"): "010",
        ("c", "n"): "010",
        ("d", 1): "020",
    }
    assert document.scalar((31,), key=True) == Scalar("0x1f", 31)
