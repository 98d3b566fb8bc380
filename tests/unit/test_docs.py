"""The documentation tells the truth: commands exist and run, links lead somewhere, and no key or reason is missing."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import shlex
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlsplit

import click
import pytest
from pydantic import BaseModel

from anklume_images.builder.trees import tree_names
from anklume_images.cli.main import cli
from anklume_images.inputs.lockfile import Deb, Index, Lock, ReleaseFile, Wheel
from anklume_images.models.lock import ModelLock
from anklume_images.models.spec import ModelDocument
from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.specs.keys import (
    DebianInputs,
    PythonInputs,
    ReleaseInput,
    SpecDocument,
    StaticFile,
    Template,
    TreeDocument,
    Variable,
)
from anklume_images.specs.values import VariableType
from launcher.cli.main import cli as launch
from launcher.engines import services
from launcher.inspect import doctor, status, verify
from launcher.inspect.facts import Finding
from launcher.observe.instances import Mount
from launcher.plan import render
from launcher.plan.difference import Change, Plan, Step
from launcher.resources import Key, Resource
from tests.support.reference import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
DOCS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
DECISIONS = ROOT / "docs" / "decisions"
PAGES = [*DOCS, *sorted((ROOT / "examples").rglob("*.md"))]
PROGRAMS: dict[str, click.Group] = {"anklume-images": cli, "anklume-launch": launch}
REFERENCES = {"anklume-images": "reference/commands.md", "anklume-launch": "reference/launch-commands.md"}
CALL = re.compile(r"(?<![\w/.-])(?:anklume-images|anklume-launch) ")
FENCE = re.compile(
    r"(?:<!-- tested(?:: (?P<code>\d))? -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
TESTED = re.compile(r"<!-- tested(?:: (?P<code>\d))? -->\n```console\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


def commands(text: str) -> Iterator[str]:
    """The command lines of console blocks, continued lines joined."""
    for block in FENCE.finditer(text):
        lines = block["text"].replace("\\\n", " ").splitlines()
        yield from (line[2:] for line in lines if block["kind"] == "console" and line.startswith("# "))


def spoken(text: str) -> Iterator[str]:
    """Everything that reads like a call of a program: in console blocks, in a line's `code`, and in synopses."""
    yield from (command for command in commands(text) if CALL.search(command))
    plain = FENCE.sub("", text)
    yield from re.findall(r"`((?:anklume-images|anklume-launch) [^`]+)`", plain)


def calls() -> list[tuple[str, str]]:
    return [(str(page.relative_to(ROOT)), call) for page in PAGES for call in spoken(page.read_text())]


def words_of(call: str) -> tuple[click.Group, list[str]]:
    """The program that is called, and the words behind it up to `--`: what follows is another program's."""
    words = shlex.split(re.split(r"[|>;…]", call)[0])
    start = next(number for number, word in enumerate(words) if word.rpartition("/")[2] in PROGRAMS)
    program = PROGRAMS[words[start].rpartition("/")[2]]
    rest = [word.strip("[]") for word in words[start + 1 :]]
    return program, rest[: rest.index("--")] if "--" in rest else rest


def options_of(command: click.Command) -> dict[str, click.Option]:
    found = {name: p for p in command.params if isinstance(p, click.Option) for name in p.opts}
    return found | {"--help": click.Option(["--help"], is_flag=True), "-h": click.Option(["-h"], is_flag=True)}


def verbs_of(program: click.Group) -> dict[str, click.Command]:
    """Its commands by name; those of a group have both names, `models pull`."""
    context = click.Context(program)
    found: dict[str, click.Command] = {}
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": other for inner, other in verbs_of(command).items()}
        elif command is not None:
            found[name] = command
    return found


def check_call(program: click.Group, words: list[str]) -> None:
    """Fail when a command or an option is not there, or a value is missing."""
    command: click.Command = program
    commands = verbs_of(program)
    rest = iter(words)
    for word in rest:
        if word.startswith("-"):
            known = options_of(command)
            assert word in known, f"no option {word} of {command.name}"
            if not known[word].is_flag:
                assert next(rest, None), f"{word} has no value"
        elif command is program:
            is_file = program is launch and ("." in word or "/" in word or word.isupper())
            of_group = any(name.startswith(f"{word} ") for name in commands)
            name = f"{word} {next(rest, '')}" if of_group else word
            assert name in commands or is_file, f"no command {name}"
            command = commands["apply" if is_file else name]


@pytest.mark.parametrize(("page", "call"), calls(), ids=lambda value: str(value)[:60])
def test_every_command_that_is_named_exists(page: str, call: str) -> None:
    check_call(*words_of(call))


def test_the_check_of_commands_sees_what_does_not_exist() -> None:
    for name, number in (("anklume-images", 40), ("anklume-launch", 30)):
        assert sum(name in call for _, call in calls()) > number, name
    for wrong in (
        "anklume-images biuld debian",
        "anklume-images build --chek",
        "anklume-images models pul smollm2-135m",
        "anklume-images models pull --json --missing",
        "anklume-images --store",
        "anklume-launch aplpy infra.yml",
        "anklume-launch infra.yml --pln",
        "anklume-launch plan infra.yml --timeout 3",
        "anklume-launch logs infra.yml web -n",
    ):
        with pytest.raises(AssertionError):
            check_call(*words_of(wrong))


def sections_of(page: str) -> dict[str, str]:
    """The sections of a page of commands by command; one section may be about several."""
    sections = re.split(r"^## ", text_of(page), flags=re.MULTILINE)[1:]
    return {command: section for section in sections for command in section.splitlines()[0].split(", ")}


def named_in(section: str, option: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", section) is not None


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_reference_has_every_verb_and_option(name: str) -> None:
    sections = sections_of(REFERENCES[name])
    assert verbs_of(PROGRAMS[name]).keys() - sections.keys() == set(), f"no section in docs/{REFERENCES[name]}"
    for word, command in verbs_of(PROGRAMS[name]).items():
        for option in options_of(command).keys() - {"-h", "--help"}:
            spellings = next(p.opts for p in command.params if option in p.opts)
            assert any(named_in(sections[word], spelling) for spelling in spellings), f"{name} {word} {option}"
    for option in options_of(PROGRAMS[name]):
        assert named_in(sections["Before the command"], option), option
    assert text_of(REFERENCES[name]).startswith(f"# Commands of {name}")


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_reference_has_no_option_that_a_verb_lacks(name: str) -> None:
    sections = sections_of(REFERENCES[name])
    commands = verbs_of(PROGRAMS[name])
    for command in commands.keys() & sections.keys():
        synopsis = "\n".join(line for line in sections[command].splitlines() if line.startswith("    "))
        rows = "\n".join(re.findall(r"^\| (`-.*?) \|", sections[command], re.MULTILINE))
        written = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", f"{synopsis}\n{rows}"))
        about = [commands[other] for other in commands if sections.get(other) == sections[command]]
        known = {option for command in about for option in options_of(command)}
        assert written <= known, f"{name} {command}"


def test_options_of_several_verbs_are_described() -> None:
    section = sections_of(REFERENCES["anklume-launch"])["Options of several commands"]
    shared = set(re.findall(r"--[a-z]+", section))
    assert {"--only", "--tags", "--remote", "--yolo", "--yes", "--json"} <= shared
    for option in shared:
        assert sum(option in options_of(command) for command in verbs_of(launch).values()) > 1, option


def keys_in(document: Any) -> Iterator[str]:
    """The keys of a JSON document, at every depth."""
    if isinstance(document, dict):
        yield from document
    for value in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        yield from keys_in(value)


def documents() -> dict[str, Any]:
    """One document of each command that prints JSON of its own, every list in it filled."""
    key = Key("project", "", "lab")
    step = Step(Resource(key, {}), "change", (Change("description", None, "new"),))
    plan = Plan((step,), orphans=(key,), removing=(key,), waiting=(("web", "debian@1", "debian@2"),))
    health = status.Health("healthy")
    row = status.Row("web", "lab", "lab", "web", "running", "", (), "", None, None, (), health, (Mount("/", "", ""),))
    finding = Finding("code", "error", "host", "", (), "", "")
    return {
        "plan": render.document(plan),
        "status": status.as_json([row]),
        "verify": verify.as_json([verify.Check("gpu", "web", "ok", "")]),
        "doctor": doctor.as_json(doctor.Report((), (finding,))),
    }


@pytest.mark.parametrize(("command", "document"), documents().items())
def test_the_reference_has_every_key_of_the_json(command: str, document: Any) -> None:
    section = sections_of(REFERENCES["anklume-launch"])[command]
    assert {name for name in keys_in(document) if f'"{name}":' not in section} == set()


def test_every_check_of_verify_is_in_its_table() -> None:
    text = text_of("how-to/look-at-machines.md")
    assert {name for service in services() for name in service.checks if f"`{name}`" not in text} == set()


def marked_blocks() -> list[Any]:
    """Of each page with blocks that are marked as tested: their commands, and with which code each of them ends."""
    found = []
    for page in PAGES:
        blocks = [
            ([line[2:] for line in block["text"].splitlines() if line.startswith("# ")], int(block["code"] or 0))
            for block in TESTED.finditer(page.read_text())
        ]
        if blocks:
            found.append(pytest.param(blocks, id=str(page.relative_to(ROOT))))
    return found


def test_some_commands_are_marked() -> None:
    assert len(marked_blocks()) > 10


def test_links_lead_somewhere() -> None:
    checked = 0
    for page in PAGES:
        for target in re.findall(r"\]\(([^)]+)\)", FENCE.sub("", page.read_text())):
            parts = urlsplit(target)
            assert not parts.scheme, f"{page}: {target} leaves the project"
            place = (page.parent / parts.path).resolve() if parts.path else page
            assert place.is_file(), f"{page}: {target}"
            if parts.fragment:
                assert parts.fragment in anchors(place), f"{page}: {target}"
            checked += 1
    assert checked > 40


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_list_of_all() -> None:
    """And decisions in their own list, examples in the README: the contents of the site are these links."""
    for page in set(PAGES) - {ROOT / "README.md", ROOT / "docs" / "README.md"}:
        if page.parent == DECISIONS and page.name != "README.md":
            folder = DECISIONS
        else:
            folder = ROOT if page.is_relative_to(ROOT / "examples") else ROOT / "docs"
        assert f"({os.path.relpath(page, folder)})" in (folder / "README.md").read_text(), page


def test_decisions_are_numbered_without_a_gap() -> None:
    for number, page in enumerate(sorted(DECISIONS.glob("[0-9]*.md")), 1):
        text = page.read_text()
        title = re.match(rf"# ({number}\. .+)\n\nAccepted, \d{{4}}-\d\d-\d\d\.\n", text)
        assert page.name.startswith(f"{number:04}-"), page
        assert title, page
        assert f"- [{title[1]}]({page.name})\n" in (DECISIONS / "README.md").read_text()


def test_every_dependency_has_its_reason() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = document["project"]
    text = text_of("dependencies.md")
    runtime, development = text.split("## For development")
    own, documentation = development.split("## For the documentation")
    names = re.compile(r"^[A-Za-z0-9._-]+")
    for section, wanted in (
        (runtime, project["dependencies"]),
        (own, project["optional-dependencies"]["dev"]),
        (documentation.split("## Trees")[0], document["dependency-groups"]["docs"]),
    ):
        required = {found[0] for line in wanted if (found := names.match(line))}
        assert set(re.findall(r"^\| `([^`]+)` \| \S.*\|$", section, re.MULTILINE)) == required
    trees = development.split("## Trees")[1].split("## From the host")[0]
    assert re.findall(r"^\| `([^`]+)` \|", trees, re.MULTILINE) == tree_names_in_order()


def tree_names_in_order() -> list[str]:
    return sorted(tree_names(), key=lambda name: (name != "toolchain", name))


def keys_of(model: type[BaseModel]) -> set[str]:
    """The keys of a model and of the models within it."""
    found: set[str] = set()
    for name, info in model.model_fields.items():
        found.add(info.alias or name)
        for inner in models_in(info.annotation):
            found |= keys_of(inner)
    return found


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from models_in(argument)


TABLES_OF_A_SPEC: dict[str, tuple[type[BaseModel], ...]] = {
    "Keys": (SpecDocument,),
    "inputs.debian": (DebianInputs,),
    "inputs.python": (PythonInputs,),
    "inputs.files": (ReleaseInput,),
    "files, templates": (StaticFile, Template),
    "variables": (Variable,),
}


@pytest.mark.parametrize("title", TABLES_OF_A_SPEC)
def test_a_table_of_the_specs_reference_has_the_keys_that_there_are(title: str) -> None:
    _, _, section = text_of("reference/spec.md").partition(f"# {title}\n")
    table = section[section.index("\n| key |") :].lstrip().partition("\n\n")[0]
    told = re.findall(r"^\| `([a-z0-9_]+)` \|", table, re.MULTILINE)
    fields = (field for model in TABLES_OF_A_SPEC[title] for field in model.model_fields.items())
    assert sorted(told) == sorted({info.alias or name for name, info in fields})


def test_the_reference_has_the_keys_of_a_tree() -> None:
    section = text_of("reference/lock.md").partition("## tree.yml")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z]+)` \|", section, re.MULTILINE) == list(TreeDocument.model_fields)


def test_the_reference_has_every_key_of_a_spec() -> None:
    text = text_of("reference/spec.md")
    keys = keys_of(SpecDocument) - {"literal"}  # a version that is text
    assert {"packages", "exclude", "secret", "timeout"} <= keys
    missing = {key for key in keys if f"`{key}`" not in text and f"{{{key}: " not in text}
    assert not missing


def test_pages_have_every_type_of_a_variable() -> None:
    types = list(get_args(VariableType))
    (row,) = re.findall(r"^\| `type` \| required \| (.*) \|$", text_of("reference/spec.md"), re.MULTILINE)
    assert re.findall(r"`([a-z]+)`", row) == types
    (told,) = re.findall(r"'prt' is not one of (.*) \(did you mean", text_of("how-to/add-an-image.md"))
    assert re.findall(r"'([a-z]+)'", told) == types


OF_EVERY_PROGRAM = {"HOME", "PATH", "SHELL", "SUDO_USER", "TERM", "XDG_CONFIG_DIRS", "XDG_RUNTIME_DIR"}


def test_the_settings_have_every_variable_that_is_read() -> None:
    read = set()
    for path in (path for package in ("anklume_images", "launcher") for path in (ROOT / package).rglob("*.py")):
        read |= set(re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', path.read_text()))
    assert {"ANKLUME_STORE", "INCUS_SOCKET", "HOME"} <= read
    text = text_of("reference/settings.md")
    assert {name for name in read - OF_EVERY_PROGRAM if f"`{name}`" not in text and name != "PIP_CONFIG_FILE"} == set()


CODE_AT = {"_add": 1, "problem": 1, "_problem": 1, "_at_from": 1, "_invalid": 2, "Problem": 3}  # its place in a call


def codes_in(tree: ast.AST) -> Iterator[str]:
    """The code words that a module gives to problems, in calls and in assignments to `code`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            found: ast.AST | None = node.args[CODE_AT[name]] if len(node.args) > CODE_AT.get(name, 99) else None
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "code":
            found = node.value
        else:
            continue
        for word in ast.walk(found) if found else ():
            if isinstance(word, ast.Constant) and re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", str(word.value)):
                yield word.value


def test_the_reference_has_every_code_of_a_problem() -> None:
    modules = (ROOT / "anklume_images" / "specs").glob("*.py")
    used = {code for module in modules for code in codes_in(ast.parse(module.read_text()))}
    assert {"unknown-key", "wrong-value", "base-cycle", "undeclared-variable", "yaml-tab"} <= used
    table = text_of("reference/spec.md").split("## What is wrong")[1]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    assert {word for row in rows for word in re.findall(r"`([^`]+)`", row)} == used


def test_the_reference_has_every_key_of_a_lock() -> None:
    text = text_of("reference/lock.md")
    for kind in (Lock, Deb, Wheel, ReleaseFile, Index):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in text, f"{kind.__name__}.{field.name}"


def test_the_reference_has_every_key_of_a_model_and_its_lock() -> None:
    text = text_of("reference/model.md")
    keys = keys_of(ModelDocument) | {field.name for field in dataclasses.fields(ModelLock)}
    assert {key for key in keys if f"`{key}`" not in text} == set()


def test_the_changelog_has_every_image() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert {name for name in Catalog.load([builtin_specs(), EXAMPLES]).names() if f"`{name}`" not in text} == set()


def test_no_page_names_a_mirror() -> None:
    hosts = set()
    for page in PAGES:
        hosts |= set(re.findall(r"\w+://(?:[\w.-]+:[\w.-]+@)?([\w.-]+)", page.read_text()))
    allowed = re.compile(r"127\.0\.0\.1|10(\.\d+){3}|localhost|HOST|web|ollama|llama|[\w.]+\.(example|invalid)")
    assert not {host for host in hosts if not allowed.fullmatch(host)}
