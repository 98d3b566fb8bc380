"""What the resolver asks of apt, and what it makes of the answers; apt itself is a stand-in here.

Real apt, upon a signed archive on loopback, is in tests/builds/test_debian_archive.py.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import LockError
from anklume_images.inputs.answers import Why
from anklume_images.inputs.debian import DebianRequest, HostApt, list_name, parse_stanza, resolve
from anklume_images.specs.keys import Suite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anklume_images.inputs.debian import Resolution

MIRROR = "http://mirror.example/debian"
CURL = "c" * 64
STANZA = f"Package: curl\nVersion: 8.14-2\nArchitecture: amd64\nFilename: pool/c/curl.deb\nSize: 300\nSHA256: {CURL}"
RELEASE = "Origin: Debian\nDate: Sat, 05 Sep 2026 09:00:00 UTC\n"


class StandInApt:
    """Answers as apt would, and remembers what it was asked and configured with."""

    mounted = "/mounted"

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.asked: list[list[str]] = []
        self.files: dict[str, str] = {}
        self.printed = f"'{MIRROR}/pool/c/curl.deb' curl_8.14-2_amd64.deb 300 SHA256:{CURL}\n"
        self.shown = STANZA
        self.failing: dict[str, str] = {}
        self.release = RELEASE

    def keyring(self) -> str:
        return "/keyring.pgp"

    def sees(self, folder: Path) -> str:
        return f"/seen{folder}"

    def run(self, argv: Sequence[str], config: str) -> subprocess.CompletedProcess[str]:
        self.asked.append(list(argv))
        assert config.startswith(f"{self.mounted}/")
        place = self.scratch / Path(config).relative_to(self.mounted).parent
        for path in place.rglob("*"):
            if path.is_file():
                self.files[str(path.relative_to(place))] = path.read_text()
        command = argv[1]
        if command in self.failing:
            return subprocess.CompletedProcess(list(argv), 100, "", self.failing[command])
        if command == "update":
            for source in re.findall(r"URIs: (\S+)\nSuites: (\S+)", self.files["etc/locked.sources"]):
                name = list_name(f"{source[0]}/dists/{source[1]}/InRelease")
                (place / "state" / "lists" / name).write_text(self.release)
        said = {"install": self.printed, "show": self.shown}.get(command, "")
        return subprocess.CompletedProcess(list(argv), 0, said, "")

    @property
    def configuration(self) -> dict[str, str]:
        return dict(re.findall(r'^(\S+) "(.*)";$', self.files["apt.conf"], re.MULTILINE))


@pytest.fixture
def apt(tmp_path: Path) -> StandInApt:
    return StandInApt(tmp_path)


def ask(apt: StandInApt, *packages: str, release: str = "trixie", urls: Sequence[str] = (MIRROR,)) -> Resolution:
    request = DebianRequest(
        (Suite(archive="debian", suite=release), Suite(archive="security", suite=f"{release}-security", pin=990)),
        packages,
        "amd64",
    )
    return resolve(request, lambda _: urls, apt)


def test_the_answer(apt: StandInApt) -> None:
    found = ask(apt, "curl")
    (deb,) = found.debs
    assert (deb.archive, deb.path, deb.sha256, deb.size) == ("debian", "pool/c/curl.deb", CURL, 300)
    assert (deb.package, deb.version, deb.architecture, deb.stanza) == ("curl", "8.14-2", "amd64", STANZA)
    assert [(index.archive, index.suite, index.date) for index in found.indexes] == [
        ("debian", "trixie", "2026-09-05T09:00:00Z"),
        ("security", "trixie-security", "2026-09-05T09:00:00Z"),
    ]
    assert found.epoch == 1_788_598_800
    assert not list(apt.scratch.iterdir()), "its state goes"


def test_apt_sees_nothing_of_the_host(apt: StandInApt) -> None:
    ask(apt, "curl")
    configuration = apt.configuration
    for key in ("State", "Cache", "Etc", "Log", "State::status", "Etc::sourceparts", "Etc::preferences", "Etc::parts"):
        assert configuration[f"Dir::{key}"].startswith("/mounted/"), key
    for key in ("Etc::sourcelist", "Etc::main", "Etc::trusted"):
        assert configuration[f"Dir::{key}"] == "/dev/null", key
    assert configuration["APT::Install-Recommends"] == "false"
    assert configuration["APT::Update::Error-Mode"] == "any", "an index that fails is no success"
    assert configuration["Acquire::Check-Valid-Until"] == "true"
    assert configuration["Acquire::ForceHash"] == "SHA256"
    assert apt.files["etc/locked.sources"].count("Signed-By: /keyring.pgp") == 2
    pins = [f"Package: *\nPin: release {kind}=trixie-security\nPin-Priority: 990\n" for kind in ("n", "a")]
    assert apt.files["etc/preferences"] == "\n".join(pins)


@pytest.mark.parametrize(
    ("release", "more"), [("trixie", []), ("sid", []), ("bookworm", ["usr-is-merged", "usrmerge-"])]
)
def test_a_root_brings_the_minimal_base(release: str, more: list[str], apt: StandInApt) -> None:
    ask(apt, "curl", release=release)
    install = next(argv for argv in apt.asked if argv[1] == "install")
    wanted = install[install.index("--print-uris") + 1 :]
    assert wanted == ["?essential", "?priority(required)", "apt", *more, "curl"]


def test_an_image_over_a_base_asks_for_its_own_packages_only(apt: StandInApt) -> None:
    base = ask(apt, "curl").debs
    request = DebianRequest((Suite(archive="debian", suite="trixie"),), ("jq",), "amd64", base)
    apt.printed = ""
    assert resolve(request, lambda _: (MIRROR,), apt).debs == ()
    install = [argv for argv in apt.asked if argv[1] == "install"][-1]
    assert install[install.index("--print-uris") + 1 :] == ["jq"]
    assert apt.files["status"] == f"{STANZA}\nStatus: install ok installed\n"


def test_versions_are_asked_for_as_they_are(apt: StandInApt) -> None:
    apt.printed = (
        f"'{MIRROR}/x' curl_1%3a8.14+b1~x-2_amd64.deb 300 SHA256:{CURL}\n"
        f"'{MIRROR}/y' tzdata_2026a-1_all.deb 5 SHA256:{'d' * 64}\n"
    )
    apt.shown = f"{STANZA}\n\nPackage: tzdata\nVersion: 2026a-1\nArchitecture: all\nFilename: y\nSHA256: {'d' * 64}\n"
    assert [deb.package for deb in ask(apt, "curl").debs] == ["curl", "tzdata"]
    assert apt.asked[-1] == ["apt-cache", "show", "curl:amd64=1:8.14+b1~x-2", "tzdata=2026a-1"]


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("E: Release file for http://x/InRelease is expired (invalid since 9d)", "lock --allow-expired"),
        ("E: Release file for http://x/InRelease is not valid anymore", "lock --allow-expired"),
        ("E: Unable to locate package crul", "check the package names and suites in the spec"),
        ("E: Unable to correct problems, you have held broken packages.", "check the package names"),
        ("E: Package 'x' has no installation candidate", "check the package names"),
        ("E: Failed to fetch http://x/InRelease  Could not connect", "check the network and the mirrors"),
        ("E: Failed to fetch http://x/InRelease  401  Unauthorized [IP: 127.0.0.1 1]", Why.LOGIN.value),
        ("E: Failed to fetch http://x/InRelease  407  Proxy Authentication Required", Why.PROXY_LOGIN.value),
        ("E: Failed to fetch http://x/InRelease  Temporary failure resolving 'x'", Why.NAME.value),
        ("E: Failed to fetch http://x/InRelease  Could not resolve 'x'", Why.NAME.value),
        ("E: Failed to fetch http://x/I  SSL routines::certificate verify failed / Success", Why.CERTIFICATE.value),
        ("E: Failed to fetch http://x/I  Certificate verification failed: not trusted.", Why.CERTIFICATE.value),
        ("E: Unsupported proxy configured: quic://h", Why.PROXY.value),
    ],
)
def test_apts_words_are_passed_on_with_a_hint(said: str, hint: str, apt: StandInApt) -> None:
    apt.failing = {"install": f"Reading package lists...\n{said}\nN: a note\n"}
    with pytest.raises(LockError) as caught:
        ask(apt, "curl")
    assert caught.value.message == f"apt could not resolve the packages:\n{said}"
    assert hint in str(caught.value.hint)


def test_a_mirrors_password_is_in_no_message_of_apts(apt: StandInApt) -> None:
    apt.failing = {"update": "E: Failed to fetch http://bob:secret@127.0.0.1/debian/InRelease\n"}
    with pytest.raises(LockError, match=r"http://127\.0\.0\.1/debian/InRelease") as caught:
        ask(apt, "curl", urls=("http://bob:secret@127.0.0.1/debian",))
    assert "secret" not in str(caught.value)
    assert "secret" not in apt.files["etc/locked.sources"]
    assert apt.files["etc/auth.conf"].count("machine http://127.0.0.1/debian login bob password secret") == 2


def test_the_first_mirrors_failure_is_told_when_none_helps(apt: StandInApt) -> None:
    apt.failing = {"update": "E: no such place\n"}
    with pytest.raises(LockError, match="no such place"):
        ask(apt, "curl", urls=("http://one.example", "http://two.example"))
    assert len(apt.asked) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shown": STANZA.replace(CURL, "0" * 64)}, "shows no stanza with its hash"),
        ({"printed": f"'http://elsewhere.example/curl.deb' curl_8.14-2_amd64.deb 300 SHA256:{CURL}\n"}, "none of the"),
        ({"release": "Origin: Debian\n"}, "the InRelease file of trixie has no Date"),
    ],
)
def test_answers_that_do_not_fit_are_refused(change: dict[str, str], message: str, apt: StandInApt) -> None:
    for name, value in change.items():
        setattr(apt, name, value)
    with pytest.raises(LockError, match=message):
        ask(apt, "curl")


def test_md5_answers_are_no_answers(apt: StandInApt) -> None:
    """Without Acquire::ForceHash apt prints MD5 sums."""
    apt.printed = f"'{MIRROR}/pool/c/curl.deb' curl_8.14-2_amd64.deb 300 MD5Sum:{'0' * 32}\n"
    with pytest.raises(LockError, match="without their SHA-256"):
        ask(apt, "curl")


def test_an_archive_may_lie_below_another(apt: StandInApt) -> None:
    apt.printed = f"'{MIRROR}/security/pool/c/curl.deb' curl_8.14-2_amd64.deb 300 SHA256:{CURL}\n"
    request = DebianRequest(
        (Suite(archive="debian", suite="trixie"), Suite(archive="security", suite="trixie-security")),
        ("curl",),
        "amd64",
    )
    found = resolve(request, lambda name: (MIRROR if name == "debian" else f"{MIRROR}/security",), apt)
    assert [deb.archive for deb in found.debs] == ["security"]


# As `apt-get indextargets` of apt 3.0 names them.
@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://mirror.example/debian/dists/trixie/InRelease", "mirror.example_debian_dists_trixie_InRelease"),
        ("https://mirror.example:8080/d/InRelease", "mirror.example:8080_d_InRelease"),
        ("http://user:word@127.0.0.1:9/a_b~c=d%20e/@x", "127.0.0.1:9_a%5fb%7ec%3dd%2520e_%40x"),
        ("file:///srv/my_repo~x/InRelease", "_srv_my%5frepo%7ex_InRelease"),
        ("file:/srv/repo/InRelease", "_srv_repo_InRelease"),
    ],
)
def test_names_of_apts_lists(url: str, name: str) -> None:
    assert list_name(url) == name


def test_stanzas() -> None:
    text = "Package: a\nDescription: short\n long\n .\n more\nTag: x,\n\ty\nEmpty:\n"
    assert parse_stanza(text) == {"Package": "a", "Description": "short\nlong\n.\nmore", "Tag": "x,\ny", "Empty": ""}


def test_a_host_without_apt_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError("apt-get")

    monkeypatch.setattr(subprocess, "run", absent)
    with pytest.raises(LockError, match="this host has no apt") as caught:
        HostApt(tmp_path).run(["apt-get", "update"], "x")
    assert "committed lock of the toolchain" in str(caught.value.hint)
