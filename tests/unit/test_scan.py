"""Known vulnerabilities: databases of Debian's security tracker and of OSV, held against what is in an image."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anklume_images.errors import InvalidFileError
from anklume_images.evidence import advisories
from anklume_images.evidence.advisories import python_key, read_database
from anklume_images.evidence.findings import SEVERITIES, Finding, Report, Target
from anklume_images.evidence.scan import Scan, merged, target_of
from anklume_images.store.images import Package
from anklume_images.store.store import Store
from tests.support.contents import contents, deb, wheel
from tests.support.stored_images import put

if TYPE_CHECKING:
    from pathlib import Path

TARGET = Target(
    "trixie",
    "13",
    {"curl": {"8.14.1-2": ("curl", "libcurl4t64")}, "llama.cpp": {"0.7.0-1": ("llama-server",)}},
    {"flask": "3.0.1"},
)


def read(path: Path, document: Any, target: Target = TARGET) -> Report:
    report = Report()
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    read_database(path, target, report)
    return report


def tracker(source: str = "curl", description: str = "A hole", **releases: dict[str, str]) -> dict[str, Any]:
    entry = {"description": description, "scope": "remote", "releases": releases}
    return {"aaa": {"CVE-1999-0001": {"releases": {}}}, source: {"CVE-2026-0001": entry}}


def state(status: str, fixed: str | None = None, urgency: str = "not yet assigned") -> dict[str, str]:
    return {"status": status, "urgency": urgency} | ({"fixed_version": fixed} if fixed else {})


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "db.json"


class TestTracker:
    """Debian's own tracker, by source package and release."""

    def test_an_open_one_is_found_with_all_packages_of_the_source(self, db: Path) -> None:
        (found,) = read(db, tracker(trixie=state("open", urgency="low"), sid=state("open"))).findings
        assert found == Finding(
            "CVE-2026-0001", "low", "deb", "curl", "8.14.1-2", None, ("curl", "libcurl4t64"), "A hole"
        )

    @pytest.mark.parametrize(
        ("fixed", "affected"),
        [("8.14.1-2+deb13u1", True), ("8.14.1-2", False), ("8.14.1-2~bpo1", False), ("0", False), ("1:1-1", True)],
    )
    def test_a_resolved_one_counts_below_its_fix(self, fixed: str, affected: bool, db: Path) -> None:
        findings = read(db, tracker(trixie=state("resolved", fixed))).findings
        assert [finding.fixed for finding in findings] == ([fixed] if affected else [])

    def test_undetermined_counts(self, db: Path) -> None:
        assert len(read(db, tracker(trixie=state("undetermined"))).findings) == 1

    @pytest.mark.parametrize(
        ("urgency", "severity"),
        [
            ("unimportant", "negligible"),
            ("low**", "low"),
            ("high", "high"),
            ("not yet assigned", "unknown"),
            ("end-of-life", "unknown"),
        ],
    )
    def test_urgency(self, urgency: str, severity: str, db: Path) -> None:
        (found,) = read(db, tracker(trixie=state("open", urgency=urgency))).findings
        assert found.severity == severity

    def test_another_release_does_not_count(self, db: Path) -> None:
        report = read(db, tracker(bookworm=state("open")))
        assert (report.findings, report.covers) == ([], set())

    def test_a_package_that_only_unstable_has_is_judged_by_it(self, db: Path) -> None:
        (found,) = read(db, tracker("llama.cpp", sid=state("resolved", "0.8-1"))).findings
        assert (found.package, found.fixed) == ("llama.cpp", "0.8-1")

    def test_a_version_as_new_as_unstables_fix_is_fixed(self, db: Path) -> None:
        """A package of backports, while the release itself stays open."""
        assert not read(db, tracker(trixie=state("open"), sid=state("resolved", "8.14.1-1"))).findings
        assert read(db, tracker(trixie=state("open"), sid=state("resolved", "8.15.0-1"))).findings

    def test_a_version_that_is_none_is_told(self, db: Path) -> None:
        report = read(db, tracker(trixie=state("resolved", "not a version")))
        assert report.findings == []
        assert len(report.problems) == 1
        assert "CVE-2026-0001" in report.problems[0]

    def test_blanks_do_not_matter(self, db: Path) -> None:
        text = json.dumps(tracker(trixie=state("open")), indent=3)
        assert read(db, f"\n {text}\n").findings

    @pytest.mark.parametrize("piece", [1, 7, 64])
    def test_it_is_read_in_pieces(self, piece: int, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Wherever a piece ends: in a name, in a value, between two."""
        monkeypatch.setattr(advisories, "_PIECE", piece)
        document = tracker(description='A } hole, \\" é', trixie=state("open")) | tracker("glibc", trixie=state("open"))
        (found,) = read(db, document).findings
        assert found.summary == 'A } hole, \\" é'


def osv(name: str = "GHSA-1", ecosystem: str = "PyPI", package: str = "Flask", **more: Any) -> dict[str, Any]:
    affected = {"package": {"ecosystem": ecosystem, "name": package}}
    affected |= {key: more.pop(key) for key in ("ranges", "versions", "ecosystem_specific", "severity") if key in more}
    return {"id": name, "modified": "2026-01-01T00:00:00Z", "affected": [affected], **more}


def between(*events: tuple[str, str], kind: str = "ECOSYSTEM") -> list[dict[str, Any]]:
    return [{"type": kind, "events": [{word: version} for word, version in events]}]


class TestOsv:
    """The Open Source Vulnerability format."""

    @pytest.mark.parametrize(
        ("events", "fixed"),
        [
            ([("introduced", "0"), ("fixed", "3.0.2")], "3.0.2"),
            ([("introduced", "0")], None),
            ([("introduced", "3.0.1"), ("last_affected", "3.0.1")], None),
            ([("fixed", "2.9"), ("introduced", "0"), ("fixed", "3.1"), ("introduced", "3.0")], "3.1"),
            ([("introduced", "3.0.1rc1"), ("fixed", "3.0.1.post1")], "3.0.1.post1"),
        ],
    )
    def test_inside_a_range(self, events: list[tuple[str, str]], fixed: str | None, db: Path) -> None:
        (found,) = read(db, osv(ranges=between(*events), summary="A hole")).findings
        assert found == Finding("GHSA-1", "unknown", "wheel", "flask", "3.0.1", fixed, ("flask",), "A hole")

    @pytest.mark.parametrize(
        "events",
        [
            [("introduced", "0"), ("fixed", "3.0.1")],
            [("introduced", "3.0.2")],
            [("introduced", "0"), ("last_affected", "3.0")],
            [("introduced", "0"), ("fixed", "2.9"), ("introduced", "3.1")],
            [],
        ],
    )
    def test_outside_a_range(self, events: list[tuple[str, str]], db: Path) -> None:
        report = read(db, osv(ranges=between(*events)))
        assert (report.findings, report.covers) == ([], {"wheel"})

    def test_a_list_of_versions(self, db: Path) -> None:
        assert read(db, osv(versions=["3.0.0", "3.0.1"])).findings
        assert not read(db, osv(versions=["3.0.0"])).findings

    def test_ranges_of_commits_say_nothing(self, db: Path) -> None:
        assert not read(db, osv(ranges=between(("introduced", "0"), kind="GIT"))).findings

    def test_withdrawn_ones_do_not_count(self, db: Path) -> None:
        assert not read(db, osv(versions=["3.0.1"], withdrawn="2026-01-02T00:00:00Z")).findings

    @pytest.mark.parametrize(
        ("ecosystem", "found"), [("Debian:13", True), ("Debian", True), ("Debian:12", False), ("Ubuntu:24.04", False)]
    )
    def test_debians_are_of_a_release(self, ecosystem: str, found: bool, db: Path) -> None:
        ranges = between(("introduced", "0"), ("fixed", "8.14.1-2+deb13u1"))
        findings = read(db, osv("DSA-1", ecosystem, "curl", ranges=ranges)).findings
        assert [finding.fixed for finding in findings] == (["8.14.1-2+deb13u1"] if found else [])

    @pytest.mark.parametrize(
        ("more", "name"),
        [
            ({"aliases": ["CVE-2026-1"]}, "CVE-2026-1"),
            ({"upstream": ["CVE-2026-1"]}, "CVE-2026-1"),
            ({"aliases": ["CVE-2026-1"], "upstream": ["CVE-2026-2"]}, "GHSA-1"),
            ({"aliases": ["PYSEC-1"]}, "GHSA-1"),
        ],
    )
    def test_its_name_is_the_cve(self, more: dict[str, Any], name: str, db: Path) -> None:
        (found,) = read(db, osv(versions=["3.0.1"], **more)).findings
        assert found.id == name

    @pytest.mark.parametrize(
        ("more", "severity"),
        [
            ({"database_specific": {"severity": "MODERATE"}}, "medium"),
            ({"ecosystem_specific": {"urgency": "unimportant"}}, "negligible"),
            ({"severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]}, "critical"),
            ({"severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:L/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N"}]}, "low"),
            ({"severity": [{"type": "CVSS_V2", "score": "AV:N/AC:L/Au:N/C:P/I:P/A:P"}]}, "high"),
            (
                {
                    "severity": [
                        {"type": "CVSS_V4", "score": "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:L/VI:N/VA:N/SC:N/SI:N/SA:N"}
                    ]
                },
                "medium",
            ),
            ({"severity": [{"type": "CVSS_V3", "score": "nonsense"}]}, "unknown"),
            ({"severity": [{"type": "Ubuntu", "score": "low"}]}, "unknown"),
            ({}, "unknown"),
        ],
    )
    def test_severity(self, more: dict[str, Any], severity: str, db: Path) -> None:
        (found,) = read(db, osv(versions=["3.0.1"], **more)).findings
        assert found.severity == severity

    def test_versions_that_are_none_are_told(self, db: Path) -> None:
        report = read(db, osv(ranges=between(("introduced", "not one"))))
        assert (report.findings, len(report.problems)) == ([], 1)

    def test_lists_folders_and_zips(self, db: Path, tmp_path: Path) -> None:
        one, other = osv("A-1", versions=["3.0.1"]), osv("B-1", versions=["3.0.1"])
        folder = tmp_path / "folder"
        (folder / "PyPI").mkdir(parents=True)
        (folder / "PyPI" / "A-1.json").write_text(json.dumps(one))
        (folder / "B-1.json").write_text(json.dumps(other))
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            archive.writestr("A-1.json", json.dumps(one))
            archive.writestr("B-1.json", json.dumps(other))
        for given_ in (folder, tmp_path / "all.zip"):
            report = Report()
            read_database(given_, TARGET, report)
            assert {finding.id for finding in report.findings} == {"A-1", "B-1"}
        assert len(read(db, [one, other]).findings) == len(read(db, {"vulns": [one, other]}).findings) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        "[]",
        "null",
        "3",
        '{"a": 1}',
        '[{"id": "x"}]',
        '{"curl": {"CVE-1": {}}, "x": 3}',
        '{"curl": {"CVE-1": {}} "x": {}}',
        '{"curl": {"CVE-1": {}',
        '{"vulns": []}',
        "PK\x03\x04",
    ],
)
def test_what_is_no_database_is_refused(text: str, db: Path) -> None:
    with pytest.raises(InvalidFileError) as caught:
        read(db, text)
    assert caught.value.problems[0].file == str(db)


def test_a_broken_member_of_a_zip_is_told(db: Path) -> None:
    with zipfile.ZipFile(db, "w") as archive:
        archive.writestr("A-1.json", "{")
    with pytest.raises(InvalidFileError):
        read_database(db, TARGET, Report())


PACKAGES = (
    Package("deb", "curl", "8.14.1-2+b1"),
    Package("deb", "libcurl4t64", "8.14.1-2+b1"),
    Package("wheel", "Fla_sk", "3.0.1"),
)


def test_what_is_looked_up(tmp_path: Path) -> None:
    image = replace(put(Store(tmp_path / "store"), "app"), packages=PACKAGES)
    inside = contents(
        deb("libcurl4t64", "8.14.1-2+b1", source="curl", source_version="8.14.1-2"),
        deb("curl", "8.14.1-2+b1", source="curl", source_version="8.14.1-2"),
        deb("not-in-the-manifest"),
        wheel("fla-sk"),
        release_number="13",
    )
    assert target_of(image, inside) == Target(
        "trixie", "13", {"curl": {"8.14.1-2": ("curl", "libcurl4t64")}}, {"fla-sk": "3.0.1"}
    )


def finding(name: str = "CVE-1", severity: str = "low", fixed: str | None = None, package: str = "curl") -> Finding:
    return Finding(name, severity, "deb", package, "1", fixed, (package,), "")


def test_two_databases_that_tell_of_one_hole_make_one_finding() -> None:
    found = merged([finding(severity="unknown", fixed="2"), finding(severity="high"), finding(package="other")])
    assert [(each.package, each.severity, each.fixed) for each in found] == [
        ("curl", "high", "2"),
        ("other", "low", None),
    ]


def test_a_rating_beats_none() -> None:
    (found,) = merged([finding(severity="low"), finding(severity="unknown")])
    assert found.severity == "low"


@pytest.mark.parametrize(
    ("least", "count"), [("negligible", 5), ("low", 4), ("medium", 3), ("high", 1), ("critical", 0)]
)
def test_what_counts(least: str, count: int) -> None:
    findings = [finding(severity=each) for each in ("negligible", "low", "medium", "unknown")]
    scan = Scan((*findings, finding(severity="high", fixed="2")), {}, (), ())
    assert len(scan.at_least(least)) == count
    assert len(scan.at_least(least, fixed_only=True)) == (least != "critical")
    assert least in SEVERITIES


@given(
    st.lists(st.sampled_from(["1.0", "1.0rc1", "1.0.dev1", "1.0.post1", "1!0.1", "1.0+local", "0.9", "2"]), min_size=2)
)
def test_python_versions_are_ordered_as_pip_orders_them(versions: list[str]) -> None:
    order = ["0.9", "1.0.dev1", "1.0rc1", "1.0", "1.0+local", "1.0.post1", "2", "1!0.1"]
    assert sorted(versions, key=python_key) == sorted(versions, key=order.index)
