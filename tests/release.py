"""`make release`: builds the sdist and the wheel in dist/, and checks that whoever gets them can work with them.

The tree has to be clean, and the changes to have a dated section of the version. Both files are built twice, the second
time from a copy elsewhere under another umask and time zone, and the wheel out of the sdist too: the bytes have to be
the same. Then the wheel is installed into an empty environment, with the packages that the index has now.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images import __version__
from anklume_images.bootstrap import pip_command
from anklume_images.cli.main import cli
from anklume_images.console import Console
from anklume_images.errors import AnklumeError
from anklume_images.packaging.completion import completion_files
from anklume_images.packaging.man_pages import man_pages
from anklume_images.store.blobs import hash_file
from launcher.cli.main import cli as launch
from tests.bench.measure import say

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("anklume_images", "image_specs", "launcher")
PROGRAMS = {"anklume-images": cli, "anklume-launch": launch}
WHEEL = f"anklume_images-{__version__}-py3-none-any.whl"
SDIST = f"anklume_images-{__version__}.tar.gz"
_FIND = "import sys; from importlib.util import find_spec; print(*(n for n in sys.argv[1:] if find_spec(n) is None))"


def main() -> None:
    """Check, build, check; the files' hashes are the last thing that is said."""
    try:
        _check_tree()
        date = date_of(__version__, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
        say(f"version {__version__} of {date}")
        with tempfile.TemporaryDirectory(prefix="anklume-release-") as folder:
            _build(ROOT, ROOT / "dist")
            _check_bytes(Path(folder))
            _check_files()
            _check_installed(Path(folder))
    except AnklumeError as error:
        Console().error(error)
        sys.exit(1)
    for name in (SDIST, WHEEL):
        say(f"{hash_file(ROOT / 'dist' / name)}  dist/{name}")


def _check_tree() -> None:
    if changed := _run("git", "status", "--porcelain").splitlines():
        raise AnklumeError(
            f"the tree is not clean: {', '.join(line[3:] for line in changed[:5])}",
            hint="commit it, or put it away with `git stash --include-untracked`",
        )


def date_of(version: str, changes: str) -> str:
    """The date of the version's section; AnklumeError where it has none, or Unreleased is not empty."""
    dated = re.search(rf"^## {re.escape(version)} \((\d{{4}}-\d\d-\d\d)\)$", changes, re.MULTILINE)
    unreleased = re.search(r"^## Unreleased\n+(?!##)\S", changes, re.MULTILINE)
    if dated is None or unreleased is not None:
        raise AnklumeError(
            "what is under Unreleased belongs to no version" if dated else f"{version} has no dated section",
            where="CHANGELOG.md",
            hint=f"the heading is `## {version} (YYYY-MM-DD)`: CONTRIBUTING.md, A release",
        )
    return dated[1]


def _build(project: Path, target: Path, umask: int = -1, **variables: str) -> None:
    """Both files, by the locked hatchling, as of the last commit's time."""
    for name in (WHEEL, SDIST):
        (target / name).unlink(missing_ok=True)
    result = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(target)],
        cwd=project,
        env=os.environ | {"SOURCE_DATE_EPOCH": _run("git", "log", "-1", "--format=%ct").strip()} | variables,
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise AnklumeError(f"the build failed: {(result.stderr or result.stdout).strip()}", where=str(project))


def _check_bytes(scratch: Path) -> None:
    archive, copy, unpacked = scratch / "head.tar", scratch / "elsewhere", scratch / "sdist"
    _run("git", "archive", "--output", str(archive), "HEAD")
    for file, place in ((archive, copy), (ROOT / "dist" / SDIST, unpacked)):
        with tarfile.open(file) as tar:
            tar.extractall(place, filter="data")
    _build(copy, scratch / "again", umask=0o077, TZ="Pacific/Apia")
    _build(unpacked / SDIST.removesuffix(".tar.gz"), scratch / "of-sdist")
    for name, places in ((SDIST, ["again"]), (WHEEL, ["again", "of-sdist"])):
        for place in places:
            if hash_file(scratch / place / name) != hash_file(ROOT / "dist" / name):
                raise AnklumeError(f"{name} has other bytes when it is built {place}", hint="compare with diffoscope")
    say("the same bytes from a copy elsewhere, and the same wheel out of the sdist")


def _check_files() -> None:
    tracked = set(_run("git", "ls-files", *PACKAGES).splitlines())
    with zipfile.ZipFile(ROOT / "dist" / WHEEL) as wheel:
        missing = tracked - set(wheel.namelist())
    if missing:
        raise AnklumeError(f"the wheel lacks {len(missing)} files: {', '.join(sorted(missing)[:5])}")
    say(f"the wheel has all {len(tracked)} files: code, specs, templates and trees")


def _check_installed(scratch: Path) -> None:
    environment = scratch / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    pip = [*pip_command(scratch), "--python", str(environment / "bin/python"), "--disable-pip-version-check"]
    _run(*pip, "install", "-qq", "--only-binary", ":all:", str(ROOT / "dist" / WHEEL))
    packages = sorted(_imported() - {"hatchling"})  # which the build's hook imports
    if lacking := _run(str(environment / "bin/python"), "-I", "-c", _FIND, *packages, folder=scratch).split():
        raise AnklumeError(f"{', '.join(lacking)}: imported, and not in the dependencies", where="pyproject.toml")
    for name, program in PROGRAMS.items():
        if (said := _call(scratch, name, "--version").strip()) != f"{name}, version {__version__}":
            raise AnklumeError(f"{name} --version says {said!r}")
        _call(scratch, name, "--help")
        pages = [f"share/man/man1/{page}" for page in man_pages(program, name, __version__, program.exit_codes)]
        if missing := [
            place for place in (*pages, *completion_files(program, name)) if not (environment / place).is_file()
        ]:
            raise AnklumeError(f"the environment lacks {', '.join(missing[:5])}")
    _call(scratch, "anklume-images", "--store", "store", "list")
    _call(scratch, "anklume-images", "--store", "store", "build", "--all", "--explain", code=3)
    _call(scratch, "anklume-images", "render", "open-webui")
    _call(scratch, "anklume-launch", "check", str(ROOT / "examples/quickstart/infra.yml"))
    say("installed into an empty environment: both commands work, with specs, man pages and completion")


def _imported() -> set[str]:
    """The packages that the code imports anywhere, those of Python left out."""
    found: set[str] = set()
    for file in _run("git", "ls-files", *(f"{package}/*.py" for package in PACKAGES)).splitlines():
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


def _call(scratch: Path, name: str, *arguments: str, code: int = 0) -> str:
    """What an installed command says, where it sees neither the checkout nor settings of whoever makes the release."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(scratch), "LC_ALL": "C.UTF-8"}
    return _run(str(scratch / "environment/bin" / name), *arguments, folder=scratch, environment=environment, code=code)


def _run(*argv: str, folder: Path = ROOT, environment: Mapping[str, str] | None = None, code: int = 0) -> str:
    result = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != code:
        said = (result.stderr or result.stdout).strip()
        raise AnklumeError(f"`{' '.join(argv[-6:])}` ended with {result.returncode}: {said[-800:]}")
    return result.stdout


if __name__ == "__main__":
    main()
