from __future__ import annotations

import hashlib
import json
import os
import threading

import pytest

from anklume_images.errors import FetchError, HostError
from anklume_images.inputs.fetch import fetch
from anklume_images.inputs.lockfile import Deb, Index, Lock, LockedFile, ReleaseFile, Wheel
from anklume_images.inputs.mirrors import Sources, snapshot_timestamps
from anklume_images.inputs.python_index import PythonPlaces, host_python_places, links_of_page, local_path
from anklume_images.inputs.transport import Transport
from anklume_images.settings import Settings
from anklume_images.store.blobs import Blobs
from tests.support.faulty_mirror import Fault, FaultyMirror

pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture
def index():
    with FaultyMirror() as server:
        yield server


def wheel(name: str = "some_package-1.0-py3-none-any.whl", data: bytes = b"wheel", archive: str = "pypi") -> Wheel:
    return Wheel(archive, name, hashlib.sha256(data).hexdigest(), len(data), "Some.Package", "1.0")


# addresses


def test_order_is_host_settings_specs_then_the_permanent_archive(tmp_path):
    apt = tmp_path / "etc" / "apt"
    apt.mkdir(parents=True)
    (apt / "sources.list").write_text("deb http://host.test/debian/ sid main\n")
    settings = Settings(
        mirrors={"debian": ("http://set.test/debian", "http://host.test/debian"), "tool": ("http://set.test/tool",)},
        snapshot="http://snap.test/archive/",
    )
    sources = Sources.of_host(settings, {"tool": "http://up.test/tool/"}, root=tmp_path, environ={})
    assert sources.bases("debian") == ("http://host.test/debian", "http://set.test/debian")
    assert sources.bases("tool") == ("http://set.test/tool", "http://up.test/tool")
    assert sources.bases("unknown") == ()
    file = LockedFile("debian", "pool/main/g++_1~rc.deb", "0" * 64, 1)
    assert list(sources.urls(file, "20260102T030405Z")) == [
        "http://host.test/debian/pool/main/g%2B%2B_1~rc.deb",
        "http://set.test/debian/pool/main/g%2B%2B_1~rc.deb",
        "http://snap.test/archive/debian/20260102T030405Z/pool/main/g%2B%2B_1~rc.deb",
    ]
    assert len(list(sources.urls(file))) == 2


def test_moments_for_the_permanent_archive_follow_the_newest_index():
    def deb(archive: str, sha256: str) -> Deb:
        return Deb(archive, "p", sha256, 1, "p", "1", "amd64", "")

    lock = Lock(
        "n",
        "amd64",
        "r",
        0,
        "1",
        indexes=(
            Index("debian", "sid", "", "2026-01-02T20:00:00+00:00"),
            Index("debian", "trixie", "", "2025-12-01T00:00:00Z"),
        ),
        debs=(deb("debian", "a"), deb("unlisted", "b")),
        files=(ReleaseFile("tool", "t", "c", 1, "t"),),
    )
    assert snapshot_timestamps([lock]) == {"a": "20260103T080000Z"}


# what pip and uv are configured with


def pip_conf(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def environment(tmp_path, **more):
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), **more}


def test_pip_configuration_is_merged_as_pip_does(tmp_path):
    pip_conf(
        tmp_path / "etc" / "pip.conf",
        "[global]\nindex-url = http://etc.test/simple/\nfind-links = /srv/one\n  /srv/two\n",
    )
    pip_conf(
        tmp_path / "home" / ".config" / "pip" / "pip.conf",
        "[global]\nextra-index-url = http://u:p%40@user.test/simple\n",
    )
    pip_conf(tmp_path / "named.conf", "[install]\nfind-links = http://named.test/links\n")
    environ = environment(tmp_path, PIP_CONFIG_FILE=str(tmp_path / "named.conf"))
    places = host_python_places(environ, tmp_path)
    assert places.indexes == ("http://etc.test/simple", "http://u:p%40@user.test/simple")
    assert places.find_links == ("http://named.test/links",)
    over = host_python_places({**environ, "PIP_INDEX_URL": "http://env.test/simple"}, tmp_path)
    assert over.indexes[0] == "http://env.test/simple"
    nothing = host_python_places({**environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/srv/wheels"}, tmp_path)
    assert nothing == PythonPlaces((), ("/srv/wheels",))


def test_without_pips_index_uvs_is_taken(tmp_path):
    environ = environment(
        tmp_path,
        PIP_CONFIG_FILE=os.devnull,
        UV_DEFAULT_INDEX="http://uv.test/simple",
        UV_INDEX="http://more.test/simple",
        UV_FIND_LINKS=str(tmp_path),
    )
    assert host_python_places(environ, tmp_path) == PythonPlaces(
        ("http://uv.test/simple", "http://more.test/simple"), (str(tmp_path),)
    )


def test_with_no_configuration_at_all_there_is_still_a_default_index(tmp_path):
    places = host_python_places(environment(tmp_path, PIP_CONFIG_FILE=os.devnull), tmp_path)
    assert len(places.indexes) == 1
    assert places.indexes[0].startswith("https://")


def test_uvs_own_complaint_is_passed_on(tmp_path):
    environ = environment(tmp_path, UV_FIND_LINKS=str(tmp_path / "nowhere"))
    with pytest.raises(HostError, match="nowhere") as caught:
        host_python_places(environ, tmp_path)
    assert "python_indexes" in (caught.value.hint or "")


def test_a_broken_pip_conf_does_not_stop_the_others(tmp_path):
    pip_conf(tmp_path / "etc" / "pip.conf", "no section = here\n")
    pip_conf(tmp_path / "home" / ".pip" / "pip.conf", "[global]\nindex-url = http://user.test/simple\n")
    assert host_python_places(environment(tmp_path), tmp_path).indexes == ("http://user.test/simple",)


def test_settings_replace_the_hosts_python_indexes(tmp_path):
    sources = Sources.of_host(Settings(python_indexes=("http://set.test/simple",)), root=tmp_path, environ={})
    assert sources.python() == PythonPlaces(("http://set.test/simple",))
    assert sources.bases("pypi") == ("http://set.test/simple",)


def test_local_places():
    assert str(local_path("file:///a%20b/c")) == "/a b/c"
    assert str(local_path("/a/b")) == "/a/b"
    assert local_path("http://x.test/a") is None
    assert local_path("file://elsewhere/a") is None


# pages of an index


def test_a_page_in_json():
    body = json.dumps(
        {
            "files": [
                {"filename": "a.whl", "url": "../../f/a.whl", "hashes": {"sha256": "00"}},
                {"filename": "b.whl", "url": "http://f.test/b.whl", "hashes": {}},
            ]
        }
    )
    links = links_of_page(body.encode(), "application/vnd.pypi.simple.v1+json", "http://i.test/simple/a/")
    assert (links["a.whl"].url, links["a.whl"].sha256) == ("http://i.test/f/a.whl", "00")
    assert (links["b.whl"].url, links["b.whl"].sha256) == ("http://f.test/b.whl", None)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"files": [{}]}', b'{"files": 1}', b'{"files": [1]}', b"\xff"])
def test_json_that_is_no_page_is_refused(body):
    with pytest.raises(ValueError, match="simple index"):
        links_of_page(body, "application/vnd.pypi.simple.v1+json", "http://i.test/")


def test_a_page_in_html():
    body = b"""<!DOCTYPE html><html><head><base href="http://files.test/x/"></head><body><a name=top>no link</a>
    <a href="torch-2%2Bcpu.whl#sha256=00&amp;">torch</a> <a href="../b.whl#md5=1" data-requires-python="&gt;3">b</a>"""
    links = links_of_page(body, "text/html; charset=utf-8", "http://i.test/simple/a/")
    assert links["torch-2+cpu.whl"].url == "http://files.test/x/torch-2%2Bcpu.whl"
    assert (links["b.whl"].url, links["b.whl"].sha256) == ("http://files.test/b.whl", None)


def serve_page(index: FaultyMirror, kind: str, sha256: str | None = None, prefix: str = "") -> None:
    name = "some_package-1.0-py3-none-any.whl"
    index.serve(f"{prefix}/files/{name}", b"wheel")
    if kind == "json":
        page = {
            "files": [{"filename": name, "url": f"../../files/{name}", "hashes": {"sha256": sha256} if sha256 else {}}]
        }
        index.serve(f"{prefix}/simple/some-package/", json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json")
    else:
        fragment = f"#sha256={sha256}" if sha256 else ""
        html = f'<a href="../../files/{name}{fragment}">{name}</a>'
        index.serve(f"{prefix}/simple/some-package/", html.encode(), "text/html")


@pytest.mark.parametrize("kind", ["json", "html"])
def test_a_wheel_is_found_by_name_and_fetched(index, tmp_path, kind):
    serve_page(index, kind, wheel().sha256)
    index.fault("/simple/some-package/", Fault(status=503, headers={"Retry-After": "0"}), Fault(cut=3))
    sources = Sources({}, python=PythonPlaces((f"{index.url}/simple/",)))
    naps: list[float] = []
    assert fetch([wheel()], Blobs(tmp_path), sources, sleep=naps.append).fetched == 1
    assert "json" in index.requests[0].headers["accept"]
    assert [request.path for request in index.requests][:3] == ["/simple/some-package/"] * 3


def test_a_page_is_asked_for_once_by_all_threads(index, tmp_path):
    wheels = [wheel(f"some_package-{number}.whl", b"%d" % number) for number in range(6)]
    page = {"files": [{"filename": each.path, "url": f"{index.url}/{each.path}", "hashes": {}} for each in wheels]}
    index.serve("/simple/some-package/", json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json")
    for number, each in enumerate(wheels):
        index.serve(f"/{each.path}", b"%d" % number)
    sources = Sources({}, python=PythonPlaces((f"{index.url}/simple",)))
    assert fetch(wheels, Blobs(tmp_path), sources, connections=6).fetched == 6
    assert [request.path for request in index.requests].count("/simple/some-package/") == 1


def test_local_wheels_come_before_the_network(index, tmp_path):
    serve_page(index, "json")
    name = wheel().path
    links = tmp_path / "links"
    links.mkdir()
    (links / name).write_bytes(b"wheel")
    project = tmp_path / "index" / "simple" / "some-package"
    project.mkdir(parents=True)
    (project / "index.html").write_text(f'<a href="../../files/{name}">{name}</a>')
    (tmp_path / "bare" / "some-package").mkdir(parents=True)
    (tmp_path / "bare" / "some-package" / name).write_bytes(b"wheel")
    places = PythonPlaces(
        (f"{index.url}/simple", (tmp_path / "index" / "simple").as_uri(), (tmp_path / "bare").as_uri()), (str(links),)
    )
    failures: list[object] = []
    urls = list(Sources({}, python=places).urls(wheel(), failures=failures))
    assert urls == [
        (links / name).as_uri(),
        (tmp_path / "index" / "files" / name).as_uri(),
        (tmp_path / "bare" / "some-package" / name).as_uri(),
        f"{index.url}/files/{name}",
    ]
    assert failures == []


def test_a_page_of_links_on_the_network_serves_any_project(index):
    index.serve("/links.html", f'<a href="w/{wheel().path}">x</a>'.encode(), "text/html")
    sources = Sources({}, python=PythonPlaces((), (f"{index.url}/links.html",)))
    assert list(sources.urls(wheel())) == [f"{index.url}/w/{wheel().path}"]


def test_a_wheel_of_another_archive_is_asked_of_its_own_index_first(index):
    serve_page(index, "html", prefix="/own")
    serve_page(index, "html")
    sources = Sources({"own-index": (f"{index.url}/own/simple",)}, python=PythonPlaces((f"{index.url}/simple",)))
    urls = list(sources.urls(wheel(archive="own-index")))
    assert urls == [f"{index.url}/own/files/{wheel().path}", f"{index.url}/files/{wheel().path}"]


def test_a_file_that_the_index_offers_with_other_bytes_is_not_asked_for(index, tmp_path):
    serve_page(index, "json", "f" * 64)
    with pytest.raises(FetchError, match="with another sha256") as caught:
        fetch([wheel()], Blobs(tmp_path), Sources({}, python=PythonPlaces((f"{index.url}/simple",))))
    assert caught.value.missing == (wheel().path,)
    assert len(index.requests) == 1


def test_a_wheel_that_no_index_lists_is_missing(index, tmp_path):
    index.serve("/simple/some-package/", b'{"files": []}', "application/vnd.pypi.simple.v1+json")
    places = PythonPlaces((f"{index.url}/simple", f"{index.url}/other"))
    with pytest.raises(FetchError, match="does not list") as caught:
        fetch([wheel()], Blobs(tmp_path), Sources({}, python=places))
    assert "/other/some-package/: 404" in caught.value.message
    assert caught.value.missing == (wheel().path,)


def test_an_index_that_fails_is_unreachable_not_missing(index, tmp_path):
    index.fault("/simple/some-package/", always=Fault(status=500))
    index.serve("/odd/some-package/", b"no json", "application/vnd.pypi.simple.v1+json")
    places = PythonPlaces((f"{index.url}/simple", f"{index.url}/odd"))
    with pytest.raises(FetchError, match="not a page of a Python index") as caught:
        fetch([wheel()], Blobs(tmp_path), Sources({}, python=places), sleep=lambda _: None)
    assert caught.value.unreachable == (wheel().path,)


def test_without_any_index_the_hint_names_the_setting(tmp_path):
    with pytest.raises(FetchError) as caught:
        fetch([wheel()], Blobs(tmp_path), Sources({}, settings_path=tmp_path / "images.yml"))
    assert caught.value.hint == f"name a mirror in {tmp_path / 'images.yml'}: python_indexes: [URL]"


def test_python_places_are_looked_up_late_and_once():
    asked: list[threading.Thread] = []

    def look_up() -> PythonPlaces:
        asked.append(threading.current_thread())
        return PythonPlaces()

    sources = Sources({"debian": ("http://a.test",)}, python=look_up)
    assert list(sources.urls(LockedFile("debian", "p", "0", 1))) == ["http://a.test/p"]
    assert asked == []
    threads = [threading.Thread(target=lambda: list(sources.urls(wheel(), transport=Transport()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1
