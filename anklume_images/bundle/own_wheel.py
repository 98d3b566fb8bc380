"""The tool's own wheel: built in a checkout, put together again from its files where it was installed."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.metadata import parse_email
from packaging.requirements import Requirement

from anklume_images.errors import HostError
from anklume_images.specs.folders import checkout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.metadata import Distribution, PackagePath

__all__ = ["locked_requirements", "make_wheel", "required"]

_NAME = "anklume-images"
# What a wheel has of its own in its dist-info; installers write more beside it, and scripts to `bin`.
_INFO = ("METADATA", "WHEEL", "entry_points.txt", "licenses")
_SCRIPTS = ("..", "/", "bin")
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
_FILE = 0o100644 << 16  # a regular file's mode, as zips keep it


def locked_requirements() -> Path:
    """The file with the versions and hashes of all that the tool needs; in a checkout a link to that of the tests."""
    return Path(__file__).with_name("requirements.txt")


def make_wheel(folder: Path) -> Path:
    """Make the wheel in a folder; HostError where that cannot be done, or where installed files were changed."""
    project = checkout()
    return _build(project, folder) if project else _again(folder)


def required(wheel: Path) -> tuple[str, ...]:
    """The requirements that a wheel states, those of its extras left out."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        stated = parse_email(archive.read(name))[0].get("requires_dist", [])
    requirements = map(Requirement, stated)
    return tuple(str(one) for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""}))


def _build(project: Path, folder: Path) -> Path:
    """By hatchling, which is reproducible; it touches no network."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    result = subprocess.run(command, cwd=project, capture_output=True, check=False)
    if result.returncode != 0:
        said = (result.stderr or result.stdout).decode(errors="replace").strip()
        raise HostError(
            f"the tool's wheel cannot be built: {said[-400:]}",
            hint="make .venv of the checkout, and run that one's anklume-images",
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _again(folder: Path) -> Path:
    """From the installed files: the same members with the same bytes, as the installation's own RECORD has them."""
    try:
        installed = distribution(_NAME)
    except PackageNotFoundError:
        raise HostError(
            f"this Python has no installed {_NAME}",
            where=str(Path(__file__).parents[2]),
            hint="install its wheel, or run bundle create --with-tool from a checkout",
        ) from None
    wheel = folder / f"{_NAME.replace('-', '_')}-{installed.version}-py3-none-any.whl"
    rows = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, digest in _members(installed):
            _add(archive, name, data)
            rows.append((name, digest, str(len(data))))
        record = f"{rows[-1][0].split('/')[0]}/RECORD"
        _add(archive, record, _record([*rows, (record, "", "")]))
    return wheel


def _members(installed: Distribution) -> Iterator[tuple[str, bytes, str]]:
    """Name, bytes and digest of each file that was in the wheel, those of its dist-info last."""
    shared = f"{_NAME.replace('-', '_')}-{installed.version}.data/data/"
    files = [
        file for file in installed.files or () if file.hash and (file.parts[0] not in _SCRIPTS or _is_shared(file))
    ]
    for file in sorted(files, key=lambda file: (_is_info(file), file)):
        if _is_info(file) and file.parts[1] not in _INFO:
            continue
        path, recorded = Path(str(file.locate())), file.hash
        data = path.read_bytes() if path.is_file() else None
        digest = base64.urlsafe_b64encode(hashlib.sha256(data or b"").digest()).rstrip(b"=").decode()
        if data is None or recorded is None or (recorded.mode, recorded.value) != ("sha256", digest):
            raise HostError(
                "an installed file of the tool is not what was installed",
                where=str(path),
                hint=f"install {_NAME} again, and make your changes in a checkout",
            )
        name = shared + "/".join(_below_prefix(file)) if _is_shared(file) else file.as_posix()
        yield name, data, f"sha256={digest}"


def _below_prefix(file: PackagePath) -> tuple[str, ...]:
    return tuple(part for part in file.parts if part != "..")


def _is_shared(file: PackagePath) -> bool:
    """Whether it is a man page or a completion, which installers put below the prefix."""
    return _below_prefix(file)[0] == "share"


def _is_info(file: PackagePath) -> bool:
    return file.parts[0].endswith(".dist-info")


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    member = zipfile.ZipInfo(name, _TIME)
    member.external_attr = _FILE
    member.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(member, data)


def _record(rows: list[tuple[str, str, str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
