"""The tool's own wheel, put together again from where it was installed: for a bundle that takes the tool along."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from anklume_images.bundle.own_wheel import locked_requirements, make_wheel, required

ROOT = Path(__file__).resolve().parents[2]
AGAIN = (
    "import sys, pathlib; from anklume_images.bundle.own_wheel import make_wheel; make_wheel(pathlib.Path(sys.argv[1]))"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a checkout builds it."""
    return make_wheel(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that it is installed to."""
    folder = tmp_path_factory.mktemp("installed")
    uv = [
        str(Path(sys.executable).with_name("uv")),
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--offline",
    ]
    subprocess.run([*uv, "--no-cache", "--target", str(folder), str(wheel)], check=True)
    return folder


def again(installed: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Have the installed program make its wheel."""
    return subprocess.run(
        [sys.executable, "-P", "-c", AGAIN, str(folder)],
        env={"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    (record,) = (name for name in found if name.endswith("/RECORD"))
    found[record] = b"".join(sorted(found[record].splitlines(keepends=True)))
    return found


def test_an_installed_program_makes_the_wheel_that_it_came_from(wheel: Path, installed: Path, tmp_path: Path) -> None:
    done = again(installed, tmp_path)
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.iterdir()
    assert made.name == wheel.name
    assert members(made) == members(wheel)
    assert members(made)["anklume_images/bundle/requirements.txt"] == (ROOT / "tests/requirements.txt").read_bytes()


def test_what_was_changed_where_it_was_installed_goes_nowhere(installed: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(installed, changed, copy_function=os.link)
    place = changed / "launcher/chat.py"
    source = place.read_text()
    place.unlink()
    place.write_text(f"{source}\n")
    done = again(changed, tmp_path)
    assert done.returncode == 1
    assert "is not what was installed" in done.stderr
    assert "launcher/chat.py" in done.stderr


def test_what_it_requires_is_what_it_states_without_the_extras(wheel: Path) -> None:
    names = [text.partition(">")[0] for text in required(wheel)]
    assert {"click", "pylxd", "uv"} <= set(names)
    assert not {"pytest", "ruff"} & set(names)
    locked = locked_requirements().read_text()
    assert all(f"\n{name}==" in locked for name in names)
