"""group_vars, host_vars and vars: who wins, what is the framework's own, and what is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.infra.varfiles import MANAGED_BEGIN, MANAGED_END

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from launcher.infra.load import Checked

    Write = Callable[..., Path]
    Check = Callable[..., Checked]

FILE = """project_name: p
global: {addressing: {}}
domains:
  lab:
    machines:
      ai: {roles: [ollama_server]}
      ai2: {roles: [ollama_server]}
      ui: {roles: [open_webui]}
"""


def variables(checked: Checked, machine: str) -> dict[str, str]:
    assert checked.valid, checked.errors
    assert checked.infra is not None
    found = checked.infra.machine(machine)
    assert found is not None
    return dict(found.variables)


def problems(checked: Checked) -> list[tuple[str, int, str]]:
    return [(p.file.rsplit("/", 1)[1], p.line, p.code) for p in checked.errors]


def test_each_layer_beats_the_one_before(write: Write, check: Check):
    folder = write(
        infra_yml=FILE.replace(
            "ai: {roles: [ollama_server]}", "ai: {roles: [ollama_server], vars: {ollama_host: ':4'}}"
        ),
        group_vars__all_yml="ollama_host: ':1'\nollama_keep_alive: all\nollama_default_model: all\n",
        group_vars__lab_yml="ollama_host: ':2'\nollama_keep_alive: group\n",
        host_vars__ai_yml="ollama_host: ':3'\nollama_context_length: 512\n",
    )
    checked = check(folder / "infra.yml")
    assert variables(checked, "ai") == {
        "ollama_host": ":4",
        "ollama_keep_alive": "group",
        "ollama_default_model": "all",
        "ollama_context_length": "512",
    }
    assert variables(checked, "ai2") == {
        "ollama_host": ":2",
        "ollama_keep_alive": "group",
        "ollama_default_model": "all",
    }
    assert "ollama_host" not in variables(checked, "ui")


def test_files_beside_a_folder(write: Write, check: Check):
    folder = write(infra__base_yml=FILE, host_vars__ai_yml="ollama_default_model: tiny\n")
    assert variables(check(folder / "infra"), "ai") == {"ollama_default_model": "tiny"}


def test_the_guides_own_example(write: Write, check: Check):
    """Below the managed section, as the framework's guide says; what the framework generated is in it."""
    text = f"""---
{MANAGED_BEGIN}
# Do not edit this section
instance_name: ai
instance_os_image: images:debian/13
instance_config:
  security.nesting: 'true'
some_generated_thing: [1, 2]
{MANAGED_END}

# Your custom variables below:
ollama_default_model: "llama3.2:3b"
"""
    folder = write(infra_yml=FILE, host_vars__ai_yml=text)
    checked = check(folder / "infra.yml")
    assert variables(checked, "ai") == {"ollama_default_model": "llama3.2:3b"}
    assert not checked.warnings


def test_a_variable_of_an_image_counts_in_a_managed_section_too(write: Write, check: Check):
    managed = f"{MANAGED_BEGIN}\nollama_keep_alive: 5m\nollama_context_length: many\n{MANAGED_END}\n"
    folder = write(infra_yml=FILE, host_vars__ai_yml=managed)
    assert problems(check(folder / "infra.yml")) == [("ai.yml", 3, "wrong-variable")]


def test_unknown_outside_of_a_managed_section(write: Write, check: Check):
    first, third = (f"{MANAGED_BEGIN}\n{name}: 1\n{MANAGED_END}\n" for name in ("first", "third"))
    folder = write(infra_yml=FILE, group_vars__lab_yml=f"{first}second: 2\n{third}ollama_hst: x\n")
    checked = check(folder / "infra.yml")
    assert problems(checked) == [("lab.yml", 4, "unknown-variable"), ("lab.yml", 8, "unknown-variable")]
    assert checked.errors[1].hint == "did you mean 'ollama_host'?"
    assert set(checked.document()["machines"]) == {"ai", "ai2", "ui"}  # addresses are known all the same


def test_a_section_that_is_not_closed_is_none(write: Write, check: Check):
    folder = write(infra_yml=FILE, group_vars__lab_yml=f"{MANAGED_BEGIN}\nfirst: 1\n")
    assert problems(check(folder / "infra.yml")) == [("lab.yml", 2, "unknown-variable")]


def test_names_of_ansible_and_the_framework_are_theirs(write: Write, check: Check):
    folder = write(infra_yml=FILE, host_vars__ai_yml="ansible_python_interpreter: /x\ninstance_gpu: true\n")
    assert variables(check(folder / "infra.yml"), "ai") == {}


def test_a_group_may_set_what_some_of_its_machines_have(write: Write, check: Check):
    folder = write(infra_yml=FILE, group_vars__lab_yml="open_webui_port: 8080\nollama_no_cloud: false\n")
    checked = check(folder / "infra.yml")
    assert variables(checked, "ai") == {"ollama_no_cloud": "false"}
    assert variables(checked, "ui")["open_webui_port"] == "8080"


def test_a_machine_may_not_set_what_it_does_not_have(write: Write, check: Check):
    folder = write(infra_yml=FILE, host_vars__ai_yml="open_webui_port: 8080\n")
    checked = check(folder / "infra.yml")
    assert problems(checked) == [("ai.yml", 1, "unknown-variable")]
    assert "open-webui" in str(checked.errors[0].hint)


def test_a_wrong_value_of_a_group_is_reported_once(write: Write, check: Check):
    folder = write(infra_yml=FILE, group_vars__lab_yml="ollama_context_length: many\n")
    assert problems(check(folder / "infra.yml")) == [("lab.yml", 1, "wrong-variable")]


def test_a_later_empty_value_takes_an_earlier_one_back(write: Write, check: Check):
    folder = write(
        infra_yml=FILE, group_vars__lab_yml="ollama_default_model: a\n", host_vars__ai_yml="ollama_default_model: ''\n"
    )
    checked = check(folder / "infra.yml")
    assert variables(checked, "ai") == {}
    assert variables(checked, "ai2") == {"ollama_default_model": "a"}


def test_an_expression_of_ansible_is_taken_as_it_stands_and_said(write: Write, check: Check):
    folder = write(infra_yml=FILE, host_vars__ai_yml="ollama_default_model: '{{ model }}'\n")
    checked = check(folder / "infra.yml")
    assert variables(checked, "ai") == {"ollama_default_model": "{{ model }}"}
    assert [p.code for p in checked.warnings] == ["ansible-expression"]


def test_files_of_nobody(write: Write, check: Check):
    folder = write(
        infra_yml=FILE,
        group_vars__lap_yml="x: 1\n",
        group_vars__all_yml="",
        host_vars__ai3_yml="x: 1\n",
        host_vars__ai_yaml="x: 1\n",
    )
    checked = check(folder / "infra.yml")
    assert checked.valid
    assert [(p.file.rsplit("/", 1)[1], p.code, p.hint) for p in checked.warnings] == [
        ("lap.yml", "unused-variables", "did you mean 'lab'?"),
        ("ai.yaml", "file-ignored", None),
        ("ai3.yml", "unused-variables", "did you mean 'ai'?"),
    ]


def test_files_that_are_no_variables(write: Write, check: Check):
    folder = write(
        infra_yml=FILE,
        group_vars__lab_yml="- a\n",
        host_vars__ai_yml="$ANSIBLE_VAULT;1.1;AES256\n616263\n",
        host_vars__ai2_yml="a: [\n",
        host_vars__ui_yml="3: x\n",
    )
    assert problems(check(folder / "infra.yml")) == [
        ("lab.yml", 1, "wrong-type"),
        ("ai.yml", 1, "wrong-type"),
        ("ai2.yml", 2, "yaml-syntax"),
        ("ui.yml", 1, "wrong-name"),
    ]


def test_files_of_a_disabled_domain_are_not_read(write: Write, check: Check):
    folder = write(
        infra_yml=FILE.replace("    machines", "    enabled: false\n    machines"), host_vars__ai_yml="x: 1\n"
    )
    checked = check(folder / "infra.yml")
    assert checked.valid
    assert not checked.warnings


def test_wiring_heeds_variables_of_files(write: Write, check: Check):
    folder = write(
        infra_yml=FILE.replace("      ai2: {roles: [ollama_server]}\n", ""),
        group_vars__lab_yml="ollama_host: 0.0.0.0:7000\n",
    )
    assert variables(check(folder / "infra.yml"), "ui") == {"open_webui_ollama_url": "http://10.120.0.1:7000"}


def test_a_secret_is_in_no_message(write: Write, check: Check):
    text = "      lm: {roles: [llama_server], vars: {llama_server_api_key: [hush-hush]}}\n"
    folder = write(infra_yml=FILE + text)
    checked = check(folder / "infra.yml")
    assert problems(checked) == [("infra.yml", 9, "wrong-variable")]
    assert "hush" not in str(checked.document())
    write(infra_yml=FILE.replace("[ollama_server]", "[]") + text.replace("[hush-hush]", "hush-hush"))
    checked = check(folder / "infra.yml")
    assert variables(checked, "ui")["open_webui_openai_key"] == "hush-hush"
    assert "hush" not in str(checked.document())


def test_a_number_that_yaml_changed_is_refused_in_every_layer(write: Write, check: Check):
    folder = write(
        infra_yml=FILE.replace("[open_webui]}", "[open_webui], vars: {open_webui_port: 0443}}"),
        group_vars__all_yml="open_webui_port: 0x50\n",
        host_vars__ai_yml="ollama_keep_alive: 3.10\n",
    )
    checked = check(folder / "infra.yml")
    assert problems(checked) == [
        ("all.yml", 1, "changed-by-yaml"),
        ("ai.yml", 1, "wrong-variable"),
        ("infra.yml", 8, "changed-by-yaml"),
    ]
    assert [p.hint for p in checked.errors] == ["write 80", 'write "3.10", in quotes', "write 291, or 443"]
