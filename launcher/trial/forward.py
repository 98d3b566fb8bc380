"""Ports of machines on the host's loopback: what connects there is carried to the machine's own loopback.

The way in is the machine's network namespace, as Incus' proxy device has it, so network ACLs do not count. Linux gives
each thread its own network namespace (setns(2)): one that enters, makes a socket and leaves again is enough, and the
socket stays where it was made. All of it lives in threads of the calling process, so it cannot outlive that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anklume_images import linux
from anklume_images.errors import HostError, IncusError
from anklume_images.incus.objects import ObjectId

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from anklume_images.incus.client import Incus

__all__ = ["Forwarder", "Instance", "listen"]

LOOPBACK = "127.0.0.1"
_PIECE = 1 << 16
_CONNECT_SECONDS = 10.0
_DIALERS = 4


def listen(port: int, *, exactly: bool = False) -> socket.socket:
    """A listening socket on the host's loopback, at that port or, unless `exactly`, at a free one; 0 is any."""
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError as error:
            if exactly or error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise HostError(
                    f"port {port} of {LOOPBACK} cannot be had: {error.strerror}",
                    hint="choose another port, or leave out =HOSTPORT to use a free one",
                ) from None
            listener.bind((LOOPBACK, 0))
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener


@dataclass
class Instance:
    """A running instance of a private Incus as the host's kernel sees it; it is found again after a restart.

    `incus` is a connection of its own, for its project. `root` is the private root file system by a path of the
    host's (`/proc/PID/root`). A folder of /proc that is held open names one process for good: once that has ended, it
    leads nowhere, whoever gets the number next.
    """

    incus: Incus
    name: str
    root: Path
    address: str | None = None
    _process: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def connect(self, port: int) -> socket.socket:
        """A socket in the instance that is connected to one of its own ports; OSError when nobody listens there."""
        network = self._network()
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            linux.setns(network, linux.NEWNET)
            try:
                return _connect(port, self.address)
            finally:
                linux.setns(home, linux.NEWNET)
        finally:
            os.close(network)
            os.close(home)

    def close(self) -> None:
        """Let go of the process, and of the connection."""
        with self._lock:
            self._forget()
            self.incus.close()

    def _network(self) -> int:
        """The descriptor of its network namespace, which is not kept: it would outlive the instance."""
        with self._lock:
            for _ in range(2):
                if self._process is None:
                    self._process = self._find()
                try:
                    return os.open("ns/net", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._process)
                except (FileNotFoundError, ProcessLookupError):  # it was restarted
                    self._forget()
        raise ConnectionRefusedError(errno.ECONNREFUSED, f"{self.name} ended")

    def _find(self) -> int:
        try:
            pid = self.incus.instance_state(ObjectId("instance", self.name))["pid"]
        except IncusError as error:
            raise ConnectionRefusedError(errno.ECONNREFUSED, str(error)) from None
        if not pid:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"{self.name} is not running")
        return os.open(self.root / "proc" / str(pid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _forget(self) -> None:
        if self._process is not None:
            os.close(self._process)
            self._process = None


def _connect(port: int, address: str | None) -> socket.socket:
    refused: OSError | None = None
    for host in (LOOPBACK, "::1", address):
        if host is None:
            continue
        connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            connection.settimeout(_CONNECT_SECONDS)
            connection.connect((host, port))
            connection.setblocking(False)
        except OSError as error:
            connection.close()
            refused = refused or error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    assert refused is not None  # noqa: S101 - the loop tried
    raise refused


class Forwarder:
    """Carries connections while entered; `say` gets a line when a machine cannot be reached, once in a row."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._loop = asyncio.new_event_loop()
        self._dialers = ThreadPoolExecutor(_DIALERS, thread_name_prefix="dial")
        self._thread = threading.Thread(target=self._run, name="forward", daemon=True)
        self._servers: list[asyncio.Server] = []
        # A connection whose client has said all is known to the loop weakly only: it must not be garbage.
        self._carrying: set[asyncio.Task[None] | None] = set()
        self._instances: list[Instance] = []
        self._silent: set[tuple[str, int]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._dialers.shutdown(cancel_futures=True)
        for instance in self._instances:
            instance.close()

    def publish(self, listener: socket.socket, instance: Instance, port: int) -> None:
        """Carry what connects to `listener`, which is closed at the end, to that port of the instance."""
        self._instances.append(instance)

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._carrying.add(asyncio.current_task())
            try:
                await self._carry(reader, writer, instance, port)
            except asyncio.CancelledError:
                pass  # the end; nobody waits for this task
            finally:
                self._carrying.discard(asyncio.current_task())

        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(carry, sock=listener), self._loop)
        self._servers.append(starting.result())

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            for server in self._servers:
                server.close()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, instance: Instance, port: int
    ) -> None:
        with contextlib.closing(writer):
            try:
                inside = await self._loop.run_in_executor(self._dialers, instance.connect, port)
            except OSError as error:
                self._tell(instance, port, error)
                _reset(writer)
                return
            self._silent.discard((instance.name, port))
            inner_reader, inner_writer = await asyncio.open_connection(sock=inside)
            with contextlib.closing(inner_writer):
                await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

    def _tell(self, instance: Instance, port: int, error: OSError) -> None:
        if (instance.name, port) not in self._silent:
            self._silent.add((instance.name, port))
            self._say(f"{instance.name}:{port} does not answer: {error.strerror or error}")


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Until the source ends; an end on one side is handed on, the other direction goes on."""
    with contextlib.suppress(OSError):
        while piece := await source.read(_PIECE):
            target.write(piece)
            await target.drain()
        if target.can_write_eof():
            target.write_eof()
        return
    _reset(target)  # what broke on one side breaks on the other


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that the other end does not take what it got for all there was (SO_LINGER, socket(7))."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
