"""What an image that is wanted takes: nothing when it is there, else its inputs, its base and the toolchain."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from anklume_images.console import Console
from anklume_images.errors import FetchError
from anklume_images.explain import explain
from anklume_images.inputs.fetch import FetchReport
from anklume_images.inputs.lockfile import Deb, Lock, save_lock
from anklume_images.pipeline import Options, Pipeline
from anklume_images.settings import Settings
from anklume_images.specs.catalog import Catalog
from anklume_images.store.images import LATEST, Images, host_architecture
from anklume_images.store.store import Store
from tests.support.stored_images import put

if TYPE_CHECKING:
    from pathlib import Path

SPECS = {
    "root": "version: '1'\ndistribution: debian\nrelease: trixie\n",
    "middle": "version: '1'\nfrom: root\n",
    "app": "version: '1'\nfrom: middle\n",
    "other": "version: '1'\nfrom: middle\n",
}
SUITES = "inputs: {debian: {suites: [{archive: debian, suite: trixie}], packages: [%s]}}\n"


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    """Specs with locks, an empty store, and no network."""
    for name, text in SPECS.items():
        folder = tmp_path / "specs" / name
        folder.mkdir(parents=True)
        (folder / "spec.yml").write_text(f"name: {name}\ndescription: A stand-in\n{text}{SUITES % name}")
        (folder / "distrobuilder.yaml.j2").write_text("image: {}\n")
    options = Options(host_architecture(), offline=True)
    made = Pipeline(Store(tmp_path / "store"), Catalog.load([tmp_path / "specs"]), Settings(), options, Console())
    made.store.create()
    for name in SPECS:
        base = made.catalog.get(name).base
        content = made.locks.get(base).content() if base else None
        deb = Deb("debian", f"pool/{name}.deb", name.encode().hex().ljust(64, "0"), 1, name, "1", "amd64", "")
        lock = Lock(name, host_architecture(), made.locks.request(name), 0, "1", debs=(deb,), base=content)
        save_lock(made.locks.path(name), lock)
    return made


def store(pipeline: Pipeline, *names: str) -> None:
    """Put the images that these specs would make into the store, and nothing else."""
    for name in names:
        prepared = pipeline.prepare(name)
        image = put(pipeline.store, name, prepared.version, channels=())
        if image.architecture != host_architecture():
            Images(pipeline.store).add(replace(image, architecture=host_architecture()), {})


def test_an_image_that_is_there_wants_nothing_else(pipeline: Pipeline) -> None:
    store(pipeline, "app")
    (result,) = pipeline.build(["app"])
    assert (result.name, result.status, result.error) == ("app", "present", None)
    version = pipeline.prepare("app").version
    assert pipeline.images.channels("app", host_architecture())[LATEST] == version
    assert pipeline.fetch(["app"]) == FetchReport(0, 0, 0)
    assert [(entry["name"], entry["state"]) for entry in explain(pipeline, ["app"])] == [("app", "present")]


def test_bases_that_are_there_become_the_latest_with_it(pipeline: Pipeline) -> None:
    store(pipeline, "app", "middle")
    assert [result.name for result in pipeline.build(["app"])] == ["app"]
    assert pipeline.images.channels("middle", host_architecture())[LATEST] == pipeline.prepare("middle").version


def test_to_build_it_again_takes_all(pipeline: Pipeline) -> None:
    store(pipeline, "app", "middle", "root")
    with pytest.raises(FetchError, match=r"^toolchain: \d+ locked inputs are not in the store"):
        pipeline.fetch(["app"], rebuild=True)


def test_what_is_missing_wants_the_bases_that_are_missing_too(pipeline: Pipeline) -> None:
    store(pipeline, "app", "root")
    states = {name: result.status for name, result in pipeline.wanted(["app", "other"]).items()}
    assert states == {"app": "present", "root": "present", "middle": "missing", "other": "missing"}
    assert list(states).index("root") < list(states).index("middle") < list(states).index("other")
    with pytest.raises(FetchError, match=r"^toolchain: "):
        pipeline.fetch(["other"])


def test_a_base_that_is_there_ends_the_search(pipeline: Pipeline) -> None:
    store(pipeline, "middle")
    assert list(pipeline.wanted(["app"])) == ["middle", "app"]
