"""Programs in a machine with a terminal, and without one as a stream: over the socket and over HTTPS."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.ship.publish import publish
from tests.support.instances import create_instance, start_instance
from tests.support.terminal import SECONDS, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anklume_images.incus.client import Incus
    from anklume_images.ship.publish import ImageFiles
    from launcher.private_incus.daemon import PrivateIncus

# As a program of its own, so that its terminal is another than the tests' one.
CONNECTED = """
import sys
from pathlib import Path
from anklume_images.incus.client import Incus
from anklume_images.incus.streamed import run_streamed
from anklume_images.incus.terminal import run_in_terminal
where, command = sys.argv[1], sys.argv[2:]
if where.startswith("https://"):
    url, pin, cert, key = where.split(",")
    incus = Incus.connect(https=url, server_cert=Path(pin), cert=Path(cert), key=Path(key))
else:
    incus = Incus.connect(socket=where)
"""
PROGRAM = f"""{CONNECTED}
with incus:
    sys.exit(run_in_terminal(incus, "c1", command, {{"TERM": "dumb"}}))
"""
STREAM = f"""{CONNECTED}
def receive(piece):
    sys.stdout.buffer.write(piece)
    sys.stdout.flush()
with incus:
    result = run_streamed(incus, "c1", command, sys.stdin.buffer.read(), receive, {{"SAID": "in the environment"}})
    sys.stderr.buffer.write(result.stderr)
    sys.exit(result.code)
"""


def argv_for(incus: PrivateIncus, program: str, *command: str, https: bool) -> list[str]:
    where = str(incus.socket)
    if https:
        endpoint = incus.https()
        where = ",".join(map(str, (endpoint.url, endpoint.server_cert, endpoint.cert, endpoint.key)))
    return incus.command([sys.executable, "-c", program, where, *command], network_only=True)


@pytest.fixture
def connect(incus: PrivateIncus, client: Incus, image: ImageFiles) -> Iterator[Callable[..., Terminal]]:
    """Starts a command in a running container with a terminal, over the socket or over HTTPS."""
    publish(image, client)
    create_instance(client, "c1", fingerprint=image.fingerprint)
    start_instance(client, "c1")
    with contextlib.ExitStack() as stack:

        def start(*command: str, https: bool = False, **size: int) -> Terminal:
            terminal = Terminal(argv_for(incus, PROGRAM, *command, https=https), **size)
            stack.callback(terminal.close)
            return terminal

        yield start


@pytest.mark.parametrize("https", [False, True], ids=["socket", "https"])
def test_long_output_arrives_whole_and_the_exit_code_too(connect: Callable[..., Terminal], https: bool) -> None:
    terminal = connect("sh", "-c", "seq 60000; exit 7", https=https)
    assert terminal.end() == 7, terminal.text[-2000:]
    assert terminal.text == "".join(f"{number}\r\n" for number in range(1, 60001))


@pytest.mark.usefixtures("connect")
@pytest.mark.parametrize("https", [False, True], ids=["socket", "https"])
def test_a_stream_passes_input_and_output_whole(incus: PrivateIncus, https: bool) -> None:
    argv = argv_for(incus, STREAM, "sh", "-c", 'cat; seq 60000; echo "$SAID" >&2; exit 7', https=https)
    given = b"a line of input\n" * 20_000
    done = subprocess.run(argv, input=given, capture_output=True, check=False, timeout=SECONDS)
    assert done.returncode == 7, done.stderr
    assert done.stdout == given + b"".join(b"%d\n" % number for number in range(1, 60001))
    assert done.stderr == b"in the environment\n"


@pytest.mark.usefixtures("connect")
def test_a_stream_comes_as_it_is_made_and_interrupted_its_program_ends(incus: PrivateIncus, client: Incus) -> None:
    argv = argv_for(incus, STREAM, "sh", "-c", "echo begun; exec sleep 4242", https=False)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) != 0
    end = time.monotonic() + SECONDS
    while b"4242" in client.execute("c1", ["sh", "-c", "cat /proc/[0-9]*/cmdline"]).stdout:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_what_is_typed_arrives_and_ctrl_c_is_for_the_program(connect: Callable[..., Terminal]) -> None:
    terminal = connect("sh", https=True)
    terminal.type("echo $((40 + 2)) $TERM\r")
    terminal.read_until(r"42 dumb\r\n")
    terminal.type("sleep 600\r")
    terminal.read_until(r"sleep 600\r\n")
    time.sleep(0.2)  # the shell takes a moment to give it the terminal
    terminal.type("\x03")
    terminal.type("echo $?\r")
    terminal.read_until(r"130\r\n")
    assert terminal.process.poll() is None
    terminal.type("exit 5\r")
    assert terminal.end() == 5
    assert termios.tcgetattr(terminal.inner) == terminal.before


def test_the_window_has_its_size_and_keeps_up(connect: Callable[..., Terminal]) -> None:
    terminal = connect("sh", rows=31, columns=97)
    size = "stty size\r"
    terminal.type(size)
    terminal.read_until(r"31 97\r\n")
    terminal.resize(40, 120)
    end = time.monotonic() + SECONDS
    while "40 120\r\n" not in terminal.text:
        assert time.monotonic() < end, terminal.text
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.type(size)
        terminal.read(0.3)
    terminal.type("exit\r")
    assert terminal.end() == 0


def test_a_program_that_is_not_there_ends_with_an_error(connect: Callable[..., Terminal]) -> None:
    terminal = connect("no-such-program")
    assert terminal.end() != 0
    assert "ommand not found" in terminal.text


def test_another_certificate_than_the_pinned_one_is_refused(incus: PrivateIncus, client: Incus, tmp_path: Path) -> None:
    from launcher.private_incus.certificate import make_client_certificate

    other, _, _ = make_client_certificate(tmp_path)
    code = (
        "import asyncio, sys; from types import SimpleNamespace as N\n"
        "from anklume_images.incus.websocket import open_websocket\n"
        "session = N(verify=sys.argv[2], cert=tuple(sys.argv[3:5]))\n"
        "asyncio.run(open_websocket(N(address=sys.argv[1], session=session), 'no-operation', 's').__aenter__())\n"
    )

    def attempt(pin: Any) -> str:
        endpoint = incus.https()
        argv = [sys.executable, "-c", code, endpoint.url, str(pin or endpoint.server_cert)]
        done = incus.run([*argv, endpoint.cert, endpoint.key], network_only=True, capture_output=True, text=True)
        return str(done.stderr)

    assert "CERTIFICATE_VERIFY_FAILED" in attempt(other)
    assert "HTTP 404" in attempt(None)  # past TLS: there is no such operation
