"""Where apt on this host takes packages from, and which of it carries Debian."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import FetchError, LockError
from anklume_images.inputs.apt_sources import (
    AptSource,
    DebianMirrors,
    debian_mirrors,
    host_apt_sources,
    parse_apt_sources,
)
from anklume_images.inputs.debian import DebianRequest
from anklume_images.inputs.fetch import fetch
from anklume_images.inputs.lockfile import LockedFile
from anklume_images.inputs.mirror_lists import parse_mirror_list
from anklume_images.inputs.mirrors import Sources
from anklume_images.locking import Locks
from anklume_images.settings import Settings
from anklume_images.specs.keys import Suite
from anklume_images.store.blobs import Blobs
from tests.support.faulty_mirror import FaultyMirror

if TYPE_CHECKING:
    from pathlib import Path

ONE_LINE = """\
# deb http://commented.test/debian trixie main
deb http://a.test/debian/ trixie main contrib # why
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://a.test/debian trixie-updates main
  deb [ trusted=yes ] http://b.test/debian-security trixie-security main
deb-src http://source.test/debian trixie main
deb cdrom:[Debian]/ trixie main
deb http://flat.test/repo ./
deb [signed-by=/etc/apt/keyrings/other.asc] http://other.test/linux/debian trixie main
deb http://other.test/apt stable nightly
nonsense
"""

DEB822 = """\
# about this file
Types: deb deb-src
URIs: http://c.test/debian http://d.test/debian/
Suites: bookworm bookworm-updates bookworm-backports
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://c.test/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQ
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: sid
Components: main

Types: deb-src
URIs: http://source.test/debian
Suites: sid
Components: main
"""


@pytest.fixture
def mirror():
    with FaultyMirror() as server:
        yield server


def one(text: str, name: str = "x.list") -> AptSource:
    (source,), left_out = parse_apt_sources({name: text})
    assert left_out == []
    return source


def deb822(uri: str, suite: str = "trixie", **fields: str) -> str:
    lines = {"Types": "deb", "URIs": uri, "Suites": suite, "Components": "main", **fields}
    return "".join(f"{key}: {value}\n" for key, value in lines.items())


def test_one_line_sources_are_read_as_apt_reads_them():
    sources, left_out = parse_apt_sources({"/etc/apt/sources.list": ONE_LINE})
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert sources[:3] == [
        AptSource("http://a.test/debian/", ("trixie",), ("main", "contrib"), ""),
        AptSource("http://a.test/debian", ("trixie-updates",), ("main",), keyring),
        AptSource("http://b.test/debian-security", ("trixie-security",), ("main",), ""),
    ]
    assert [source.uri for source in sources[3:]] == [
        "http://flat.test/repo",
        "http://other.test/linux/debian",
        "http://other.test/apt",
    ]
    assert [(entry.place, entry.what) for entry in left_out] == [
        ("/etc/apt/sources.list:6", "cdrom:[Debian]/"),
        ("/etc/apt/sources.list:10", "nonsense"),
    ]


def test_deb822_sources_are_read_as_apt_reads_them():
    sources, left_out = parse_apt_sources({"debian.sources": DEB822})
    assert [source.uri for source in sources] == [
        "http://c.test/debian",
        "http://d.test/debian/",
        "http://c.test/debian-security",
    ]
    assert sources[0].suites == ("bookworm", "bookworm-updates", "bookworm-backports")
    assert sources[0].components == ("main", "non-free-firmware")
    assert "BEGIN PGP" in sources[2].signed_by
    assert left_out == []


def test_suites_tell_debians_archives_from_other_repositories():
    sources, _ = parse_apt_sources({"sources.list": ONE_LINE, "debian.sources": DEB822})
    found = debian_mirrors(sources)
    assert found.first == {
        "debian": ("http://a.test/debian", "http://c.test/debian", "http://d.test/debian"),
        "debian-security": ("http://b.test/debian-security", "http://c.test/debian-security"),
    }
    assert found.last == {"debian": ("http://other.test/linux/debian",)}
    assert [(entry.what, entry.why) for entry in found.left_out] == [
        ("http://flat.test/repo ./", "a flat repository"),
        ("http://other.test/apt stable", "has no component main"),
    ]


@pytest.mark.parametrize(
    ("suite", "archives"),
    [
        ("sid", {"debian"}),
        ("unstable", {"debian"}),
        ("oldstable-backports", {"debian"}),
        ("forky-proposed-updates", {"debian"}),
        ("stable-security", {"debian-security"}),
        ("testing-security", {"debian-security"}),
        ("noble", set()),
        ("noble-security", set()),
        ("./", set()),
    ],
)
def test_names_of_suites(suite, archives):
    found = debian_mirrors([AptSource("http://x.test", (suite,), ("main",), "", "here")])
    assert set(found.first) == archives
    assert found.last == {}
    assert [entry.place for entry in found.left_out] == ([] if archives else ["here"])


@pytest.mark.parametrize(
    ("uri", "suite"),
    [
        ("http://x.test/apt", "acme-trixie-2026-11"),
        ("http://x.test/apt", "Trixie.2026"),
        ("http://x.test/acme/debian", "2026-11"),
        ("http://x.test/debian-frozen", "golden"),
        ("http://debian.x.test/", "golden"),
    ],
)
def test_a_suite_with_a_name_of_its_own_is_asked_for_both_archives_and_last(uri, suite):
    found = debian_mirrors([AptSource(uri, (suite,), ("main",), "/etc/apt/keyrings/acme.gpg")])
    base = (uri.rstrip("/"),)
    assert found == DebianMirrors({}, {"debian": base, "debian-security": base}, ())


@pytest.mark.parametrize(
    ("signed_by", "first"),
    [
        ("/etc/apt/keyrings/acme-mirror.gpg", False),
        ("/etc/apt/keyrings/a.gpg,/etc/apt/keyrings/b.asc", False),
        ("/etc/apt/keyrings/a.gpg /usr/share/keyrings/debian-archive-keyring.gpg", True),
        ("/usr/share/keyrings/debian-archive-keyring.pgp", True),
        ("4CB50190207B4758A3F73A796ED0E7B82643E131!", True),
        ("", True),
    ],
)
def test_who_signed_a_mirror_decides_when_it_is_asked(signed_by, first):
    lines = [deb822("http://x.test/debian", **({"Signed-By": signed_by} if signed_by else {}))]
    lines += [f"deb [signed-by={signed_by.replace(' ', ',')}] http://x.test/debian trixie main"] if signed_by else []
    for text, name in zip(lines, ("x.sources", "x.list"), strict=False):
        found = debian_mirrors([one(text, name)])
        assert (found.first if first else found.last) == {"debian": ("http://x.test/debian",)}
        assert found.left_out == ()


def test_a_key_in_text_may_be_debians():
    text = deb822("http://x.test/debian", **{"Signed-By": "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ"})
    assert debian_mirrors([one(text, "x.sources")]).first == {"debian": ("http://x.test/debian",)}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("HTTP://x.test/debian", "http://x.test/debian"),
        ("Https://x.test/debian", "https://x.test/debian"),
        ("file:/srv/debian", "file:///srv/debian"),
        ("file:///srv/debian", "file:///srv/debian"),
        ("copy:/srv/debian", "file:///srv/debian"),
        ("mirror+file:/etc/apt/mirrors/debian.list", "mirror+file:///etc/apt/mirrors/debian.list"),
        ("mirror+copy:///etc/apt/mirrors/debian.list", "mirror+file:///etc/apt/mirrors/debian.list"),
        ("Mirror+File:/etc/apt/mirrors/debian.list", "mirror+file:///etc/apt/mirrors/debian.list"),
        ("mirror://x.test/list.txt", "mirror+http://x.test/list.txt"),
        ("mirror+http://x.test/list.txt", "mirror+http://x.test/list.txt"),
        ("mirror+https://x.test/list.txt", "mirror+https://x.test/list.txt"),
    ],
)
def test_addresses_in_both_forms(written, read):
    for text, name in (
        (deb822(written), "x.sources"),
        (f"deb {written} trixie main", "x.list"),
        (f'deb [ arch=amd64 signed-by="/usr/share/keyrings/debian-a.gpg" ] "{written}" trixie main # x', "x.list"),
    ):
        assert one(text, name).uri == read


@pytest.mark.parametrize("uri", ["tor+http://x.test/debian", "s3://bucket/debian", "cdrom:[Debian 13]/", "relative"])
def test_what_cannot_be_asked_is_named_with_the_reason(uri):
    for text, name in ((deb822(uri.replace(" ", "")), "x.sources"), (f"deb {uri} trixie main", "x.list")):
        found, (left_out,) = parse_apt_sources({name: text})
        assert found == []
        assert left_out.place.startswith(name)
        assert "is not supported" in left_out.why


@pytest.mark.parametrize("word", ["no", "No", "false", "off", "0", "without", "disable"])
def test_a_disabled_source_is_nothing(word):
    assert parse_apt_sources({"x.sources": deb822("http://x.test/debian", Enabled=word)}) == ([], [])


def test_the_hosts_files_are_read_in_apts_order(tmp_path):
    parts = tmp_path / "etc" / "apt" / "sources.list.d"
    parts.mkdir(parents=True)
    (parts.parent / "sources.list").write_text("deb http://1.test/debian sid main\n")
    (parts / "b.list").write_text("deb http://3.test/debian sid main\n")
    (parts / "a.sources").write_text("Types: deb\nURIs: http://2.test/debian\nSuites: sid\nComponents: main\n")
    (parts / "c.list.disabled").write_text("deb http://4.test/debian sid main\n")
    (parts / "d.list").write_bytes(b"# caf\xe9\ndeb http://5.test/debian sid main\n")
    (parts / "e.list").mkdir()
    expected = tuple(f"http://{number}.test/debian" for number in (1, 2, 3, 5))
    assert debian_mirrors(host_apt_sources(tmp_path)[0]).first["debian"] == expected
    assert host_apt_sources(tmp_path / "nothing") == ([], [])


# lists of mirrors


LIST = """\
# of this site

file:/srv/mirror/\tpriority:1 type:index
http://partial.test/debian/\tpriority:2 arch:amd64\ttype:deb
HTTP://x.test/debian
tor+http://x.test/debian
copy:/srv/copy
https://y.test/debian/\tpriority:1
http://x.test/debian/
"""


def test_a_list_of_mirrors():
    assert parse_mirror_list(LIST) == (
        "https://y.test/debian",
        "http://partial.test/debian",
        "http://x.test/debian",
        "file:///srv/copy",
    )
    assert "file:///srv/copy" not in parse_mirror_list(LIST, local=False), "a server names no place on this host"


BODY = b"a package"
FILE = LockedFile("debian", "pool/p.deb", hashlib.sha256(BODY).hexdigest(), len(BODY))


def of_host(root: Path, *lines: str) -> Sources:
    (root / "etc" / "apt").mkdir(parents=True)
    (root / "etc" / "apt" / "sources.list").write_text("".join(f"{line}\n" for line in lines))
    return Sources.of_host(Settings(), root=root, environ={})


@pytest.mark.parametrize("where", ["file", "http"])
def test_a_package_is_fetched_by_way_of_a_list_that_is_read_once(mirror, tmp_path, where):
    mirror.serve("/debian/pool/p.deb", BODY)
    text = f"{mirror.url}/debian\tpriority:2\n{mirror.url}/nothing\tpriority:1\n"
    path = tmp_path / "mirrors.list"
    path.write_text(text)
    mirror.serve("/mirrors.list", text.encode())
    address = f"mirror+file:{path}" if where == "file" else f"mirror+{mirror.url}/mirrors.list"
    sources = of_host(tmp_path, f"deb {address} trixie main")
    assert sources.bases("debian") == (f"{mirror.url}/nothing", f"{mirror.url}/debian")
    assert fetch([FILE], Blobs(tmp_path), sources).fetched == 1
    asked = [] if where == "file" else ["/mirrors.list"]
    assert [request.path for request in mirror.requests] == [*asked, "/nothing/pool/p.deb", "/debian/pool/p.deb"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.list", None, "No such file"),
        ("empty.list", "# nothing\n", "lists no mirror"),
        ("m.list.gz", "\x1f", "is compressed"),
    ],
)
def test_a_list_that_is_no_use_is_named(tmp_path, name, text, said):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    sources = of_host(tmp_path, f"deb mirror+file:{path} trixie main")
    with pytest.raises(FetchError, match=said) as caught:
        fetch([FILE], Blobs(tmp_path), sources)
    assert str(path) in caught.value.message


def test_a_companys_mirror_is_asked_last(mirror, tmp_path):
    mirror.serve("/acme/pool/p.deb", BODY)
    sources = of_host(
        tmp_path,
        f"deb [signed-by=/etc/apt/keyrings/acme.gpg] {mirror.url}/acme acme-trixie-2026-11 main",
        f"deb {mirror.url}/debian trixie main",
    )
    assert fetch([FILE], Blobs(tmp_path), sources).fetched == 1
    assert [request.path for request in mirror.requests] == ["/debian/pool/p.deb", "/acme/pool/p.deb"]


def test_an_error_names_what_was_not_asked_and_why(tmp_path):
    sources = of_host(
        tmp_path,
        "deb tor+http://user:secret@x.test/debian trixie main",
        "deb http://ubuntu.test/ubuntu noble main",
        "deb-src http://x.test/debian trixie main",
    )
    with pytest.raises(FetchError) as fetched:
        fetch([FILE], Blobs(tmp_path), sources)
    locks = Locks(None, None, "amd64")  # type: ignore[arg-type]
    with pytest.raises(LockError) as locked:
        locks._debs(DebianRequest((Suite(archive="debian", suite="trixie"),), (), "amd64"), sources, None)  # type: ignore[arg-type]
    for error in (fetched.value, locked.value):
        assert "sources.list:1: tor+http://x.test/debian: 'tor+http' is not supported" in error.message
        assert "sources.list:2: http://ubuntu.test/ubuntu noble: neither suite nor address speak" in error.message
        assert "secret" not in str(error)
        assert "mirrors: {debian: [URL]}" in str(error.hint)
    with pytest.raises(FetchError) as other:
        fetch([LockedFile("own", "p", "0" * 64, 1)], Blobs(tmp_path), sources)
    assert "tor+http" not in other.value.message, "these are no sources of other archives"
