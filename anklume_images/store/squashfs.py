"""Looks paths up in a squashfs as a machine that runs it would; nothing is mounted."""

from __future__ import annotations

from typing import Any

__all__ = ["find"]

_LINKS = 40  # that the kernel follows before it gives up


def find(root: Any, path: str) -> Any:
    """The entry at `path` below the root of a SquashFsImage, links on the way followed; None when there is none."""
    node, left, links = root, path.strip("/").split("/"), 0
    while left:
        name = left.pop(0)
        if name == "..":
            node = node.parent or root
            continue
        node = node.children.get(name) if node.is_dir else None
        if node is None:
            return None
        if node.is_symlink:
            links += 1
            if links > _LINKS:
                return None
            target = node.readlink()
            node = root if target.startswith("/") else node.parent
            left = [part for part in target.split("/") if part not in ("", ".")] + left
    return node
