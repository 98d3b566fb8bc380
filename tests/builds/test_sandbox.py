"""What runs in a sandbox sees nothing of the host, leaves nothing on it, and ends with whoever started it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.builder.sandbox import Job, Mount, Step, end_all, run_job
from anklume_images.locking import TOOLCHAIN
from anklume_images.store.blobs import Blobs
from tests.support.blobs import share_blob
from tests.support.leftovers import leftovers, nothing_left
from tests.support.sandbox_probe import probe
from tests.support.tiny import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anklume_images.builder.trees import Tree
    from anklume_images.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20.0
ORDINARY = 65534
# An ordinary user that can read everything, so that a Python in somebody's home will do.
AS_ORDINARY_USER = [
    "setpriv",
    f"--reuid={ORDINARY}",
    f"--regid={ORDINARY}",
    "--clear-groups",
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=-all,+dac_read_search",
]
SURROUNDINGS = """
umask; hostname; id; pwd; date +%Z; env | sort
grep -E '^Sig(Blk|Ign)' /proc/self/status
ls /proc/self/fd | wc -l
touch /build/made; stat -c '%a %u %g' /build/made; rm /build/made
"""


def output(tree: Tree, folder: Path, script: str, **options: bool) -> str:
    outcome = probe(tree.root, folder, script, **options)
    assert outcome.ok, (outcome, (folder / "log").read_text())
    return (folder / "out").read_text()


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


def test_the_only_network_is_loopback(toolchain: Tree, tmp_path: Path) -> None:
    assert output(toolchain, tmp_path, "ls /sys/class/net; cat /sys/class/net/lo/flags").split() == ["lo", "0x9"]
    outcome = probe(toolchain.root, tmp_path, "exec 3<>/dev/tcp/192.0.2.1/80")
    assert outcome.rc == 1
    assert "Network is unreachable" in (tmp_path / "log").read_text()


def test_loopback_is_not_the_hosts(toolchain: Tree, tmp_path: Path, world: World) -> None:
    port = world.mirror.url.rpartition(":")[2]
    connect = f"exec 3<>/dev/tcp/127.0.0.1/{port}"
    assert probe(toolchain.root, tmp_path, connect).rc == 1
    assert probe(toolchain.root, tmp_path, connect, sealed=False).ok


def test_namespaces_are_its_own(toolchain: Tree, tmp_path: Path) -> None:
    kinds = ("ipc", "mnt", "net", "pid", "uts")
    inside = output(toolchain, tmp_path, f"cd /proc/self/ns; for kind in {' '.join(kinds)}; do readlink $kind; done")
    for kind, name in zip(kinds, inside.split(), strict=True):
        assert name != os.readlink(f"/proc/self/ns/{kind}"), kind
    # Its init, the shell and what the shell starts; nobody else.
    assert int(output(toolchain, tmp_path, "ls -d /proc/[0-9]* | wc -l")) <= 5


def test_surroundings_are_as_promised(toolchain: Tree, tmp_path: Path) -> None:
    lines = output(toolchain, tmp_path, SURROUNDINGS).splitlines()
    assert lines[:5] == ["0022", "localhost", "uid=0(root) gid=0(root) groups=0(root)", "/", "UTC"]
    variables = dict(line.split("=", 1) for line in lines[5:-4])
    own = {"OLDPWD", "PWD", "SHLVL", "_"}  # the shell's
    assert {name: value for name, value in variables.items() if name not in own} == {
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "TZ": "UTC",
    }
    assert [int(line.split()[1], 16) for line in lines[-4:-2]] == [0, 0], "signals blocked or ignored"
    assert lines[-1] == "644 0 0"


def test_surroundings_do_not_depend_on_the_caller(toolchain: Tree, tmp_path: Path) -> None:
    def seen(name: str, **caller: object) -> str:
        folder = tmp_path / name
        folder.mkdir()
        argv = [sys.executable, "-m", "tests.support.sandbox_probe", str(toolchain.root), str(folder), SURROUNDINGS]
        result = subprocess.run(argv, capture_output=True, text=True, check=False, **caller)  # type: ignore[call-overload]
        assert result.returncode == 0, result.stderr
        return str(result.stdout)

    odd = {
        "LC_ALL": "POSIX",
        "LANG": "tr_TR.UTF-8",
        "TZ": "Pacific/Kiritimati",
        "HOME": "/nowhere",
        "TMPDIR": "/nowhere",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "MAKEFLAGS": "-j9",
    }

    def ignore_signals() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGUSR1])
        ignored = (1).to_bytes(8, sys.byteorder) + bytes(24)  # the C library's own signal is set in the kernel
        assert ctypes.CDLL(None).syscall({"x86_64": 13, "aarch64": 134}[os.uname().machine], 32, ignored, None, 8) == 0

    usual = seen("usual", cwd=ROOT)
    unusual = seen(
        "unusual", cwd="/", env=odd, umask=0o077, group=12, extra_groups=[3, 4, 27], preexec_fn=ignore_signals
    )
    assert usual == unusual


def test_a_tree_is_never_written_to(toolchain: Tree, tmp_path: Path) -> None:
    def listing() -> set[tuple[str, int, int, int]]:
        found = set()
        for folder, folders, files in os.walk(toolchain.root):
            for name in [*folders, *files]:
                stat = os.lstat(Path(folder, name))
                found.add((f"{folder}/{name}", stat.st_mtime_ns, stat.st_size, stat.st_mode))
        return found

    before = listing()
    script = "rm -r /usr/share; echo x >> /etc/passwd; echo x > /new; chmod 0 /usr/bin/zstd; ls / > /build/seen"
    output(toolchain, tmp_path, script)
    assert "new" in (tmp_path / "seen").read_text().split()
    assert listing() == before


def test_what_is_not_mounted_writable_is_not(toolchain: Tree, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "file").write_text("as it was")
    (tmp_path / "stage").mkdir()
    job = Job(
        root=str(toolchain.root),
        stage=str(tmp_path / "stage"),
        log=str(tmp_path / "log"),
        steps=(Step("write", ("bash", "-c", "echo x > /given/new; echo x > /file; test ! -e /given/new")),),
        mounts=(Mount("/given", str(tmp_path / "given")), Mount("/file", str(tmp_path / "file"))),
    )
    assert run_job(job).ok
    assert (tmp_path / "log").read_text().count("Read-only file system") == 2
    assert (tmp_path / "file").read_text() == "as it was"


def test_texts_replace_the_trees_files_and_links(toolchain: Tree, tmp_path: Path) -> None:
    files = {"/etc/hostname": "mine\n", "/etc/os-release": "a link in the tree\n", "/a/new/place": "x\n"}
    program = {"/usr/bin/rsync": "#!/bin/sh\necho another program\n"}
    script = "cat /etc/hostname /etc/os-release /a/new/place; rsync"
    assert probe(toolchain.root, tmp_path, script, files=files | program).ok
    assert (tmp_path / "out").read_text() == "".join(files.values()) + "another program\n"


def test_nothing_waits_for_the_disk(toolchain: Tree, tmp_path: Path) -> None:
    """/dev/null cannot be synced: a kernel that was asked would refuse."""
    assert probe(toolchain.root, tmp_path, "sync /dev/null && sync --data /dev/null").ok


@pytest.mark.parametrize("name", ["with blanks", "com,ma", "co:lon", "back\\slash", "qu'ote", "ünï"])
def test_paths_may_have_any_characters(name: str, toolchain: Tree, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "tree").symlink_to(toolchain.root)
    outcome = probe(folder / "tree", folder, "echo fine")
    assert outcome.ok
    assert (folder / "out").read_text() == "fine\n"


def test_steps_end_at_the_first_that_fails(toolchain: Tree, tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    steps = (
        Step("first", ("true",)),
        Step("second", ("bash", "-c", "echo why >&2; exit 7")),
        Step("third", ("touch", "/out")),
    )
    job = Job(root=str(toolchain.root), stage=str(tmp_path / "stage"), log=str(tmp_path / "log"), steps=steps)
    outcome = run_job(job)
    assert (outcome.step, outcome.rc, outcome.ok) == ("second", 7, False)
    log = (tmp_path / "log").read_text()
    assert "why" in log
    assert "third" not in log


def test_a_missing_program_is_told_plainly(toolchain: Tree, tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    steps = (Step("run", ("no-such-program", "--help")),)
    job = Job(root=str(toolchain.root), stage=str(tmp_path / "stage"), log=str(tmp_path / "log"), steps=steps)
    assert run_job(job).rc == 127
    log = (tmp_path / "log").read_text()
    assert "no-such-program: No such file or directory" in log
    assert "Traceback" not in log


def test_what_a_step_leaves_running_ends_with_the_job(toolchain: Tree, tmp_path: Path) -> None:
    assert "left" in output(toolchain, tmp_path, "setsid sleep 1000 < /dev/null > /dev/null 2>&1 & echo left")
    nothing_left(tmp_path)


class Held:
    """A sandbox of a process of its own in which programs run until it is ended."""

    SCRIPT = "setsid sleep 1000 & (sleep 1000 & wait) & touch /build/up; wait"

    def __init__(self, tree: Path, folder: Path) -> None:
        self.folder = folder
        argv = [sys.executable, "-m", "tests.support.sandbox_probe", str(tree), str(folder), self.SCRIPT]
        self.process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until((folder / "up").exists)

    def pids(self, word: str) -> list[int]:
        """The processes in the sandbox, or around it, whose command line has a word."""
        return [int(line.split()[0]) for line in leftovers(self.folder)["processes"] if word in line]


@pytest.mark.parametrize("who", ["caller", "sandbox", "init"])
def test_one_kill_ends_all_of_it(who: str, toolchain: Tree, tmp_path: Path) -> None:
    held = Held(toolchain.root, tmp_path)
    inner = sorted(held.pids("anklume_images.builder.inner"))
    assert len(inner) == 2, "the process that waits and the namespace's init"
    assert len(held.pids("sleep 1000")) >= 2
    os.kill({"caller": held.process.pid, "sandbox": inner[0], "init": inner[1]}[who], signal.SIGKILL)
    _, errors = held.process.communicate(timeout=SECONDS)
    assert held.process.returncode == (-signal.SIGKILL if who == "caller" else 1)
    assert "Traceback" not in errors
    nothing_left(tmp_path)


def test_a_sandbox_that_was_killed_is_told(toolchain: Tree, tmp_path: Path) -> None:
    outcomes = []
    thread = threading.Thread(
        target=lambda: outcomes.append(probe(toolchain.root, tmp_path, "touch /build/up; sleep 1000"))
    )
    thread.start()
    wait_until((tmp_path / "up").exists)
    end_all()
    thread.join(SECONDS)
    assert outcomes[0].error == "it ended without an answer (killed, or out of memory)"
    nothing_left(tmp_path)


@pytest.fixture
def open_world(world: World) -> Iterator[World]:
    """A world that everybody may read, and only root may write."""
    with tempfile.TemporaryDirectory(prefix="anklume-test-", dir="/var/tmp") as folder:
        copy = world.copy(Path(folder) / "world")
        for place in (Path(folder), copy.folder):
            place.chmod(0o755)
        yield copy


def as_ordinary_user(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [*AS_ORDINARY_USER, *world.argv(*arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=world.folder)


def test_an_ordinary_user_is_told_what_root_is_for(open_world: World) -> None:
    open_world.app("another")
    result = as_ordinary_user(open_world, "build", "another")
    assert result.returncode == 1
    assert "error: building an image needs root: it mounts file systems and makes device nodes" in result.stderr
    assert "hint: run it as root (sudo); `render`, `list`, `show`, `verify` and `fetch` work without" in result.stderr
    for command in ("lock", "enter"):
        result = as_ordinary_user(open_world, command, "another")
        assert result.returncode == 1
        assert "needs root" in result.stderr
    result = as_ordinary_user(open_world, "gc")
    assert result.returncode == 1
    assert "Permission denied" in result.stderr
    assert "hint: run it as root" in result.stderr


def test_what_an_ordinary_user_is_promised_works(open_world: World) -> None:
    def said(*arguments: str) -> str:
        result = as_ordinary_user(open_world, *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "tiny-app" in said("list")
    assert "A stand-in image" in said("show", "tiny")
    assert "CycloneDX" in said("sbom", "tiny")
    assert " 0 damaged" in said("verify")
    assert "name: tiny-app" in said("render", "tiny-app")
    # What is built already needs nothing that only root may.
    assert "present" in said("build", "tiny-app")
    assert "present" in said("build", "tiny-app", "--explain")


def test_an_ordinary_user_fetches_into_a_store_of_its_own(open_world: World, pipeline: Pipeline) -> None:
    home = open_world.folder / "home"
    home.mkdir()
    pipeline.fetch([TOOLCHAIN])
    for entry in pipeline.locks.get(TOOLCHAIN):
        share_blob(pipeline.store.blobs, entry.sha256, Blobs(home / "store"))
    (home / "store" / "schema").write_text("1\n")
    for folder, _, _ in os.walk(home):
        os.chown(folder, ORDINARY, ORDINARY)
    own = World(home, open_world.mirror)
    (home / "specs").symlink_to(open_world.specs)
    result = as_ordinary_user(own, "fetch", "tiny-app")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("2 fetched")
    assert " 0 damaged" in as_ordinary_user(own, "verify").stdout


LIMITS = {
    "network namespaces": "echo 0 > /proc/sys/user/max_net_namespaces",
    "process namespaces": "echo 0 > /proc/sys/user/max_pid_namespaces",
    "device nodes": ":",  # a user namespace may mount, and make namespaces, but no device nodes
}


@pytest.mark.parametrize("feature", LIMITS)
def test_a_missing_kernel_feature_is_told(feature: str, fresh: World) -> None:
    script = f'{LIMITS[feature]}; exec "$@"'
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *fresh.argv("build", "tiny")]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=fresh.folder)
    assert result.returncode == 1
    assert "error: " in result.stderr
    assert "the sandbox could not be set up" in result.stderr
    assert "hint: the kernel must offer namespaces, overlayfs and tmpfs" in result.stderr
    assert "Traceback" not in result.stderr
    # What was fetched stays; nothing else came of it.
    assert fresh.built("tiny")["status"] == "built"


# Out of a chroot by way of a folder that was opened before another chroot.
BREAK_OUT = (
    'opendir(D, "/"); mkdir("/tmp/below"); chroot("/tmp/below"); chdir(D); chdir("..") for 1..64; chroot(".");'
    'open(F, "<", $ARGV[0]) and print <F>'
)


@pytest.mark.parametrize(
    "way", ["cat /proc/1/root{path} /proc/1/cwd{path}", "ls -d /proc/1/root/{path}", "perl -e '{escape}' {path}"]
)
def test_root_in_a_sandbox_cannot_reach_the_hosts_files(way: str, toolchain: Tree, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host\n")
    probe(toolchain.root, tmp_path, way.replace("{path}", str(secret)).replace("{escape}", BREAK_OUT))
    assert (tmp_path / "out").read_text() == ""
