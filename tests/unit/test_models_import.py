"""A GGUF file becomes a model of the store: what it says of itself, what is refused, what gc and rm leave."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images import files
from anklume_images.console import Console
from anklume_images.errors import AnklumeError, StoreError
from anklume_images.models.familiar import why_unfamiliar
from anklume_images.models.gguf import read_gguf
from anklume_images.models.importing import ModelNameError, import_file
from anklume_images.models.library import Models, UnknownModelError
from anklume_images.settings import Settings
from anklume_images.store.gc import Wants, collect
from anklume_images.store.images import Images
from anklume_images.store.models import ModelRecords
from anklume_images.store.store import Store
from launcher.trial.tiny_gguf import STRING, UINT32, _text, tiny_gguf

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.store.models import ModelRecord
    from tests.conftest import Cli

TINY = tiny_gguf()
SHA256 = hashlib.sha256(TINY).hexdigest()


def gguf_with(**texts: str | int) -> bytes:
    """A description without tensors: keys with `__` for the dot."""
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, len(texts))
    for key, value in texts.items():
        content += _text(key.replace("__", "."))
        if isinstance(value, str):
            content += struct.pack("<I", STRING) + _text(value)
        else:
            content += struct.pack("<II", UINT32, value)
    return content + bytes(64)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(TINY)
    return path


@pytest.fixture
def models(store: Store) -> Models:
    return Models(store, [], Settings(), Console(quiet=True))


def take(store: Store, file: Path, name: str = "tiny", **options: Any) -> ModelRecord:
    return import_file(store, file, name, progress=Console(quiet=True), **options)


def gc(store: Store, models: Models) -> tuple[str, ...]:
    return collect(store, Images(store), Wants(blobs=dict.fromkeys(models.needed(), "a model"))).removed


# what a file says


def test_what_a_file_says_of_itself(file: Path) -> None:
    gguf = read_gguf(file)
    assert gguf.text("general.architecture") == "llama"
    assert (gguf.number("llama.block_count"), gguf.number("general.name"), gguf.number("nowhere")) == (2, None, None)
    assert gguf.keys["tokenizer.ggml.add_bos_token"] is True
    assert gguf.end == len(TINY)
    assert gguf.parameters == 64 * 364 * 2 + 64 + 2 * (2 * 64 + 4 * 64 * 64 + 3 * 64 * 128)


# into the store


def test_it_is_a_model_of_the_store_then_and_the_file_may_go(store: Store, models: Models, file: Path) -> None:
    record = take(store, file, "smollm2:tiny", licence="MIT", source="https://model.example/tiny")
    file.unlink()
    assert (record.sha256, record.size) == (SHA256, len(TINY))
    assert models.names() == ("smollm2:tiny",)
    model = models.model("smollm2:tiny")
    assert (model.license, model.source, model.present) == ("MIT", "https://model.example/tiny", True)
    assert "tiny-random, llama" in model.description
    with models.pulled("smollm2:tiny", offline=True) as kept:
        assert kept.read_bytes() == TINY
    assert list((store.home / "scratch").iterdir()) == []


def test_latest_is_the_same_as_no_tag(store: Store, models: Models, file: Path) -> None:
    take(store, file, "tiny:latest")
    assert models.model("tiny").name == models.model("tiny:latest").name == "tiny:latest"
    assert models.find("tiny:other") is models.find("x" * 5000) is models.find("../tiny") is None
    with pytest.raises(UnknownModelError):
        models.model("tin")


def test_licence_and_source_are_those_that_the_file_names(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(
        gguf_with(
            general__architecture="llama", general__license="apache-2.0", general__source__url="https://m.example"
        )
    )
    record = take(store, path, "m")
    assert (record.license, record.source) == ("apache-2.0", "https://m.example")


def test_the_same_file_is_kept_once_and_may_be_imported_again(store: Store, models: Models, file: Path) -> None:
    take(store, file, "one")
    take(store, file, "two")
    take(store, file, "two", licence="MIT")
    assert list(store.blobs) == [SHA256]
    assert models.model("two").license == "MIT"
    assert models.remove("one") == 0
    assert models.remove("two") == len(TINY)
    assert list(store.blobs) == []
    assert models.names() == ()


def test_another_file_under_a_name_that_is_taken_is_refused(store: Store, file: Path) -> None:
    take(store, file)
    file.write_bytes(tiny_gguf(seed=2))
    with pytest.raises(ModelNameError, match="another model called 'tiny'"):
        take(store, file)
    assert list(store.blobs) == [SHA256]


@pytest.mark.parametrize(
    "name", ["", "a b", "../up", "a/../b", "-rf", "x.gguf", "a:b:c", "a/", "/a", "a//b", ":tag", "a" * 200, "é"]
)
def test_names_that_no_model_can_have(store: Store, file: Path, name: str) -> None:
    with pytest.raises(ModelNameError):
        take(store, file, name)
    assert not store.home.exists()


@pytest.mark.parametrize(
    "name", ["llama3.2:3b", "user/model:q4_K_M", "hf.co/org/repo:Q4", "127.0.0.1:5000/library/m:t"]
)
def test_names_as_registries_have_them(store: Store, models: Models, file: Path, name: str) -> None:
    take(store, file, name)
    assert models.names() == (name,)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TINY[:-1], "cut short"),
        (b"PK\x03\x04", "no GGUF file"),
        (gguf_with(split__count=3), "one of the 3 parts"),
        (gguf_with(general__architecture="clip"), "projector"),
        (gguf_with(general__type="adapter", general__architecture="llama"), "adapter"),
    ],
)
def test_what_no_engine_serves_by_itself_is_refused(store: Store, file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    with pytest.raises(AnklumeError, match=said) as failed:
        take(store, file)
    assert failed.value.where == str(file)
    assert list(store.blobs) == []
    assert list(ModelRecords(store)) == []


def test_a_file_that_is_not_there(store: Store, tmp_path: Path) -> None:
    with pytest.raises(AnklumeError, match="cannot be read"):
        take(store, tmp_path / "nowhere.gguf")


def test_a_full_disk_is_told_and_leaves_nothing(store: Store, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("anklume_images.models.importing.copy_hashed", full)
    with pytest.raises(StoreError, match="disk is full"):
        take(store, file)
    assert list(store.blobs) == []
    assert list((store.home / "scratch").iterdir()) == []


@pytest.mark.parametrize("shares", [True, False])
def test_a_copy_shares_blocks_where_it_can_and_has_the_same_bytes(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, *, shares: bool
) -> None:
    def clone(target: int, _request: int, source: int) -> None:
        if not shares:
            raise OSError(errno.EOPNOTSUPP, "")
        os.sendfile(target, source, 0, len(TINY))

    monkeypatch.setattr(files.fcntl, "ioctl", clone)
    counted: list[int] = []
    with file.open("rb") as source, (tmp_path / "copy").open("w+b") as target:
        assert files.copy_hashed(source, target, counted.append) == SHA256
    assert (tmp_path / "copy").read_bytes() == TINY
    assert sum(counted) == len(TINY)


# gc, damage


def test_gc_keeps_what_a_record_names(store: Store, models: Models, file: Path) -> None:
    take(store, file)
    assert gc(store, models) == ()
    ModelRecords(store).remove("tiny")
    assert gc(store, models) == (f"blob {SHA256}",)


def test_gc_removes_nothing_while_a_record_cannot_be_read(store: Store, models: Models, file: Path) -> None:
    take(store, file)
    ModelRecords(store).path("tiny").write_text('{"schema": 1, "model": {}}')
    with pytest.raises(StoreError, match="not a model's record"):
        gc(store, models)
    assert list(store.blobs) == [SHA256]
    ModelRecords(store).path("tiny").write_text('{"schema": 9}')
    with pytest.raises(StoreError, match="schema 9"):
        models.names()


def test_a_file_that_was_damaged_in_the_store_is_never_handed_out(store: Store, models: Models, file: Path) -> None:
    take(store, file)
    store.blobs.path(SHA256).write_bytes(TINY[:-1] + b"?")
    with pytest.raises(StoreError, match="damaged"), models.pulled("tiny"):
        pass
    models.remove("tiny")
    take(store, file)
    with models.pulled("tiny") as kept:
        assert kept.read_bytes() == TINY


# the command


def test_the_command(store: Store, file: Path, anklume: Cli) -> None:
    cli = type(anklume)(store.home)
    imported = cli.json("models", "import", str(file), "--name", "tiny", "--license", "MIT")
    assert (imported["name"], imported["sha256"], imported["license"]) == ("tiny", SHA256, "MIT")
    assert (imported["spec"], imported["wheel"], imported["present"]) == (False, None, True)
    assert {one["name"] for one in cli.json("models", "list")} == {"tiny", "smollm2-135m"}
    assert cli("models", "show", "tiny").stdout.startswith("tiny\n")
    assert cli("models", "import", str(file), "--name", "smollm2-135m", check=False).returncode == 2
    assert cli("models", "import", str(file), "--name", "a b", check=False).returncode == 2
    (pulled,) = json.loads(cli("models", "pull", "tiny", "--offline", "--json").stdout)
    assert pulled["file"] == str(store.blobs.path(SHA256))
    assert cli.json("models", "rm", "tiny") == {"removed": ["tiny"], "bytes": len(TINY)}


# what engines run


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("llama", ""),
        ("qwen3moe", ""),
        ("of-tomorrow", "of the kind 'of-tomorrow'"),
        ("", "of no kind"),
        ("a\nb", "'a?b'"),
    ],
)
def test_a_kind_of_model_that_is_not_known_is_told(tmp_path: Path, architecture: str, said: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_with(general__architecture=architecture))
    why = why_unfamiliar(read_gguf(path))
    assert said in why
    assert bool(why) is bool(said)


def test_the_command_tells_of_it_and_goes_on(store: Store, tmp_path: Path, anklume: Cli) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_with(general__architecture="of-tomorrow"))
    result = type(anklume)(store.home)("models", "import", str(path), "--name", "m")
    assert "warning: m: it is of the kind 'of-tomorrow'" in result.stderr
