"""Where one works on a private Incus from the host: programs that know it, an environment that names it, a shell.

session/            in the folder of the private Incus, or in the store where that one is mounted noexec; gone with it
  bin/incus         the client out of Incus' own tree, with the host's files before it
  bin/inside        runs a program of the host in the private network
  bin/anklume-…     the commands of this project, upon the same store and specs
  conf/             the client's configuration: empty, so that no remote of the host's is taken
  bashrc            the caller's own, then the prompt
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

    from launcher.private_incus.daemon import PrivateIncus

__all__ = ["ShellEnvironment", "dying_with_caller", "runs_programs"]

_PACKAGES = Path(__file__).resolve().parents[2]
_POINTERS = ("INCUS_DIR", "INCUS_PROJECT", "INCUS_REMOTE", "INCUS_GLOBAL_CONF")  # would lead to another Incus
_PATIENCE_SECONDS = 5.0


class ShellEnvironment:
    """The programs and the environment, made below `folder` by `__init__`; `options` are those of our commands."""

    def __init__(
        self,
        incus: PrivateIncus,
        tree: Path,
        folder: Path,
        label: str,
        options: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        self._folder = folder / "session"
        self._label = label
        programs = self._folder / "bin"
        programs.mkdir(parents=True, mode=0o700)
        (self._folder / "conf").mkdir()
        _write_program(programs / "incus", _client(tree))
        _write_program(programs / "inside", incus.command([], network_only=True))
        for name, module in (
            ("anklume-images", "anklume_images.cli.main"),
            ("anklume-launch", "launcher.cli.main"),
        ):
            code = _code(module, f"sys.argv[0] = {name!r}")
            _write_program(programs / name, [sys.executable, "-P", "-c", code, str(_PACKAGES), *options])
        kept = {name: value for name, value in os.environ.items() if name not in _POINTERS}
        self.environment = {
            **kept,
            **environment,
            "INCUS_SOCKET": str(incus.socket),
            "INCUS_CONF": str(self._folder / "conf"),
            "PATH": f"{programs}:{kept.get('PATH', os.defpath)}",
            "ANKLUME_TRIAL": label,
        }

    def shell(self) -> int:
        """Run the caller's shell; return its exit code."""
        program = os.environ.get("SHELL") or "/bin/sh"
        prompt = f"({self._label}) "
        if os.path.basename(program) != "bash":
            return self.run([program], {"PS1": f"{prompt}{os.environ.get('PS1') or '# '}"})
        bashrc = self._folder / "bashrc"
        bashrc.write_text(
            "if [ -f ~/.bashrc ]; then . ~/.bashrc; fi\n"
            f"PATH={shlex.quote(str(self._folder / 'bin'))}:$PATH\n"
            f"PS1={shlex.quote(prompt)}$PS1\n",
            encoding="utf-8",
        )
        return self.run([program, "--rcfile", str(bashrc)])

    def run(self, command: Sequence[str], more: Mapping[str, str] | None = None) -> int:
        """Run a command in the environment; return its exit code, 128 and the signal's number where one ended it.

        Ctrl-C is the command's to deal with. The command is killed when this process is.
        """
        argv = dying_with_caller(command)
        with _interrupts_left_to_others(), subprocess.Popen(argv, env=self.environment | dict(more or {})) as process:
            try:
                process.wait()
            except BaseException:
                _end(process)
                raise
        return process.returncode if process.returncode >= 0 else 128 - process.returncode


def runs_programs(folder: Path) -> bool:
    """Whether programs that lie in this folder can be run: not where it is mounted noexec."""
    return not os.statvfs(folder).f_flag & os.ST_NOEXEC


def dying_with_caller(command: Sequence[str]) -> list[str]:
    """The command line that runs a command which is killed when this process is."""
    # -I and -S: nothing of the caller's environment or of site-packages; only the standard library is needed.
    code = _code("launcher.private_incus.die_with_parent")
    return [sys.executable, "-I", "-S", "-c", code, str(_PACKAGES), str(os.getpid()), *command]


def _code(module: str, first: str = "pass") -> str:
    """A program that runs a module's `main` out of the folder that is its first argument."""
    return f"import sys; sys.path.insert(0, sys.argv.pop(1)); {first}; from {module} import main; main()"


def _client(tree: Path) -> list[str]:
    """The incus client out of a tree, upon the tree's own loader and libraries: it needs none of the host's."""
    loader = next(iter(sorted(tree.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*"))), None)
    if loader is None:
        raise HostError("no program loader in this tree", where=str(tree))
    return [str(loader), "--library-path", str(loader.parent), "--argv0", "incus", str(tree / "usr/bin/incus")]


def _write_program(path: Path, command: Sequence[str]) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    path.chmod(0o700)


@contextlib.contextmanager
def _interrupts_left_to_others() -> Iterator[None]:
    def leave_it(_number: int, _frame: FrameType | None) -> None:
        """Not SIG_IGN, which the command would inherit."""

    before = signal.signal(signal.SIGINT, leave_it)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGHUP)  # what a shell at a prompt listens to
    try:
        process.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
