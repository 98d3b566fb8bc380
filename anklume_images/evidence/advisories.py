"""Reads databases of vulnerabilities: Debian's security tracker as JSON, and OSV.

    Debian   one object: source package → CVE → {description, releases: codename → {status, fixed_version, urgency}}
    OSV      https://ossf.github.io/osv-schema/ : one advisory, a list, {"vulns": […]}, a folder or a zip of them;
             ecosystems Debian:<number> (by source package) and PyPI

Versions are compared by Debian's rules with python-debian, by Python's with packaging. A file of Debian's tracker is
some 70 MB: it is taken apart package by package, so that it is never in memory as objects.
"""

from __future__ import annotations

import json
import re
import zipfile
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from anklume_images.errors import InvalidFileError, Problem
from anklume_images.evidence.findings import UNKNOWN, Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from anklume_images.evidence.findings import Report, Target

__all__ = ["debian_key", "python_key", "read_database"]

_LARGEST_MEMBER = 64 << 20  # bytes of one advisory in a zip
_PIECE = 1 << 20  # characters
_TRACKED = re.compile(r"(CVE|TEMP|DSA|DLA|DTSA)-")
_WORDS = {
    "unimportant": "negligible",
    "negligible": "negligible",
    "none": "negligible",
    "low": "low",
    "moderate": "medium",
    "medium": "medium",
    "high": "high",
    "important": "high",
    "critical": "critical",
}


def debian_key(version: str) -> Any:
    """A version that compares as dpkg does; ValueError for what is none."""
    from debian.debian_support import NativeVersion

    return NativeVersion(version)


def python_key(version: str) -> Any:
    """A version that compares as PEP 440 says; ValueError for what is none."""
    from packaging.version import Version

    return Version(version)


def read_database(path: Path, target: Target, report: Report) -> None:
    """Add to the report what a database says of the target; InvalidFileError when it is none."""
    try:
        if path.is_dir():
            _read_osv(path, _folder(path), target, report)
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _read_osv(path, _members(path, archive), target, report)
        else:
            _read_file(path, target, report)
    except (ValueError, zipfile.BadZipFile, RecursionError) as error:
        raise _invalid(path, f"not a database of vulnerabilities: {error}") from None


def _invalid(path: Path, message: str) -> InvalidFileError:
    hint = "Debian's security tracker as JSON, or OSV: one advisory, a list, a folder or a zip of them"
    return InvalidFileError([Problem(str(path), 1, 1, "no-database", message, hint=hint)])


def _read_file(path: Path, target: Target, report: Report) -> None:
    with path.open(encoding="utf-8") as stream:
        members = _object_members(stream)
        name, value = next(members, ("", None))
        if isinstance(value, dict) and value and all(_TRACKED.match(key) for key in value):
            _read_tracker([(name, value)], target, report)
            _read_tracker(members, target, report)
            return
        stream.seek(0)
        _read_osv(path, [json.load(stream)], target, report)


def _object_members(stream: IO[str]) -> Iterator[tuple[str, Any]]:
    """The members of a JSON object one after the other, none of another value; ValueError where it ends badly."""
    text = _Text(stream)
    if text.next() != "{":
        return
    text.take("{")
    while text.next() != "}":
        name = text.value()
        text.take(":")
        yield str(name), text.value()
        if text.next() != "}":
            text.take(",")


class _Text:
    """JSON that is read in pieces and forgotten behind what was taken."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._decoder = json.JSONDecoder()
        self._text, self._at = "", 0

    def next(self) -> str:
        """The next character that is no blank; empty at the end."""
        while self._at == len(self._text) or self._text[self._at] in " \t\r\n":
            if self._at < len(self._text):
                self._at += 1
            elif not self._more():
                return ""
        return self._text[self._at]

    def take(self, wanted: str) -> None:
        """Go past a character, which has to be that one."""
        if self.next() != wanted:
            raise ValueError(f"no {wanted!r} where one should be")
        self._at += 1

    def value(self) -> Any:
        """The next value: an object, a list or a string, which can be told to be whole."""
        while self.next() in ("{", "[", '"'):
            try:
                value, self._at = self._decoder.raw_decode(self._text, self._at)
            except ValueError:
                if not self._more():
                    raise
            else:
                return value
        raise ValueError("no object, list or string where one should be")

    def _more(self) -> bool:
        """Twice as much each time: a value that is not whole is read from its beginning again."""
        piece = self._stream.read(max(_PIECE, len(self._text) - self._at))
        self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)


# -- Debian's tracker


def _read_tracker(members: Iterable[tuple[str, Any]], target: Target, report: Report) -> None:
    for source, entries in members:
        if not isinstance(entries, dict):
            raise ValueError(f"{source} has no entries")  # noqa: TRY004  the caller tells of a database, not of a type
        for name, entry in entries.items():
            releases = entry.get("releases", {})
            if target.release in releases:
                report.covers.add("deb")
            for version, packages in target.sources.get(source, {}).items():
                # A package of a later suite may not be in the image's own release at all.
                state = releases.get(target.release) or releases.get("sid")
                if state is None:
                    continue
                try:
                    affected, fixed = _judge(version, state, releases.get("sid"))
                except ValueError as error:
                    report.problems.append(f"{name} of {source}: {error}")
                    continue
                if affected:
                    severity = _WORDS.get(str(state.get("urgency", "")).strip("* "), UNKNOWN)
                    summary = " ".join(str(entry.get("description", "")).split())
                    report.findings.append(
                        Finding(name, severity, "deb", source, version, fixed, packages, summary[:200])
                    )


def _judge(version: str, state: Mapping[str, Any], newest: Mapping[str, Any] | None) -> tuple[bool, str | None]:
    """Whether a version is affected, and the one that fixes it; version 0 says that none is affected.

    Where the release itself has no fix, a version as new as unstable's fix, from backports say, is not affected.
    """
    if state.get("status") == "resolved":
        fixed = state.get("fixed_version", "0")
        return fixed != "0" and debian_key(version) < debian_key(fixed), fixed
    later = (newest or {}).get("fixed_version") if (newest or {}).get("status") == "resolved" else None
    return later is None or (later == "0" or debian_key(version) < debian_key(later)), None


# -- OSV


def _folder(path: Path) -> Iterator[Any]:
    for file in sorted(path.rglob("*.json")):
        yield _parsed(file, file.read_text(encoding="utf-8"))


def _members(path: Path, archive: zipfile.ZipFile) -> Iterator[Any]:
    for member in archive.infolist():
        if member.filename.endswith(".json"):
            if member.file_size > _LARGEST_MEMBER:
                raise _invalid(path, f"{member.filename} is larger than an advisory can be")
            yield _parsed(path, archive.read(member).decode("utf-8"))


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _invalid(path, f"not JSON: {error}") from None


def _read_osv(path: Path, documents: Iterable[Any], target: Target, report: Report) -> None:
    count = 0
    for document in documents:
        for advisory in _advisories(document):
            if not (isinstance(advisory, dict) and isinstance(advisory.get("id"), str) and "affected" in advisory):
                raise _invalid(path, "an entry is no OSV advisory: it has no id, or no affected packages")
            count += 1
            if not advisory.get("withdrawn"):
                _read_advisory(advisory, target, report)
    if not count:
        raise _invalid(path, "it holds no advisory")


def _advisories(document: Any) -> list[Any]:
    if isinstance(document, dict) and isinstance(document.get("vulns"), list):
        return list(document["vulns"])
    return document if isinstance(document, list) else [document]


def _read_advisory(advisory: Mapping[str, Any], target: Target, report: Report) -> None:
    name = _name_of(advisory)
    summary = " ".join(str(advisory.get("summary") or advisory.get("details") or "").split())[:200]
    for affected in advisory["affected"] or ():
        package = affected.get("package") or {}
        for kind, found, version, packages, key in _matching(package, target, report):
            try:
                hit, fixed = _affects(version, affected, key)
            except (ValueError, TypeError) as error:
                report.problems.append(f"{advisory['id']}: {error}")
                continue
            if hit:
                severity = _severity(advisory, affected)
                report.findings.append(Finding(name, severity, kind, found, version, fixed, packages, summary))


def _name_of(advisory: Mapping[str, Any]) -> str:
    """The CVE that an advisory is about, where it is about one; else its own name."""
    names = [advisory["id"], *(advisory.get("aliases") or ()), *(advisory.get("upstream") or ())]
    cves = {name for name in names if str(name).startswith("CVE-")}
    return str(cves.pop() if len(cves) == 1 else advisory["id"])


def _matching(
    package: Mapping[str, Any], target: Target, report: Report
) -> Iterator[tuple[str, str, str, tuple[str, ...], Callable[[str], Any]]]:
    ecosystem, name = str(package.get("ecosystem", "")), str(package.get("name", ""))
    if ecosystem in ("Debian", f"Debian:{target.number}"):
        report.covers.add("deb")
        for version, packages in target.sources.get(name, {}).items():
            yield "deb", name, version, packages, debian_key
    elif ecosystem == "PyPI":
        from packaging.utils import canonicalize_name

        report.covers.add("wheel")
        normalized = canonicalize_name(name)
        if normalized in target.wheels:
            yield "wheel", normalized, target.wheels[normalized], (normalized,), python_key


def _affects(version: str, affected: Mapping[str, Any], key: Callable[[str], Any]) -> tuple[bool, str | None]:
    """Whether a version is in the list of affected ones or in a range, and the first later one that is fixed."""
    here = key(version)
    ranges = [each for each in affected.get("ranges") or () if each.get("type") in ("ECOSYSTEM", "SEMVER")]
    listed = version in (affected.get("versions") or ())
    hit = listed or any(_in_range(here, each.get("events") or (), key) for each in ranges)
    fixes = [event["fixed"] for each in ranges for event in each.get("events") or () if "fixed" in event]
    later = sorted((fixed for fixed in fixes if key(fixed) > here), key=key)
    return hit, later[0] if later else None


def _in_range(here: Any, events: Iterable[Mapping[str, str]], key: Callable[[str], Any]) -> bool:
    """As the schema evaluates a range: its events in the order of their versions."""
    changes = [(event, word, text) for event in events for word, text in event.items()]
    place = partial(_place, key=key)
    inside = False
    for _, word, text in sorted(changes, key=lambda change: place(change[1], change[2])):
        if word == "introduced" and (text == "0" or here >= key(text)):
            inside = True
        elif (word in ("fixed", "limit") and here >= key(text)) or (word == "last_affected" and here > key(text)):
            inside = False
    return inside


def _place(word: str, text: str, key: Callable[[str], Any]) -> tuple[bool, Any, bool]:
    return (text != "0", key(text), word != "introduced")


def _severity(advisory: Mapping[str, Any], affected: Mapping[str, Any]) -> str:
    """In words where the database has some, else by the CVSS score; UNKNOWN without either."""
    for place in (
        affected.get("ecosystem_specific"),
        affected.get("database_specific"),
        advisory.get("database_specific"),
    ):
        for word in ("urgency", "severity"):
            text = str((place or {}).get(word, "")).lower()
            if text in _WORDS:
                return _WORDS[text]
    scores = [_score(entry) for entry in (*(affected.get("severity") or ()), *(advisory.get("severity") or ()))]
    known = [score for score in scores if score is not None]
    if not known:
        return UNKNOWN
    # The qualitative scale of CVSS 3.1, section 5, and 4.0, section 6.
    steps = ((9.0, "critical"), (7.0, "high"), (4.0, "medium"), (0.1, "low"))
    return next((word for least, word in steps if max(known) >= least), "negligible")


def _score(entry: Mapping[str, Any]) -> float | None:
    import cvss

    kinds = {"CVSS_V2": cvss.CVSS2, "CVSS_V3": cvss.CVSS3, "CVSS_V4": cvss.CVSS4}
    try:
        return float(kinds[entry["type"]](entry["score"]).scores()[0])
    except (KeyError, cvss.CVSSError):
        return None
