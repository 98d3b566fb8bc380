"""Resolves Debian packages with apt itself: signatures checked, private state, nothing of the host's touched.

apt runs in the toolchain tree; only the very first lock of a tree may use the host's. The answer is the closure with
each package's sha256, size and stanza, and the signed index files that it was made from.
"""

from __future__ import annotations

import calendar
import hashlib
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

from anklume_images.errors import LockError
from anklume_images.inputs.access import environment_access
from anklume_images.inputs.answers import Why, why_of_text
from anklume_images.inputs.apt_reach import apt_reach
from anklume_images.inputs.lockfile import Deb, Index
from anklume_images.inputs.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anklume_images.inputs.access import Access
    from anklume_images.inputs.apt_reach import AptReach
    from anklume_images.specs.keys import Suite

__all__ = ["AptRunner", "DebianRequest", "HostApt", "Resolution", "list_name", "parse_stanza", "resolve"]

_KEYRINGS = ("/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp")
_QUOTED = '\\|{}[]<>"^~_=!@#$%&*'
_MERGED_USR = {"bookworm": ("usr-is-merged", "usrmerge-")}  # before trixie the merge was a package of its own


@dataclass(frozen=True)
class DebianRequest:
    """What to resolve: `installed` is what the base image already has; without it the minimal base comes too.

    `provided` are control paragraphs of packages that stand for what the host has.
    """

    suites: tuple[Suite, ...]
    packages: tuple[str, ...]
    architecture: str
    installed: tuple[Deb, ...] = ()
    provided: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resolution:
    """The packages to add, sorted by name, and the indexes that said so; `epoch` is the newest index's date."""

    debs: tuple[Deb, ...]
    indexes: tuple[Index, ...]
    epoch: int


class AptRunner(Protocol):
    """Runs apt commands; `scratch` is a folder of the host that apt sees at `mounted`."""

    scratch: Path
    mounted: str

    def run(self, argv: Sequence[str], config: str) -> subprocess.CompletedProcess[str]:
        """Run with APT_CONFIG=`config` and return rc, stdout and stderr."""

    def keyring(self) -> str:
        """The path of Debian's archive keyring, as apt will see it."""

    def sees(self, folder: Path) -> str:
        """The path at which apt will see a folder of this host."""


class HostApt:
    """The host's own apt, for the first lock of the toolchain."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.mounted = str(scratch)

    def run(self, argv: Sequence[str], config: str) -> subprocess.CompletedProcess[str]:
        """Run with the private configuration."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "APT_CONFIG": config}
        try:
            return subprocess.run(
                argv, env=environment, capture_output=True, check=False, encoding="utf-8", errors="replace"
            )
        except FileNotFoundError:
            raise LockError(
                "this host has no apt, which the first lock of a tree needs",
                hint="use the committed lock of the toolchain, or lock on a Debian host",
            ) from None

    def sees(self, folder: Path) -> str:
        """The folder itself."""
        return str(folder)

    def keyring(self) -> str:
        """Debian's keyring on the host."""
        for path in _KEYRINGS:
            if Path(path).exists():
                return path
        raise LockError("this host has no Debian archive keyring", hint="install debian-archive-keyring")


def resolve(
    request: DebianRequest,
    bases: Callable[[str], Sequence[str]],
    runner: AptRunner,
    *,
    access: Callable[[str], Access] = lambda _: environment_access(),
    allow_expired: bool = False,
) -> Resolution:
    """Resolve with apt; LockError carries apt's own words.

    `bases` gives the mirrors of an archive, tried in turn, `access` how they are reached; `allow_expired` accepts an
    index whose Valid-Until is past (a mirror that stands still), which takes away the protection against being shown
    an old one.
    """
    mirrors = {suite.archive: tuple(bases(suite.archive)) for suite in request.suites}
    attempts = max(len(urls) for urls in mirrors.values())
    failure: LockError | None = None
    for attempt in range(attempts):
        chosen = {archive: urls[min(attempt, len(urls) - 1)].rstrip("/") for archive, urls in mirrors.items()}
        try:
            return _resolve_from(request, chosen, runner, access, allow_expired=allow_expired)
        except LockError as error:
            failure = failure or error
    assert failure is not None  # noqa: S101  bases() never gives an empty list
    raise failure


def _resolve_from(
    request: DebianRequest,
    chosen: dict[str, str],
    runner: AptRunner,
    access: Callable[[str], Access],
    *,
    allow_expired: bool,
) -> Resolution:
    with tempfile.TemporaryDirectory(dir=runner.scratch, prefix="apt-") as folder:
        place = Path(folder)
        mounted = f"{runner.mounted}/{place.name}"
        for name in ("state/lists/partial", "cache/archives/partial", "etc/preferences.d", "etc/apt.conf.d", "log"):
            (place / name).mkdir(parents=True)
        reach = apt_reach(place, mounted, chosen, access, runner.sees)
        mirrors = reach.mirrors
        _configure(place, mounted, request, reach, runner.keyring(), allow_expired=allow_expired)
        config = f"{mounted}/apt.conf"
        _checked(runner.run(["apt-get", "update", "-q"], config), "apt could not read the archive's indexes")
        packages = list(request.packages)
        if not request.installed:
            release = request.suites[0].suite
            packages = ["?essential", "?priority(required)", "apt", *_MERGED_USR.get(release, ()), *packages]
        printed = _checked(
            runner.run(["apt-get", "install", "-y", "-q", "--print-uris", *packages], config),
            "apt could not resolve the packages",
        )
        rows = re.findall(r"^'(\S+)' (\S+) (\d+) SHA256:([0-9a-f]{64})$", printed, re.MULTILINE)
        if len(rows) != len(re.findall(r"^'", printed, re.MULTILINE)):
            raise LockError("apt names packages without their SHA-256", hint="check the archive's indexes")
        stanzas = _stanzas(runner, config, [file for _, file, _, _ in rows])
        debs = tuple(sorted((_deb(row, stanzas, mirrors) for row in rows), key=lambda deb: (deb.package, deb.version)))
        indexes = _indexes(place / "state" / "lists", request.suites, mirrors)
    return Resolution(debs, indexes, max(_seconds(index.date) for index in indexes))


def _configure(
    place: Path, mounted: str, request: DebianRequest, reach: AptReach, keyring: str, *, allow_expired: bool
) -> None:
    stanzas = [*(deb.stanza for deb in request.installed), *request.provided]
    installed = (f"{stanza.strip()}\nStatus: install ok installed\n" for stanza in stanzas)
    (place / "status").write_text("\n".join(installed), encoding="utf-8")
    sources = (
        f"Types: deb\nURIs: {reach.mirrors[suite.archive]}\nSuites: {suite.suite}\n"
        f"Components: {' '.join(suite.components)}\nSigned-By: {keyring}\n"
        for suite in request.suites
    )
    (place / "etc" / "locked.sources").write_text("\n".join(sources), encoding="utf-8")
    # By codename and by suite: `sid` and `unstable` are the same archive.
    pins = (
        f"Package: *\nPin: release {kind}={suite.suite}\nPin-Priority: {suite.pin}\n"
        for suite in request.suites
        for kind in ("n", "a")
        if suite.pin
    )
    (place / "etc" / "preferences").write_text("\n".join(pins), encoding="utf-8")
    options = {
        "Dir::State": f"{mounted}/state",
        "Dir::State::status": f"{mounted}/status",
        "Dir::Cache": f"{mounted}/cache",
        "Dir::Log": f"{mounted}/log",
        "Dir::Etc": f"{mounted}/etc",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": f"{mounted}/etc",
        "Dir::Etc::preferences": f"{mounted}/etc/preferences",
        "Dir::Etc::preferencesparts": f"{mounted}/etc/preferences.d",
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": f"{mounted}/etc/apt.conf.d",
        "Dir::Etc::trusted": "/dev/null",
        "Dir::Etc::trustedparts": f"{mounted}/etc/apt.conf.d",
        "Dir::Etc::netrc": f"{mounted}/etc/auth.conf",
        "Dir::Etc::netrcparts": f"{mounted}/etc/apt.conf.d",
        "APT::Architecture": request.architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
        "Acquire::ForceHash": "SHA256",
        "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "false" if allow_expired else "true",
        "Acquire::Retries": "3",
    }
    lines = [f'{key} "{value}";' for key, value in options.items()]
    lines.extend(reach.options)
    lines.append(f'APT::Architectures {{ "{request.architecture}"; }};')
    (place / "apt.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _checked(result: subprocess.CompletedProcess[str], what: str) -> str:
    if result.returncode == 0:
        return result.stdout
    lines = [line for line in (result.stdout + result.stderr).splitlines() if line.startswith(("E:", "W:", " "))]
    text = redact_text("\n".join(lines[-12:]) or result.stderr.strip())
    why = why_of_text(text)
    hint = "check the network and the mirrors that apt is configured with" if why is Why.OTHER else why.value
    if "is expired" in text or "not valid anymore" in text:
        hint = "the mirror stands still; try another (settings: mirrors), or `lock --allow-expired`"
    elif "Unable to locate" in text or "Unable to correct" in text or "has no installation candidate" in text:
        hint = "check the package names and suites in the spec"
    raise LockError(f"{what}:\n{text}", hint=hint)


def _stanzas(runner: AptRunner, config: str, files: list[str]) -> dict[str, str]:
    selectors = []
    for file in files:
        package, version, architecture = file.removesuffix(".deb").rsplit("_", 2)
        suffix = "" if architecture == "all" else f":{architecture}"
        selectors.append(f"{package}{suffix}={unquote(version)}")
    if not selectors:
        return {}
    text = _checked(runner.run(["apt-cache", "show", *selectors], config), "apt-cache has no stanza for a package")
    stanzas = {}
    for paragraph in text.strip().split("\n\n"):
        match = re.search(r"^SHA256: ([0-9a-f]{64})$", paragraph, re.MULTILINE)
        if match:
            stanzas[match.group(1)] = paragraph.strip()
    return stanzas


def parse_stanza(stanza: str) -> dict[str, str]:
    """The fields of a control paragraph (deb-control(5)); folded values keep their lines."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line[:1] in (" ", "\t"):
            fields[name] += "\n" + line[1:]
        else:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    return fields


def _deb(row: tuple[str, str, str, str], stanzas: dict[str, str], mirrors: dict[str, str]) -> Deb:
    uri, file, size, sha256 = row
    if sha256 not in stanzas:
        raise LockError(f"apt names {file} but shows no stanza with its hash", hint="run the lock again")
    # The longest: one archive's address may lie below another's.
    archive = max(
        (name for name, base in mirrors.items() if uri.startswith(base + "/")),
        key=lambda name: len(mirrors[name]),
        default=None,
    )
    if archive is None:
        raise LockError(f"apt would fetch {file} from none of the configured mirrors")
    fields = parse_stanza(stanzas[sha256])
    return Deb(
        archive=archive,
        path=fields["Filename"],
        sha256=sha256,
        size=int(size),
        package=fields["Package"],
        version=fields["Version"],
        architecture=fields["Architecture"],
        stanza=stanzas[sha256],
    )


def _indexes(lists: Path, suites: tuple[Suite, ...], mirrors: dict[str, str]) -> tuple[Index, ...]:
    indexes = []
    for suite in suites:
        text = (lists / list_name(f"{mirrors[suite.archive]}/dists/{suite.suite}/InRelease")).read_bytes()
        date = re.search(rb"^Date: (.+)$", text, re.MULTILINE)
        if date is None:
            raise LockError(f"the InRelease file of {suite.suite} has no Date")
        seconds = calendar.timegm(time.strptime(date.group(1).decode().strip(), "%a, %d %b %Y %H:%M:%S %Z"))
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
        indexes.append(Index(suite.archive, suite.suite, hashlib.sha256(text).hexdigest(), stamp))
    return tuple(indexes)


def list_name(url: str) -> str:
    """The name under which apt keeps the file of a URL (URItoFileName and QuoteString of apt's strutl.cc)."""
    host, slash, path = url.partition(":")[2].removeprefix("//").partition("/")
    place = host.rpartition("@")[2] + slash + path
    quoted = "".join(f"%{ord(c):02x}" if c in _QUOTED or not " " < c < "\x7f" else c for c in place)
    return quoted.replace("/", "_")


def _seconds(date: str) -> int:
    return calendar.timegm(time.strptime(date, "%Y-%m-%dT%H:%M:%SZ"))
