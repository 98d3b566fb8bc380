"""A password in an address is told to its server and to nobody else: no message, note, file or process shows it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import AnklumeError, FetchError, HostError, InvalidFileError, LockError
from anklume_images.inputs.fetch import fetch
from anklume_images.inputs.lockfile import Lock, LockedFile, Wheel, save_lock
from anklume_images.inputs.mirrors import Sources
from anklume_images.inputs.python import lock_wheels
from anklume_images.inputs.python_index import PythonPlaces, host_python_places
from anklume_images.inputs.redaction import redact, redact_text
from anklume_images.inputs.release import HttpReader, lock_files
from anklume_images.inputs.transport import Transport
from anklume_images.settings import load_settings
from anklume_images.specs.keys import PythonInputs, ReleaseInput, VersionRule
from anklume_images.specs.model import Spec
from anklume_images.store.blobs import Blobs
from tests.support.faulty_mirror import Fault, FaultyMirror

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "hunter2-of-the-mirror"  # noqa: S105 - the one that must not be seen
WHEEL = "some_package-1.0-py3-none-any.whl"


class Watching(FaultyMirror):
    """Looks, whenever it is asked for something, at the command lines of all processes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def begin(self, path, headers):
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it has ended
            if SECRET in line:
                self.seen.append(line)
        return super().begin(path, headers)

    @property
    def with_password(self) -> str:
        return self.url.replace("//", f"//somebody:{SECRET}@")


@pytest.fixture
def server() -> Iterator[Watching]:
    with Watching() as watching:
        yield watching
        assert watching.seen == []


def hidden(*texts: object) -> str:
    """The texts as one, which must not have the password in them."""
    told = "\n".join(str(text) for text in texts)
    assert SECRET not in told
    assert "somebody" not in told
    return told


def of_error(error: AnklumeError) -> str:
    return hidden(error, error.hint, error.where, repr(error), *error.args)


def nothing_in(folder: Path) -> None:
    for path in folder.rglob("*"):
        hidden(path, path.read_bytes() if path.is_file() else "")


class Notes:
    """What a fetch told while it went."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, total_bytes: int, count: int) -> None: ...

    def advance(self, n: int) -> None: ...

    def finish(self) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def spec(**words) -> Spec:
    return Spec(
        name="app",
        folder=Path("/specs/app"),
        variant=None,
        description="x",
        version=VersionRule(literal="1"),
        base="debian",
        distribution="debian",
        release="trixie",
        default=True,
        **words,
    )


@pytest.mark.parametrize("status", [401, 404, 407, 503])
def test_of_a_mirror_a_permanent_archive_and_an_asset(server, tmp_path, status):
    for path in ("/m/p", "/s/own/20260101T000000Z/p"):
        server.fault(path, always=Fault(status=status))
    file = LockedFile("own", "p", "0" * 64, 1)
    sources = Sources({"own": (f"{server.with_password}/m",)}, snapshot=f"{server.with_password}/s")
    log = Notes()
    with pytest.raises(FetchError) as caught:
        fetch(
            [file],
            Blobs(tmp_path),
            sources,
            timestamps={file.sha256: "20260101T000000Z"},
            progress=log,
            sleep=lambda _: None,
        )
    assert "127.0.0.1" in of_error(caught.value)
    assert hidden(*log.notes)
    nothing_in(tmp_path)


def test_of_an_asset_that_is_locked(server):
    item = ReleaseInput.model_validate({"name": "tool", "archive": "own", "path": {"amd64": "p"}})
    for base in (server.with_password, f"http://somebody:{SECRET}@127.0.0.1:1", f"http://somebody:{SECRET}/@h:x/"):
        reader = HttpReader(lambda _, base=base: [base], Transport(sleep=lambda _: None))
        checked = item.model_copy(update={"checksums": "sums"})
        for asked in (item.model_copy(update={"sha256": {"amd64": "0" * 64}}), checked):
            try:
                (file,) = lock_files(spec(release_files=(asked,)), "amd64", reader)
            except LockError as error:
                of_error(error)
            else:
                assert file.size is None
                hidden(file)


def test_of_a_proxy(server, tmp_path, monkeypatch):
    file = LockedFile("own", "p", "0" * 64, 1)
    for proxy in (server.with_password, f"http://somebody:{SECRET}@127.0.0.1:1", f"nonsense://somebody:{SECRET}@h"):
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.setenv("no_proxy", "")
        for base in ("http://mirror.invalid", "https://mirror.invalid"):
            log = Notes()
            with pytest.raises(FetchError) as caught:
                fetch([file], Blobs(tmp_path), Sources({"own": (base,)}), progress=log, sleep=lambda _: None)
            of_error(caught.value)
            hidden(*log.notes)


def test_of_an_index_and_a_page_of_links_that_are_fetched_from(server, tmp_path):
    wheel = Wheel("pypi", WHEEL, "0" * 64, 1, "some-package", "1.0")
    server.serve("/own/some-package/", b"{", "application/vnd.pypi.simple.v1+json")
    places = PythonPlaces((f"{server.with_password}/simple", f"{server.with_password}/own"), (server.with_password,))
    log = Notes()
    with pytest.raises(FetchError) as caught:
        fetch([wheel], Blobs(tmp_path), Sources({}, python=places), progress=log)
    assert "/simple/some-package/" in of_error(caught.value)
    hidden(*log.notes)


def test_of_an_index_that_is_locked_from(server, tmp_path):
    content = b"PK\x05\x06" + bytes(18)
    digest = hashlib.sha256(content).hexdigest()
    server.serve(f"/files/{WHEEL}", content)
    server.serve(f"/files/{WHEEL}.metadata", b"Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n\n")
    file = {"filename": WHEEL, "url": f"/files/{WHEEL}", "hashes": {"sha256": digest}, "core-metadata": True}
    page = {"meta": {"api-version": "1.1"}, "name": "some-package", "files": [file], "versions": []}
    server.serve("/simple/some-package/", json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json")
    places = PythonPlaces((f"{server.with_password}/simple",))
    wanted = PythonInputs(version="3.13", requires=("some-package",))
    wheels = lock_wheels(spec(python=wanted), "amd64", places=places, cache=tmp_path / "cache")
    assert len(wheels) == 1
    save_lock(tmp_path / "lock.json", Lock("app", "amd64", "r", 0, "1", wheels=wheels))
    hidden((tmp_path / "lock.json").read_text())
    with pytest.raises(LockError) as caught:
        lock_wheels(
            spec(python=PythonInputs(version="3.13", requires=("missing-package",))),
            "amd64",
            places=places,
            cache=tmp_path / "cache",
        )
    assert "missing-package" in of_error(caught.value)


def test_of_an_index_that_uv_complains_about(tmp_path):
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PIP_CONFIG_FILE": os.devnull,
        "UV_DEFAULT_INDEX": f"http://somebody:{SECRET}@[oops/simple",
    }
    with pytest.raises(HostError) as caught:
        host_python_places(environ, tmp_path)
    of_error(caught.value)


def test_of_settings_that_are_wrong(tmp_path):
    path = tmp_path / "images.yml"
    path.write_text(
        f"mirrors: {{debian: ['ftp://somebody:{SECRET}@h/d']}}\nsnapshot: 'http://somebody:{SECRET}@:0'\n"
        f"python_indexes: ['http://somebody:{SECRET}@h:x/']\n"
    )
    with pytest.raises(InvalidFileError) as caught:
        load_settings({"ANKLUME_MIRRORS": f"debian=htp://somebody:{SECRET}@h"}, [path])
    assert len(caught.value.problems) == 4
    of_error(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://u:p@h.test:1/p?token=t#f", "http://h.test:1/p"),
        ("https://p@h.test", "https://h.test"),
        ("http://u:p@ss@h.test/x", "http://h.test/x"),
        ("http://u:p/a@h.test/x", "(an address that cannot be read)"),
        ("http://u:p#a@h.test/x", "(an address that cannot be read)"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("http://[oops", "(an address that cannot be read)"),
        ("file:///srv/a@b", "file:///srv/a@b"),
    ],
)
def test_what_is_told_of_an_address(url, told):
    assert redact(url) == told
    assert (
        redact_text(f"E: cannot read '{url}', nor <{url}> ({url}).")
        == f"E: cannot read '{told}', nor <{told}> ({told})."
    )
