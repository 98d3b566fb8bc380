"""The tool itself in a bundle: its wheel and those that it needs, and the packages of the private Incus.

A document in the store, `tool/<name>.json`, names them all, and is signed like an image's.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from anklume_images.bundle.index import BundleError
from anklume_images.canonical import parsed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["Tool", "parse_tool", "tools_of"]

SCHEMA = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Tool:
    """`wheels` are sha256 by file name, `blobs` sizes by sha256 of packages; `name` has version and architecture."""

    name: str
    pythons: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()
    wheels: Mapping[str, str] = field(default_factory=dict)
    blobs: Mapping[str, int] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Its document in the store."""
        return f"tool/{quote(self.name, safe='')}.json"

    def to_bytes(self) -> bytes:
        """The document."""
        document = {
            "schema": SCHEMA,
            "name": self.name,
            "pythons": self.pythons,
            "trees": self.trees,
            "wheels": dict(self.wheels),
            "blobs": dict(self.blobs),
        }
        return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()


def parse_tool(data: bytes, path: str, where: str) -> Tool:
    """What such a document says; BundleError when it is none."""
    try:
        document = parsed(data)
        if document["schema"] != SCHEMA:
            raise BundleError(f"{path} is of schema {document['schema']}", where=where, hint="update anklume-images")
        tool = Tool(
            document["name"],
            tuple(document["pythons"]),
            tuple(document["trees"]),
            dict(document["wheels"]),
            dict(document["blobs"]),
        )
        hashes = [*tool.wheels.values(), *tool.blobs]
        sound = tool.path == path and all(_SHA256.fullmatch(one) for one in hashes)
        sound &= all(type(size) is int and size >= 0 for size in tool.blobs.values())
        sound &= all(isinstance(word, str) for word in (*tool.pythons, *tool.trees))
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise BundleError(f"{path} says nothing of the tool", where=where, hint="do not use it")
    return tool


def tools_of(home: Path) -> Iterator[Tool]:
    """Those that the store at `home` has; BundleError for a document that is none."""
    for path in sorted((home / "tool").glob("*.json")):
        yield parse_tool(path.read_bytes(), path.relative_to(home).as_posix(), str(home))
