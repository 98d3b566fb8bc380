"""The server of a store: what it gives, what it keeps to itself, and what clients cannot do to it."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.errors import AnklumeError, HostError, InvalidFileError
from anklume_images.ship.by_delta import SignedDelta, delta_path, keep_deltas
from anklume_images.ship.certificate import certificate_for, made, read_certificate
from anklume_images.ship.index import write_index
from anklume_images.ship.ranges import Part, part_of
from anklume_images.ship.serve import StoreServer
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from anklume_images.trust.attest import add_attestation, attest
from anklume_images.trust.keys import KeyRing
from tests.conftest import Cli
from tests.support.blobs import put_blob
from tests.support.stored_images import put, put_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.ship.certificate import Certificate
    from anklume_images.store.images import Image

TAG = '"abc"'


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        (None, Part(200, 0, 1000)),
        ("bytes=0-99", Part(206, 0, 100)),
        ("bytes=990-", Part(206, 990, 1000)),
        ("bytes=-10", Part(206, 990, 1000)),
        ("bytes=-5000", Part(206, 0, 1000)),
        ("bytes=990-99999999999999999", Part(206, 990, 1000)),
        ("Bytes = 0-0", Part(206, 0, 1)),
        ("bytes=1000-", Part(416, 0, 0)),
        ("bytes=99999999999999999-", Part(416, 0, 0)),
        ("bytes=-0", Part(416, 0, 0)),
        ("bytes=5-2", Part(200, 0, 1000)),
        ("bytes=-", Part(200, 0, 1000)),
        ("bytes=0-1,5-6", Part(200, 0, 1000)),
        ("bytes=-1-2", Part(200, 0, 1000)),
        ("bytes=0x1-2", Part(200, 0, 1000)),
        ("bytes=" + "9" * 5000 + "-", Part(200, 0, 1000)),
        ("lines=1-2", Part(200, 0, 1000)),
    ],
)
def test_ranges(asked: str | None, part: Part) -> None:
    assert part_of(1000, TAG, asked, None, None) == part


def test_no_range_of_an_empty_file() -> None:
    assert part_of(0, TAG, None, None, None) == Part(200, 0, 0)
    assert part_of(0, TAG, "bytes=0-", None, None) == part_of(0, TAG, "bytes=-5", None, None) == Part(416, 0, 0)


def test_conditions() -> None:
    assert part_of(9, TAG, "bytes=1-2", None, TAG) == Part(206, 1, 3)
    assert part_of(9, TAG, "bytes=1-2", None, '"other"') == Part(200, 0, 9)
    assert part_of(9, TAG, "bytes=1-2", None, "Sun, 29 Nov 2026 17:17:05 GMT") == Part(200, 0, 9)
    for header in (TAG, f'"x", W/{TAG}', "*"):
        assert part_of(9, TAG, "bytes=1-2", header, None).status == 304
    assert part_of(9, TAG, None, '"abcd"', None) == Part(200, 0, 9)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate_for(tmp_path_factory.mktemp("certificate") / "serve.pem", ["localhost", "127.0.0.1"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def image(store: Store) -> Image:
    image = put(store, "debian", inputs=(b"an input",))
    write_index(store)
    return image


@pytest.fixture
def server(store: Store, image: Image, certificate: Certificate) -> Iterator[StoreServer]:
    with StoreServer(store.home, "127.0.0.1", 0, certificate) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class Client:
    """One connection, which trusts that certificate only."""

    def __init__(self, server: StoreServer) -> None:
        self.trust = ssl.create_default_context(cadata=server.certificate.pem)
        self._connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=self.trust, timeout=10)

    def __call__(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, headers=names)
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def get(server: StoreServer) -> Iterator[Client]:
    with contextlib.closing(Client(server)) as client:
        yield client


def blob(sha256: str) -> str:
    return f"/blobs/sha256/{sha256[:2]}/{sha256}"


def test_it_gives_what_readers_need(store: Store, image: Image, get: Client) -> None:
    _, headers, index = get("/streams/v1/index.json")
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-cache"
    products = json.loads(get("/" + json.loads(index)["index"]["images"]["path"])[2])["products"]
    items = [
        item for product in products.values() for one in product["versions"].values() for item in one["items"].values()
    ]
    assert len(items) == 2
    for item in items:
        status, headers, data = get(f"/{item['path']}")
        assert (status, hashlib.sha256(data).hexdigest(), len(data)) == (200, item["sha256"], item["size"])
        assert "immutable" in headers["Cache-Control"]
    assert get("/")[2] == get("/index.html?x#y")[2] == (store.home / "index.html").read_bytes()
    for name in ("manifest", "recipe", "lock", "sbom.cdx"):
        assert get(f"/images/debian/{image.version}/amd64/{name}.json")[0] == 200


def test_it_gives_deltas_to_what_it_lists(store: Store, image: Image, get: Client) -> None:
    delta, other = put_blob(store.blobs, b"a delta"), put_blob(store.blobs, b"a delta to what nobody has")
    keep_deltas(store, [SignedDelta("e" * 64, later, sha256, 7) for later, sha256 in
                        ((image.rootfs.sha256, delta), ("f" * 64, other))])  # fmt: skip
    assert json.loads(get(f"/{delta_path(image.rootfs.sha256)}")[2])["sha256"] == delta
    assert get(blob(delta))[2] == b"a delta"
    assert get(blob(other))[0] == 404


def test_it_gives_its_certificate(server: StoreServer, get: Client) -> None:
    assert get("/certificate.pem")[2].decode() == server.certificate.pem
    der = ssl.PEM_cert_to_DER_cert(server.certificate.pem)
    assert hashlib.sha256(der).hexdigest() == server.certificate.fingerprint


def test_ranges_of_a_blob(store: Store, image: Image, get: Client) -> None:
    path, data = blob(image.rootfs.sha256), store.blobs.path(image.rootfs.sha256).read_bytes()
    status, headers, part = get(path, Range="bytes=3-7")
    assert (status, headers["Content-Range"], part) == (206, f"bytes 3-7/{len(data)}", data[3:8])
    status, headers, part = get(path, Range=f"bytes=3-{1 << 50}")
    assert (status, part) == (206, data[3:])
    status, headers, part = get(path, Range=f"bytes={1 << 50}-")
    assert (status, headers["Content-Range"], part) == (416, f"bytes */{len(data)}", b"")
    tag = headers["ETag"]
    assert get(path, Range="bytes=0-1", If_Range=tag)[2] == data[:2]
    assert get(path, Range="bytes=0-1", If_Range='"old"')[2] == data
    assert get(path, If_None_Match=tag)[::2] == (304, b"")
    status, headers, part = get(path, "HEAD", Range="bytes=0-1")
    assert (status, headers["Content-Length"], part) == (206, "2", b"")


def test_a_new_index_has_another_tag(store: Store, get: Client) -> None:
    tag = get("/streams/v1/images.json")[1]["ETag"]
    assert get("/streams/v1/images.json", If_None_Match=tag)[0] == 304
    put(store, "nginx")
    write_index(store)
    assert get("/streams/v1/images.json", If_None_Match=tag)[0] == 200


PRIVATE = [
    "/gc.lock",
    "/schema",
    "/index.lock",
    "/cache/images.json",
    "/metadata/staged/root.json",
    "/metadata/.lock",
    "/trust/x/origin.json",
    "/channels/debian/amd64/latest",
    "/logs/",
    "/images/",
    "/blobs/",
    "/streams/v1/",
    "/images/debian/{version}/amd64/",
    "/images/debian/{version}/amd64/other.txt",
    "/images/debian/{version}/../{version}/amd64/manifest.json",
    "/images/debian/%2e%2e/debian/{version}/amd64/manifest.json",
    "/images/debian/{version}/amd64/manifest.json%00",
    "/images/debian/{version}/amd64/manifest.json%0a",
    "/../secret",
    "/%2e%2e/secret",
    "/..%2fsecret",
    "/streams/v1/../../../secret",
    "//etc/passwd",
    "/streams/v1/index.json/",
    "/./index.html",
    "\\..\\secret",
]


def test_the_rest_is_nobodys_business(store: Store, image: Image, server: StoreServer) -> None:
    (store.home.parent / "secret").write_text("secret")
    (store.home / "images/debian" / image.version / "amd64/other.txt").write_text("secret")
    trust = ssl.create_default_context(cadata=server.certificate.pem)
    given = []
    for path in PRIVATE:
        line = path.format(version=image.version).encode()
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain,
            trust.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            secured.sendall(b"GET " + line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: secured.recv(1 << 16), b""))
        if answer.split(b" ")[1] not in {b"404", b"400"}:
            given.append(path)
    assert given == []


def test_blobs_of_no_image_are_not_given(store: Store, image: Image, get: Client) -> None:
    (locked,) = Images(store).document(image, "lock")["files"]
    assert store.blobs.has(locked["sha256"])
    assert get(blob(locked["sha256"]))[0] == 404
    other = put_blob(store.blobs, b"of nobody")
    assert get(blob(other))[0] == 404
    assert get(blob("0" * 64))[0] == 404


def test_links_are_not_followed(store: Store, image: Image, get: Client) -> None:
    path = store.blobs.path(image.rootfs.sha256)
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert get(blob(image.rootfs.sha256))[0] == 404
    path.unlink()
    os.mkfifo(path)
    assert get(blob(image.rootfs.sha256))[0] == 404


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(method: str, store: Store, get: Client) -> None:
    before = (store.home / "index.html").read_bytes()
    assert get("/index.html", method)[0] == 501
    assert (store.home / "index.html").read_bytes() == before


@pytest.fixture
def large(store: Store, server: StoreServer) -> str:
    """The blob of an image that is too large for buffers on the way: 64 MiB."""
    file = store.home / "large"
    file.touch()
    os.truncate(file, 64 << 20)
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    store.blobs.adopt(file, sha256)
    image = put(store, "large")
    from dataclasses import replace

    Images(store).remove(image)
    Images(store).add(replace(image, rootfs=replace(image.rootfs, sha256=sha256, size=64 << 20)), {})
    write_index(store)
    return sha256


def reading(server: StoreServer, sha256: str) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
    trust = ssl.create_default_context(cadata=server.certificate.pem)
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=trust, timeout=10)
    connection.request("GET", blob(sha256))
    return connection, connection.getresponse()


def test_a_file_that_is_removed_while_it_is_sent_arrives_whole(store: Store, server: StoreServer, large: str) -> None:
    connection, answer = reading(server, large)
    with contextlib.closing(connection):
        begun = answer.read(1 << 20)
        store.blobs.remove(large)
        assert len(begun) + len(answer.read()) == 64 << 20
        connection.request("GET", blob(large))
        assert connection.getresponse().status == 404


def test_a_file_that_becomes_shorter_is_noticed(store: Store, server: StoreServer, large: str) -> None:
    connection, answer = reading(server, large)
    with contextlib.closing(connection):
        answer.read(1 << 20)
        os.truncate(store.blobs.path(large), 32 << 20)
        with pytest.raises(http.client.IncompleteRead):
            answer.read()


def test_who_stalls_holds_up_nobody(server: StoreServer, large: str) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]  # no TLS ever comes
    slow, _ = reading(server, large)  # and this one reads nothing
    try:
        with contextlib.closing(Client(server)) as other:
            assert other("/")[0] == 200
    finally:
        slow.close()
        for connection in silent:
            connection.close()


def test_plain_http_is_refused_and_forgotten(server: StoreServer, capsys: pytest.CaptureFixture[str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.connect()
    connection.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with contextlib.closing(connection), pytest.raises((ConnectionError, http.client.HTTPException)):
        http.client.HTTPResponse(connection.sock).begin()
    with contextlib.closing(Client(server)) as other:
        assert other("/")[0] == 200
    assert capsys.readouterr().err == ""


def test_the_certificate_stays(tmp_path: Path) -> None:
    file = tmp_path / "settings/serve.pem"
    first = certificate_for(file, ["a.example"])
    assert certificate_for(file, ["b.example"]) == first
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_a_certificate_of_ones_own(tmp_path: Path, certificate: Certificate) -> None:
    other = certificate_for(tmp_path / "other.pem", ["x"])
    assert read_certificate(certificate.chain, certificate.key).fingerprint == certificate.fingerprint
    with pytest.raises(AnklumeError):
        read_certificate(certificate.chain, other.key)
    (tmp_path / "none.pem").write_text("no certificate")
    expired = tmp_path / "expired.pem"
    expired.write_bytes(made(["x"], dt.datetime(2000, 1, 1, tzinfo=dt.UTC)))
    with pytest.raises(AnklumeError, match="expired"):
        certificate_for(expired, ["x"])
    with pytest.raises(InvalidFileError):
        read_certificate(tmp_path / "none.pem", other.key)


def test_a_port_that_is_taken(store: Store, server: StoreServer, certificate: Certificate) -> None:
    with pytest.raises(HostError) as caught:
        StoreServer(store.home, "127.0.0.1", server.port, certificate)
    assert "--port" in str(caught.value.hint)


def test_what_is_signed_is_pulled_from_it_by_the_certificate_that_was_accepted(
    store: Store, image: Image, server: StoreServer, get: Client, tmp_path: Path
) -> None:
    keys = os.environ | {"ANKLUME_KEYS": str(tmp_path / "keys")}
    theirs, mine = Cli(store.home), Cli(tmp_path / "mine")
    model = put_model(store, "org/toy:1b", license="MIT")
    word = attest(image, KeyRing(tmp_path / "second").labelled("builder"), {})
    add_attestation(store.home, image, word, "file")
    theirs("trust", "sign", env=keys)
    fingerprint = theirs.json("trust", "show", env=keys)["own"]["fingerprint"]
    place = f"https://127.0.0.1:{server.port}"
    mine("trust", "accept", place, "--fingerprint", fingerprint)
    (had,) = mine.json("--arch", "amd64", "pull", "debian")["images"]
    assert had["fingerprint"] in (tmp_path / "mine/streams/v1/images.json").read_text()
    assert [path.read_bytes() for path in mine.store.glob("attestations/debian/*/amd64/*.json")] == [word]
    (toy,) = mine.json("pull", "--model", "org/toy:1b")["models"]
    assert (toy["license"], toy["bytes"], toy["before"]) == ("MIT", model.size, None)
    damaged = [Store(mine.store).blobs.path(sha256) for sha256 in (model.sha256, image.rootfs.sha256)]
    for path in damaged:
        path.write_bytes(b"x")
    mended = mine.json("verify", "--repair", "--from", place)["repaired"]
    assert set(mended.values()) == {f"fetched from {place}"}
    assert [path.read_bytes() == store.blobs.path(path.name).read_bytes() for path in damaged] == [True, True]

    theirs("revoke", "org/toy:1b", "--model", "--why", "a test", env=keys)
    assert get(blob(model.sha256))[0] == 404
    assert mine("pull", "--model", "org/toy:1b", check=False).returncode == 4
    theirs("--arch", "amd64", "revoke", "debian", "--why", "a test", env=keys)
    assert had["fingerprint"] not in (store.home / "streams/v1/images.json").read_text()
    (store.home / "revoked.json").unlink()  # its copy is found by what the metadata names
    assert mine("--arch", "amd64", "pull", "debian", check=False).returncode == 4

    (pinned,) = mine.store.glob("trust/*/server.pem")
    pinned.write_text(certificate_for(tmp_path / "another.pem", ("127.0.0.1",)).pem)
    refused = mine("--arch", "amd64", "pull", "debian", check=False)
    assert (refused.returncode, "certificate" in refused.stderr) == (1, True)


def started(home: Path, folder: Path, *options: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "anklume_images", "--store", str(home), "serve", "--port", "0", *options]
    env = os.environ | {"XDG_CONFIG_HOME": str(folder)}
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_command(ending: signal.Signals, store: Store, image: Image, tmp_path: Path) -> None:
    process = started(store.home, tmp_path, "--json", "--log")
    assert process.stdout is not None
    facts = json.loads(process.stdout.readline())
    trust = ssl.create_default_context(cafile=facts["certificate"])
    assert str(tmp_path) in facts["certificate"]
    connection = http.client.HTTPSConnection(facts["address"], facts["port"], context=trust, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", blob(image.rootfs.sha256))
        assert len(connection.getresponse().read()) == image.rootfs.size
        process.send_signal(ending)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert err == f"127.0.0.1 GET {blob(image.rootfs.sha256)} 200 {image.rootfs.size}\n"


def test_there_is_no_store_to_serve(tmp_path: Path) -> None:
    process = started(tmp_path / "none", tmp_path)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "anklume-images --store" in err
    assert not (tmp_path / "none").exists()
