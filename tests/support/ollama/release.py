"""A stand-in for Ollama's release: a tarball of the same layout whose server speaks enough of the same interface.

The release itself is 1.4 GB from a host that tests do not ask. What the stand-in does as Ollama does is listed in
`facts`, and tests/unit/test_ollama_standin.py holds it to that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import shutil
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from anklume_images.builder.sandbox import Job, Mount, Step, run_job
from anklume_images.pipeline import Pipeline
from anklume_images.settings import load_settings
from anklume_images.specs.catalog import Catalog, builtin_specs
from tests.support.ollama.program import VERSION, members

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anklume_images.store.images import Image

NAME = "ollama-linux-{}.tar.zst"
NOWHERE = "http://127.0.0.1:1/stand-in"
PINNED = {  # as the spec pins the release
    "amd64": "ed1e39fe8fea90bd7f4c723bd949a2cea3153e111220ec0a183ea5b8dc8b2cae",
    "arm64": "413cb50f2fd201b65e17e563c082607bc0ade60d700132c563c7a1c0cd529fde",
}


def make_tarball(tree: Path, folder: Path) -> bytes:
    """The compressed tarball; `tree` is the unpacked toolchain, whose zstd does it in a sandbox at work in `folder`."""
    files = members()
    parents = {f"{parent}/" for name in files for parent in _parents(name)}
    work, stage = folder / "tarball", folder / "stage"
    work.mkdir()
    stage.mkdir()
    with tarfile.open(work / "ollama.tar", "w") as archive:
        for name in sorted({"./", *parents, *files}):
            member = tarfile.TarInfo(name)
            # Folders that a group may write to and that belong to somebody, as a release's may.
            member.uid = member.gid = 1001
            if name in files:
                member.size, member.mode = len(files[name]), 0o755
                archive.addfile(member, io.BytesIO(files[name]))
            else:
                member.type, member.mode = tarfile.DIRTYPE, 0o2775
                archive.addfile(member)
    job = Job(
        root=str(tree),
        stage=str(stage),
        log=str(folder / "zstd.log"),
        steps=(Step("compress", ("zstd", "-q", "/made/ollama.tar")),),
        mounts=(Mount("/made", str(work), writable=True),),
    )
    outcome = run_job(job)
    assert outcome.ok, (folder / "zstd.log").read_text()
    return (work / "ollama.tar.zst").read_bytes()


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]


@contextlib.contextmanager
def serve_release(folder: Path, tarball: bytes) -> Iterator[str]:
    """A web server on loopback that has the release's files as upstream has; its address."""
    release = folder / "v0.32.7"
    release.mkdir(parents=True)
    for architecture in PINNED:
        (release / NAME.format(architecture)).write_bytes(tarball)
    digest = hashlib.sha256(tarball).hexdigest()
    (release / "sha256sum.txt").write_text("".join(f"{digest}  ./{NAME.format(name)}\n" for name in PINNED))
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def build_images(pipeline: Pipeline, tarball: bytes, folder: Path, names: Sequence[str]) -> dict[str, Image]:
    """Images of the stand-in, `ollama` or its variants, locked and built as the real ones are."""
    with serve_release(folder / "upstream", tarball) as address:
        catalog = Catalog.load([copy_spec(folder / "specs", tarball), builtin_specs()])
        settings = load_settings()
        settings = dataclasses.replace(settings, mirrors={**settings.mirrors, "ollama": (address,)})
        own = Pipeline(pipeline.store, catalog, settings, pipeline.options, pipeline._console)
        for name in names:
            own.lock(name)
        results = {result.name: result for result in own.build(list(names))}
    found = {}
    for name, result in results.items():
        assert result.image is not None, result.error
        found[name] = result.image
    return found


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def copy_spec(folder: Path, tarball: bytes) -> Path:
    """A folder of specs with Ollama's own, of which only version, upstream and hashes are the stand-in's.

    The upstream that it names is never there: a served release comes in as a mirror of the settings.
    """
    target = folder / "ollama"
    shutil.copytree(builtin_specs() / "ollama", target, ignore=shutil.ignore_patterns("lock*.json"))
    text = (target / "spec.yml").read_text()
    replaced = {
        'version: "0.32.7"': f'version: "{VERSION}"',
        "https://github.com/ollama/ollama/releases/download": NOWHERE,
        **dict.fromkeys(PINNED.values(), hashlib.sha256(tarball).hexdigest()),
    }
    for old, new in replaced.items():
        assert old in text, f"the spec has no {old} any more"
        text = text.replace(old, new)
    (target / "spec.yml").write_text(text)
    return folder
