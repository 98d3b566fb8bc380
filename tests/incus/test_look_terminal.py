"""A shell in a machine: output, exit code, window size and Ctrl-C, over the socket and over HTTPS, in both Incus."""

from __future__ import annotations

import contextlib
import signal
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.ship.publish import publish
from tests.support.terminal import SECONDS, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anklume_images.incus.client import Incus
    from anklume_images.ship.publish import ImageFiles
    from launcher.private_incus.daemon import PrivateIncus

# As a program of its own, so that its terminal is another than the tests' one.
PROGRAM = """
import sys
from pathlib import Path
from anklume_images.incus.client import Incus
from anklume_images.incus.terminal import run_in_terminal
where, command = sys.argv[1], sys.argv[2:]
if where.startswith("https://"):
    url, pin, cert, key = where.split(",")
    incus = Incus.connect(https=url, server_cert=Path(pin), cert=Path(cert), key=Path(key))
else:
    incus = Incus.connect(socket=where)
with incus:
    sys.exit(run_in_terminal(incus, "c1", command, {"TERM": "dumb"}))
"""


@pytest.fixture
def connect(incus: PrivateIncus, client: Incus, image: ImageFiles) -> Iterator[Callable[..., Terminal]]:
    """Starts a command in a running container with a terminal, over the socket or over HTTPS."""
    publish(image, client)
    client.create_instance("c1", fingerprint=image.fingerprint)
    client.start("c1")
    with contextlib.ExitStack() as stack:

        def start(*command: str, https: bool = False, **size: int) -> Terminal:
            where = str(incus.socket)
            if https:
                endpoint = incus.https()
                where = ",".join(map(str, (endpoint.url, endpoint.server_cert, endpoint.cert, endpoint.key)))
            argv = incus.command([sys.executable, "-c", PROGRAM, where, *command], network_only=True)
            terminal = Terminal(argv, **size)
            stack.callback(terminal.close)
            return terminal

        yield start


@pytest.mark.parametrize("https", [False, True], ids=["socket", "https"])
def test_long_output_arrives_whole_and_the_exit_code_too(connect: Callable[..., Terminal], https: bool) -> None:
    terminal = connect("sh", "-c", "seq 60000; exit 7", https=https)
    assert terminal.end() == 7, terminal.text[-2000:]
    assert terminal.text == "".join(f"{number}\r\n" for number in range(1, 60001))


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
        "from anklume_images.incus.terminal import _socket\n"
        "session = N(verify=sys.argv[2], cert=tuple(sys.argv[3:5]))\n"
        "asyncio.run(_socket(N(address=sys.argv[1], session=session), 'no-operation', 's').__aenter__())\n"
    )

    def attempt(pin: Any) -> str:
        endpoint = incus.https()
        argv = [sys.executable, "-c", code, endpoint.url, str(pin or endpoint.server_cert)]
        done = incus.run([*argv, endpoint.cert, endpoint.key], network_only=True, capture_output=True, text=True)
        return str(done.stderr)

    assert "CERTIFICATE_VERIFY_FAILED" in attempt(other)
    assert "HTTP 404" in attempt(None)  # past TLS: there is no such operation
