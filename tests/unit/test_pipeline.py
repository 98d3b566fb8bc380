"""What an image that is wanted takes: nothing when it is there, else its inputs, its base and the toolchain."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from anklume_images.answers import Answers
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
    from collections.abc import Callable
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


@pytest.mark.parametrize("refreshing", [False, True])
def test_explain_says_what_is_wrong_with_a_lock(pipeline: Pipeline, refreshing: bool) -> None:
    """Also where a build would make it anew."""
    store(pipeline, "middle")
    path = pipeline.locks.path("app")
    path.write_text(path.read_text().replace(pipeline.locks.request("app"), "0" * 64))
    pipeline.options = replace(pipeline.options, refresh_missing=refreshing)
    present, stale = explain(pipeline, ["app"])
    assert (present["name"], present["state"], stale["name"], stale["state"]) == ("middle", "present", "app", "invalid")
    assert stale["changes"]


class TestAnswers:
    """`build` asked again the same of the same."""

    @pytest.fixture
    def ask(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answers]:
        """A question about the specs, which were all written long ago."""
        store(pipeline, "app")
        pipeline.build(["app"])
        later = time.time_ns() + 5_000_000_000
        monkeypatch.setattr("anklume_images.answers.time.time_ns", lambda: later)
        folder = pipeline.catalog.get("app").folder.parent

        def make(*asked: object) -> Answers:
            return Answers(pipeline.store, pipeline.images, [folder], asked or ["app"])

        return make

    def test_is_answered_without_reading_a_spec(self, pipeline: Pipeline, ask: Callable[..., Answers]) -> None:
        assert ask().recall() is None
        image = pipeline.present("app")
        assert image is not None
        ask().keep([image])
        assert ask().recall() == [image]
        assert ask("middle").recall() is None

    @pytest.mark.parametrize("change", ["spec", "lock", "new file", "refreshed lock", "channel", "image", "cache"])
    def test_a_change_asks_anew(self, pipeline: Pipeline, ask: Callable[..., Answers], change: str) -> None:
        image = pipeline.present("app")
        assert image is not None
        ask().keep([image])
        assert ask().recall() == [image]
        folder, home = pipeline.catalog.get("app").folder, pipeline.store.home
        if change == "channel":
            pipeline.images.set_channel("app", host_architecture(), "prod", image.version, command="test")
        elif change == "image":
            pipeline.store.blobs.path(image.rootfs.sha256).unlink()
        else:
            path = {
                "spec": folder / "spec.yml",
                "lock": folder / "lock.json",
                "new file": folder / "files" / "more",
                "refreshed lock": home / "locks" / "app" / "x.json",
                "cache": home / "cache" / "answers.json",
            }[change]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        assert ask().recall() is None

    def test_what_may_change_unseen_is_not_kept(
        self, pipeline: Pipeline, ask: Callable[..., Answers], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()
        image = pipeline.present("app")
        assert image is not None
        ask().keep([image])
        assert ask().recall() is None
