"""Ports of instances on the host's loopback: bytes both ways, past a restart, and no longer than they are wanted."""

from __future__ import annotations

import gc
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images import linux
from anklume_images.errors import HostError
from launcher.trial.forward import Forwarder, Instance, listen

if TYPE_CHECKING:
    from anklume_images.incus.client import Incus
    from anklume_images.ship.publish import ImageFiles
    from launcher.private_incus.daemon import PrivateIncus

SECONDS = 20.0


class Echo:
    """A server of the test's own in an instance's network: it answers with a word and what it got."""

    def __init__(self, incus: PrivateIncus, client: Incus, word: bytes, address: str, port: int) -> None:
        self.word = word
        pid = client.get("instances/served/state")["pid"]
        made: list[socket.socket] = []
        thread = threading.Thread(target=lambda: made.append(_listen_within(incus, pid, address, port)))
        thread.start()
        thread.join()
        self.listener = made[0]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            question = read_all(connection)
            gc.collect()  # what waits for this answer was once taken for garbage
            connection.sendall(self.word + question)


def _listen_within(incus: PrivateIncus, pid: int, address: str, port: int) -> socket.socket:
    network = os.open(f"/proc/{incus.pid}/root/proc/{pid}/ns/net", os.O_RDONLY)
    linux.setns(network, linux.NEWNET)  # of this thread only, which ends
    os.close(network)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)


def held_namespaces_and_processes() -> list[str]:
    """What this process has open that would keep an instance's network alive, or names its process."""
    folder = "/proc/self/fd"
    held = [os.readlink(f"{folder}/{name}") for name in os.listdir(folder) if os.path.lexists(f"{folder}/{name}")]
    return [target for target in held if target.startswith(("net:", "/proc/"))]


def read_all(connection: socket.socket) -> bytes:
    found = bytearray()
    while piece := connection.recv(1 << 20):
        found += piece
    return bytes(found)


def ask(port: int, question: bytes = b"?") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        failures: list[OSError] = []
        sender = threading.Thread(target=_send, args=(connection, question, failures))
        sender.start()
        try:
            answer = read_all(connection)
        finally:
            sender.join()
    if failures:  # of a reset, only one of the two threads is told
        raise ConnectionResetError from failures[0]
    return answer


def _send(connection: socket.socket, question: bytes, failures: list[OSError]) -> None:
    try:
        connection.sendall(question)
        connection.shutdown(socket.SHUT_WR)
    except OSError as error:
        failures.append(error)


@pytest.fixture
def served(incus: PrivateIncus, client: Incus, image: ImageFiles) -> Instance:
    """A running instance without any server."""
    client.import_image(image.metadata, image.rootfs, fingerprint=image.fingerprint)
    client.create_instance("served", fingerprint=image.fingerprint)
    client.start("served")
    return Instance(incus.client(), "served", Path(f"/proc/{incus.pid}/root"))


def test_bytes_go_both_ways_past_a_restart(incus: PrivateIncus, client: Incus, served: Instance) -> None:
    said: list[str] = []
    with Forwarder(said.append) as forwarder:
        listener = listen(0)
        port = listener.getsockname()[1]
        forwarder.publish(listener, served, 80)
        for _ in range(2):  # said once
            with pytest.raises(ConnectionResetError):
                ask(port)
        assert said == ["served:80 does not answer: Connection refused"]

        first = Echo(incus, client, b"first:", "127.0.0.1", 80)
        large = os.urandom(20 << 20)
        assert ask(port, large) == b"first:" + large
        threads = [threading.Thread(target=lambda: answers.append(ask(port))) for _ in range(40)]
        answers: list[bytes] = []
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [b"first:?"] * 40

        first.close()
        client.send("put", "instances/served/state", {"action": "restart", "force": True, "timeout": -1})
        with pytest.raises(ConnectionResetError):
            ask(port)
        second = Echo(incus, client, b"second:", "::1", 80)
        assert ask(port) == b"second:?"
        second.close()

        client.stop("served", force=True)
        with pytest.raises(ConnectionResetError):
            ask(port)
        assert said[-1] == "served:80 does not answer: served is not running"
    with pytest.raises(ConnectionRefusedError):
        ask(port)
    assert held_namespaces_and_processes() == []


def test_a_server_on_the_machines_address_only(incus: PrivateIncus, client: Incus, served: Instance) -> None:
    served.address = "127.0.0.9"  # any address of the machine's would do; this one needs no DHCP
    server = Echo(incus, client, b"there:", "127.0.0.9", 80)
    with Forwarder(lambda _: None) as forwarder:
        listener = listen(0)
        forwarder.publish(listener, served, 80)
        assert ask(listener.getsockname()[1]) == b"there:?"
    server.close()


def test_open_connections_end_with_the_forwarder(
    incus: PrivateIncus, client: Incus, served: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    server = Echo(incus, client, b"", "127.0.0.1", 80)
    with Forwarder(lambda _: None) as forwarder:
        listener = listen(0)
        forwarder.publish(listener, served, 80)
        connection = socket.create_connection(listener.getsockname(), timeout=SECONDS)
        connection.sendall(b"never ends")
        assert ask(listener.getsockname()[1]) == b"?"
    with connection:
        assert connection.recv(1) == b""
    server.close()
    assert caplog.records == []  # asyncio logs what nobody catches


def test_a_port_that_is_taken_is_replaced_unless_it_was_asked_for() -> None:
    with listen(0) as taken:
        port = taken.getsockname()[1]
        with listen(port) as other:
            assert other.getsockname()[0] == "127.0.0.1"
            assert other.getsockname()[1] not in (0, port)
        with pytest.raises(HostError, match=f"port {port} of 127.0.0.1 cannot be had: Address already in use"):
            listen(port, exactly=True)
