"""The loopback mirror serves exactly what is locked; whoever asks for anything else fails the build, and is told."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.builder.mirror import LoopbackMirror
from anklume_images.builder.rootfs import mirror_entries
from anklume_images.inputs.debian import parse_stanza

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anklume_images.pipeline import Pipeline
    from tests.support.tiny import World

ASK = "exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[LoopbackMirror]:
    (tmp_path / "blob").write_bytes(bytes(range(256)) * 9000)
    entries = {
        "/files/model": str(tmp_path / "blob"),
        "/wheels/": {"text": "<a>é</a>", "type": "text/html"},
        "/debian/pool/a+b~1.deb": {"text": "deb"},
    }
    with LoopbackMirror(entries, tmp_path / "mirror.log", port=0) as mirror:
        yield mirror


def ask(mirror: LoopbackMirror, path: str, method: str = "GET") -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", mirror.port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Length"), response.read()
    finally:
        connection.close()


def test_entries_are_served_whole(served: LoopbackMirror, tmp_path: Path) -> None:
    blob = (tmp_path / "blob").read_bytes()
    assert ask(served, "/files/model") == (200, str(len(blob)), blob)
    assert ask(served, "/files/model", "HEAD") == (200, str(len(blob)), b"")
    text = "<a>é</a>".encode()
    assert ask(served, "/wheels/") == (200, str(len(text)), text)
    assert ask(served, "/debian/pool/a%2Bb%7E1.deb?x=1")[2] == b"deb"
    assert served.refused == []


@pytest.mark.parametrize(
    "path",
    ["/", "/files/", "/files/other", "/files/model/", "/wheels", "/files/../wheels/", "/simple/pip/", "/x/dists/y"],
)
def test_anything_else_is_refused_and_remembered(path: str, served: LoopbackMirror) -> None:
    assert ask(served, path) == (404, "0", b"")
    assert served.refused == [path]


@pytest.mark.parametrize("path", ["/debian/dists/trixie/InRelease", "/debian/dists/trixie/main/i18n/Translation-en"])
def test_index_questions_of_apt_may_go_unanswered(path: str, served: LoopbackMirror) -> None:
    assert ask(served, path)[0] == 404
    assert served.refused == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nobody_writes_to_it(method: str, served: LoopbackMirror) -> None:
    assert ask(served, "/files/model", method)[0] == 501
    assert served.refused == [f"{method} /files/model"]


def test_every_question_is_logged(served: LoopbackMirror, tmp_path: Path) -> None:
    for path in ("/wheels/", "/nothing"):
        ask(served, path)
    assert (tmp_path / "mirror.log").read_text() == "200 /wheels/\n404 /nothing\n"


def test_the_repository_is_exactly_the_lock(pipeline: Pipeline) -> None:
    lock = pipeline.locks.get("debian")
    entries = mirror_entries(lock, "trixie", lock.epoch, pipeline.store.blobs)
    packages = entries[f"/debian/dists/trixie/main/binary-{lock.architecture}/Packages"]["text"]
    assert packages.endswith("\n\n"), "debootstrap loses the last stanza otherwise"
    stanzas = [parse_stanza(text) for text in packages.strip().split("\n\n")]
    assert [stanza["Package"] for stanza in stanzas] == [deb.package for deb in lock.debs]
    for stanza, deb in zip(stanzas, lock.debs, strict=True):
        assert stanza["SHA256"] == deb.sha256
        assert entries[f"/debian/{stanza['Filename']}"] == str(pipeline.store.blobs.path(deb.sha256))
    release = entries["/debian/dists/trixie/Release"]["text"]
    sums = re.findall(r"^ ([0-9a-f]{64}) (\d+) (\S+)$", release, re.MULTILINE)
    assert sums == [
        (hashlib.sha256(packages.encode()).hexdigest(), str(len(packages.encode())), sums[0][2]),
    ]
    assert sums[0][2] == f"main/binary-{lock.architecture}/Packages"
    assert len(entries) == len(lock.debs) + 2


def test_a_build_reads_what_its_lock_names(world: World) -> None:
    world.app("reader", _bash(ASK.format(path="/files/note") + " > /etc/note"), inputs={"note": "note.txt"})
    assert world.built("reader", "--offline")["status"] == "built"


BROKEN = {
    "asks the mirror for what is not locked": (
        ASK.format(path="/files/secret"),
        "the build asked for what is not locked: /files/secret",
        "declare it in the spec's inputs and lock again",
    ),
    "asks, and does not care for the answer": (
        ASK.format(path="/files/secret") + " > /dev/null || true",
        "the build asked for what is not locked: /files/secret",
        "declare it in the spec's inputs and lock again",
    ),
    "asks for another image's input": (
        ASK.format(path="/files/rootfs"),
        "the build asked for what is not locked: /files/rootfs",
        "declare it",
    ),
    "tries the network": (
        "exec 3<>/dev/tcp/192.0.2.1/443",
        "step 'distrobuilder' failed with exit code 1",
        "Network is unreachable",
    ),
    "tries a name": (
        "exec 3<>/dev/tcp/example.invalid/80",
        "step 'distrobuilder' failed with exit code 1",
        "example.invalid",
    ),
    "fails": (
        "echo one; echo two; echo what went wrong >&2; exit 9",
        "step 'distrobuilder' failed with exit code 1",
        "what went wrong",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_spec_that_does_what_it_must_not_fails(what: str, world: World) -> None:
    action, message, said = BROKEN[what]
    world.app("broken", _bash(action))
    result = world("build", "broken", rc=1)
    assert f"error: broken: {message}" in result.stderr
    assert said in result.stderr
    log = Path(re.search(r"^  log: (.+)$", result.stderr, re.MULTILINE)[1])  # type: ignore[index]
    assert "--- distrobuilder: " in log.read_text()
    # The command that it names, as it stands there.
    command = re.search(r"^  look around in the sandbox: anklume-images (.+)$", result.stderr, re.MULTILINE)
    argv = [sys.executable, "-m", "anklume_images", *shlex.split(command[1] if command else "")]
    shell = subprocess.run(argv, input="cat /etc/made-before; exit 5\n", text=True, capture_output=True, check=False)
    assert (shell.returncode, shell.stdout) == (5, "x\n"), shell.stderr
    assert "broken" not in world("list").stdout


def test_the_sandbox_of_a_failed_build_goes_when_it_is_put_right(world: World) -> None:
    world.app("broken", "exit 1")
    (entry,) = json.loads(world("build", "broken", "--json", rc=1).stdout)["images"]
    assert (entry["name"], entry["status"], entry["fingerprint"]) == ("broken", "failed", None)
    assert entry["error"] == "broken: step 'distrobuilder' failed with exit code 1"
    world.app("broken")
    assert world.built("broken")["status"] == "built"
    assert "no failed build of broken is kept" in world("enter", "broken", rc=1).stderr


def _bash(action: str) -> str:
    """An action whose shell is bash, which can talk to a network by itself."""
    return f"echo x > /etc/made-before\nbash -e <<'END'\n{action}\nEND"
