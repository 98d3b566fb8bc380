"""The recipe names everything that a build depends on, and says what changed between two of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.builder.recipe import differences, make_recipe, recipe_digest, version_of
from tests.unit.test_lockfile import LOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from anklume_images.inputs.lockfile import Lock

SPEC = {
    "description": "An image",
    "contents": {"files/a": "one\n", "templates/b.tpl": "two\n"},
    "variables": {"port": {"type": "port", "default": 80}},
    "provides": ["app"],
}


def recipe(lock: Lock = LOCK, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "spec": SPEC,
        "definition": "image:\n  name: app\n",
        "toolchain": "1" * 64,
        "base": "2" * 64,
        "epoch": 1_700_000_000,
    }
    return make_recipe(lock=lock, **arguments | changes)


CHANGES: dict[str, Callable[[], dict[str, Any]]] = {
    "an input's bytes": lambda: recipe(replace(LOCK, debs=(replace(LOCK.debs[0], sha256="0" * 64),))),
    "an input's version": lambda: recipe(replace(LOCK, debs=(replace(LOCK.debs[0], version="9"),))),
    "an input less": lambda: recipe(replace(LOCK, wheels=())),
    "the architecture": lambda: recipe(replace(LOCK, architecture="arm64")),
    "the name": lambda: recipe(replace(LOCK, name="other")),
    "the upstream version": lambda: recipe(replace(LOCK, upstream="2.0")),
    "the spec": lambda: recipe(spec=SPEC | {"provides": []}),
    "a file": lambda: recipe(spec=SPEC | {"contents": {"files/a": "ONE\n"}}),
    "the definition": lambda: recipe(definition="image:\n  name: other\n"),
    "the toolchain": lambda: recipe(toolchain="3" * 64),
    "the base": lambda: recipe(base=None),
    "the time stamp": lambda: recipe(epoch=0),
}


@pytest.mark.parametrize("what", CHANGES)
def test_everything_counts_and_is_told(what: str) -> None:
    changed = CHANGES[what]()
    assert recipe_digest(changed) != recipe_digest(recipe())
    assert version_of(changed) != version_of(recipe())
    if what not in ("the architecture", "the name"):  # one name's images are compared within an architecture
        assert differences(recipe(), changed)


def test_where_inputs_come_from_does_not_count() -> None:
    """A mirror, an index's date, another path in the archive: the bytes are the same."""
    moved = replace(LOCK.debs[0], archive="debian-security", path="elsewhere.deb", stanza="other words", size=9)
    newer = replace(LOCK, debs=(moved,), indexes=(), request="0" * 64)
    assert recipe_digest(recipe(newer)) == recipe_digest(recipe())


def test_the_order_of_inputs_does_not_count() -> None:
    another = replace(LOCK.debs[0], package="aaa", sha256="9" * 64)
    assert recipe(replace(LOCK, debs=(*LOCK.debs, another))) == recipe(replace(LOCK, debs=(another, *LOCK.debs)))


def test_the_digest_is_the_same_in_every_process() -> None:
    script = "import json, sys; from anklume_images.builder.recipe import *; print(recipe_digest(json.load(sys.stdin)))"
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps(recipe()),
            text=True,
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "LC_ALL": locale, "PYTHONPATH": ":".join(filter(None, sys.path))},
        ).stdout.strip()
        for seed, locale in (("0", "C"), ("7", "C.UTF-8"))
    }
    assert found == {recipe_digest(recipe())}


@pytest.mark.parametrize(
    ("upstream", "shown"),
    [
        ("1.2.3", "1.2.3"),
        ("13.8", "13.8"),
        ("2.0+b1", "2.0-b1"),
        ("1~rc1", "1-rc1"),
        ("0.7.0_x", "0.7.0_x"),
        ("a:b/c d", "a-b-c-d"),
    ],
)
def test_a_version_is_fit_for_an_alias(upstream: str, shown: str) -> None:
    document = recipe(replace(LOCK, upstream=upstream))
    assert version_of(document) == f"{shown}-{recipe_digest(document)[:12]}"


def test_the_same_recipe_differs_in_nothing() -> None:
    assert differences(recipe(), recipe()) == []


def test_inputs_are_told_one_by_one() -> None:
    deb = LOCK.debs[0]
    new = replace(
        LOCK,
        debs=(replace(deb, version="8.15"), replace(deb, package="jq", version="1.7", sha256="7" * 64)),
        wheels=(),
        files=(replace(LOCK.files[0], sha256="0" * 64),),
    )
    assert differences(recipe(), recipe(new)) == [
        "deb curl: 8.14 → 8.15",
        "deb jq: 1.7 added",
        f"file tool v1/tool.tar.zst: other bytes ({'e' * 12} → {'0' * 12})",
        "wheel uv: 1 removed",
    ]


def test_files_and_variables_are_told_by_name() -> None:
    new = SPEC | {
        "contents": {"files/a": "ONE\n", "files/c": "three\n"},
        "variables": {"port": {"type": "port", "default": 81}, "url": {"type": "url"}},
        "description": "Another image",
    }
    assert differences(recipe(), recipe(spec=new)) == [
        "file files/a changed",
        "file files/c added",
        "file templates/b.tpl removed",
        "spec: description changed",
        "variable port changed",
        "variable url added",
    ]


def test_toolchain_base_and_definition_are_told() -> None:
    changed = recipe(toolchain="3" * 64, base=None, definition="image:\n  name: app\n  x: y\n", epoch=1)
    assert differences(recipe(), changed) == [
        "epoch: 1700000000 → 1",
        f"toolchain: {'1' * 12} → {'3' * 12}",
        f"base: {'2' * 12} → none",
        "definition: 0 lines gone, 1 lines new",
    ]
