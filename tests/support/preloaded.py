"""Commands as processes of their own that begin with everything imported, as each is forked off one that did it once.

An ordinary start of Python imports for most of a short command's time. What depends on that start (variables of
Python's own, the locale) is run as usual; so is whatever a test starts by itself and goes on.

    python -m tests.support.preloaded FD       listens at the socket FD until its standard input ends
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

from anklume_images.cli.exit_codes import ANY, codes_of
from anklume_images.cli.main import cli as images
from launcher.cli.main import cli as launch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("anklume_images", "launcher")
_AT_START = ("PYTHON", "LC_", "LANG")
_CODES = {"anklume_images": (images.table, images.codes), "launcher": (launch.table, launch.codes)}


def run(
    module: str,
    arguments: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    text: str = "",
) -> subprocess.CompletedProcess[str]:
    """`python -m module` with these arguments and this text as its input; returns when it has ended."""
    argv = [sys.executable, "-m", module, *arguments]
    environment = dict(os.environ if env is None else env)
    if any(name.startswith(_AT_START) and os.environ.get(name) != value for name, value in environment.items()):
        done = subprocess.run(argv, env=environment, cwd=cwd, input=text, capture_output=True, text=True, check=False)
        assert_declared(module, arguments, done.returncode)
        return done
    with contextlib.ExitStack() as stack:
        given, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(text.encode())
        given.seek(0)
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.connect(_server())
        socket.send_fds(connection, [b"\0"], [file.fileno() for file in (given, out, err)])
        connection.sendall(json.dumps([module, list(arguments), environment, str(cwd or os.getcwd())]).encode())
        connection.shutdown(socket.SHUT_WR)
        code = int(connection.makefile().read())
        assert_declared(module, arguments, code)
        return subprocess.CompletedProcess(argv, code, _read(out), _read(err))


def assert_declared(module: str, arguments: Sequence[str], code: int) -> None:
    """A command ends with a code that its page has, unless a signal ended it."""
    if module not in _CODES or code < 0:
        return
    table, own = _CODES[module]
    words = iter(arguments)
    command = next((word for word in words if word in table), "apply")
    if command in ("bundle", "channel", "models", "trust"):
        command = f"{command} {next(words, '')}"
    codes = codes_of(command, own)
    assert str(code) in codes or ANY in codes, f"{command} ended with {code}, which is not declared"


_PROGRAM = """\
#!{python} -IS
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
socket.send_fds(connection, [b"\\0"], [0, 1, 2])
connection.sendall(json.dumps([{module!r}, sys.argv[1:], dict(os.environ), os.getcwd()]).encode())
connection.shutdown(socket.SHUT_WR)
code = int(connection.makefile().read())
sys.exit(code if code >= 0 else 128 - code)
"""


def write_program(path: Path, module: str) -> None:
    """Make `python -m module` a program at that path, for what starts it by itself; it lives as long as the tests."""
    path.write_text(_PROGRAM.format(python=sys.executable, address=_server(), module=module))
    path.chmod(0o755)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@cache
def _server() -> str:
    """The address of this process' server, which ends with it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")  # the kernel finds a name
    listener.listen()
    argv = [sys.executable, "-m", __name__, str(listener.fileno())]
    # Its standard input is a pipe whose other end is this process' alone; it stays open as long as that.
    server = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
    atexit.register(_end, server)
    name = listener.getsockname()
    listener.close()
    return name  # type: ignore[no-any-return]


def _end(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None
    server.stdin.close()
    server.wait()


# The server


def _import_all() -> None:
    for package in PACKAGES:
        for found in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)


def _serve(listener: socket.socket) -> tuple[str, list[str]]:
    """Serve until the caller is gone; in a process that is to be a command, return what it is."""
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            sys.exit()
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _command(connection)
        connection.close()


def _command(connection: socket.socket) -> tuple[str, list[str]]:
    """Become the command; its parent tells how it ended."""
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    module, arguments, environment, folder = json.loads(connection.makefile().read())
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.sendall(str(code).encode())
        os._exit(0)
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # Those of the server know that they are files, which these need not be.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  until the command ends
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return module, arguments


if __name__ == "__main__":
    _import_all()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that tell
    name, words = _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv = ["", *words]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
