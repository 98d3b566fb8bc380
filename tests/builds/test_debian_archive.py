"""Real apt, out of the toolchain tree, resolves packages of a signed archive on loopback."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from anklume_images.architectures import host_architecture
from anklume_images.builder.apt import TreeApt
from anklume_images.builder.sandbox import Job, Mount, Step, run_job
from anklume_images.errors import LockError
from anklume_images.inputs.access import Access
from anklume_images.inputs.answers import Why
from anklume_images.inputs.debian import DebianRequest, resolve
from anklume_images.inputs.from_host import HostPackage
from anklume_images.specs.keys import Suite
from tests.support.debian_archive import SigningKey, StandInArchive, StandInPackage
from tests.support.faulty_mirror import FaultyMirror
from tests.support.leftovers import nothing_left
from tests.support.loopback_proxy import LoopbackProxy
from tests.support.private_ca import PrivateCA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.builder.trees import Tree
    from anklume_images.inputs.debian import Resolution

ESSENTIAL = [StandInPackage("base", fields={"Essential": "yes"}), StandInPackage("apt")]


class OwnKey(TreeApt):
    """apt of the tree, which trusts the stand-in archive's key in place of Debian's."""

    key = ""

    def keyring(self) -> str:
        (self.scratch / "key.asc").write_text(self.key)
        return f"{self.mounted}/key.asc"


class Resolver:
    """An archive and apt upon it."""

    def __init__(self, archive: StandInArchive, apt: OwnKey) -> None:
        self.archive = archive
        self.apt = apt
        self.apt.key = archive.key.armoured
        self.urls = [archive.url]

    def __call__(self, *packages: str, suites: tuple[Suite, ...] = (), **options: object) -> Resolution:
        installed, provided = options.pop("installed", ()), options.pop("provided", ())
        request = DebianRequest(
            suites or (Suite(archive="own", suite="trixie"),),
            packages,
            host_architecture(),
            installed,  # type: ignore[arg-type]
            provided,  # type: ignore[arg-type]
        )
        return resolve(request, lambda _: self.urls, self.apt, **options)  # type: ignore[arg-type]


@pytest.fixture
def resolver(toolchain: Tree, mirror: FaultyMirror, tmp_path: Path) -> Iterator[Resolver]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    yield Resolver(StandInArchive(mirror, f"{tmp_path.name}~=@x"), OwnKey(toolchain.root, scratch))
    assert sorted(path.name for path in scratch.iterdir()) == ["key.asc"]
    nothing_left(tmp_path)


def names(resolution: Resolution) -> list[str]:
    return [deb.package for deb in resolution.debs]


def test_the_closure_with_everything_that_a_lock_needs(resolver: Resolver) -> None:
    greeting = StandInPackage("greeting", "1:2.0+b~1-3", fields={"Depends": "words (>= 1)", "Recommends": "music"})
    words = StandInPackage("words", architecture=host_architecture())
    music = StandInPackage("music")
    resolver.archive.publish("trixie", [*ESSENTIAL, greeting, words, music], date=1_700_000_000)
    found = resolver("greeting")
    assert names(found) == ["apt", "base", "greeting", "words"], "neither recommended nor forgotten"
    deb = found.debs[2]
    assert (deb.archive, deb.path, deb.version) == ("own", greeting.path, "1:2.0+b~1-3")
    assert (deb.sha256, deb.size) == (hashlib.sha256(greeting.deb()).hexdigest(), len(greeting.deb()))
    assert "Depends: words (>= 1)" in deb.stanza
    assert found.epoch == 1_700_000_000
    assert [(index.suite, index.date) for index in found.indexes] == [("trixie", "2023-11-14T22:13:20Z")]


def test_what_the_base_has_is_not_added(resolver: Resolver) -> None:
    packages = [*ESSENTIAL, StandInPackage("words"), StandInPackage("greeting", fields={"Depends": "words"})]
    resolver.archive.publish("trixie", packages)
    base = resolver("words")
    assert names(resolver("greeting", installed=base.debs)) == ["greeting"]


def test_what_the_host_has_is_not_added(resolver: Resolver) -> None:
    needs = StandInPackage("needs", fields={"Depends": "driver1 (>= 2) | driver.so.1 (>= 2)"})
    driver = StandInPackage("driver1", "3", fields={"Provides": "driver.so.1 (= 3)"})
    resolver.archive.publish("trixie", [*ESSENTIAL, needs, driver])
    for version, more in (("2", []), ("1", ["driver1"])):
        provided = (HostPackage("app-from-host", {"driver.so.1": version}).control,)
        assert names(resolver("needs", provided=provided)) == ["apt", "base", *more, "needs"]


def test_dpkg_takes_the_hosts_for_there(toolchain: Tree, tmp_path: Path) -> None:
    needs = StandInPackage("needs", fields={"Depends": "driver1 (>= 2) | driver.so.1 (>= 2)"})
    (tmp_path / "stage").mkdir()
    (tmp_path / "debs").mkdir()
    (tmp_path / "debs" / "needs.deb").write_bytes(needs.deb())
    (tmp_path / "debs" / "host.deb").write_bytes(HostPackage("app-from-host", {"driver.so.1": "2"}).deb(1_700_000_000))
    install = "dpkg --root=/tmp/root --install /debs/needs.deb"
    script = f"""
        mkdir -p /tmp/root/var/lib/dpkg/info /tmp/root/var/lib/dpkg/updates
        : > /tmp/root/var/lib/dpkg/status
        if {install}; then exit 9; fi
        dpkg --root=/tmp/root --install /debs/host.deb
        {install}
        test -z "$(dpkg --root=/tmp/root --audit)"
    """
    job = Job(
        root=str(toolchain.root),
        stage=str(tmp_path / "stage"),
        log=str(tmp_path / "log"),
        steps=(Step("dpkg", ("/bin/sh", "-ec", script)),),
        mounts=(Mount("/debs", str(tmp_path / "debs")),),
    )
    assert run_job(job).rc == 0, (tmp_path / "log").read_text()


def test_newer_versions_come_from_whichever_suite_has_them(resolver: Resolver) -> None:
    resolver.archive.publish("trixie", [*ESSENTIAL, StandInPackage("greeting", "1.0-1")])
    resolver.archive.publish("trixie-security", [StandInPackage("greeting", "1.0-1+deb13u1")])
    suites = (Suite(archive="own", suite="trixie"), Suite(archive="own", suite="trixie-security"))
    assert resolver("greeting", suites=suites).debs[-1].version == "1.0-1+deb13u1"


def test_a_pin_decides_among_suites(resolver: Resolver) -> None:
    resolver.archive.publish("trixie", [*ESSENTIAL, StandInPackage("greeting", "1.0-1")])
    resolver.archive.publish("sid", [StandInPackage("greeting", "9.0-1"), StandInPackage("only-there")])
    suites = (Suite(archive="own", suite="trixie"), Suite(archive="own", suite="sid", pin=100))
    found = {deb.package: deb.version for deb in resolver("greeting", "only-there", suites=suites).debs}
    assert (found["greeting"], found["only-there"]) == ("1.0-1", "1.0-1")


def test_another_key_is_refused(resolver: Resolver) -> None:
    resolver.archive.publish("trixie", ESSENTIAL)
    resolver.apt.key = SigningKey().armoured
    with pytest.raises(LockError, match="apt could not read the archive's indexes") as caught:
        resolver()
    assert "not signed" in caught.value.message or "signature" in caught.value.message


def test_a_changed_index_is_refused(resolver: Resolver, mirror: FaultyMirror) -> None:
    resolver.archive.publish("trixie", ESSENTIAL)
    path = f"dists/trixie/main/binary-{host_architecture()}/Packages"
    resolver.archive._serve(path, b"Package: apt\nVersion: 9\nArchitecture: all\nFilename: x\nSize: 1\n\n")
    with pytest.raises(LockError, match="apt could not read the archive's indexes"):
        resolver()


def test_an_index_past_its_time_is_refused_unless_allowed(resolver: Resolver) -> None:
    resolver.archive.publish("trixie", ESSENTIAL, valid=-3600)
    with pytest.raises(LockError, match=r"expired|not valid anymore") as caught:
        resolver()
    assert "--allow-expired" in str(caught.value.hint)
    assert names(resolver(allow_expired=True)) == ["apt", "base"]


def test_a_mirror_on_disk(resolver: Resolver, mirror: FaultyMirror, tmp_path: Path) -> None:
    resolver.archive.publish("trixie", [*ESSENTIAL, StandInPackage("greeting")])
    prefix = resolver.archive.url.removeprefix(mirror.url)
    for path, (body, _) in mirror._files.items():
        if path.startswith(prefix):
            place = tmp_path / "disk" / path.removeprefix(f"{prefix}/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(bytes(body))
    resolver.urls = [f"file://{tmp_path}/nowhere", f"file://{tmp_path}/disk"]
    found = resolver("greeting")
    assert names(found) == ["apt", "base", "greeting"]
    assert {deb.archive for deb in found.debs} == {"own"}


def test_apt_reaches_a_mirror_with_a_password_and_an_authority_of_its_own_by_a_proxy(
    resolver: Resolver, tmp_path: Path
) -> None:
    authority = PrivateCA(tmp_path)
    with (
        FaultyMirror(tls=authority.server, login=("bob", "w:@rd")) as mirror,
        LoopbackProxy(mirror, ("eve", "p/w")) as proxy,
    ):
        archive = StandInArchive(mirror, "debian")
        archive.publish("trixie", [*ESSENTIAL, StandInPackage("greeting")])
        resolver.apt.key = archive.key.armoured
        way = Access(
            lambda _: proxy.url.replace("//", "//eve:p%2Fw@"), lambda _: ("bob", "w:@rd"), lambda _: str(authority.path)
        )
        resolver.urls = ["https://mirror.invalid/debian"]
        assert names(resolver("greeting", access=lambda _: way)) == ["apt", "base", "greeting"]
        assert set(proxy.asked) == {"CONNECT mirror.invalid:443"}
        with pytest.raises(LockError) as caught:
            resolver("greeting", access=lambda _: replace(way, find_login=lambda _: None))
        assert caught.value.hint == Why.LOGIN.value


def test_an_unknown_package_is_told(resolver: Resolver) -> None:
    resolver.archive.publish("trixie", ESSENTIAL)
    with pytest.raises(LockError, match="Unable to locate package greetings") as caught:
        resolver("greetings")
    assert caught.value.hint == "check the package names and suites in the spec"


def test_a_conflict_is_told(resolver: Resolver) -> None:
    resolver.archive.publish("trixie", [*ESSENTIAL, StandInPackage("greeting", fields={"Depends": "nothing-like-it"})])
    with pytest.raises(LockError, match="apt could not resolve the packages") as caught:
        resolver("greeting")
    assert "nothing-like-it" in caught.value.message


def test_the_next_mirror_is_asked(resolver: Resolver, mirror: FaultyMirror) -> None:
    resolver.archive.publish("trixie", [*ESSENTIAL, StandInPackage("greeting")])
    resolver.urls = [f"{mirror.url}/nothing", resolver.archive.url]
    found = resolver("greeting")
    assert names(found) == ["apt", "base", "greeting"]
    assert {deb.archive for deb in found.debs} == {"own"}
    resolver.urls = [f"{mirror.url}/nothing"]
    with pytest.raises(LockError, match=r"127\.0\.0\.1"):
        resolver("greeting")
