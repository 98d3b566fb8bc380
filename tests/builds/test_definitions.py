"""Every definition that the specs render is one that the real distrobuilder accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.builder.sandbox import Job, Mount, Step, run_job
from anklume_images.specs.render import render

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.builder.trees import Tree
    from anklume_images.pipeline import Pipeline


def validate(definitions: dict[str, str], toolchain: Tree, folder: Path) -> tuple[int, str]:
    """Run `distrobuilder validate` on each, in the toolchain; the first exit code that is not 0, and what was said."""
    (folder / "stage").mkdir()
    (folder / "definitions").mkdir()
    for name, text in definitions.items():
        (folder / "definitions" / f"{name}.yaml").write_text(text)
    job = Job(
        root=str(toolchain.root),
        stage=str(folder / "stage"),
        log=str(folder / "log"),
        steps=tuple(Step(name, ("distrobuilder", "validate", f"/definitions/{name}.yaml")) for name in definitions),
        mounts=(Mount("/definitions", str(folder / "definitions")),),
    )
    return run_job(job).rc, (folder / "log").read_text()


def test_distrobuilder_accepts_every_definition(pipeline: Pipeline, toolchain: Tree, tmp_path: Path) -> None:
    catalog = pipeline.catalog
    definitions = {
        f"{name}-{arch}": render(catalog.chain(name), arch, 1, catalog.partials)
        for name in catalog.names()
        for arch in catalog.get(name).architectures
    }
    assert {"debian-arm64", "ollama-cpu-amd64", "open-webui-full-amd64", "llama-server-amd64"} <= definitions.keys()
    code, said = validate(definitions, toolchain, tmp_path)
    assert code == 0, said


def test_distrobuilder_refuses_what_it_does_not_know(pipeline: Pipeline, toolchain: Tree, tmp_path: Path) -> None:
    text = render(pipeline.catalog.chain("debian"), "amd64", 1, pipeline.catalog.partials)
    code, said = validate({"wrong": f"{text}\nunheard: of\n"}, toolchain, tmp_path)
    assert code != 0
    assert "unheard" in said
