"""Resolves Python requirements to wheels with uv, for the image's Python and platform, whatever runs on this host.

Everything is resolved together, tools included: a lock holds one version of each package, so that the wheels
can be installed from a plain folder without a choice to make.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from anklume_images.architectures import MACHINES
from anklume_images.errors import LockError
from anklume_images.inputs.lockfile import Wheel
from anklume_images.inputs.python_index import ACCEPT, local_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from packaging.tags import Tag

    from anklume_images.specs.model import PythonInputs, Spec

__all__ = ["lock_wheels", "platform_tags"]

_GLIBC = {"bullseye": 31, "bookworm": 36, "trixie": 41, "forky": 41, "sid": 41}
_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}  # the first that manylinux knows for the machine
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # PEP 600
_UV_NEWEST_GLIBC = 40  # of --python-platform
_KEPT_ENVIRONMENT = ("PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_UV_LINES = 20
_PAGE_LIMIT = 64 << 20  # index pages of busy projects are some MiB


@dataclass(frozen=True)
class _Candidate:
    """A wheel that uv chose a version of."""

    package: str
    version: str
    filename: str
    url: str
    sha256: str
    size: int | None


def lock_wheels(
    spec: Spec,
    arch: str,
    *,
    indexes: Sequence[str] = (),
    find_links: Sequence[str] = (),
    cache: Path | None = None,
) -> tuple[Wheel, ...]:
    """One wheel, with sha256 and size, of every package that `spec.python` needs; LockError with uv's own reason.

    `indexes` are base URLs of simple indexes, the first being the main one (none: uv's default), `find_links` folders
    or pages of wheels. Neither uv's nor pip's configuration on this host is read.
    """
    if spec.python is None:
        return ()
    version, machine = spec.python.version, MACHINES[arch]
    where = f"{spec.spec_file} ({arch})"
    places = [*_places(indexes, find_links)]
    packages = _compile(spec.python, spec, machine, places, cache, where).get("packages", [])
    tags = platform_tags(version, arch, spec.release)
    chosen = [_choose(package, tags, where) for package in packages]
    with ThreadPoolExecutor(max_workers=8) as pool:
        wheels = list(pool.map(lambda candidate: _checked(candidate, version, indexes, where), chosen))
    if spec.python.tools:
        # The same versions without the tools: what is missing then is there for them only.
        pins = tuple(f"{package['name']}=={package['version']}" for package in packages)
        alone = spec.python.model_copy(update={"tools": (), "constraints": (*spec.python.constraints, *pins)})
        kept = {package["name"] for package in _compile(alone, spec, machine, places, cache, where)["packages"]}
        wheels = [replace(wheel, tool=wheel.package not in kept) for wheel in wheels]
    return tuple(sorted(wheels, key=lambda wheel: wheel.package))


def platform_tags(version: str, arch: str, release: str | None) -> list[Tag]:
    """The wheel tags that an image's Python accepts, best first; unknown releases count as the oldest known libc."""
    from packaging import tags

    machine = MACHINES[arch]
    platforms: list[str] = []
    for minor in range(_glibc(release), _OLDEST_GLIBC[machine] - 1, -1):
        platforms.append(f"manylinux_2_{minor}_{machine}")
        if minor in _LEGACY:
            platforms.append(f"{_LEGACY[minor]}_{machine}")
    platforms.append(f"linux_{machine}")
    major_minor = tuple(int(part) for part in version.split(".")[:2])
    interpreter = "cp" + "".join(str(part) for part in major_minor)
    return [
        *tags.cpython_tags(major_minor, abis=[interpreter], platforms=platforms),
        *tags.compatible_tags(major_minor, interpreter, platforms),
    ]


def _glibc(release: str | None) -> int:
    return _GLIBC.get(release or "", min(_GLIBC.values()))


def _compile(
    python: PythonInputs, spec: Spec, machine: str, places: list[str], cache: Path | None, where: str
) -> dict[str, Any]:
    """Run `uv pip compile` and return the pylock.toml (PEP 751) it prints."""
    import uv

    with tempfile.TemporaryDirectory(prefix="anklume-wheels-") as scratch:
        folder = Path(scratch)
        wanted = [*python.requires, *python.without_dependencies, *python.tools]
        if python.requirements is not None:
            wanted.insert(0, spec.contents[python.requirements])
        command = [uv.find_uv_bin(), "pip", "compile", *_configuration(python, folder), "--format", "pylock.toml"]
        command += [
            "--no-header",
            "--no-annotate",
            "--only-binary",
            ":all:",
            "--quiet",
            "--no-python-downloads",
            "--system-certs",
        ]
        command += ["--python", sys.executable, "--python-version", python.version]
        glibc = min(_glibc(spec.release), _UV_NEWEST_GLIBC)
        command += ["--python-platform", f"{machine}-manylinux_2_{glibc}"]
        command += ["--cache-dir", str(cache)] if cache else []
        command += places
        command += [_write(folder / "requirements.txt", wanted)]
        if python.constraints:
            command += ["--constraints", _write(folder / "constraints.txt", python.constraints)]
        if python.overrides:
            command += ["--overrides", _write(folder / "overrides.txt", python.overrides)]
        done = subprocess.run(
            command, cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    if done.returncode != 0:
        raise LockError(
            f"uv found no set of wheels: {_trimmed(done.stderr.decode(errors='replace'))}",
            where=where,
            hint="change inputs.python (requires, constraints, overrides), or its Python",
        )
    return tomllib.loads(done.stdout.decode())


def _configuration(python: PythonInputs, folder: Path) -> tuple[str, ...]:
    """Neither the host's configuration nor the user's; only that some packages have no requirements of their own."""
    if not python.without_dependencies:
        return ("--no-config",)
    names = [re.split(r"[^A-Za-z0-9._-]", line.strip(), maxsplit=1)[0] for line in python.without_dependencies]
    tables = [f'[[dependency-metadata]]\nname = "{name}"\nrequires-dist = []' for name in names]
    return ("--config-file", _write(folder / "uv.toml", tables))


def _places(indexes: Sequence[str], find_links: Sequence[str]) -> Iterator[str]:
    for number, index in enumerate(indexes):
        yield from ("--index" if number else "--default-index", index)
    # The places are those of pip's configuration, for which all indexes are one: the best version of any of them.
    yield from ("--index-strategy", "unsafe-best-match")
    for place in find_links:
        yield from ("--find-links", place)


def _write(path: Path, lines: Iterable[str]) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path.name


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    for proxy in (*_PROXIES, *(name.upper() for name in _PROXIES)):
        if proxy in os.environ:
            kept[proxy] = os.environ[proxy]
    return kept


def _trimmed(text: str) -> str:
    lines = [re.sub(r"^(error|cause|\s+cause): ", "", line).rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[:_UV_LINES]) or "it gave no reason"


def _choose(package: dict[str, Any], tags: list[Tag], where: str) -> _Candidate:
    """The best wheel of one package for the platform."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    name, version = package["name"], package.get("version", "")
    rank = {tag: number for number, tag in enumerate(tags)}
    best: tuple[int, _Candidate] | None = None
    for wheel in package.get("wheels", ()):
        url = wheel.get("url") or Path(wheel["path"]).absolute().as_uri()
        filename = wheel.get("name") or unquote(urlsplit(url).path).rpartition("/")[2]
        try:
            ranks = [rank[tag] for tag in parse_wheel_filename(filename)[3] if tag in rank]
        except InvalidWheelFilename:
            continue
        digest = wheel.get("hashes", {}).get("sha256")
        if ranks and digest and (best is None or min(ranks) < best[0]):
            best = min(ranks), _Candidate(name, version, filename, url, digest, wheel.get("size"))
    if best is None:
        raise LockError(
            f"{name} {version} has no wheel with a sha256 for the image's Python and platform",
            where=where,
            hint="only wheels of an index or of find-links can be locked: no sdist, no address, no folder",
        )
    return best[1]


def _checked(candidate: _Candidate, python: str, indexes: Sequence[str], where: str) -> Wheel:
    """Hold the wheel's Requires-Python against the image's Python, which uv does for lower bounds only."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    wanted = _requires_python(candidate, indexes)
    try:
        accepts = SpecifierSet(wanted or "")
    except InvalidSpecifier:
        accepts = SpecifierSet()  # uv and pip ignore what they cannot read
    # 3.11 stands for any 3.11.x: uv took it as the lowest, an upper bound is about the highest.
    if not (accepts.contains(python) or accepts.contains(f"{python}.99")):
        raise LockError(
            f"{candidate.package} {candidate.version} needs Python {wanted}, the image has Python {python}",
            where=where,
            hint="take a base image with another Python, or another version of the package",
        )
    size = candidate.size if candidate.size is not None else _size(candidate, where)
    return Wheel(
        archive="pypi",
        path=candidate.filename,
        sha256=candidate.sha256,
        size=size,
        package=candidate.package,
        version=candidate.version,
    )


def _requires_python(candidate: _Candidate, indexes: Sequence[str]) -> str | None:
    """From the wheel itself when it is here, else its metadata file (PEP 658), else its index page (PEP 503, 691)."""
    path = local_path(candidate.url)
    if path is not None:
        return _field(_metadata_of(path))
    metadata = _read(f"{candidate.url}.metadata")
    if metadata is not None:
        return _field(metadata[0])
    for index in indexes:
        page = _read(f"{index.rstrip('/')}/{candidate.package}/")
        if page is not None:
            found = _field_of_page(page[0], page[1], candidate.filename)
            if found is not None:
                return found
    return None


def _metadata_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as wheel:
        for name in wheel.namelist():
            if name.count("/") == 1 and name.endswith(".dist-info/METADATA"):
                return wheel.read(name)
    return b""


def _field(metadata: bytes) -> str | None:
    header = re.split(rb"\r?\n\r?\n", metadata, maxsplit=1)[0]
    match = re.search(rb"^Requires-Python:[ \t]*(.*?)\s*$", header, re.MULTILINE | re.IGNORECASE)
    return match[1].decode(errors="replace") if match else None


def _field_of_page(body: bytes, content_type: str, filename: str) -> str | None:
    import html
    import json

    if "json" in content_type:
        files = {entry["filename"]: entry.get("requires-python") for entry in json.loads(body)["files"]}
        return files.get(filename)
    for anchor in re.finditer(r"<a\b[^>]*>", body.decode(errors="replace")):
        attributes = {name.lower(): html.unescape(value) for name, value in re.findall(r'([\w-]+)="(.*?)"', anchor[0])}
        if unquote(urlsplit(attributes.get("href", "")).path).rpartition("/")[2] == filename:
            return attributes.get("data-requires-python")
    return None


def _read(url: str) -> tuple[bytes, str] | None:
    """A small file and its type; None when the server does not have it or does not answer."""
    import requests

    try:
        with requests.get(url, headers={"Accept": f"{ACCEPT}, */*;q=0.01"}, timeout=(10, 60), stream=True) as answer:
            if answer.status_code != requests.codes.ok:
                return None
            body = answer.raw.read(_PAGE_LIMIT, decode_content=True)
            return (body, answer.headers.get("Content-Type", "")) if len(body) < _PAGE_LIMIT else None
    except requests.RequestException:
        return None


def _size(candidate: _Candidate, where: str) -> int:
    import requests

    path = local_path(candidate.url)
    if path is not None:
        return path.stat().st_size
    try:
        with requests.head(candidate.url, allow_redirects=True, timeout=(10, 60)) as answer:
            answer.raise_for_status()
            return int(answer.headers["Content-Length"])
    except (requests.RequestException, KeyError, ValueError) as error:
        raise LockError(
            f"{candidate.filename}: the index does not say its size ({error!r})", where=where, hint="try again later"
        ) from None
