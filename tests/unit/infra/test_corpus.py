"""Every case of the corpus: small files, valid and not, each with what is expected of it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from anklume_images.specs.catalog import Catalog, builtin_specs
from launcher.infra.load import Checked, check_infra
from launcher.infra.report import Code
from tests.unit.infra.corpus import Case

CORPUS = Path(__file__).parent.parent / "corpus"
FILES = sorted(CORPUS.glob("*.yml"))
WORDS = {
    "error",
    "warning",
    "address",
    "subnet",
    "image",
    "gpu",
    "var",
    "notice",
    "host",
    "route",
    "level",
    "vm_nested",
    "yolo",
}

# About more than one file, or a host or specs of its own: tested where those are made.
ELSEWHERE = {"broken-spec", "several-images", "unused-variables", "file-ignored", "ansible-expression", "zone-full"}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load([builtin_specs()])


def check(case: Case, catalog: Catalog) -> Checked:
    return check_infra(case.file, catalog, yolo=case.yolo, host=case.host)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_expected_is_found_and_nothing_else(file: Path, catalog: Catalog):
    case = Case.read(file)
    assert set(case.expected) <= WORDS | {"option"}, "an expectation that nobody reads"
    checked = check(case, catalog)
    assert [f"{p.line}:{p.column} {p.code}" for p in checked.errors] == case.all("error")
    assert [f"{p.line}:{p.column} {p.code}" for p in checked.warnings] == case.all("warning")
    assert file.name.startswith("valid-" if checked.valid else "invalid-")
    found = checked.document()
    assert found["valid"] is checked.valid
    for name, address in (line.split() for line in case.all("address")):
        assert found["machines"][name]["ip"] == address
    for name, subnet in (line.split() for line in case.all("subnet")):
        assert found["domains"][name]["subnet"] == subnet
    for name, image in (line.split() for line in case.all("image")):
        assert found["machines"][name]["image"] == (None if image == "-" else image)
    for begin in case.all("notice"):
        assert any(notice.startswith(begin) for notice in found["notices"]), found["notices"]
    if "gpu" in case.expected:
        assert [name for name, machine in found["machines"].items() if machine["gpu"]] == case.all("gpu")
    for name, setting in (line.split(" ", 1) for line in case.all("var")):
        assert checked.infra is not None
        machine = checked.infra.machine(name)
        assert machine is not None
        variable, _, value = setting.partition("=")
        assert machine.variables.get(variable, "") == value


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_problems_say_where_what_and_mostly_what_to_do(file: Path, catalog: Catalog):
    checked = check(Case.read(file), catalog)
    for problem in (*checked.errors, *checked.warnings):
        assert problem.file == str(file)
        assert problem.message
        assert problem.message.isprintable()
        assert len(problem.message) < 400
        assert problem.hint is None or problem.hint.isprintable()


def test_the_corpus_is_large_enough_and_knows_every_code():
    assert len(FILES) >= 150
    assert sum(file.name.startswith("valid-") for file in FILES) >= 40
    expected = {
        line.split()[1] for file in FILES for word in ("error", "warning") for line in Case.read(file).all(word)
    }
    assert set(get_args(Code)) - expected <= ELSEWHERE
