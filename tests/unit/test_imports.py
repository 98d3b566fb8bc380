"""Imports run one way, as docs/architecture.md says: read from the code, imports for types left out."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launcher.engines import ENGINES, services

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
# What a room of `anklume_images` may import of it; the commands may import all. What is in no list imports nothing.
LEAVES = {"architectures", "canonical", "errors", "files", "linux", "nearest", "sanitize", "scalars"}
BELOW_IMAGES = {
    **{leaf: set[str]() for leaf in LEAVES},
    "bootstrap": set(),
    "console": {"errors", "sanitize"},
    "packaging": {"packaging"},
    "settings": {"errors", "nearest", "scalars"},
    "incus": {"incus", "errors"},
    "specs": {"specs", *LEAVES},
    "inputs": {"inputs", "specs", *LEAVES},
    "store": {"store", "inputs", *LEAVES},
    "evidence": {"evidence", "store", "inputs", *LEAVES},
    "builder": {"builder", "evidence", "store", "inputs", "specs", *LEAVES},
    "models": {"models", "store", "inputs", "specs", *LEAVES},
    "trust": {"trust", "store", "inputs", *LEAVES},
    "ship": {"ship", "evidence", "trust", "store", "inputs", "incus", *LEAVES},
    "bundle": {"bundle", "ship", "trust", "store", "inputs", "specs", "settings", *LEAVES},
    "results": {*LEAVES},
    "answers": {"store", *LEAVES},
    "locking": {"builder", "store", "inputs", "specs", *LEAVES},
    "pipeline": {"ship", "locking", "results", "builder", "store", "inputs", "specs", *LEAVES},
    "updates": {"locking", "evidence", "inputs", *LEAVES},
    "explain": {"pipeline", "builder", "store", *LEAVES},
}
# What a package of the launcher may import of the launcher; the commands may import all.
BELOW = {
    "engines": {"engines"},
    "gpu_policy": {"gpu_policy"},
    "infra": {"infra", "engines", "gpu_policy"},
    "resources": {"infra"},
    "observe": {"observe", "resources", "infra"},
    "gpu": {"gpu", "observe", "infra", "gpu_policy"},
    "plan": {"plan", "gpu", "observe", "resources", "infra"},
    "prepare": {"plan", "gpu", "observe", "resources", "infra"},
    "apply": {"apply", "prepare", "plan", "gpu", "observe", "resources", "infra"},
    "inspect": {"inspect", "gpu", "observe", "infra", "engines"},
    "chat": {"chat", "inspect", "observe", "infra", "engines"},
    "private_incus": {"private_incus"},
    "trial": {"trial", "private_incus", "apply", "prepare", "plan", "gpu", "infra", "engines"},
}


def modules() -> dict[str, ast.Module]:
    found = {}
    for package in ("anklume_images", "launcher"):
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text())
    return found


def imported(node: ast.AST, known: set[str]) -> Iterator[str]:
    """The project's modules that are imported when the code runs, inside functions too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom) and child.module:
            for alias in child.names:
                whole = f"{child.module}.{alias.name}"
                yield whole if whole in known else child.module
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        else:
            yield from imported(child, known)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """What each module imports."""
    trees = modules()
    known = set(trees)
    return {name: {found for found in imported(tree, known) if found in known} for name, tree in trees.items()}


def test_no_module_is_in_a_circle(graph: dict[str, set[str]]) -> None:
    assert len(graph) > 100
    TopologicalSorter(graph).prepare()
    with pytest.raises(CycleError):
        TopologicalSorter(graph | {"anklume_images.errors": {"launcher.cli.apply"}}).prepare()


def test_the_images_half_knows_nothing_of_the_launcher(graph: dict[str, set[str]]) -> None:
    wrong = {
        (name, other)
        for name, found in graph.items()
        for other in found
        if name.startswith("anklume_images") and other.startswith("launcher")
    }
    assert not wrong


def from_above(graph: dict[str, set[str]], whole: str, package: str, below: set[str]) -> set[tuple[str, str]]:
    """The imports of a package, within the whole, of what is not below it."""
    inside = f"{whole}.{package}"
    own = {name: found for name, found in graph.items() if name == inside or name.startswith(f"{inside}.")}
    assert own
    allowed = tuple(f"{whole}.{name}" for name in below)
    return {
        (name, other)
        for name, found in own.items()
        for other in found
        if other.startswith(f"{whole}.") and not any(other == one or other.startswith(f"{one}.") for one in allowed)
    }


@pytest.mark.parametrize("package", BELOW_IMAGES)
def test_a_room_of_the_images_half_imports_what_is_below_it(package: str, graph: dict[str, set[str]]) -> None:
    assert not from_above(graph, "anklume_images", package, BELOW_IMAGES[package])


@pytest.mark.parametrize("package", BELOW)
def test_a_package_of_the_launcher_imports_what_is_below_it(package: str, graph: dict[str, set[str]]) -> None:
    assert not from_above(graph, "launcher", package, BELOW[package])


@pytest.mark.parametrize(
    ("whole", "below"), [("anklume_images", BELOW_IMAGES), ("launcher", BELOW)], ids=["images", "launcher"]
)
def test_every_room_has_its_place(whole: str, below: dict[str, set[str]], graph: dict[str, set[str]]) -> None:
    rooms = {name.split(".")[1] for name in graph if name.startswith(f"{whole}.")}
    assert rooms - {"cli", "__main__", "quickstart"} == set(below)
    order = {room: others - {room} for room, others in below.items()}
    assert list(TopologicalSorter(order).static_order())  # CycleError otherwise


def test_one_module_knows_pylxd() -> None:
    for name, tree in modules().items():
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        if any(word == "pylxd" or word.startswith("pylxd.") for word in names):
            assert name == "anklume_images.incus.transport"


PATHS = re.compile(
    r"(/?1\.0/)?(instances|images|networks|network-acls|storage-pools|profiles|projects|certificates|operations|cluster)/.*"
)


# The adapter itself, and the store, whose folders have such names.
HAVE_SUCH_FOLDERS = (
    "anklume_images.incus.",
    "anklume_images.store.",
    "anklume_images.trust.",
    "anklume_images.bundle.",
)


def test_no_path_of_the_api_is_written_outside_the_adapter() -> None:
    """Neither in a string nor at the start of one that is put together."""
    found = []
    for name, tree in modules().items():
        if name.startswith(HAVE_SUCH_FOLDERS):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and PATHS.fullmatch(node.value):
                found.append(f"{name}:{node.lineno}: {node.value}")
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in {"find_one", "upload"}:
                found.append(f"{name}:{node.lineno}: {ast.unparse(node.func)}")
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "send" and node.args:
                method = node.args[0]
                if isinstance(method, ast.Constant) and method.value in {"post", "put", "patch", "delete"}:
                    found.append(f"{name}:{node.lineno}: {ast.unparse(node)}")
    assert found == []
    assert PATHS.fullmatch("instances/")


def strings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Texts of the code, those in f-strings too; docstrings are told apart by being statements of their own."""
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node


# What may name an engine beside its own module, each for its reason.
MAY_NAME_ENGINES = {
    "anklume_images.models.layout": "how each engine keeps models in its volume, without a launcher there",
    "anklume_images.models.addresses": "where models come from: a registry is called as its owner is",
    "anklume_images.models.pulling": "asks that registry",
    "launcher.quickstart": "looks at the page of its own example",
}


def words(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """All texts, numbers and names of the code, with their lines; docstrings left out."""
    for constant in strings(tree):
        yield constant.lineno, str(constant.value)
    for node in ast.walk(tree):
        name = next((found for key in ("id", "attr", "name", "arg") if (found := getattr(node, key, None))), None)
        if isinstance(name, str):
            yield getattr(node, "lineno", 0), name
        if isinstance(node, ast.Constant) and type(node.value) is int:
            yield node.lineno, str(node.value)


def test_only_the_engines_know_engines_by_name() -> None:
    """Neither in a text nor in a name; and neither a port nor, in the launcher, a rule of names that is Ollama's."""
    port = str(ENGINES["ollama_server"].port)
    names = {port, *(name for service in services() for name in (service.prefix, service.title, service.unit))}
    trees = modules()

    def named(module: str) -> list[str]:
        known = names | {":latest"} if module.startswith("launcher.") else names
        pattern = re.compile("|".join(map(re.escape, known)), re.IGNORECASE)
        return [f"{line}: {word}" for line, word in words(trees[module]) if pattern.search(word)]

    said = {entry.partition(": ")[2] for entry in named("launcher.engines.ollama")}
    assert {"Ollama", port, ":latest"} <= said
    found = {module: named(module) for module in trees if not f"{module}.".startswith("launcher.engines.")}
    found = {module: places for module, places in found.items() if places}
    assert {module: places for module, places in found.items() if module not in MAY_NAME_ENGINES} == {}
    assert found.keys() == MAY_NAME_ENGINES.keys()  # else the list is longer than it need be
