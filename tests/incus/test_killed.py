"""Whatever is killed, and whenever: nothing of a private Incus stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launcher.private_incus.daemon import PrivateIncus
from launcher.private_incus.state_directory import PREFIX, sweep
from tests.support.incus_leftovers import leftovers, nothing_left

if TYPE_CHECKING:
    from collections.abc import Callable

    from anklume_images.ship.publish import ImageFiles

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30.0


def hold(tree: Path, home: Path, image: ImageFiles | None = None) -> subprocess.Popen[str]:
    files = [str(image.metadata), str(image.rootfs), image.fingerprint] if image else []
    argv = [sys.executable, "-m", "tests.support.incus_holder", str(tree), str(home), *files]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_word(process: subprocess.Popen[str], word: str) -> list[str]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.split()[0] == word:
            return line.split()
    raise AssertionError(f"ended before {word}: {process.stderr and process.stderr.read()}")


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.001)


def command_lines(home: Path) -> str:
    return " ".join(leftovers(home)["processes"])


def folder_holds(home: Path, pattern: str) -> bool:
    return next(home.glob(f"{PREFIX}*/{pattern}"), None) is not None


# Moments in a start, in their order, seen from outside.
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "the folder is there": lambda home: folder_holds(home, ""),
    "its subfolders are": lambda home: folder_holds(home, "mnt"),
    "the log is opened": lambda home: folder_holds(home, "incusd.log"),
    "the supervisor runs": lambda home: "private_incus.supervisor" in command_lines(home),
    "the pool file is there": lambda home: folder_holds(home, "*.img"),
    "a loop device is attached": lambda home: bool(leftovers(home)["loop devices"]),
    "incusd runs": lambda home: "incusd" in command_lines(home),
    "its database is": lambda home: folder_holds(home, "state/database/local.db"),
    "its socket is": lambda home: folder_holds(home, "state/unix.socket"),
    "its pool is mounted": lambda home: folder_holds(home, "state/storage-pools/default"),
    "dnsmasq runs": lambda home: "dnsmasq" in command_lines(home),
}


@pytest.mark.matrix
@pytest.mark.parametrize("moment", MOMENTS)
def test_caller_killed_while_it_starts(moment: str, incus_tree: Callable[[str], Path], home: Path) -> None:
    with hold(incus_tree("incus-6"), home) as process:
        wait_until(lambda: MOMENTS[moment](home))
        process.kill()
    assert nothing_left(home, but_folders=True)
    sweep(home)
    assert nothing_left(home)


@pytest.mark.matrix
@pytest.mark.parametrize("moment", MOMENTS)
def test_interrupted_while_it_starts(moment: str, incus_tree: Callable[[str], Path], home: Path) -> None:
    with hold(incus_tree("incus-6"), home) as process:
        wait_until(lambda: MOMENTS[moment](home))
        process.send_signal(signal.SIGINT)
        process.wait(SECONDS)
        assert process.returncode != 0
    assert nothing_left(home)


@pytest.mark.parametrize("version", ["incus-6", "incus-7"])
def test_caller_killed_with_a_container_running(
    version: str, incus_tree: Callable[[str], Path], home: Path, image: ImageFiles
) -> None:
    with hold(incus_tree(version), home, image) as process:
        wait_for_word(process, "running")
        process.kill()
    # The supervisor sees the caller's end and clears even the folder.
    assert nothing_left(home)


@pytest.mark.parametrize("version", ["incus-6", "incus-7"])
def test_supervisor_killed_with_a_container_running(
    version: str, incus_tree: Callable[[str], Path], home: Path, image: ImageFiles
) -> None:
    with hold(incus_tree(version), home, image) as process:
        supervisor = int(wait_for_word(process, "up")[1])
        wait_for_word(process, "running")
        os.kill(supervisor, signal.SIGKILL)
        # One SIGKILL ended everything inside; the folder is the caller's to clear.
        wait_until(lambda: "incusd" not in command_lines(home) and "monitor" not in command_lines(home))
        process.send_signal(signal.SIGINT)
        process.wait(SECONDS)
    assert nothing_left(home)


def test_pid_1_killed(incus_tree: Callable[[str], Path], home: Path) -> None:
    with PrivateIncus(tree=incus_tree("incus-6"), home=home) as incus:
        os.kill(incus.pid, signal.SIGKILL)
    assert nothing_left(home)


def test_daemon_killed(incus_tree: Callable[[str], Path], home: Path) -> None:
    with PrivateIncus(tree=incus_tree("incus-6"), home=home) as incus:
        kill = "grep -qs ^/usr/libexec/incus/incusd $p/cmdline && kill -9 ${p#/proc/}"
        incus.run(["sh", "-c", f"for p in /proc/[0-9]*; do {kill}; done"])
        wait_until(lambda: "dnsmasq" not in command_lines(home))
    assert nothing_left(home)


def test_supervisor_asked_to_end(incus_tree: Callable[[str], Path], home: Path) -> None:
    with PrivateIncus(tree=incus_tree("incus-6"), home=home) as incus:
        os.kill(incus.supervisor, signal.SIGTERM)
        wait_until(lambda: not folder_holds(home, ""))
    assert nothing_left(home)


def test_interrupted_with_a_container_running(incus_tree: Callable[[str], Path], home: Path, image: ImageFiles) -> None:
    with hold(incus_tree("incus-7"), home, image) as process:
        wait_for_word(process, "running")
        process.send_signal(signal.SIGINT)
        wait_for_word(process, "closed")
    assert nothing_left(home)


def test_killed_while_it_closes(incus_tree: Callable[[str], Path], home: Path, image: ImageFiles) -> None:
    with hold(incus_tree("incus-6"), home, image) as process:
        wait_for_word(process, "running")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: "incusd" not in command_lines(home))
        process.kill()
    assert nothing_left(home)


def test_next_start_sweeps_what_killed_caller_and_supervisor_left(
    incus_tree: Callable[[str], Path], home: Path
) -> None:
    with hold(incus_tree("incus-6"), home) as process:
        supervisor = int(wait_for_word(process, "up")[1])
        os.kill(supervisor, signal.SIGSTOP)  # so that it cannot clear up
        process.kill()
        process.wait()
        os.kill(supervisor, signal.SIGKILL)
    assert nothing_left(home, but_folders=True)
    left = leftovers(home)["folders"]
    assert len(left) == 1
    with PrivateIncus(tree=incus_tree("incus-6"), home=home) as incus:
        assert leftovers(home)["folders"] == [str(incus.home)]
    assert nothing_left(home)


def test_sweep_leaves_the_living_alone(incus_tree: Callable[[str], Path], home: Path) -> None:
    with PrivateIncus(tree=incus_tree("incus-6"), home=home) as incus:
        assert sweep(home) == []
        assert incus.run(["incus", "list"], capture_output=True).returncode == 0


def test_command_inside_ends_with_the_caller(incus_tree: Callable[[str], Path], home: Path) -> None:
    script = (
        "import subprocess, sys; from pathlib import Path; from launcher.private_incus.daemon import PrivateIncus\n"
        "with PrivateIncus(tree=Path(sys.argv[1]), home=Path(sys.argv[2])) as incus:\n"
        "    inside = subprocess.Popen(incus.command(['sleep', '600'], network_only=True))\n"
        "    print(inside.pid, flush=True); inside.wait()\n"
    )
    argv = [sys.executable, "-c", script, str(incus_tree("incus-6")), str(home)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        inside = Path(f"/proc/{caller.stdout.readline().strip()}")
        wait_until(lambda: b"sleep" in (inside / "comm").read_bytes())
        assert os.readlink(inside / "ns/net") != os.readlink("/proc/self/ns/net")
        caller.kill()
    wait_until(lambda: not inside.exists())
    assert nothing_left(home)
