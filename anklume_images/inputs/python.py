"""Resolves Python requirements to wheels with uv, for the image's Python and platform, whatever runs on this host.

Everything is resolved together, tools included: a lock holds one version of each package, so that the wheels
can be installed from a plain folder without a choice to make.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from anklume_images.architectures import MACHINES
from anklume_images.canonical import parsed
from anklume_images.errors import LockError
from anklume_images.inputs.access import certificate_bundle
from anklume_images.inputs.answers import Attempt, Refusal, Why, advice, why_of_text
from anklume_images.inputs.lockfile import Wheel
from anklume_images.inputs.python_index import ACCEPT, PAGE_LIMIT, PythonPlaces, index_access, local_path
from anklume_images.inputs.redaction import redact_text
from anklume_images.inputs.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from packaging.tags import Tag

    from anklume_images.specs.keys import PythonInputs
    from anklume_images.specs.model import Spec

__all__ = ["lock_wheels", "platform_tags"]

_GLIBC = {"bullseye": 31, "bookworm": 36, "trixie": 41, "forky": 41, "sid": 41}
_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}  # the first that manylinux knows for the machine
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # PEP 600
_UV_NEWEST_GLIBC = 40  # of --python-platform
_KEPT_ENVIRONMENT = ("PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR", "NETRC")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_UV_LINES = 20


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
    places: PythonPlaces | None = None,
    transport: Transport | None = None,
    cache: Path | None = None,
) -> tuple[Wheel, ...]:
    """One wheel, with sha256 and size, of every package that `spec.python` needs; LockError with uv's own reason.

    Of the indexes in `places` the first is the main one (none: uv's default). Neither uv's nor pip's configuration on
    this host is read. What uv does not say is asked over `transport`.
    """
    if spec.python is None:
        return ()
    version, machine = spec.python.version, MACHINES[arch]
    where = f"{spec.spec_file} ({arch})"
    places = places or PythonPlaces()
    transport = transport or Transport(index_access(places))
    ask_uv = partial(_compile, spec=spec, machine=machine, places=places, transport=transport, cache=cache, where=where)
    packages = ask_uv(spec.python).get("packages", [])
    tags = platform_tags(version, arch, spec.release)
    chosen = [_choose(package, tags, where) for package in packages]
    with ThreadPoolExecutor(max_workers=8) as pool:
        wheels = list(
            pool.map(lambda candidate: _checked(candidate, version, places.indexes, transport, where), chosen)
        )
    if spec.python.tools:
        # The same versions without the tools: what is missing then is there for them only.
        pins = tuple(f"{package['name']}=={package['version']}" for package in packages)
        alone = spec.python.model_copy(update={"tools": (), "constraints": (*spec.python.constraints, *pins)})
        kept = {package["name"] for package in ask_uv(alone)["packages"]}
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
    python: PythonInputs,
    *,
    spec: Spec,
    machine: str,
    places: PythonPlaces,
    transport: Transport,
    cache: Path | None,
    where: str,
) -> dict[str, Any]:
    """Run `uv pip compile` and return the pylock.toml (PEP 751) it prints."""
    import uv

    with tempfile.TemporaryDirectory(prefix="anklume-wheels-") as scratch:
        folder = Path(scratch)
        requirements = [*python.requires, *python.without_dependencies, *python.tools]
        if python.requirements is not None:
            requirements.insert(0, spec.contents[python.requirements])
        command = [uv.find_uv_bin(), "pip", "compile", "--config-file", "uv.toml", "--format", "pylock.toml"]
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
        command += [_write(folder / "requirements.txt", requirements)]
        _write(folder / "uv.toml", _configuration(python, places))
        if python.constraints:
            command += ["--constraints", _write(folder / "constraints.txt", python.constraints)]
        if python.overrides:
            command += ["--overrides", _write(folder / "overrides.txt", python.overrides)]
        done = subprocess.run(
            command, cwd=folder, env=_environment(places), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    if done.returncode != 0:
        raise _uv_error(done.stderr.decode(errors="replace"), places, transport, where)
    return tomllib.loads(done.stdout.decode())


def _configuration(python: PythonInputs, places: PythonPlaces) -> Iterator[str]:
    """uv.toml, in place of the host's and the user's: in a file, as arguments are for every user of the host to see."""
    # The places are those of pip's configuration, for which all indexes are one: the best version of any of them.
    yield 'index-strategy = "unsafe-best-match"'
    yield f"find-links = {json.dumps(places.find_links)}"
    yield f"allow-insecure-host = {json.dumps(places.trusted_hosts)}"
    for number, index in enumerate(places.indexes):
        yield f"[[index]]\nurl = {json.dumps(index)}\ndefault = {json.dumps(number == 0)}"
    for line in python.without_dependencies:
        name = re.split(r"[^A-Za-z0-9._-]", line.strip(), maxsplit=1)[0]
        yield f'[[dependency-metadata]]\nname = "{name}"\nrequires-dist = []'


def _write(path: Path, lines: Iterable[str]) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path.name


def _environment(places: PythonPlaces) -> dict[str, str]:
    """What uv may know of this host: how to reach servers, and nothing else."""
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    for proxy in (*_PROXIES, *(name.upper() for name in _PROXIES)):
        if places.proxy is None and proxy in os.environ:
            kept[proxy] = os.environ[proxy]
    if places.proxy is not None:  # pip takes it for every server, whatever no_proxy says
        kept |= {"HTTP_PROXY": places.proxy, "HTTPS_PROXY": places.proxy}
    believed = places.certificates or certificate_bundle()
    kept["SSL_CERT_DIR" if Path(believed).is_dir() else "SSL_CERT_FILE"] = believed
    if places.client_certificate:
        kept["SSL_CLIENT_CERT"] = places.client_certificate
    return kept


def _uv_error(output: str, places: PythonPlaces, transport: Transport, where: str) -> LockError:
    """uv's reason; where an index does not know a package, also what the index answers, which uv keeps to itself."""
    refused: list[Attempt] = []
    for package in re.findall(r"[Bb]ecause (\S+) was not found in the package registry", output)[:1]:
        for index in places.indexes:
            page = f"{index.rstrip('/')}/{package}/"
            try:
                if local_path(index) is None:
                    transport.read(page, PAGE_LIMIT, {"Accept": ACCEPT})
            except Refusal as refusal:
                refused.append(refusal.of(page))
    reasons = [*(attempt.why for attempt in refused if not attempt.gone), why_of_text(output)]
    known = [why for why in reasons if why is not Why.OTHER]
    hint = "change inputs.python (requires, constraints, overrides), or its Python"
    lines = [f"uv found no set of wheels: {_trimmed(output)}", *map(str, refused)]
    return LockError("\n".join(lines), where=where, hint="; ".join(advice(known)) if known else hint)


def _trimmed(text: str) -> str:
    lines = redact_text(text).splitlines()
    lines = [re.sub(r"^(error|cause|\s+cause): ", "", line).rstrip() for line in lines if line.strip()]
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


def _checked(candidate: _Candidate, python: str, indexes: Iterable[str], transport: Transport, where: str) -> Wheel:
    """Hold the wheel's Requires-Python against the image's Python, which uv does for lower bounds only."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    specifier = _requires_python(candidate, indexes, transport)
    try:
        accepts = SpecifierSet(specifier or "")
    except InvalidSpecifier:
        accepts = SpecifierSet()  # uv and pip ignore what they cannot read
    # 3.11 stands for any 3.11.x: uv took it as the lowest, an upper bound is about the highest.
    if not (accepts.contains(python) or accepts.contains(f"{python}.99")):
        raise LockError(
            f"{candidate.package} {candidate.version} needs Python {specifier}, the image has Python {python}",
            where=where,
            hint="take a base image with another Python, or another version of the package",
        )
    size = candidate.size if candidate.size is not None else _size(candidate, transport, where)
    return Wheel(
        archive="pypi",
        path=candidate.filename,
        sha256=candidate.sha256,
        size=size,
        package=candidate.package,
        version=candidate.version,
    )


def _requires_python(candidate: _Candidate, indexes: Iterable[str], transport: Transport) -> str | None:
    """From the wheel itself when it is here, else its metadata file (PEP 658), else its index page (PEP 503, 691)."""
    path = local_path(candidate.url)
    if path is not None:
        return _field(_metadata_of(path))
    metadata = _read(f"{candidate.url}.metadata", transport)
    if metadata is not None:
        return _field(metadata[0])
    for index in indexes:
        page = _read(f"{index.rstrip('/')}/{candidate.package}/", transport)
        if page is not None:
            specifier = _field_of_page(page[0], page[1], candidate.filename)
            if specifier is not None:
                return specifier
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

    if "json" in content_type:
        files = {entry["filename"]: entry.get("requires-python") for entry in parsed(body)["files"]}
        return files.get(filename)
    for anchor in re.finditer(r"<a\b[^>]*>", body.decode(errors="replace")):
        attributes = {name.lower(): html.unescape(value) for name, value in re.findall(r'([\w-]+)="(.*?)"', anchor[0])}
        if unquote(urlsplit(attributes.get("href", "")).path).rpartition("/")[2] == filename:
            return attributes.get("data-requires-python")
    return None


def _read(url: str, transport: Transport) -> tuple[bytes, str] | None:
    """A small file and its type; None when the server does not have it or does not answer."""
    try:
        return transport.read(url, PAGE_LIMIT, {"Accept": f"{ACCEPT}, */*;q=0.01"})[:2]
    except Refusal:
        return None


def _size(candidate: _Candidate, transport: Transport, where: str) -> int:
    path = local_path(candidate.url)
    if path is not None:
        return path.stat().st_size
    try:
        size, reason = transport.size(candidate.url), "it does not say"
    except Refusal as refusal:
        size, reason = None, refusal.message
    if size is None:
        raise LockError(
            f"the size of {candidate.filename} cannot be had from its index: {reason}",
            where=where,
            hint="try again later",
        )
    return size
