"""`enter`: the sandbox of a failed build, as it was: on a terminal, and with a script as its input."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Cli

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "specs" / "nginx"
FAILS = "\n{% block post_files %}\necho half-way > /root/left-behind\nfalse\n{% endblock %}\n"
SECONDS = 60.0


@pytest.fixture(scope="module")
def failed(anklume: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of specs with one whose build has failed."""
    specs = tmp_path_factory.mktemp("specs")
    shutil.copytree(EXAMPLE, specs / "nginx")
    with (specs / "nginx" / "distrobuilder.yaml.j2").open("a") as template:
        template.write(FAILS)
    result = anklume("--specs", str(specs), "build", "--refresh-missing", "nginx", check=False)
    assert result.returncode == 1
    assert f"anklume-images --specs {specs} --store {anklume.store} enter nginx" in result.stderr
    yield specs
    shutil.rmtree(anklume.store / "failed" / "nginx")


def command(anklume: Cli, specs: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "anklume_images",
        "--store",
        str(anklume.store),
        "--specs",
        str(specs),
        "enter",
        "nginx",
    ]


class Terminal:
    """A person at a terminal: types lines, and reads until something is shown."""

    def __init__(self, argv: list[str]) -> None:
        self._own, inner = os.openpty()
        self.process = subprocess.Popen(argv, stdin=inner, stdout=inner, stderr=inner, start_new_session=True)
        os.close(inner)
        self._shown = ""

    def type(self, text: str) -> None:
        os.write(self._own, text.encode())

    def until(self, text: str) -> str:
        end = time.monotonic() + SECONDS
        while text not in self._shown:
            assert time.monotonic() < end, self._shown
            if select.select([self._own], [], [], 0.5)[0]:
                self._shown += os.read(self._own, 4096).decode()
        before, _, self._shown = self._shown.partition(text)
        return before

    def wait(self) -> int:
        return self.process.wait(SECONDS)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._own)


@pytest.fixture
def terminal(anklume: Cli, failed: Path) -> Iterator[Terminal]:
    terminal = Terminal(command(anklume, failed))
    yield terminal
    terminal.close()


def test_a_terminal_shows_what_the_failure_left(terminal: Terminal) -> None:
    terminal.until("# ")
    terminal.type("cat /root/left-behind; dpkg-query -W -f '${Status}|' nginx\n")
    assert "half-way" in terminal.until("install ok installed|")
    terminal.until("# ")
    terminal.type("sh -c 'echo going; exec sleep 1000'\n")
    terminal.until("going\r\n")
    terminal.type("\x03")  # ends the program, not the shell
    terminal.until("# ")
    terminal.type("echo still $((40 + 2))\n")
    terminal.until("still 42")
    terminal.until("# ")
    terminal.type("exit 3\n")
    terminal.until("exit\r\n")  # bash's own, after the echo
    assert terminal.wait() == 3


def test_the_base_was_moved_not_copied(anklume: Cli, failed: Path) -> None:
    kept = anklume.store / "failed" / "nginx"
    assert (kept / "cache" / "overlay" / "usr").is_dir()
    assert not (kept / "base").exists()


def test_a_script_runs_with_the_mirror_and_without_a_network(anklume: Cli, failed: Path) -> None:
    script = """
        curl -sf -o /dev/null http://127.0.0.1/debian/dists/trixie/Release && echo mirror
        curl -s -o /dev/null -w '%{http_code}\\n' http://127.0.0.1/files/x
        grep -o '^ *[a-z0-9]*:' /proc/net/dev
        exit 4
    """
    done = subprocess.run(command(anklume, failed), input=script, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["mirror", "404", "lo:"], done.stderr
    assert done.returncode == 4


def test_without_a_failed_build_it_says_so(anklume: Cli) -> None:
    result = anklume("enter", "debian-12", check=False)
    assert result.returncode == 1
    assert "no failed build of debian-12 is kept" in result.stderr
