"""Locking wheels with the real uv against a simple index on loopback, for Pythons and platforms not this host's."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from anklume_images.errors import LockError
from anklume_images.inputs.python import lock_wheels, platform_tags
from anklume_images.inputs.python_index import PythonPlaces
from anklume_images.specs.keys import PythonInputs, VersionRule
from anklume_images.specs.model import Spec


class Index(ThreadingHTTPServer):
    """A simple index (PEP 691) of wheels made on the spot; mirrors vary in sizes, metadata files and page format."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.wheels: dict[str, dict[str, tuple[bytes, bytes, str | None]]] = {}
        self.states_sizes = True
        self.has_metadata = True
        self.html = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/simple"

    def add(self, name: str, version: str, tag: str = "py3-none-any", *, python: str | None = None, needs=()) -> str:
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Python: {python}"] if python else []
        lines += [f"Requires-Dist: {need}" for need in needs]
        metadata = "\n".join([*lines, "", "Requires-Python: <1 is but a line of the description", ""]).encode()
        stem = name.replace("-", "_")
        raw = io.BytesIO()
        with zipfile.ZipFile(raw, "w") as wheel:
            wheel.writestr(f"{stem}/__init__.py", f"tag = {tag!r}\n")
            wheel.writestr(f"{stem}-{version}.dist-info/METADATA", metadata)
            wheel.writestr(
                f"{stem}-{version}.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
            )
            wheel.writestr(f"{stem}-{version}.dist-info/RECORD", "")
        filename = f"{stem}-{version}-{tag}.whl"
        self.wheels.setdefault(name, {})[filename] = (raw.getvalue(), metadata, python)
        return filename


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Index

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = self.path.strip("/").split("/")
        body, kind = None, "application/octet-stream"
        if parts[0] == "simple" and parts[-1] in self.server.wheels:
            body, kind = self._page(self.server.wheels[parts[-1]])
        elif parts[0] == "files":
            found = {file: content for files in self.server.wheels.values() for file, content in files.items()}
            wheel, metadata, _ = found[parts[1].removesuffix(".metadata")]
            asked = metadata if parts[1].endswith(".metadata") else wheel
            body = asked if asked is wheel or self.server.has_metadata else None
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if body and self.command == "GET":
            self.wfile.write(body)

    def _page(self, wheels: dict[str, tuple[bytes, bytes, str | None]]) -> tuple[bytes, str]:
        files = []
        anchors = []
        for name, (content, metadata, python) in wheels.items():
            digest = hashlib.sha256(content).hexdigest()
            file = {"filename": name, "url": f"/files/{name}", "hashes": {"sha256": digest}, "requires-python": python}
            if self.server.states_sizes:
                file["size"] = len(content)
            if self.server.has_metadata:
                file["core-metadata"] = {"sha256": hashlib.sha256(metadata).hexdigest()}
            files.append(file)
            bound = f' data-requires-python="{python.replace("<", "&lt;").replace(">", "&gt;")}"' if python else ""
            anchors.append(f'<a href="/files/{name}#sha256={digest}"{bound}>{name}</a>')
        if self.server.html:
            return "<!DOCTYPE html><html><body>{}</body></html>".format("<br>".join(anchors)).encode(), "text/html"
        page = {"meta": {"api-version": "1.1"}, "name": "x", "files": files, "versions": []}
        return json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json"

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def index():
    with Index() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def lock(index, tmp_path):
    def run(*requires: str, arch="amd64", version="3.11", release="bookworm", contents=None, find_links=(), **words):
        spec = Spec(
            name="app",
            folder=Path("/specs/app"),
            variant=None,
            description="x",
            version=VersionRule(literal="1"),
            base="debian",
            distribution="debian",
            release=release,
            default=True,
            python=PythonInputs(version=version, requires=requires, **words),
            contents=contents or {},
        )
        places = PythonPlaces((index.url,), tuple(find_links))
        return lock_wheels(spec, arch, places=places, cache=tmp_path / "cache")

    return run


def names(wheels):
    return [wheel.path for wheel in wheels]


def test_a_pure_wheel_and_what_it_needs(index, lock):
    index.add("one", "1.0", needs=["two>=2"])
    index.add("two", "1.0")
    index.add("two", "2.0")
    one, two = lock("one")
    assert (one.package, one.version, one.archive, one.path) == ("one", "1.0", "pypi", "one-1.0-py3-none-any.whl")
    content = index.wheels["two"]["two-2.0-py3-none-any.whl"][0]
    assert (two.sha256, two.size) == (hashlib.sha256(content).hexdigest(), len(content))


@pytest.mark.parametrize(
    ("arch", "release", "version", "chosen"),
    [
        ("amd64", "bookworm", "3.11", "cp311-cp311-manylinux_2_28_x86_64"),
        ("arm64", "bookworm", "3.11", "cp311-cp311-manylinux2014_aarch64.manylinux_2_17_aarch64"),
        ("amd64", "trixie", "3.13", "cp313-cp313-manylinux_2_38_x86_64"),
        ("amd64", "bookworm", "3.13", "cp313-cp313-manylinux_2_17_x86_64"),
        ("arm64", "trixie", "3.13", "py3-none-any"),
    ],
)
def test_the_best_wheel_for_the_image(index, lock, arch, release, version, chosen):
    for tag in (
        "py3-none-any",
        "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64",
        "cp311-cp311-manylinux_2_28_x86_64",
        "cp311-cp311-manylinux2014_aarch64.manylinux_2_17_aarch64",
        "cp311-cp311-musllinux_1_2_x86_64",
        "cp311-cp311-win_amd64",
        "cp313-cp313-manylinux_2_17_x86_64",
        "cp313-cp313-manylinux_2_38_x86_64",
    ):
        index.add("native", "1.0", tag)
    assert names(lock("native", arch=arch, release=release, version=version)) == [f"native-1.0-{chosen}.whl"]


def test_upper_bound_of_python_is_honoured_and_both_are_named(index, lock):
    index.add("web", "1.0", python=">=3.11,<3.13")
    assert names(lock("web", version="3.11")) == ["web-1.0-py3-none-any.whl"]
    with pytest.raises(
        LockError, match=r"web 1\.0 needs Python (>=3\.11,<3\.13|<3\.13,>=3\.11).* has Python 3\.13"
    ) as caught:
        lock("web", version="3.13", release="trixie")
    assert "base image" in caught.value.hint


@pytest.mark.parametrize("html", [False, True])
def test_upper_bound_without_metadata_files(index, lock, html):
    index.has_metadata, index.html = False, html
    index.add("web", "1.0", python=">=3.11,<3.13")
    index.add("free", "1.0")
    assert len(lock("web", "free", version="3.12")) == 2
    with pytest.raises(LockError, match="needs Python"):
        lock("web", "free", version="3.13")


def test_lower_bound_of_python_picks_an_older_version(index, lock):
    index.add("web", "1.0", python=">=3.9")
    index.add("web", "2.0", python=">=3.12")
    assert names(lock("web", version="3.11")) == ["web-1.0-py3-none-any.whl"]


def test_size_is_asked_for_where_the_index_does_not_state_it(index, lock):
    index.states_sizes = False
    filename = index.add("one", "1.0")
    assert lock("one")[0].size == len(index.wheels["one"][filename][0])


def test_markers_are_those_of_the_image(index, lock):
    index.add("one", "1.0", needs=["arm; platform_machine == 'aarch64'", "win; sys_platform == 'win32'"])
    index.add("arm", "1.0")
    assert names(lock("one", arch="amd64")) == ["one-1.0-py3-none-any.whl"]
    assert names(lock("one", arch="arm64")) == ["arm-1.0-py3-none-any.whl", "one-1.0-py3-none-any.whl"]


def test_requirements_constraints_overrides_and_tools(index, lock):
    index.add("web", "1.0", needs=["heavy", "light"])
    for name in ("light", "builder"):
        index.add(name, "1.0")
        index.add(name, "2.0")
    wheels = lock(
        requirements="requirements.txt",
        contents={"requirements.txt": "# of the release\nweb==1.0\n"},
        constraints=("light<2",),
        overrides=("heavy; python_version < '3'",),
        tools=("builder",),
    )
    assert [(wheel.package, wheel.version) for wheel in wheels] == [
        ("builder", "2.0"),
        ("light", "1.0"),
        ("web", "1.0"),
    ]


def test_wheels_of_a_folder(index, lock, tmp_path):
    filename = index.add("local", "1.0", python=">=3.11,<3.13")
    content = index.wheels.pop("local")[filename][0]
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / filename).write_bytes(content)
    (wheel,) = lock("local", find_links=[str(folder)])
    assert (wheel.path, wheel.size) == (filename, len(content))
    assert wheel.sha256 == hashlib.sha256(content).hexdigest()
    with pytest.raises(LockError, match="needs Python"):
        lock("local", version="3.13", find_links=[str(folder)])


def test_what_uv_says_is_passed_on(index, lock):
    index.add("one", "1.0", needs=["two"])
    with pytest.raises(LockError) as caught:
        lock("one")
    assert "two was not found" in caught.value.message
    assert caught.value.where == "/specs/app/spec.yml (amd64)"
    assert caught.value.hint


def test_only_a_source_distribution(index, lock):
    index.add("sdist", "1.0")
    index.wheels["sdist"] = {"sdist-1.0.tar.gz": (b"x", b"", None)}
    with pytest.raises(LockError, match="no usable wheels"):
        lock("sdist")


def test_a_wheel_for_other_platforms_only(index, lock):
    index.add("native", "1.0", "cp311-cp311-win_amd64")
    with pytest.raises(LockError, match="native"):
        lock("native")


def test_configuration_of_this_host_is_not_read(index, lock, tmp_path, monkeypatch):
    index.add("one", "1.0")
    monkeypatch.setenv("UV_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_NO_BINARY", "1")
    monkeypatch.setenv("UV_EXCLUDE_NEWER", "2001-01-01")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "uv.toml").write_text("no-binary = true\n")
    assert names(lock("one")) == ["one-1.0-py3-none-any.whl"]


def test_no_python_inputs():
    spec = Spec(
        name="app",
        folder=Path("/specs/app"),
        variant=None,
        description="x",
        version=VersionRule(literal="1"),
        base="debian",
        distribution=None,
        release=None,
        default=True,
    )
    assert lock_wheels(spec, "amd64") == ()


def test_tags_go_from_the_newest_libc_to_none():
    tags = [str(tag) for tag in platform_tags("3.11", "amd64", "bookworm")]
    assert tags[0] == "cp311-cp311-manylinux_2_36_x86_64"
    assert "cp311-abi3-manylinux2014_x86_64" in tags
    assert "py3-none-any" in tags
    assert not [tag for tag in tags if "manylinux_2_37" in tag or "aarch64" in tag]
    arm = [str(tag) for tag in platform_tags("3.13", "arm64", "trixie")]
    assert arm[0] == "cp313-cp313-manylinux_2_41_aarch64"
    assert not [tag for tag in arm if "manylinux_2_5_" in tag or "manylinux1" in tag]


def test_what_only_tools_need_is_marked(index, lock):
    index.add("app", "1.0", needs=["shared>=1"])
    index.add("installer", "1.0", needs=["shared<2", "helper"])
    for version in ("1.0", "2.0"):
        index.add("shared", version)
    index.add("helper", "1.0")
    found = {wheel.package: (wheel.version, wheel.tool) for wheel in lock("app", tools=("installer",))}
    assert found == {
        "app": ("1.0", False),
        "helper": ("1.0", True),
        "installer": ("1.0", True),
        "shared": ("1.0", False),
    }


def test_package_without_its_dependencies(index, lock):
    index.add("web-app", "1.0", needs=["huge", "small<2"])
    for version in ("1.0", "2.0"):
        index.add("small", version)
    wheels = lock("small", without_dependencies=("Web_App==1.0",))
    assert [(wheel.package, wheel.version) for wheel in wheels] == [("small", "2.0"), ("web-app", "1.0")]
