"""A private Incus as a context manager: a real incusd out of an unpacked tree, gone when left.

It lives in net, mount, pid, uts, ipc and cgroup namespaces of its own with storage of its own; nothing of it is
visible on the host but a folder (`home.py`) and, under /proc/<pid>/root, its files. Three processes: the caller, the
supervisor (`supervisor.py`), and pid 1 inside (`init.py`). Whichever is killed, all inside ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from anklume_images.errors import HostError, IncusError
from anklume_images.incus.objects import ObjectId
from launcher.private_incus.init import ENVIRONMENT, INCUSD, STATE, Spec
from launcher.private_incus.state_directory import clear, make_home, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from anklume_images.incus.client import Incus

__all__ = ["GIBIBYTE", "Endpoint", "PrivateIncus"]

_PACKAGES = Path(__file__).resolve().parents[2]
_SUPERVISOR, _ENTER = "launcher.private_incus.supervisor", "launcher.private_incus.enter"
_START_SECONDS = 60.0
_END_SECONDS = 60.0
_LOG_LINES = 20
_ADDRESS = "10.209.0.1/24"  # of the bridge
_PORT = 8443
GIBIBYTE = 1 << 30


@dataclass(frozen=True)
class Endpoint:
    """An HTTPS address, reachable inside the private network only, and the files to use it with."""

    url: str
    server_cert: Path
    cert: Path
    key: Path


class PrivateIncus:
    """A private Incus; its attributes are set while entered.

    `tree` is a read-only root with Incus in it, shared by any number of these. `home` is the folder on a real disk
    below which the state lives; without it $TMPDIR or /var/tmp. `pool_size` is in bytes, and sparse. `borrowed` are
    files and folders of the host that are seen inside, read-only: the path there, and the host's.
    """

    def __init__(
        self,
        *,
        tree: Path,
        home: Path | None = None,
        storage: Literal["auto", "btrfs", "dir"] = "auto",
        pool_size: int = 20 * GIBIBYTE,
        fake_gpus: int = 0,
        borrowed: Mapping[str, str] | None = None,
        hostname: str = "trial",
    ) -> None:
        from launcher.private_incus.fake_gpu import MAXIMUM

        if not 0 <= fake_gpus <= MAXIMUM:
            raise ValueError(f"fake_gpus goes from 0 to {MAXIMUM}")
        self._tree = tree
        self._parent = home
        self._wanted = storage
        self._pool_size = pool_size
        self._fake_gpus = fake_gpus
        self._borrowed = dict(borrowed or {})
        self._hostname = hostname
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._pidfd: int | None = None
        self.home: Path | None = None
        self.pid = 0
        self.storage = ""

    @property
    def socket(self) -> Path:
        """The unix socket, by a path that works on the host for root."""
        return Path(f"/proc/{self.pid}/root{STATE}/unix.socket")

    @property
    def supervisor(self) -> int:
        """The pid of the process whose end ends everything."""
        assert self._supervisor is not None  # noqa: S101 - entered
        return self._supervisor.pid

    def __enter__(self) -> Self:
        self._check_host()
        try:
            self._start()
            self._wait_until_ready()
            self._set_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process inside and remove the folder; returns when both are done."""
        try:
            if self._supervisor is not None:
                self._end_supervisor(self._supervisor)
            if self._pidfd is not None:
                select.select([self._pidfd], [], [], _END_SECONDS)
        finally:
            for descriptor in (self._pidfd, self._lock):
                if descriptor is not None:
                    os.close(descriptor)
            if self.home is not None and self.home.exists():  # the supervisor was killed
                clear(self.home)
            self._supervisor = self._pidfd = self._lock = self.home = None
            self.pid = 0

    def client(self, project: str | None = None) -> Incus:
        """A new connection over the unix socket."""
        from anklume_images.incus.client import Incus

        return Incus.connect(socket=self.socket, project=project)

    def command(self, argv: Sequence[str], *, network_only: bool = False) -> list[str]:
        """The command line that runs `argv` inside.

        With `network_only` it stays on the host's files and processes and only its network is the private one.
        """
        which = "net" if network_only else "all"
        return [*_program(_ENTER), str(self.pid), which, *argv]

    def run(
        self, argv: Sequence[str], *, network_only: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """`subprocess.run` inside; the environment inside is Incus' own unless `env` is given."""
        if not network_only:
            options.setdefault("env", ENVIRONMENT)
        return subprocess.run(
            self.command(argv, network_only=network_only), check=options.pop("check", False), **options
        )

    def https(self) -> Endpoint:
        """Let the daemon listen on an address of its private network, with a client certificate it trusts."""
        from launcher.private_incus.certificate import make_client_certificate

        assert self.home is not None  # noqa: S101 - entered
        cert, key, encoded = make_client_certificate(self.home / "tls")
        address = f"{_ADDRESS.partition('/')[0]}:{_PORT}"
        with self.client() as incus:
            incus.set_server_config({"core.https_address": address})
            incus.trust("trial", encoded)
            server_cert = self.home / "tls/server.crt"
            server_cert.write_text(incus.server.certificate, encoding="utf-8")
        return Endpoint(f"https://{address}", server_cert, cert, key)

    def log_tail(self) -> list[str]:
        """The daemon's last lines."""
        assert self.home is not None  # noqa: S101 - entered
        with contextlib.suppress(FileNotFoundError), (self.home / "incusd.log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 65536))
            return log.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
        return []

    # Starting

    def _check_host(self) -> None:
        if os.geteuid() != 0:
            raise HostError("a private Incus needs root", hint="run it with sudo")
        if not (self._tree / INCUSD).exists():
            raise HostError("no Incus in this tree", where=str(self._tree))

    def _start(self) -> None:
        if self._parent is not None:
            sweep(self._parent)
        with _uninterrupted():  # a folder that is there is known to `close`
            self.home, self._lock = make_home(self._parent)
        if self._parent is None:
            sweep(self.home.parent)
        spec = Spec(
            str(self._tree.resolve()),
            str(self.home),
            self._hostname,
            self._wanted,
            self._pool_size,
            self._fake_gpus,
            self._borrowed,
        )
        with (self.home / "incusd.log").open("ab") as log:
            supervisor = subprocess.Popen(
                [*_program(_SUPERVISOR), str(self.home), str(self._lock)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                env={"LC_ALL": "C.UTF-8"},
                pass_fds=(self._lock,),
                start_new_session=True,  # Ctrl-C is for the caller, who then closes
            )
        self._supervisor = supervisor
        assert supervisor.stdin is not None  # noqa: S101 - a pipe
        assert supervisor.stdout is not None  # noqa: S101 - a pipe
        supervisor.stdin.write(json.dumps(asdict(spec)).encode() + b"\n")
        supervisor.stdin.flush()
        with supervisor.stdout as messages:
            self._read_messages(messages)

    def _read_messages(self, messages: IO[bytes]) -> None:
        for line in messages:
            message = json.loads(line)
            if "pid" in message:
                self.pid = message["pid"]
                with contextlib.suppress(ProcessLookupError):  # a dead one is told of by the next message
                    self._pidfd = os.pidfd_open(self.pid)
            elif "up" in message:
                self.storage = message["up"]
            else:
                raise IncusError(f"the private Incus did not start: {message['error']}", hint=message["hint"])
        if not self.storage:
            raise self._failure("the private Incus ended while it started")

    def _wait_until_ready(self) -> None:
        from anklume_images.incus.connection import is_ready

        end = time.monotonic() + _START_SECONDS
        while not is_ready(self.socket):
            if self._pidfd is None or select.select([self._pidfd], [], [], 0.05)[0]:
                raise self._failure("incusd ended while it started")
            if time.monotonic() > end:
                raise self._failure(f"incusd did not answer within {_START_SECONDS:g} s")

    def _failure(self, message: str) -> IncusError:
        tail = self.log_tail()
        return IncusError("\n".join([message, *tail]), hint="the lines above are the last of the daemon's log")

    def _set_up(self) -> None:
        from launcher.private_incus.storage import pool_config

        bridge = {"ipv4.address": _ADDRESS, "ipv4.nat": "false", "ipv4.dhcp": "true", "ipv6.address": "none"}
        devices = {
            "root": {"type": "disk", "path": "/", "pool": "default"},
            "eth0": {"type": "nic", "name": "eth0", "network": "incusbr0"},
        }
        with self.client() as incus:
            pool = {"driver": self.storage, "config": pool_config(self.storage)}
            incus.create_object(ObjectId("pool", "default"), pool)
            incus.create_object(ObjectId("network", "incusbr0"), {"type": "bridge", "config": bridge})
            incus.put_object(ObjectId("profile", "default"), {"config": {}, "devices": devices})

    # Ending

    def _end_supervisor(self, supervisor: subprocess.Popen[bytes]) -> None:
        if supervisor.stdin is not None:
            supervisor.stdin.close()
        try:
            supervisor.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C, and whatever else asks for an end, wait for a moment."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _program(module: str) -> list[str]:
    # -I and -S: nothing of the caller's environment or of site-packages; only the standard library is needed.
    code = f"import sys; sys.path.insert(0, sys.argv.pop(1)); from {module} import main; main()"
    return [sys.executable, "-I", "-S", "-c", code, str(_PACKAGES)]
