"""Completion of both commands: what click answers, and that a real bash at a terminal completes by it."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.cli.program import CommandTable
from launcher.cli.main import cli
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"anklume-launch": "launcher", "anklume-images": "anklume_images"}
INFRA = """\
project_name: demo
global: {}
domains:
  lab:
    subnet_id: 1
    machines: {web: {}, worker: {}, db: {}}
  wing: {subnet_id: 2, machines: {}}
  gone: {subnet_id: 3, enabled: false, machines: {wold: {}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an infra.yml, and things that are none."""
    (tmp_path / "infra.yml").write_text(INFRA)
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "examples").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "two words.yml").touch()
    (tmp_path / "plain.txt").touch()
    return tmp_path


@pytest.fixture
def programs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A path with both commands on it, as an installed environment has them."""
    folder = tmp_path_factory.mktemp("bin")
    for name, module in MODULES.items():
        text = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom {module}.cli.main import main\nmain()\n"
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def completions(line: str, folder: Path) -> list[str]:
    """What click answers bash for a line whose last word is being typed; nothing may be said beside it."""
    words = line.split(" ")
    name = words[0].upper().replace("-", "_")
    asked = {f"_{name}_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    code = f"import sys; sys.argv[0] = {words[0]!r}; from {MODULES[words[0]]}.cli.main import main; main()"
    environment = {**os.environ, **asked, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
    return result.stdout.split()


def names(line: str, folder: Path) -> list[str]:
    return [answer.removeprefix("plain,") for answer in completions(line, folder)]


def test_the_first_word_is_a_verb_or_a_file(folder: Path) -> None:
    assert isinstance(cli, CommandTable)
    commands = list(cli.table)
    assert names("anklume-launch ", folder) == [*commands, "broken.yaml", "examples/", "infra.yml"]
    assert names("anklume-launch ver", folder) == ["verify"]
    assert names("anklume-launch --store x pl", folder) == ["plan"]
    assert "--specs" in names("anklume-launch --", folder)


def test_a_first_word_that_is_no_verb_is_left_to_the_shell(folder: Path) -> None:
    assert completions("anklume-launch infra", folder) == ["file,infra"]
    assert completions("anklume-launch examples/", folder) == ["file,examples/"]
    assert completions("anklume-launch --no-such", folder) == []


@pytest.mark.parametrize("command", ["destroy ", "doctor ", "try ", ""])
def test_only_is_completed_by_domains_and_machines(command: str, folder: Path) -> None:
    line = f"anklume-launch {command}infra.yml --only "
    assert names(line, folder) == ["lab", "wing", "web", "worker", "db"]
    assert names(f"{line}w", folder) == ["wing", "web", "worker"]
    assert names(f"{line}web --only wo", folder) == ["worker"]


@pytest.mark.parametrize("command", ["logs", "shell"])
def test_a_machine_is_completed(command: str, folder: Path) -> None:
    assert names(f"anklume-launch {command} infra.yml w", folder) == ["web", "worker"]


def test_a_machine_behind_an_option_is_completed(folder: Path) -> None:
    assert names("anklume-launch chat infra.yml --machine w", folder) == ["web", "worker"]


def test_the_default_verb_has_its_options(folder: Path) -> None:
    assert names("anklume-launch infra.yml --no", folder) == ["--no-wait"]


def test_a_file_is_asked_of_the_shell(folder: Path) -> None:
    assert completions("anklume-launch plan inf", folder) == ["file,inf"]


@pytest.mark.parametrize("file", ["broken.yaml", "none.yml", "examples"])
def test_a_file_that_is_none_completes_nothing_and_says_nothing(file: str, folder: Path) -> None:
    assert names(f"anklume-launch plan {file} --only ", folder) == []


def test_warnings_of_the_file_are_not_said(folder: Path) -> None:
    (folder / "warned.yml").write_text(INFRA.replace("subnet_id: 1", "subnet_id: 1\n    trust_level: untrusted"))
    assert names("anklume-launch plan warned.yml --only d", folder) == ["db"]


def test_images_are_completed(folder: Path) -> None:
    assert names("anklume-images build open", folder) == ["open-webui", "open-webui-full"]


def test_models_are_completed(folder: Path) -> None:
    assert names("anklume-images models pull smol", folder) == ["smollm2-135m"]
    assert names("anklume-launch try infra.yml --model smol", folder) == ["smollm2-135m"]
    assert completions("anklume-launch try infra.yml --model /tmp/m", folder) == ["file,/tmp/m"]


@contextlib.contextmanager
def bash(folder: Path, path: str) -> Iterator[Terminal]:
    environment = {**os.environ, "PATH": path, "PS1": "ready> ", "TERM": "dumb", "HISTFILE": ""}
    shell = Terminal(["bash", "--norc", "--noprofile", "-i"], columns=200, cwd=folder, env=environment)
    try:
        shell.read_until("ready> ")
        for name in MODULES:
            variable = name.upper().replace("-", "_")
            shell.type(f'eval "$(_{variable}_COMPLETE=bash_source {name})"; echo e""nd\r')
            shell.read_until("end\r")
        yield shell
    finally:
        shell.close()


def test_bash_completes_at_a_terminal(folder: Path, programs: str) -> None:
    with bash(folder, programs) as shell:
        for typed, completed in (
            ("anklume-launch ver", "verify "),
            ("anklume-launch inf", "infra.yml "),
            ("anklume-launch exa", "examples/"),
            ("anklume-launch infra.yml --only wo", "worker "),
            ("anklume-launch logs infra.yml d", "db "),
            ("anklume-images build open-webui-", "open-webui-full "),
        ):
            shell.type(f"{typed}\t")
            last = typed.rpartition(" ")[2]
            shell.read_until(typed + completed.removeprefix(last).replace(".", r"\."))
            shell.type("\x15")  # take the line back
        shell.type("anklume-launch d\t\t")
        shell.read_until(r"destroy +doctor")


def test_the_scripts_for_other_shells_are_there(programs: str) -> None:
    for name in MODULES:
        variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
        for shell, words in (
            ("zsh", f"compdef _{name.replace('-', '_')}_completion {name}"),
            ("fish", "complete --no-f"),
        ):
            environment = {**os.environ, "PATH": programs, variable: f"{shell}_source"}
            said = subprocess.run(shlex.split(name), env=environment, capture_output=True, text=True, check=True).stdout
            assert words in said
