"""How servers are reached: a proxy, an authenticated mirror and a private authority on loopback, as companies have."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import FetchError, LockError
from anklume_images.inputs.access import certificate_bundle
from anklume_images.inputs.answers import Refusal, Why
from anklume_images.inputs.apt_config import AptConfig, apt_access, parse_auth_conf
from anklume_images.inputs.apt_reach import apt_reach
from anklume_images.inputs.fetch import fetch
from anklume_images.inputs.lockfile import LockedFile, Wheel
from anklume_images.inputs.mirrors import Sources
from anklume_images.inputs.python import lock_wheels
from anklume_images.inputs.python_index import PythonPlaces, host_python_places, index_access
from anklume_images.inputs.transport import Transport
from anklume_images.settings import Settings
from anklume_images.specs.keys import PythonInputs, VersionRule
from anklume_images.specs.model import Spec
from anklume_images.store.blobs import Blobs
from tests.support.faulty_mirror import Fault, FaultyMirror
from tests.support.loopback_proxy import LoopbackProxy
from tests.support.private_ca import PrivateCA

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = b"a package"
SHA256 = hashlib.sha256(BODY).hexdigest()
DEB = LockedFile("debian", "pool/p.deb", SHA256, len(BODY))
WHEEL = Wheel("pypi", "p-1-py3-none-any.whl", SHA256, len(BODY), "p", "1")
PAGE = json.dumps({"files": [{"filename": WHEEL.path, "url": f"../../f/{WHEEL.path}", "hashes": {}}]}).encode()
JSON = "application/vnd.pypi.simple.v1+json"
LOGIN = ("bob", "pä ss:w@rd/1")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.endswith(("_CERT", "_BUNDLE", "_CERT_FILE", "_CERT_DIR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture(scope="module")
def company(tmp_path_factory) -> PrivateCA:
    return PrivateCA(tmp_path_factory.mktemp("ca"))


def filled(mirror: FaultyMirror) -> FaultyMirror:
    mirror.serve("/debian/pool/p.deb", BODY)
    mirror.serve("/simple/p/", PAGE, JSON)
    mirror.serve(f"/f/{WHEEL.path}", BODY)
    return mirror


@pytest.fixture
def mirror() -> Iterator[FaultyMirror]:
    with filled(FaultyMirror()) as server:
        yield server


@pytest.fixture
def guarded() -> Iterator[FaultyMirror]:
    with filled(FaultyMirror(login=LOGIN)) as server:
        yield server


@pytest.fixture
def https(company) -> Iterator[FaultyMirror]:
    with filled(FaultyMirror(tls=company.server)) as server:
        yield server


@pytest.fixture
def proxy(mirror) -> Iterator[LoopbackProxy]:
    with LoopbackProxy(mirror) as server:
        yield server


class Host:
    """A host with files below `root`, an apt-config that prints `apt` (a stand-in), and an environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {"PATH": f"{root}/bin:{os.environ['PATH']}", "HOME": str(root / "home")}
        (root / "bin").mkdir()
        (root / "home").mkdir()
        (root / "etc/apt/auth.conf.d").mkdir(parents=True)
        self.apt()

    def apt(self, **options: str) -> None:
        """Configure apt; `__` in a name stands for `::` and `_` for `-`."""
        names = {name.replace("__", "::").replace("_", "-"): value for name, value in options.items()}
        lines = "".join(f'Acquire::{name} "{value}";\n' for name, value in names.items())
        command = self.root / "bin/apt-config"
        command.write_text(f'#!/bin/sh\ncat <<\'END\'\nAPT "";\nDir::Etc "etc/apt";\n{lines}END\n')
        command.chmod(0o755)

    def auth(self, text: str, name: str = "auth.conf.d/x.conf") -> None:
        (self.root / "etc/apt" / name).write_text(text)

    def pip(self, **options: str) -> None:
        lines = "".join(f"{name.replace('_', '-')} = {value}\n" for name, value in options.items())
        (self.root / "etc/pip.conf").write_text(f"[global]\n{lines}")

    def sources(self, base: str) -> Sources:
        """The host's own, whose apt has the mirror `base`/debian and whose pip has the index `base`/simple."""
        (self.root / "etc/apt/sources.list").write_text(f"deb {base}/debian trixie main\n")
        if not (self.root / "etc/pip.conf").exists():
            self.pip()
        with (self.root / "etc/pip.conf").open("a") as stream:
            stream.write(f"index-url = {base}/simple\n")
        return Sources.of_host(Settings(), root=self.root, environ=self.environ)

    def get(self, file: LockedFile, base: str) -> int:
        blobs = Blobs(Path(tempfile.mkdtemp(dir=self.root, prefix="store-")))
        return fetch([file], blobs, self.sources(base), sleep=lambda _: None).fetched

    def refused(self, file: LockedFile, base: str) -> str:
        with pytest.raises(FetchError) as caught:
            self.get(file, base)
        return f"{caught.value}\n{caught.value.hint}"


@pytest.fixture
def host(tmp_path) -> Host:
    return Host(tmp_path)


UNKNOWN = "http://mirror.invalid"


# proxies


def test_apts_proxy_is_for_its_mirrors_and_for_no_index(host, proxy):
    host.apt(http__Proxy=proxy.url)
    assert host.get(DEB, UNKNOWN) == 1
    assert proxy.asked == [f"GET {UNKNOWN}/debian/pool/p.deb"]
    assert Why.NAME.value in host.refused(WHEEL, UNKNOWN)
    assert len(proxy.asked) == 1


def test_pips_proxy_is_for_the_index_and_for_no_mirror(host, proxy):
    host.pip(proxy=proxy.address)
    assert host.get(WHEEL, UNKNOWN) == 1
    assert proxy.asked == [f"GET {UNKNOWN}/simple/p/", f"GET {UNKNOWN}/f/{WHEEL.path}"]
    assert Why.NAME.value in host.refused(DEB, UNKNOWN)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_the_environments_proxy_is_for_all(host, proxy, monkeypatch, variable):
    monkeypatch.setenv(variable, proxy.url)
    assert host.get(DEB, UNKNOWN) == 1
    assert host.get(WHEEL, UNKNOWN) == 1
    own = Sources({"own": (f"{UNKNOWN}/debian/pool",)})
    assert fetch([LockedFile("own", "p.deb", SHA256, len(BODY))], Blobs(host.root / "b"), own).fetched == 1
    assert len(proxy.asked) == 4


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_proxy_that_speaks_socks(host, proxy, monkeypatch, scheme):
    proxy.login = ("bob", "pass")
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://bob:pass@{proxy.address}")
    host_name = "mirror.invalid" if scheme == "socks5h" else "127.0.0.1"
    assert host.get(DEB, f"http://{host_name}") == 1
    assert proxy.asked == [f"SOCKS {host_name}:80"]


def test_an_https_mirror_behind_a_proxy(host, https, company, monkeypatch):
    monkeypatch.setitem(host.environ, "SSL_CERT_FILE", str(company.path))
    with LoopbackProxy(https, LOGIN) as proxy:
        host.apt(https__Proxy=f"http://bob:p%C3%A4%20ss%3Aw%40rd%2F1@{proxy.address}")
        assert host.get(DEB, "https://mirror.invalid") == 1
        assert proxy.asked == ["CONNECT mirror.invalid:443"]


def rows() -> list[tuple[dict[str, str], str, str | None]]:
    return [
        ({"http__Proxy": "http://p:1"}, "http://h/", "http://p:1"),
        ({"http__Proxy": "http://p:1"}, "https://h/", "http://p:1"),
        ({"http__Proxy": "http://p:1", "https__Proxy": "http://q:1"}, "https://h/", "http://q:1"),
        ({"https__Proxy": "http://q:1"}, "http://h/", None),
        ({"http__Proxy": "http://p:1", "http__Proxy__h": "DIRECT"}, "http://h:80/x", None),
        ({"http__Proxy": "http://p:1", "http__Proxy__h": "http://q:2"}, "http://u:w@h/", "http://q:2"),
        ({"http__Proxy": "http://p:1", "http__Proxy__h": "http://q:2"}, "http://g/", "http://p:1"),
        ({"HTTP__proxy": "p:1"}, "http://h/", "http://p:1"),
        ({"http__Proxy": "DIRECT"}, "http://h/", None),
        ({"http__Proxy": "false"}, "http://h/", None),
        ({"http__Proxy": "socks5h://p:1"}, "http://h/", "socks5h://p:1"),
    ]


@pytest.mark.parametrize(("options", "url", "expected"), rows())
def test_which_proxy_apt_takes(host, options, url, expected):
    host.apt(**options)
    assert apt_access(AptConfig.of_host(host.environ, host.root)).proxy(url) == expected


def test_no_proxy_counts_for_apt_too(host, monkeypatch):
    host.apt(http__Proxy="http://p:1")
    monkeypatch.setenv("no_proxy", "h.test")
    access = apt_access(AptConfig.of_host(host.environ, host.root))
    assert access.proxy("http://h.test/") is None
    assert access.proxy("http://g.test/") == "http://p:1"


@pytest.mark.parametrize(
    ("says", "expected"),
    [("echo http://found:8/", "http://found:8/"), ("echo DIRECT", None), ("true", "http://p:1")],
)
@pytest.mark.parametrize("name", ["Proxy_Auto_Detect", "ProxyAutoDetect"])
def test_apts_detection_is_asked_once_and_told_no_password(host, says, expected, name):
    command = host.root / "detect"
    command.write_text(f'#!/bin/sh\necho "$@" >> {host.root}/asked\n{says}\n')
    command.chmod(0o755)
    host.apt(**{f"http__{name}": str(command), "http__Proxy": "http://p:1", "http__Proxy__own": "http://o:1"})
    access = apt_access(AptConfig.of_host(host.environ, host.root))
    assert access.proxy("http://u:secret@h:81/debian/x") == expected
    assert access.proxy("http://h:81/debian/y") == expected
    assert access.proxy("http://own/") == "http://o:1"
    assert (host.root / "asked").read_text() == "http://h:81/\n"


def test_a_detection_that_fails_is_told(host):
    host.apt(http__Proxy_Auto_Detect="/nowhere/detect")
    told = host.refused(DEB, UNKNOWN)
    assert "/nowhere/detect" in told
    assert Why.PROXY.value in told


def test_a_proxy_that_is_not_there_or_of_an_unknown_kind_is_named(host, monkeypatch):
    host.apt(http__Proxy="http://bob:secret@127.0.0.1:1")
    told = host.refused(DEB, UNKNOWN)
    assert "the proxy http://127.0.0.1:1 cannot be reached: Connection refused" in told
    assert Why.PROXY.value in told
    host.apt(http__Proxy="quic://bob:secret@h")
    other = host.refused(DEB, UNKNOWN)
    assert "the proxy quic://h is of an unknown kind" in other
    assert "secret" not in told + other


@pytest.mark.parametrize("base", [UNKNOWN, "https://mirror.invalid"])
def test_a_proxy_that_wants_a_password_is_told_as_that(host, mirror, base):
    with LoopbackProxy(mirror, LOGIN) as proxy:
        host.apt(http__Proxy=proxy.url)
        told = host.refused(DEB, base)
        assert "407 Proxy Authentication Required" in told
        assert Why.PROXY_LOGIN.value in told
        assert len(proxy.asked) == 1, "again would not help"


def test_apts_credentials_are_for_its_proxy_too(host, mirror):
    with LoopbackProxy(mirror, ("bob", "wörd")) as proxy:
        host.apt(http__Proxy=proxy.url)
        host.auth(f"machine {proxy.url} login bob password wörd\n")
        assert host.get(DEB, UNKNOWN) == 1


# credentials


def test_credentials_as_apt_has_them(host, tmp_path):
    with filled(FaultyMirror(login=("bob", "w:@rd"))) as server:
        host.auth(f"machine {server.url}/debian login bob password w:@rd\n")
        assert host.get(DEB, server.url) == 1


AUTH = """\
# machine commented.test login no password no
machine plain.test
login a
password b
machine http://open.test login c
 password d machine https://port.test:8443 login e password f
machine path.test/deb account none login g password h
machine path.test login i password j
machine empty.test
"""


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("https://plain.test/x", ("a", "b")),
        ("https://plain.test:444/x", ("a", "b")),
        ("http://plain.test/x", None),
        ("http://open.test/x", ("c", "d")),
        ("https://open.test/x", None),
        ("https://port.test:8443/", ("e", "f")),
        ("https://port.test/", None),
        ("https://path.test/debian/x", ("g", "h")),
        ("https://path.test/ubuntu", ("i", "j")),
        ("https://commented.test/", None),
        ("https://test/", None),
    ],
)
def test_which_credentials_apt_takes(url, login):
    assert AptConfig({}, tuple(parse_auth_conf(AUTH))).login(url) == login


def test_the_first_file_counts_and_what_is_unreadable_is_passed_over(host):
    host.auth("machine h.test login a password b", "auth.conf")
    host.auth("machine h.test login c password d\nmachine g.test login e password f", "auth.conf.d/1.conf")
    host.auth("machine g.test login x password y", "auth.conf.d/2.txt")
    (host.root / "etc/apt/auth.conf.d/0.conf").mkdir()
    config = AptConfig.of_host(host.environ, host.root)
    assert config.login("https://h.test/") == ("a", "b")
    assert config.login("https://g.test/") == ("e", "f")


@pytest.mark.parametrize("file", [DEB, WHEEL])
def test_netrc_and_what_is_said_without(host, guarded, monkeypatch, tmp_path, file):
    told = host.refused(file, guarded.url)
    assert "401 Unauthorized" in told
    assert Why.LOGIN.value in told
    netrc = tmp_path / "netrc"
    netrc.write_text('machine 127.0.0.1 login bob password "pä ss:w@rd/1"\n')
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert host.get(file, guarded.url) == 1


def test_a_redirect_takes_no_credentials_along(host, mirror, guarded):
    guarded.fault("/debian/pool/p.deb", Fault(status=302, headers={"Location": f"{mirror.url}/debian/pool/p.deb"}))
    base = guarded.url.replace("//", "//bob:p%C3%A4%20ss%3Aw%40rd%2F1@")
    assert host.get(DEB, base) == 1
    assert "authorization" in guarded.requests[0].headers
    assert "authorization" not in mirror.requests[0].headers


def test_a_redirect_finds_its_own_credentials(host, mirror):
    with filled(FaultyMirror(login=("bob", "word"))) as server:
        target = f"{server.url}/debian/pool/p.deb"
        mirror.fault("/debian/pool/p.deb", Fault(status=302, headers={"Location": target}))
        host.auth(f"machine {server.url} login bob password word\n")
        assert host.get(DEB, mirror.url) == 1


# certificates


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("file", [DEB, WHEEL])
def test_a_companys_authority(host, https, company, file, variable):
    told = host.refused(file, https.url)
    assert "TLS failed" in told
    assert Why.CERTIFICATE.value in told
    assert len(https.requests) == 0
    host.environ[variable] = str(company.path)
    assert host.get(file, https.url) == 1


def test_the_authority_that_pip_names_is_for_the_index(host, https, company):
    host.pip(cert=str(company.path))
    assert host.get(WHEEL, https.url) == 1
    assert Why.CERTIFICATE.value in host.refused(DEB, https.url)


def test_the_authority_that_pips_variable_names(host, https, company):
    host.environ["PIP_CERT"] = str(company.path)
    assert host.get(WHEEL, https.url) == 1


@pytest.mark.parametrize("name", ["https__CAInfo__127.0.0.1", "https__127.0.0.1__CaInfo", "https__CaInfo"])
def test_the_authority_that_apt_names_is_for_its_mirrors(host, https, company, name):
    host.apt(**{name: str(company.path)})
    assert host.get(DEB, https.url) == 1
    assert Why.CERTIFICATE.value in host.refused(WHEEL, https.url)


def test_trusted_hosts_of_pip_and_unverified_ones_of_apt(host, https):
    host.pip(trusted_host="127.0.0.1")
    assert host.get(WHEEL, https.url) == 1
    host.apt(https__Verify_Peer="false")
    assert host.get(DEB, https.url) == 1


def test_a_trusted_host_vouches_for_no_other(host, https, company):
    with LoopbackProxy(https) as proxy:
        host.pip(trusted_host="trusted.invalid", proxy=proxy.url)
        location = f"https://other.invalid/f/{WHEEL.path}"
        https.fault(f"/f/{WHEEL.path}", Fault(status=302, headers={"Location": location}))
        assert "TLS failed" in host.refused(WHEEL, "https://trusted.invalid")


def test_what_the_system_believes_is_believed(monkeypatch, tmp_path):
    assert os.path.exists(certificate_bundle({}))
    assert certificate_bundle({"SSL_CERT_DIR": "/d"}) == "/d"
    assert certificate_bundle({"SSL_CERT_FILE": "/f", "SSL_CERT_DIR": "/d"}) == "/f"
    monkeypatch.setattr("anklume_images.inputs.access._SYSTEM", (str(tmp_path / "none"), str(tmp_path / "bundle")))
    monkeypatch.setattr("anklume_images.inputs.access._system_bundle", _uncached())
    (tmp_path / "bundle").write_text("x")
    assert certificate_bundle({}) == str(tmp_path / "bundle")


def _uncached():
    from anklume_images.inputs import access

    return access._system_bundle.__wrapped__


# indexes


def with_login(url: str, login: str = "bob:p%C3%A4%20ss%3Aw%40rd%2F1") -> str:
    return url.replace("//", f"//{login}@")


@pytest.mark.parametrize("kind", ["relative", "absolute", "html"])
def test_an_index_with_credentials_whose_pages_link_to_its_own_server(host, guarded, kind):
    address = f"{guarded.url}/f/{WHEEL.path}"
    if kind == "absolute":
        page = {"files": [{"filename": WHEEL.path, "url": address, "hashes": {}}]}
        guarded.serve("/simple/p/", json.dumps(page).encode(), JSON)
    elif kind == "html":
        guarded.serve("/simple/p/", f'<a href="{address}">{WHEEL.path}</a>'.encode(), "text/html")
    assert host.get(WHEEL, with_login(guarded.url)) == 1


def test_an_indexs_credentials_go_nowhere_else(host, mirror, guarded):
    page = {"files": [{"filename": WHEEL.path, "url": f"{mirror.url}/f/{WHEEL.path}", "hashes": {}}]}
    guarded.serve("/simple/p/", json.dumps(page).encode(), JSON)
    assert host.get(WHEEL, with_login(guarded.url)) == 1
    assert "authorization" not in mirror.requests[0].headers


def test_two_indexes_of_one_server_have_a_user_each():
    places = PythonPlaces(("https://a:1@h.test/one/simple", "https://b:2@h.test/two/simple", "https://g.test/simple"))
    access = index_access(places, {})
    assert access.login("https://h.test/two/files/x.whl") == ("b", "2")
    assert access.login("https://h.test:443/one/files/x.whl") == ("a", "1")
    assert access.login("http://h.test/one/simple") is None, "what is for https is not sent in the open"
    assert access.login("https://h.test:8443/one/simple") is None
    assert access.login("https://g.test/simple") is None


def test_uvs_credentials_of_a_named_index(host):
    host.environ |= {
        "PIP_CONFIG_FILE": os.devnull,
        "UV_INDEX": "my-own=https://uv.test/simple",
        "UV_INDEX_MY_OWN_USERNAME": "bob",
        "UV_INDEX_MY_OWN_PASSWORD": "p/w",
    }
    assert "https://bob:p%2Fw@uv.test/simple" in host_python_places(host.environ, host.root).indexes


@pytest.fixture
def own_index(company) -> Iterator[FaultyMirror]:
    """An index as a company has it: HTTPS of its own, a password, absolute links, and no sizes."""
    with FaultyMirror(tls=company.server, login=LOGIN) as server:
        address = f"{server.url}/f/{WHEEL.path}"
        file = {"filename": WHEEL.path, "url": address, "hashes": {"sha256": SHA256}, "core-metadata": True}
        page = {"meta": {"api-version": "1.0"}, "name": "p", "files": [file]}
        server.serve("/simple/p/", json.dumps(page).encode(), JSON)
        server.serve(f"/f/{WHEEL.path}", BODY)
        server.serve(f"/f/{WHEEL.path}.metadata", b"Metadata-Version: 2.1\nName: p\nVersion: 1\n\n")
        yield server


def lock(host: Host, places: PythonPlaces) -> tuple[Wheel, ...]:
    spec = Spec(
        name="app",
        folder=Path("/specs/app"),
        variant=None,
        description="x",
        version=VersionRule(literal="1"),
        base="debian",
        distribution="debian",
        release="trixie",
        default=True,
        python=PythonInputs(version="3.13", requires=("p",)),
    )
    return lock_wheels(spec, "amd64", places=places, cache=host.root / "cache")


@pytest.mark.parametrize("way", ["certificates", "trusted_hosts", "proxy"])
def test_locking_reaches_a_companys_index_as_fetching_does(host, own_index, company, way):
    index = f"{with_login(own_index.url)}/simple"
    with LoopbackProxy(own_index, ("bob", "pass")) as proxy:
        reached = {
            "certificates": {"certificates": str(company.path)},
            "trusted_hosts": {"trusted_hosts": ("127.0.0.1",)},
            "proxy": {"proxy": f"http://bob:pass@{proxy.address}", "certificates": str(company.path)},
        }
        assert lock(host, PythonPlaces((index,), **reached[way])) == (WHEEL,)
        assert {line.partition(" ")[0] for line in proxy.asked} == ({"CONNECT"} if way == "proxy" else set())


@pytest.mark.parametrize(("trusted", "why"), [(True, Why.LOGIN), (False, Why.CERTIFICATE)])
def test_what_hinders_uv_is_said(host, own_index, company, trusted, why):
    places = PythonPlaces((f"{own_index.url}/simple",), certificates=str(company.path) if trusted else None)
    with pytest.raises(LockError) as caught:
        lock(host, places)
    assert caught.value.hint == why.value


# what the resolver's apt is told


def test_the_resolvers_apt_is_told_the_same(host, company, tmp_path):
    host.apt(http__Proxy="http://p:1", http__Proxy__direct="DIRECT", https__CAInfo__s=str(company.path))
    host.auth("machine http://far/ login bob password word\nmachine s login x password y\n")
    access = apt_access(AptConfig.of_host(host.environ, host.root))
    place = tmp_path / "place"
    (place / "etc").mkdir(parents=True)
    mirrors = {"a": "http://far/debian", "b": "http://u:p%40@direct/d", "c": "https://s/x", "d": "file:///srv"}
    reach = apt_reach(place, "/seen", mirrors, lambda _: access)
    assert reach.mirrors == {"a": "http://far/debian", "b": "http://direct/d", "c": "https://s/x", "d": "file:/srv"}
    assert {
        'Acquire::http::Proxy::far "http://p:1";',
        'Acquire::http::Proxy::direct "DIRECT";',
        'Acquire::https::Proxy::s "http://p:1";',
    } < set(reach.options)
    (authority,) = [line for line in reach.options if line.startswith("Acquire::https::s::CaInfo ")]
    assert (place / authority.split('"')[1].removeprefix("/seen/")).read_bytes() == company.path.read_bytes()
    assert (place / "etc/auth.conf").read_text().splitlines() == [
        "machine http://far/debian login bob password word",
        "machine http://direct/d login u password p@",
        "machine https://s/x login x password y",
    ]


def test_authorities_that_cannot_be_read_are_told(host, tmp_path):
    host.apt(https__CAInfo="/nowhere/ca.crt")
    access = apt_access(AptConfig.of_host(host.environ, host.root))
    (tmp_path / "etc").mkdir(exist_ok=True)
    with pytest.raises(LockError, match=r"/nowhere/ca\.crt: the certificates cannot be read") as caught:
        apt_reach(tmp_path, "/seen", {"a": "https://s/x"}, lambda _: access)
    assert caught.value.hint == Why.CERTIFICATE.value


def test_a_refusal_is_told_by_the_transport_as_it_is():
    with pytest.raises(Refusal) as caught:
        Transport(index_access(PythonPlaces(proxy="odd://h"), {})).read("http://x.test/", 10)
    assert caught.value.why is Why.PROXY
