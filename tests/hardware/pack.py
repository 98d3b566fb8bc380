"""Pack what `make test-gpu` needs into one file, for a host with a card and its driver but without a network.

    .venv/bin/python -m tests.hardware.pack FILE.tar.gz --python 3.12 [--store DIR] [--image NAME]...

In it: this project, the libraries that it needs for the Python of that host (`--python`, its version), and a store with
the tree of Incus, the images, which have to be built here, and the model. There, as root, with nothing installed but
that Python, tar and gzip:

    tar -xzf FILE.tar.gz && sh anklume-hardware/run.sh

which runs the steps, then `make bench`'s section gpu. Arguments of run.sh go to the steps.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from anklume_images.bootstrap import pip_command
from anklume_images.console import Console
from launcher.cli.session import Session
from launcher.quickstart import MODEL
from tests.bench.measure import say

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("anklume_images", "launcher", "image_specs", "examples", "tests")
_NOT_THERE = {"uv"}  # for locking and building only
_RUN = """\
#!/bin/sh
# The GPU road on a card of this host, out of what was carried here: needs root, Python {python} and the card's driver.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/project:$here/libraries" ANKLUME_STORE="$here/store" PYTHONDONTWRITEBYTECODE=1
# Without the libraries of the host's own Python, which may not go with these.
python{python} -m venv --without-pip "$here/environment"
cd "$here/project"
code=0
"$here/environment/bin/python" -m tests.hardware --store "$ANKLUME_STORE" --offline "$@" || code=$?
if test "$code" != 77; then
  "$here/environment/bin/python" -m tests.bench --incus {incus} gpu || code=1
fi
exit "$code"
"""


def main() -> None:
    """Gather it in a folder, and make the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.hardware.pack", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--python", default=f"{sys.version_info[0]}.{sys.version_info[1]}", help="of the other host")
    parser.add_argument("--store", type=Path, help="the store that has the images (the user's own)")
    parser.add_argument("--image", action="append", help="which images (llama-server; repeatable)")
    parser.add_argument("--incus", choices=["6", "7"], default="7", help="which Incus (7)")
    given = parser.parse_args()
    session = Session((), given.store.absolute() if given.store else None, Console())
    target: Path = given.file.absolute()
    with tempfile.TemporaryDirectory(prefix="anklume-pack-", dir=target.parent) as folder:
        place = Path(folder) / "anklume-hardware"
        _project(place / "project")
        _libraries(place / "libraries", given.python)
        _store(session, place / "store", given.image or ["llama-server"], f"incus-{given.incus}")
        (place / "run.sh").write_text(_RUN.format(python=given.python, incus=given.incus), encoding="utf-8")
        argv = ["tar", "--numeric-owner", "-czf", str(target), "-C", folder, place.name]
        subprocess.run(argv, check=True)
    say(f"{target}: {target.stat().st_size / 1e6:.0f} MB")


def _project(target: Path) -> None:
    for name in PROJECT:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))


def _libraries(target: Path, python: str) -> None:
    """The wheels of the lock that the project needs when it runs, unpacked for another host's Python."""
    wanted = _needed("anklume-images") - _NOT_THERE
    blocks = re.findall(r"^\S.*?(?<!\\)$", _requirements(), re.MULTILINE | re.DOTALL)
    chosen = [block for block in blocks if canonicalize_name(re.split(r"[=; ]", block, maxsplit=1)[0]) in wanted]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "requirements.txt"
        file.write_text("\n".join(chosen) + "\n", encoding="utf-8")
        options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--python-version", python]
        argv = [*pip_command(Path(scratch)), "--disable-pip-version-check", "install", "-qq", "--no-compile"]
        subprocess.run([*argv, *options, "--target", str(target), "-r", str(file)], check=True)


def _requirements() -> str:
    lines = (ROOT / "tests/requirements.txt").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def _needed(project: str) -> set[str]:
    """The projects that one needs when it runs, and those that they need."""
    found: set[str] = set()
    todo = [project]
    for name in todo:  # which grows
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            other = canonicalize_name(requirement.name)
            if other not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                found.add(other)
                todo.append(other)
    return found


def _store(session: Session, target: Path, images: Iterable[str], tree: str) -> None:
    """A store with these images, the model, and the tree of an Incus."""
    store, pipeline = session.store(), session.pipeline()
    for result in pipeline.build(list(images)):
        if result.error is not None:
            raise result.error
    copied = [store.home / "schema", pipeline.tree(tree).root.parent]
    for name in images:
        image = session.images().resolve(name)
        copied += [store.home / "channels" / name, session.images().folder(name, image.version, image.architecture)]
        copied += [store.blobs.path(file.sha256) for file in (image.metadata, image.rootfs)]
    with session.models().pulled(MODEL) as model:
        copied.append(model)
        for path in copied:
            place = target / path.relative_to(store.home)
            place.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", str(path), str(place)], check=True)  # owners and modes as well


if __name__ == "__main__":
    main()
