"""The recipe: one canonical document that says everything a build depends on; its sha256 names the result."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from anklume_images.canonical import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anklume_images.inputs.lockfile import Lock

__all__ = ["COMPRESSION", "differences", "make_recipe", "recipe_digest", "version_of"]

SCHEMA = 1
PACKER = 1  # raise it when the same inputs are packed to other bytes than before
# Measured on the debian image, two CPUs: level 15 takes 8.5 s for 62.6 MB, level 12 2.4 s for 62.9 MB.
COMPRESSION = "zstd-12"


def make_recipe(
    *,
    lock: Lock,
    spec: dict[str, Any],
    definition: str,
    toolchain: str,
    base: str | None,
    epoch: int,
) -> dict[str, Any]:
    """Put a recipe together.

    `spec` is the spec as plain data, `definition` the rendered distrobuilder YAML, `toolchain` a tree's digest, `base`
    the digest of the base image's recipe, `epoch` the second that time stamps are clamped to.
    """
    inputs = [["deb", deb.package, deb.version, deb.sha256] for deb in lock.debs]
    inputs += [["wheel", wheel.package, wheel.version, wheel.sha256] for wheel in lock.wheels]
    inputs += [["file", file.name, file.path, file.sha256] for file in lock.files]
    return {
        "schema": SCHEMA,
        "packer": PACKER,
        "compression": COMPRESSION,
        "name": lock.name,
        "upstream": lock.upstream,
        "architecture": lock.architecture,
        "spec": spec,
        "definition": definition,
        "inputs": sorted(inputs),
        "toolchain": toolchain,
        "base": base,
        "epoch": epoch,
    }


def recipe_digest(recipe: dict[str, Any]) -> str:
    """The sha256 of the recipe's canonical form, in hex."""
    return hashlib.sha256(canonical(recipe)).hexdigest()


def version_of(recipe: dict[str, Any]) -> str:
    """`<upstream version>-<first 12 hex of the recipe's hash>`, made of what Incus 7.0 allows in an alias."""
    upstream = re.sub(r"[^A-Za-z0-9._-]", "-", recipe["upstream"])
    return f"{upstream}-{recipe_digest(recipe)[:12]}"


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What changed from one recipe to another, one line each, for `--explain`."""
    return [*_inputs(old["inputs"], new["inputs"]), *_documents(old, new)]


def _inputs(old: list[list[str]], new: list[list[str]]) -> Iterator[str]:
    before = {(kind, name): (version, sha256) for kind, name, version, sha256 in old}
    after = {(kind, name): (version, sha256) for kind, name, version, sha256 in new}
    for key in sorted(before.keys() | after.keys()):
        kind, name = key
        if key not in after:
            yield f"{kind} {name}: {before[key][0]} removed"
        elif key not in before:
            yield f"{kind} {name}: {after[key][0]} added"
        elif before[key][0] != after[key][0]:
            yield f"{kind} {name}: {before[key][0]} → {after[key][0]}"
        elif before[key] != after[key]:
            yield f"{kind} {name} {after[key][0]}: other bytes ({before[key][1][:12]} → {after[key][1][:12]})"


def _documents(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for key in ("schema", "packer", "compression", "upstream", "epoch"):
        if old.get(key) != new.get(key):
            yield f"{key}: {old.get(key)} → {new.get(key)}"
    for key in ("toolchain", "base"):
        if old[key] != new[key]:
            yield f"{key}: {(old[key] or 'none')[:12]} → {(new[key] or 'none')[:12]}"
    for key in sorted(old["spec"].keys() | new["spec"].keys()):
        before, after = old["spec"].get(key), new["spec"].get(key)
        if before != after:
            yield from _entries(key, before, after)
    if old["definition"] != new["definition"]:
        before, after = old["definition"].splitlines(), new["definition"].splitlines()
        gone, come = set(before) - set(after), set(after) - set(before)
        yield f"definition: {len(gone)} lines gone, {len(come)} lines new"


def _entries(key: str, before: Any, after: Any) -> Iterator[str]:
    """One line for a plain value; of files and variables each that changed, by its name."""
    if not (isinstance(before, dict) and isinstance(after, dict)) or not key.endswith("s"):
        yield f"spec: {key} changed"
        return
    kind = "file" if key == "contents" else key.removesuffix("s")
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield f"{kind} {name} added"
        elif name not in after:
            yield f"{kind} {name} removed"
        elif before[name] != after[name]:
            yield f"{kind} {name} changed"
