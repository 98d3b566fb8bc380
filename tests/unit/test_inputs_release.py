"""Locking release files: the checksum file, the pin, and a server that says too little."""

from __future__ import annotations

import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from anklume_images.errors import LockError
from anklume_images.inputs.release import HttpReader, lock_files, parse_checksums
from anklume_images.inputs.transport import Transport
from anklume_images.specs.keys import ReleaseInput, VersionRule
from anklume_images.specs.model import Spec

BODY = b"tarball" * 100
SHA256 = hashlib.sha256(BODY).hexdigest()
PATH = "v1/server-amd64.tar"


class Upstream(ThreadingHTTPServer):
    """A real HTTP server on loopback that holds `files` and answers as `how` says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.how = "plain"
        self.asked: list[tuple[str, str]] = []

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/releases"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.removeprefix("/releases/")
        self.server.asked.append((self.command, path))
        data = self.server.files.get(path)
        silent = self.server.how in ("range", "silent")
        if data is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
        elif body and self.server.how == "range" and self.headers.get("Range") == "bytes=0-0":
            self.send_response(206)
            self.send_header("Content-Range", f"bytes 0-0/{len(data)}")
            self.send_header("Content-Length", "1")
            data = data[:1]
        else:
            self.send_response(200)
            if silent:
                self.send_header("Connection", "close")
            else:
                self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body and data:
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def upstream():
    with Upstream() as server:
        server.files[PATH] = BODY
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def spec(**words) -> Spec:
    item = {"name": "server", "archive": "upstream", "path": {"amd64": PATH}, **words}
    return Spec(
        name="app",
        folder=Path("/specs/app"),
        variant=None,
        description="x",
        version=VersionRule(literal="1"),
        base="debian",
        distribution=None,
        release=None,
        default=True,
        release_files=(ReleaseInput.model_validate(item),),
    )


def reader(*bases: str) -> HttpReader:
    return HttpReader(lambda _: bases, Transport(sleep=lambda _: None))


def lock(server, **words):
    (file,) = lock_files(spec(**words), "amd64", reader(server.base))
    return file


def test_from_the_release_s_own_checksum_file(upstream):
    upstream.files["v1/sha256sum.txt"] = f"{SHA256}  ./server-amd64.tar\n{'0' * 64}  ./other\n".encode()
    file = lock(upstream, checksums="v1/sha256sum.txt")
    assert (file.sha256, file.size, file.path, file.name) == (SHA256, len(BODY), PATH, "server")
    assert file.archive == "upstream"


def test_the_file_itself_is_not_fetched(upstream):
    lock(upstream, sha256={"amd64": SHA256})
    assert upstream.asked == [("HEAD", PATH)]


def test_pin_and_checksum_file_must_agree(upstream):
    upstream.files["sums"] = f"{SHA256}  v1/server-amd64.tar\n".encode()
    assert lock(upstream, checksums="sums", sha256={"amd64": SHA256}).sha256 == SHA256
    with pytest.raises(LockError, match=f"sums says sha256 {SHA256}, the spec pins {'f' * 64}") as caught:
        lock(upstream, checksums="sums", sha256={"amd64": "f" * 64})
    assert caught.value.where == "/specs/app/spec.yml: server (amd64)"


def test_they_must_agree_even_when_the_size_is_pinned_too(upstream):
    upstream.files["sums"] = f"{SHA256}  v1/server-amd64.tar\n".encode()
    with pytest.raises(LockError, match="the spec pins"):
        lock(upstream, checksums="sums", sha256={"amd64": "f" * 64}, size={"amd64": 7})


def test_checksum_file_without_the_file(upstream):
    upstream.files["v1/sums"] = f"{SHA256}  server-arm64.tar\n".encode()
    with pytest.raises(LockError, match=r"v1/sums has no line for v1/server-amd64\.tar"):
        lock(upstream, checksums="v1/sums")


def test_size_by_a_range_where_head_does_not_say(upstream):
    upstream.how = "range"
    assert lock(upstream, sha256={"amd64": SHA256}).size == len(BODY)


def test_server_that_never_says_the_size(upstream):
    upstream.how = "silent"
    with pytest.raises(LockError, match="does not say the size") as caught:
        lock(upstream, sha256={"amd64": SHA256})
    assert caught.value.hint == "pin it: size"


def test_file_that_is_not_there(upstream):
    del upstream.files[PATH]
    with pytest.raises(LockError, match="404 Not Found"):
        lock(upstream, sha256={"amd64": SHA256})


def test_the_next_address_is_asked_when_one_fails(upstream):
    bases = [f"{upstream.base}/nothing/here", upstream.base]
    (file,) = lock_files(spec(sha256={"amd64": SHA256}), "amd64", reader(*bases))
    assert file.size == len(BODY)


def test_everything_pinned_needs_no_answer():
    words = {"sha256": {"amd64": SHA256}, "size": {"amd64": 7}}
    (file,) = lock_files(spec(checksums="sums", **words), "amd64", reader())
    assert (file.sha256, file.size) == (SHA256, 7)


@pytest.mark.parametrize("words", [{}, {"checksums": "sums"}])
def test_a_pinned_file_of_an_upstream_without_answer_has_no_size(words):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for bases in ([], [closed]):
        (file,) = lock_files(spec(sha256={"amd64": SHA256}, **words), "amd64", reader(*bases))
        assert (file.sha256, file.size) == (SHA256, None)


def test_without_a_pin_the_upstream_must_answer():
    with pytest.raises(LockError, match="cannot be had"):
        lock_files(spec(checksums="sums"), "amd64", reader())


def test_a_checksum_file_that_is_gone_is_no_silence(upstream):
    with pytest.raises(LockError, match="404 Not Found"):
        lock(upstream, checksums="sums", sha256={"amd64": SHA256})


def test_a_checksum_file_is_small(upstream):
    upstream.files["sums"] = b"#" * ((4 << 20) + 1)
    with pytest.raises(LockError, match="larger than 4 MiB"):
        lock(upstream, checksums="sums")


def test_a_checksum_file_is_read_once_for_all_its_files(upstream):
    upstream.files["sums"] = f"{SHA256}  {PATH}\n".encode()
    one = spec(checksums="sums")
    two = one.release_files[0].model_copy(update={"name": "again"})
    twice = Spec(**{**vars(one), "release_files": (one.release_files[0], two)})
    assert len(lock_files(twice, "amd64", reader(upstream.base))) == 2
    assert upstream.asked.count(("GET", "sums")) == 1


@pytest.mark.parametrize(
    "line",
    [
        "{sha}  ./a.tar",
        "{sha}  a.tar",
        "{sha} *a.tar",
        "{sha}\ta.tar",
        "SHA256 (a.tar) = {sha}",
        "{sha}  a.tar\r",
    ],
)
def test_lines_of_checksum_files(line):
    assert parse_checksums(line.format(sha=SHA256).encode() + b"\n", "v1/sums") == {"v1/a.tar": SHA256}


def test_capital_letters_in_hashes():
    assert parse_checksums(f"{SHA256.upper()}  a\n".encode(), "sums") == {"a": SHA256}


def test_other_lines_are_left_out():
    text = f"# comment\n\n-----BEGIN PGP-----\n{'a' * 40}  short\n{'a' * 128}  long\n"
    assert parse_checksums(text.encode(), "sums") == {}


def test_two_hashes_for_one_name():
    with pytest.raises(LockError, match="states two sha256 for a"):
        parse_checksums(f"{'a' * 64}  a\n{'b' * 64}  ./a\n".encode(), "sums")
