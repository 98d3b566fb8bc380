"""A document that is broken is told in words, whichever reader meets it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.canonical import what_is_wrong
from anklume_images.errors import AnklumeError
from anklume_images.inputs.lockfile import load_locks
from anklume_images.models.lock import load_model_lock
from anklume_images.store.deltas import DELTA, read_delta
from anklume_images.store.images import parse_manifest
from anklume_images.store.infra_locks import images_of_lock
from anklume_images.store.models import parse_record
from anklume_images.store.roots import inputs_of
from anklume_images.trust.attest import read_attestation
from anklume_images.trust.revoked import parse_revocations

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DOCUMENTS = {
    "nothing": b"",
    "half": b'{"schema": 1, "mod',
    "no text": b"\xff\xfe\x00",
    "a list": b"[]",
    "a number": b"7",
    "nothing in it": b"{}",
    "no more than a schema": b'{"schema": 1}',
    "another shape": b'{"schema": 1, "model": 7, "revoked": 7, "architectures": {"amd64": 7}, "machines": {"m": 7},'
    b' "metadata": {}, "debs": 7, "contents": 7}',
    "unknown keys": b'{"schema": 1, "model": {"manifest": null, "layers": [], "wheel": {}, "novelty": 1},'
    b' "digest": "", "revoked": [{"novelty": 1}], "architectures": {"amd64": {"novelty": 1}}, "digests": {},'
    b' "novelty": 1, "metadata": {"novelty": 1}, "debs": [{"novelty": 1}], "machines": {"m": {"novelty": 1}}}',
}
PYTHON = re.compile(r"\w+(?:Error|Exception)\b|__init__|\bdict\b|NoneType|codec|\bstr\b|argument|unpack|subscript")


def _file(read: Callable[[Path], Any], path: Path) -> Callable[[bytes], Any]:
    def reader(data: bytes) -> Any:
        path.write_bytes(data)
        return read(path)

    return reader


def readers(folder: Path) -> dict[str, Callable[[bytes], Any]]:
    return {
        "lock of a model": _file(lambda path: load_model_lock(path, "m"), folder / "lock.json"),
        "lock of an image": _file(load_locks, folder / "lock.json"),
        "inputs of an image": lambda data: inputs_of(json.loads(data), "here"),
        "attestation": lambda data: read_attestation(data, "here"),
        "revocations": lambda data: parse_revocations(data, "here"),
        "record of a model": lambda data: parse_record(data, "here"),
        "manifest": lambda data: parse_manifest(data, "here"),
        "lock of an infra.yml": lambda data: images_of_lock(data, "here"),
        "delta": _file(lambda path: read_delta(path.parent), folder / DELTA),
    }


@pytest.mark.parametrize("what", DOCUMENTS)
def test_what_is_wrong_is_said_without_python(what: str, tmp_path: Path) -> None:
    told = {}
    for name, read in readers(tmp_path).items():
        try:
            read(DOCUMENTS[what])
        except (json.JSONDecodeError, UnicodeDecodeError):
            assert name == "inputs of an image"  # gets what was read already
        except AnklumeError as error:
            told[name] = str(error)
    assert len(told) >= 8, what
    assert not {name: text for name, text in told.items() if PYTHON.search(text)}


def test_a_key_is_named() -> None:
    def wants(*, name: str, size: int) -> None:
        del name, size

    def told(call: Callable[[], Any]) -> str:
        with pytest.raises((ValueError, KeyError, TypeError)) as caught:
            call()
        return what_is_wrong(caught.value)

    assert told(lambda: {}["manifest"]) == "'manifest' is missing"  # type: ignore[typeddict-item]
    assert told(lambda: wants(name="n")) == "'size' is missing"  # type: ignore[call-arg]
    assert told(lambda: wants(name="n", size=1, novelty=1)) == "unknown key 'novelty'"  # type: ignore[call-arg]
