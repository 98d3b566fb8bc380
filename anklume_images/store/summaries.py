"""What lists and indexes say of the images of a store, without reading every manifest each time.

`cache/images.json` has what was read before, by path, time and size of the manifest; who may write the store adds
to it. It begins with the sha256 of the rest, and may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from anklume_images.files import write_atomic
from anklume_images.store.images import StoredFile, Summary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.store.images import Images
    from anklume_images.store.store import Store

__all__ = ["damaged_summaries", "summaries"]

_SCHEMA = 1
_CACHE = "cache/images.json"
_BEGIN, _HEX = b'{"digest":"', 64


def summaries(store: Store, images: Images) -> list[Summary]:
    """Every image of the store, by name, version and architecture."""
    cache = store.home / _CACHE
    before = _read(cache)
    entries: dict[str, dict[str, Any]] = {}
    for key, stamp in _manifests(store.home / "images"):
        known = before.get(key)
        if known and known["stamp"] == stamp:
            entries[key] = known
            continue
        name, version, architecture = key.split("/")
        summary = images.summary(name, version, architecture, stamp[0])
        if summary is not None:  # else gc took it meanwhile
            entries[key] = {"stamp": stamp, **asdict(summary)}
    if entries != before and os.access(store.home, os.W_OK):
        document = {"schema": _SCHEMA, "images": entries}
        with contextlib.suppress(OSError):  # the disk is full: it is a cache
            rest = b'",' + json.dumps(document, separators=(",", ":")).encode()[1:]
            write_atomic(cache, _BEGIN + hashlib.sha256(rest).hexdigest().encode() + rest)
    return [_summary(entry) for _, entry in sorted(entries.items(), key=lambda item: item[0].split("/"))]


def damaged_summaries(home: Path) -> list[Path]:
    """The file, where it is not as it was written; nobody believes it then."""
    cache = home / _CACHE
    return [cache] if cache.exists() and _content(cache) is None else []


def _content(cache: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        data = cache.read_bytes()
        rest = len(_BEGIN) + _HEX
        if data[:rest] == _BEGIN + hashlib.sha256(data[rest:]).hexdigest().encode():
            return data
    return None


def _manifests(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """`name/version/architecture` of every image, and the time and size of its manifest."""
    for name in _names(folder):
        for version in _names(folder / name):
            for architecture in _names(folder / name / version):
                key = f"{name}/{version}/{architecture}"
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    status = os.stat(f"{folder}/{key}/manifest.json")
                    yield key, [status.st_mtime_ns, status.st_size]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(cache: Path) -> dict[str, Any]:
    """What the cache holds; nothing when it is missing, damaged or of another program."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        document = json.loads(_content(cache) or b"{}")
        if document["schema"] == _SCHEMA:
            for entry in document["images"].values():
                _summary(entry)
            return dict(document["images"])
    return {}


def _summary(entry: dict[str, Any]) -> Summary:
    fields = {name: value for name, value in entry.items() if name != "stamp"}
    files = {name: StoredFile(**fields[name]) for name in ("metadata", "rootfs")}
    return Summary(**fields | files)
