"""A folder of files in place of one: base.yml, domains/*.yml, policies.yml."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from launcher.infra.load import Checked

    Write = Callable[..., Path]
    Check = Callable[..., Checked]

BASE = "project_name: p\nglobal: {addressing: {}}\n"
LAB = "lab:\n  trust_level: trusted\n  machines:\n    web: {roles: [open_webui]}\n"
PRO = "pro:\n  machines:\n    ai: {roles: [ollama_server]}\n"
POLICIES = "network_policies:\n  - {from: lab, to: pro, ports: [11434]}\n"


def indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


def only(checked: Checked) -> str:
    (problem,) = checked.errors
    return f"{problem.file.rsplit('/', 1)[1]}:{problem.line}:{problem.column} {problem.code} {problem.path}"


def test_a_folder_means_what_one_file_means(write: Write, check: Check):
    folder = write(infra__base_yml=BASE, infra__domains__lab_yml=LAB, infra__domains__pro_yml=PRO)
    write(infra__policies_yml=POLICIES, one_yml=f"{BASE}domains:\n{indented(LAB)}{indented(PRO)}{POLICIES}")
    many, one = check(folder / "infra"), check(folder / "one.yml")
    assert many.valid
    assert one.valid
    assert many.document() == one.document()
    assert many.infra is not None
    assert one.infra is not None
    assert many.infra.policies == one.infra.policies
    assert [replace(m, where="") for m in many.infra.machines()] == [replace(m, where="") for m in one.infra.machines()]


def test_each_machine_and_problem_is_in_its_own_file(write: Write, check: Check):
    folder = write(
        infra__base_yml="project_name: p\nglobal: {gpu_polcy: shared, addressing: {}}\n",
        infra__domains__lab_yml="lab:\n  machines:\n    web: {type: jail}\n",
        infra__policies_yml="network_policies:\n  - {from: lab, to: prod}\n",
    )
    checked = check(folder / "infra")
    assert [(p.file.rsplit("infra/")[1], p.line, p.column, p.code, p.path) for p in checked.errors] == [
        ("base.yml", 2, 10, "unknown-key", "global.gpu_polcy"),
        ("domains/lab.yml", 3, 17, "wrong-value", "domains.lab.machines.web.type"),
        ("policies.yml", 2, 21, "unknown-end", "network_policies[0].to"),
    ]
    write(infra__base_yml=BASE, infra__domains__lab_yml=LAB, infra__policies_yml="")
    infra = check(folder / "infra").infra
    assert infra is not None
    assert infra.domains["lab"].machines["web"].where == f"{folder}/infra/domains/lab.yml:4:5"
    assert infra.domains["lab"].where == f"{folder}/infra/domains/lab.yml:1:1"


def test_domains_of_base_and_of_files_are_put_together(write: Write, check: Check):
    folder = write(infra__base_yml=f"{BASE}domains:\n{indented(LAB)}", infra__domains__pro_yml=PRO)
    assert set(check(folder / "infra").document()["domains"]) == {"lab", "pro"}


def test_one_file_may_hold_several_domains(write: Write, check: Check):
    folder = write(infra__base_yml=BASE, infra__domains__all_yml=LAB + PRO)
    assert set(check(folder / "infra").document()["domains"]) == {"lab", "pro"}


def test_a_domain_in_two_files(write: Write, check: Check):
    folder = write(infra__base_yml=BASE, infra__domains__a_yml=LAB, infra__domains__b_yml="lab: {}\n")
    assert only(check(folder / "infra")) == "b.yml:1:1 duplicate-key lab"


def test_policies_in_two_files(write: Write, check: Check):
    folder = write(infra__base_yml=BASE + "network_policies: []\n", infra__policies_yml=POLICIES)
    assert only(check(folder / "infra")) == "policies.yml:1:1 duplicate-key network_policies"


def test_no_base(write: Write, check: Check):
    folder = write(infra__domains__a_yml=LAB)
    checked = check(folder / "infra")
    assert checked.errors[0].code == "no-such-file"
    assert "base.yml" in checked.errors[0].message


def test_a_folder_that_holds_an_infra_yml_is_pointed_to_it(write: Write, check: Check):
    folder = write(infra_yml=BASE)
    assert check(folder).errors[0].hint == f"did you mean {folder}/infra.yml?"


def test_syntax_errors_of_all_files_at_once(write: Write, check: Check):
    folder = write(
        infra__base_yml="a: [\n",
        infra__domains__a_yml="lab: {]\n",
        infra__domains__b_yml="- x\n",
        infra__policies_yml="a: !!python/none x\n",
    )
    assert [p.code for p in check(folder / "infra").errors] == ["yaml-syntax", "yaml-syntax", "wrong-type", "yaml-tag"]


def test_what_is_not_read_is_said(write: Write, check: Check):
    folder = write(infra__base_yml=BASE, infra__domains__lab_yaml=LAB, infra__group_vars__lab_yml="")
    checked = check(folder / "infra")
    assert checked.valid
    assert [(p.file.rsplit("/", 1)[1], p.code) for p in checked.warnings] == [
        ("lab.yaml", "file-ignored"),
        ("group_vars", "file-ignored"),
    ]


@pytest.mark.parametrize(("given", "there"), [("infra.yml", "infra/base.yml"), ("infra", "infra.yml")])
def test_infra_and_infra_yml_stand_for_each_other(write: Write, check: Check, given: str, there: str):
    folder = write(**{there.replace("/", "__").replace(".", "_"): f"{BASE}domains: {{}}\n"})
    assert check(folder / given).valid


def test_nothing_there(write: Write, check: Check):
    checked = check(write() / "infra.yml")
    assert [p.code for p in checked.errors] == ["no-such-file"]
    assert checked.document()["valid"] is False


def test_domains_that_are_no_mapping_in_base(write: Write, check: Check):
    folder = write(infra__base_yml=BASE + "domains: [lab]\n", infra__domains__lab_yml=LAB)
    assert only(check(folder / "infra")) == "base.yml:3:10 wrong-type domains"
