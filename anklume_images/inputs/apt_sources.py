"""Where apt on this host takes packages from: sources.list(5) in both its forms, and lists of mirrors.

apt itself is not asked (`apt-get indextargets`): it does not say what is in a list of mirrors, nor what it left out.
What cannot be used here is kept with the reason, for the error of a file that was then not found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images.inputs.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["AptSource", "DebianMirrors", "LeftOut", "debian_mirrors", "host_apt_sources", "parse_apt_sources"]

DEBIAN, SECURITY = "debian", "debian-security"
_RELEASES = "bullseye|bookworm|trixie|forky|duke|sid|experimental|(?:old){0,2}stable|testing|unstable"
_SUITE = re.compile(
    rf"(?:{_RELEASES})(?P<kind>|-security|/updates|-updates|-backports|-backports-sloppy|-proposed-updates)"
)
_NAMES_RELEASE = re.compile(rf"(?:^|[^a-z0-9])(?:{_RELEASES})(?:[^a-z0-9]|$)")
_NAMES_DEBIAN = re.compile(r"(?:^|[^a-z0-9])debian(?:[^a-z0-9]|$)")
_WORD = re.compile(r'(?:"[^"]*"|\[[^\]]*\]|[^\s"\[])+')
_OFF = {"no", "false", "without", "off", "disable", "0"}  # StringToBool of apt's strutl.cc
_LOCAL = {"file", "copy"}
_ASKED = {"http", "https"}
_LISTS = {"mirror", *(f"mirror+{scheme}" for scheme in _LOCAL | _ASKED)}


@dataclass(frozen=True)
class AptSource:
    """One address that apt takes packages from.

    `uri` begins with http, https, file:// or, for the address of a list of mirrors, with `mirror+` and one of these.
    `signed_by` holds keyrings' paths and fingerprints, or a key in text, or nothing; `place` is the file.
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str
    place: str = field(default="", compare=False)

    @property
    def keyrings(self) -> tuple[str, ...]:
        """The paths of the keyrings that it is signed by."""
        return tuple(word for word in re.split(r"[\s,]+", self.signed_by) if word.startswith("/"))


@dataclass(frozen=True)
class LeftOut:
    """A source of apt's that is asked for nothing, and why."""

    place: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}: {self.why}"


@dataclass(frozen=True)
class DebianMirrors:
    """By archive (debian, debian-security): addresses that carry it, and those that may, to be asked last."""

    first: dict[str, tuple[str, ...]]
    last: dict[str, tuple[str, ...]]
    left_out: tuple[LeftOut, ...]


def parse_apt_sources(text_by_filename: Mapping[str, str]) -> tuple[list[AptSource], list[LeftOut]]:
    """Read sources.list(5) files, one-line (`*.list`) and deb822 (`*.sources`).

    What apt would ignore is passed over; what apt could use and this program cannot is named in the second list.
    """
    sources: list[AptSource] = []
    left_out: list[LeftOut] = []
    for name, text in text_by_filename.items():
        for entry in _deb822(text, name) if name.endswith(".sources") else _one_line(text, name):
            if isinstance(entry, LeftOut):
                left_out.append(entry)
            else:
                sources.append(entry)
    return sources, left_out


def host_apt_sources(root: Path = Path("/")) -> tuple[list[AptSource], list[LeftOut]]:
    """The sources that apt on this host is configured with; none where there is no apt."""
    apt = root / "etc" / "apt"
    parts = apt / "sources.list.d"
    paths = [apt / "sources.list", *sorted([*parts.glob("*.list"), *parts.glob("*.sources")])]
    texts: dict[str, str] = {}
    for path in paths:
        try:
            texts[str(path)] = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # apt itself reports what it cannot read
    return parse_apt_sources(texts)


def debian_mirrors(sources: Iterable[AptSource]) -> DebianMirrors:
    """Which sources carry Debian's archives.

    The suite's name decides which archive it is; a source that is signed by somebody else, or whose suite has a name
    of its own, may be a company's mirror and is asked last. An address that slips through costs a request, since
    hashes decide.
    """
    first: dict[str, dict[str, None]] = {}
    last: dict[str, dict[str, None]] = {}
    left_out: list[LeftOut] = []
    for source in sources:
        uri = source.uri.rstrip("/")
        foreign = source.keyrings and not any(Path(path).name.startswith("debian-") for path in source.keyrings)
        for suite in source.suites:
            match = _SUITE.fullmatch(suite)
            if why := _unlike_debian(source, suite):
                left_out.append(LeftOut(source.place, f"{redact(uri)} {suite}", why))
            elif match:
                archive = SECURITY if match["kind"] in {"-security", "/updates"} else DEBIAN
                (last if foreign else first).setdefault(archive, {})[uri] = None
            else:
                for archive in (DEBIAN, SECURITY):
                    last.setdefault(archive, {})[uri] = None
    return DebianMirrors(
        {archive: tuple(uris) for archive, uris in first.items()},
        {archive: tuple(uris) for archive, uris in last.items()},
        tuple(dict.fromkeys(left_out)),
    )


def _unlike_debian(source: AptSource, suite: str) -> str | None:
    if suite.endswith("/"):
        return "a flat repository"
    if "main" not in source.components:
        return "has no component main"
    if _NAMES_RELEASE.search(suite.lower()) or _NAMES_DEBIAN.search(source.uri.lower().partition("://")[2]):
        return None
    return "neither suite nor address speak of Debian"


def _one_line(text: str, name: str) -> Iterator[AptSource | LeftOut]:
    for number, line in enumerate(text.splitlines(), 1):
        words = _WORD.findall(line.partition("#")[0])
        if not words or words[0] == "deb-src":
            continue
        place = f"{name}:{number}"
        options: dict[str, str] = {}
        if len(words) > 1 and words[1].startswith("["):
            options = dict(option.partition("=")[::2] for option in words.pop(1)[1:-1].split())
        if words[0] != "deb" or len(words) < 3:
            yield LeftOut(place, redact(words[min(1, len(words) - 1)]), "not a line of sources.list(5)")
            continue
        uri, suite, *components = (word.strip('"') for word in words[1:])
        yield _source(uri, (suite,), tuple(components), options.get("signed-by", ""), place)


def _deb822(text: str, name: str) -> Iterator[AptSource | LeftOut]:
    from debian.deb822 import Deb822

    for stanza in Deb822.iter_paragraphs(text, use_apt_pkg=False):
        if "deb" not in stanza.get("Types", "").split() or stanza.get("Enabled", "yes").strip().lower() in _OFF:
            continue
        suites, components = (tuple(stanza.get(key, "").split()) for key in ("Suites", "Components"))
        for uri in stanza.get("URIs", "").split():
            yield _source(uri, suites, components, stanza.get("Signed-By", "").strip(), name)


def _source(
    uri: str, suites: tuple[str, ...], components: tuple[str, ...], signed_by: str, place: str
) -> AptSource | LeftOut:
    scheme, colon, rest = uri.partition(":")
    scheme = scheme.lower()
    if not colon or scheme not in _LOCAL | _ASKED | _LISTS:
        asked = ", ".join([*sorted(_ASKED | _LOCAL), "mirror+…"])
        return LeftOut(place, redact(uri), f"'{scheme}' is not supported ({asked})")
    if scheme == "mirror":
        scheme = "mirror+http"
    if scheme.rpartition("+")[2] in _LOCAL:  # file:/srv is file:///srv, and copy is file to everybody but apt
        prefix = "mirror+" if "+" in scheme else ""
        return AptSource(f"{prefix}file:///{rest.lstrip('/')}", suites, components, signed_by, place)
    return AptSource(f"{scheme}:{rest}", suites, components, signed_by, place)
