"""YAML that a person wrote: positions, duplicates, and files made to hurt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anklume_images.errors import InvalidFileError, Problem
from anklume_images.nearest import nearest
from anklume_images.specs import yamlfile
from anklume_images.specs.yamlfile import load, loads, pointer


def problems(text: str | bytes) -> list[Problem]:
    raw = text.encode() if isinstance(text, str) else text
    with pytest.raises(InvalidFileError) as caught:
        loads(raw, "a.yml")
    return caught.value.problems


def only(text: str | bytes) -> tuple[int, int, str]:
    (problem,) = problems(text)
    return problem.line, problem.column, problem.code


def test_positions_of_values_and_keys():
    document = loads(b"name: web\nports:\n  - 80\n  - {from: 1, to: 2}\n", "a.yml")
    assert document.data == {"name": "web", "ports": [80, {"from": 1, "to": 2}]}
    assert document.position(("name",)) == (1, 7)
    assert document.position(("name",), key=True) == (1, 1)
    assert document.position(("ports", 1, "to")) == (4, 19)
    assert document.position(("ports", 1, "to"), key=True) == (4, 15)


def test_position_of_what_is_not_there_is_that_of_its_nearest_parent():
    document = loads(b"a:\n  b: 1\n", "a.yml")
    assert document.position(("a", "c", "d")) == (2, 3)
    assert document.position(("x",)) == (1, 1)
    assert loads(b"", "a.yml").position(()) == (1, 1)


def test_problem_carries_path_and_position():
    document = loads(b"a:\n  - b: 1\n", "a.yml")
    problem = document.problem(("a", 0, "b"), "code", "wrong", hint="right")
    assert str(problem) == "a.yml:2:8: wrong (right)"
    assert problem.path == "a[0].b"


def test_pointer_reads_as_people_write_it():
    assert pointer(("inputs", "debian", "suites", 0, "archive")) == "inputs.debian.suites[0].archive"
    assert pointer(()) == ""


def test_load_reads_a_file_and_names_it_in_problems(tmp_path):
    path = tmp_path / "spec.yml"
    path.write_text("a: 1\na: 2\n")
    with pytest.raises(InvalidFileError) as caught:
        load(path)
    assert str(caught.value) == f"{path}:2:1: duplicate key 'a', first on line 1"
    path.write_text("a: 1\n")
    assert load(path).data == {"a": 1}


def test_missing_file_and_folder_instead_of_file(tmp_path):
    for path, code in ((tmp_path / "none.yml", "no-such-file"), (tmp_path, "unreadable")):
        with pytest.raises(InvalidFileError) as caught:
            load(path)
        assert caught.value.problems[0].code == code


def test_every_duplicate_key_is_reported():
    found = problems("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert [(problem.line, problem.column, problem.code) for problem in found] == [
        (2, 11, "duplicate-key"),
        (3, 1, "duplicate-key"),
    ]


def test_keys_equal_as_numbers_are_duplicates():
    assert only("1: a\n0x1: b\n") == (2, 1, "duplicate-key")


def test_syntax_errors_have_their_place():
    assert only("a: [1, 2\nb: 3\n")[2] == "yaml-syntax"
    line, column, code = only("a: 1\nb: 'open\n")
    assert (line, code) == (3, "yaml-syntax")
    assert column >= 1


def test_tab_in_the_indentation():
    (problem,) = problems("a:\n\tb: 1\n")
    assert (problem.line, problem.column, problem.code) == (2, 1, "yaml-tab")
    assert problem.hint == "use blanks"


def test_not_utf8():
    assert only(b"a: 1\nb: \xff\n") == (2, 4, "yaml-encoding")


def test_byte_order_mark_is_no_part_of_the_first_key():
    assert loads(b"\xef\xbb\xbfa: 1\n", "a.yml").data == {"a": 1}


def test_control_characters():
    assert problems("a: 1\nb: x\x00y\n")[0].code == "yaml-syntax"


def test_second_document():
    assert problems("a: 1\n---\nb: 2\n")[0].code == "yaml-syntax"


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system [true]\n",
        "a: !!set {x}\n",
        "a: !!binary aGk=\n",
        "a: !own 1\n",
        "!own a: 1\n",
    ],
)
def test_tags_beyond_plain_data(text):
    assert problems(text)[0].code == "yaml-tag"


def test_keys_must_be_words():
    assert problems("? [a, b]\n: 1\n")[0].code == "yaml-key"


@pytest.mark.parametrize("text", ["a: 2024-99-99\n", f"a: {'9' * 5000}\n"])
def test_scalars_that_no_value_can_be_made_of(text):
    (problem,) = problems(text)
    assert (problem.code, problem.hint) == ("yaml-value", "put it in quotes")


def test_aliases_and_merge_keys():
    text = b"base: &b {x: 1, y: {z: 2}}\nown:\n  <<: *b\n  x: 3\nmore: *b\n"
    document = loads(text, "a.yml")
    assert document.data["own"] == {"x": 3, "y": {"z": 2}}
    assert document.data["more"] == {"x": 1, "y": {"z": 2}}
    assert document.position(("own", "x")) == (4, 6)
    assert document.position(("own", "y", "z")) == (1, 24)


def test_merge_of_several_mappings_takes_the_first():
    text = b"a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b]}\n"
    assert loads(text, "a.yml").data["c"] == {"x": 1, "y": 2}


def test_merge_of_something_else():
    assert problems("a: {<<: 1}\n")[0].code == "yaml-merge"


def test_expansion_is_bounded():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "yaml-too-large" in {problem.code for problem in problems("\n".join(lines))}


def test_merge_expansion_is_bounded():
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 10)]
    assert "yaml-too-large" in {problem.code for problem in problems("\n".join(lines))}


def test_an_alias_within_its_own_anchor():
    assert {problem.code for problem in problems("a: &a [*a]\n")} <= {"yaml-too-large", "yaml-syntax"}


def test_depth_is_bounded():
    limit = yamlfile.MAX_DEPTH
    assert loads(b"[" * limit + b"]" * limit, "a.yml").data
    assert only(b"[" * 100_000) == (1, limit + 1, "yaml-too-deep")


def test_size_is_bounded(tmp_path):
    path = tmp_path / "big.yml"
    path.write_bytes(b"#" * (yamlfile.MAX_SIZE + 1))
    with pytest.raises(InvalidFileError, match="larger than 4 MiB"):
        load(path)


def test_nearest_knows_words_like_it():
    known = ["packages", "suites", "open_webui_port"]
    assert nearest("pakages", known) == "packages"
    assert nearest("open-webui-port", known) == "open_webui_port"
    assert nearest("colour", known) is None
    assert nearest(12, known) is None


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("abc :#-'\"\n", max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
    max_leaves=20,
)


@given(plain)
def test_what_pyyaml_writes_is_read_back_with_a_position_for_each_value(data):
    import yaml

    document = loads(yaml.safe_dump(data).encode(), "a.yml")
    assert document.data == data

    def paths(value, path=()):
        yield path
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            yield from paths(item, (*path, key))

    assert set(paths(data)) == set(document.values)


@given(st.binary(max_size=200))
def test_any_bytes_give_data_or_problems(raw):
    try:
        document = loads(raw, "a.yml")
    except InvalidFileError as error:
        found = error.problems
    else:
        found = [document.data]
    assert found


def test_more_nodes_than_anything_needs_are_refused_before_they_are_in_memory():
    assert only("a: [" + "b," * (2 * yamlfile.MAX_NODES) + "]") == (1, 2 * 2 * yamlfile.MAX_NODES - 3, "yaml-too-large")


def test_a_large_mapping_is_merged_in_one_pass():
    keys = "".join(f"  k{number}: 1\n" for number in range(50_000))
    document = loads(f"a: &a\n{keys}b:\n  <<: *a\n  k0: 2\n".encode(), "a.yml")  # took minutes, a pass for each key
    assert len(document.data["b"]) == 50_000
    assert document.data["b"]["k0"] == 2
    assert document.position(("b", "k7")) == (9, 7)
