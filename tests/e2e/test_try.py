"""`anklume-launch try`: a file's machines in a private Incus, a command or a shell that knows it, and then nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images import linux
from anklume_images.store.store import Store
from launcher.private_incus.daemon import PrivateIncus
from launcher.private_incus.state_directory import PREFIX, sweep
from launcher.trial.tiny_gguf import tiny_gguf
from tests.support.incus_images import make_rootfs
from tests.support.incus_leftovers import leftovers, nothing_left
from tests.support.terminal import Terminal
from tests.support.tiny_store import put_tiny, write_specs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0
NOEXEC = 8  # MS_NOEXEC of mount(2)
HEAD = "project_name: demo\nglobal: {addressing: {}}\n"


@dataclass
class Tries:
    """Runs the command upon a store and specs; its private Incuses live below `home`."""

    home: Path
    store: Path
    specs: Path
    image: str
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, machines: str, more: str = "") -> Path:
        """An infra.yml with these machines (`{image}` in it) in the domain `web`."""
        file = self.home / "infra.yml"
        file.write_text(
            HEAD + f"domains:\n  web:\n    machines:\n      {machines.replace('{image}', self.image)}\n{more}"
        )
        return file

    def argv(self, file: Path, *arguments: str) -> list[str]:
        options = ["--store", str(self.store), "--specs", str(self.specs)]
        return [sys.executable, "-m", "launcher", *options, "try", str(file), *arguments]

    def options(self) -> dict[str, Any]:
        environment = {**os.environ, "TMPDIR": str(self.home), "INCUS_REMOTE": "nowhere", **self.environment}
        return {"cwd": ROOT, "env": environment}

    def __call__(self, file: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            self.argv(file, *arguments),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            **self.options(),
        )
        said = result.stdout + result.stderr
        assert "Traceback" not in said, said
        assert result.returncode == code, said
        assert nothing_left(self.home)
        return result

    def start(self, file: Path, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(file, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **self.options(),
        )


def told(machine: str, command: str) -> str:
    """Shell that shows what a command says in a machine of `web`, once more where it says nothing.

    Stock `incus exec` without an input loses all output now and then: of 250 in turn on a busy host 1 to 3, with
    Incus 6.0.4 and 7.0.
    """
    ask = f"out=$(incus exec --project web {machine} -- {command})"
    return f'for _ in 1 2 3 4 5; do {ask}; [ -z "$out" ] || break; done; echo "$out"'


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder on disk for everything that a try makes."""
    with tempfile.TemporaryDirectory(prefix="anklume-test-", dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def tiny_rootfs(incus_tree: Callable[[str], Path]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="anklume-test-", dir="/var/tmp") as folder:
        with PrivateIncus(tree=incus_tree("incus-6"), home=Path(folder)) as incus:
            make_rootfs(incus, Path(folder) / "tiny.squashfs")
        yield Path(folder) / "tiny.squashfs"


@pytest.fixture
def tiny(home: Path, tiny_rootfs: Path, incus_tree: Callable[[str], Path], test_store: Path) -> Tries:
    """With an image that boots in a moment, in a store that shares its unpacked trees with the tests' own."""
    for name in ("incus-6", "incus-7"):
        incus_tree(name)
    store = Store(home / "store")
    image = put_tiny(store, tiny_rootfs, home, 1)
    (store.home / "trees").symlink_to(test_store / "trees")
    return Tries(home, store.home, write_specs(home / "specs"), image.ref)


@pytest.fixture
def nginx(home: Path, test_store: Path) -> Tries:
    """With the example image, built where the store lacks it."""
    return Tries(home, test_store, ROOT / "examples/specs", "nginx")


def get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return str(answer.read().decode())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


# What is there, seen by a command in it


LOOK = """
import json, os, subprocess, sys, urllib.request

def said(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

open("pushed", "w").write("from the host")
said("incus", "file", "push", "--project", "web", "pushed", "front/root/pushed")
said("incus", "file", "pull", "--project", "web", "front/root/pushed", "pulled")
address = os.environ["ANKLUME_URL_FRONT"]
json.dump({
    "page": urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=10).read().decode(),
    "address": address,
    "environment": {name: value for name, value in os.environ.items() if name.startswith("ANKLUME_")},
    "instances": [(i["project"], i["name"], i["status"]) for i in
        json.loads(said("incus", "list", "--all-projects", "--format", "json"))],
    "version": said("incus", "query", "/1.0").split('"server_version": "')[1].split('"')[0],
    "pulled": open("pulled").read(),
    "plan": said("anklume-launch", "plan", sys.argv[1]),
    "images": said("anklume-images", "list"),
    "network": said("inside", "cat", "/proc/net/dev"),
}, open("seen.json", "w"))
sys.exit(7)
"""


@pytest.mark.parametrize("version", ["6", "7"])
def test_a_command_sees_the_private_incus_and_its_exit_code_counts(nginx: Tries, home: Path, version: str) -> None:
    file = nginx.write("front: {image: {image}}", "network_policies: [{from: host, to: front, ports: [80]}]\n")
    (home / "look.py").write_text(LOOK)
    command = f"sh -c 'cd {home} && exec {sys.executable} look.py {file}'"
    result = nginx(file, "--incus", version, "--run", command, code=7)
    seen = json.loads((home / "seen.json").read_text())
    assert "This page was baked into the image." in seen["page"]
    assert seen["address"].startswith("http://127.0.0.1:")
    seen["environment"].pop("ANKLUME_TEST_STORE", None)  # of who runs the tests
    assert seen["environment"] == {
        "ANKLUME_TRIAL": "try demo",
        "ANKLUME_INCUS_VERSION": seen["version"],
        "ANKLUME_MACHINE_FRONT": "10.120.0.1",
        "ANKLUME_URL_FRONT": seen["address"],
        "ANKLUME_URL_FRONT_80": seen["address"],
    }
    assert seen["version"].startswith(f"{version}.")
    assert seen["instances"] == [["web", "front", "Running"]]
    assert seen["pulled"] == "from the host"
    assert "nothing to do" in seen["plan"]
    assert "nginx" in seen["images"]
    assert "net-web" in seen["network"]
    assert f"front  10.120.0.1  {seen['address']} is its port 80" in result.stderr
    with pytest.raises(urllib.error.URLError, match="refused"):
        get(seen["address"])


def test_ports_follow_the_machine_and_are_where_they_are_wanted(nginx: Tries, home: Path) -> None:
    file = nginx.write("front: {image: {image}, vars: {nginx_port: 8081}}\n      back: {image: {image}}")
    wanted = free_port()
    script = home / "ask.sh"
    script.write_text(
        "set -e\n"
        "incus restart --force --project web back\n"  # the way in is found again
        'until curl --noproxy "*" -s "$ANKLUME_URL_BACK" >/dev/null 2>&1; do sleep 0.2; done\n'
        'curl --noproxy "*" -sf "$ANKLUME_URL_FRONT" > front\n'
        'curl --noproxy "*" -sf "$ANKLUME_URL_BACK_80" > back\n'
    )
    publish = ["--publish", f"front:8081={wanted}", "--publish", "back:22"]
    result = nginx(file, *publish, "--json", "--", "sh", "-c", f"cd {home} && . ./ask.sh")
    document = json.loads(result.stdout)
    ports = {name: machine["ports"] for name, machine in document["machines"].items()}
    assert ports["front"] == {"8081": f"http://127.0.0.1:{wanted}"}
    assert set(ports["back"]) == {"80", "22"}
    for name in ("front", "back"):
        assert "baked into the image" in (home / name).read_text()
    assert document["machines"]["front"]["address"] == "10.120.0.1"
    assert document["machines"]["back"]["healthy_seconds"] > 0
    assert set(document["seconds"]) == {"build", "incus", "launch"}


def test_the_shell_says_where_it_is_and_how_to_look_inside(tiny: Tries) -> None:
    file = tiny.write("front: {image: {image}}")
    tiny.environment = {"SHELL": "/bin/bash", "TERM": "dumb"}
    # setsid makes the terminal the controlling one, as a login does: without one no Ctrl-C arrives.
    terminal = Terminal(["setsid", "--ctty", "--wait", *tiny.argv(file)], columns=200, **tiny.options())
    try:
        terminal.read_until(r"look inside:\s+incus list --all-projects\s+incus exec --project web front -- bash")
        terminal.read_until(r"\(try demo\) ")
        terminal.type("incus exec --project web front -- id -u; type -p incus\n")
        terminal.read_until(rf"\r\n0\r\n{tiny.home}/{PREFIX}\w+/session/bin/incus")
        terminal.type("sleep 600\n")
        terminal.read_until("sleep 600")
        time.sleep(0.5)
        terminal.type("\x03")  # Ctrl-C is for what runs in the shell
        terminal.read_until(r"\(try demo\) ")
        terminal.type("exit 3\n")
        assert terminal.end() == 3
    finally:
        terminal.close()
    assert nothing_left(tiny.home)


def test_models_are_in_the_volume_before_the_machine_starts(tiny: Tries, home: Path) -> None:
    file = tiny.write("front: {image: {image}}")
    model = home / "some model.gguf"
    model.write_bytes(tiny_gguf())
    look = told("front", "stat -c '%s %a %u' '/root/models/some model.gguf'")
    result = tiny(file, "--model", str(model), "--", "sh", "-c", look)
    assert result.stdout == f"{len(tiny_gguf())} 644 0\n"
    assert result.stderr.count("models in volume default/front-models: some model.gguf (512.9 KiB)") == 1


def test_simulated_cards(tiny: Tries) -> None:
    file = tiny.write("front: {image: {image}, gpu: true}")
    result = tiny(file, "--fake-gpus", "1", "--", "sh", "-c", told("front", "ls /dev/nvidia0"))
    assert result.stdout == "/dev/nvidia0\n"
    refused = tiny(file, "--run", "true", code=4)
    assert "front" in refused.stderr
    without = tiny(file, "--no-gpu", "--run", "incus config device list --project web front")
    assert "eth0" in without.stdout.split()
    assert not [name for name in without.stdout.split() if name.startswith("gpu")]


def test_pools_that_the_file_names_are_made(tiny: Tries) -> None:
    file = tiny.write("front: {image: {image}, storage_volumes: {stuff: {path: /stuff, pool: slow}}}")
    assert tiny(file, "--", "sh", "-c", told("front", "ls -d /stuff")).stdout == "/stuff\n"


@pytest.mark.parametrize("version", ["6", "7"])
def test_folders_of_the_host_are_the_machines_own(tiny: Tries, version: str) -> None:
    data = "box: {image: {image}, persistent_data: {notes: {path: /notes}}}\n      cat: {image: {image}}"
    file = tiny.write(data, "shared_volumes:\n  drop: {source: /home/me/drop, path: /drop, consumers: {web: rw}}\n")
    into = "incus exec --project web box -- sh -c 'echo said > /drop/word && echo kept > /notes/word'"
    look = told("cat", "sh -c 'cat /drop/word && stat -c %u /drop/word'")
    result = tiny(file, "--incus", version, "--", "sh", "-ec", f"{into}; {look}; {told('box', 'cat /notes/word')}")
    assert result.stdout == "said\n0\nkept\n"


def test_only_what_is_selected_is_launched(tiny: Tries) -> None:
    file = tiny.write("front: {image: {image}}\n      back: {image: {image}}")
    result = tiny(file, "--only", "back", "--run", "incus list --all-projects --format csv --columns n")
    assert result.stdout == "back\n"


@pytest.fixture
def noexec() -> Iterator[Path]:
    """A folder from which no program runs."""
    with tempfile.TemporaryDirectory(prefix="anklume-test-", dir="/var/tmp") as folder:
        linux.mount(folder, folder, flags=linux.BIND)
        linux.mount("none", folder, flags=linux.BIND | linux.REMOUNT | NOEXEC)
        yield Path(folder)
        subprocess.run(["umount", folder], check=True)


def test_its_commands_run_where_the_temporary_folder_is_noexec(tiny: Tries, noexec: Path) -> None:
    tiny.environment["TMPDIR"] = str(noexec)
    file = tiny.write("front: {image: {image}}")
    result = tiny(file, "--run", "incus list --all-projects --format csv --columns n")
    assert result.stdout == "front\n"
    assert list(noexec.iterdir()) == list((tiny.store / "scratch").iterdir()) == []


def test_where_no_folder_runs_programs_it_says_so_first(tiny: Tries, noexec: Path) -> None:
    tiny.environment["TMPDIR"] = str(noexec)
    tiny.store = noexec / "store"
    result = tiny(tiny.write("front: {image: {image}}"), "--run", "true", code=1)
    assert "both are mounted noexec" in result.stderr
    assert "created" not in result.stderr


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["--run", "no-such-command"], 127, "no-such-command: No such file or directory"),
        (["--", "sh", "-c", "kill -9 $$"], 137, ""),
        (["--", "sh", "-c", "exit 0"], 0, ""),
        (["--run", "/etc/passwd"], 126, "/etc/passwd: Permission denied"),
    ],
)
def test_the_commands_exit_code_is_the_verbs(tiny: Tries, command: list[str], code: int, said: str) -> None:
    assert said in tiny(tiny.write("front: {image: {image}}"), *command, code=code).stderr


# What is refused, before anything is started


@pytest.mark.parametrize(
    ("machines", "arguments", "code", "said"),
    [
        ("front: {imag: debian}", [], 2, "unknown key 'imag'"),
        ("front: {image: {image}}", ["--publish", "font:80"], 2, "no machine 'font' is launched"),
        ("front: {image: {image}}", ["--publish", "front"], 2, "write MACHINE:PORT or MACHINE:PORT=HOSTPORT"),
        ("front: {image: {image}}", ["--publish", "front:99999"], 2, "not a port of a machine"),
        ("front: {image: {image}}", ["--run", "it's"], 2, "no closing quotation"),
        ("front: {image: {image}}", ["--run", " "], 2, "--run names no command"),
        ("front: {image: {image}}", ["--run", "true", "--", "true"], 2, "not by both"),
        ("front: {image: {image}}", ["--no-gpu", "--fake-gpus", "1"], 2, "not both"),
        ("front: {image: {image}}", ["--only", "fornt"], 2, "did you mean 'front'?"),
        ("front: {image: {image}}", ["--model", "/no/such.gguf"], 2, "does not exist"),
        ("front: {image: {image}}", ["--model", "docs"], 2, "is no file"),
        ("front: {image: {image}}", ["--model", "smollm"], 2, "did you mean 'smollm2-135m'?"),
        ("front: {image: {image}}", ["--model", "pyproject.toml"], 1, "this is no GGUF file"),
        ("front: {os_image: 'images:alpine/3.20'}", [], 1, "a private Incus reaches no network"),
        ("front: {os_image: 'images:debian/13', type: vm}", [], 1, "there are containers only in a private Incus"),
    ],
)
def test_what_cannot_be_is_refused_first(
    tiny: Tries, machines: str, arguments: list[str], code: int, said: str
) -> None:
    result = tiny(tiny.write(machines), *arguments, code=code)
    assert said in result.stderr
    assert "created" not in result.stderr


def test_a_model_that_nobody_serves(nginx: Tries, home: Path) -> None:
    (home / "some.gguf").write_bytes(tiny_gguf())
    result = nginx(nginx.write("front: {image: {image}}"), "--model", str(home / "some.gguf"), code=1)
    assert "no machine serves GGUF files" in result.stderr


def test_a_port_that_somebody_else_has(tiny: Tries) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = tiny(tiny.write("front: {image: {image}}"), "--publish", f"front:80={port}", "--run", "true", code=1)
    assert f"port {port} of 127.0.0.1 cannot be had: Address already in use" in result.stderr


# Whatever is killed


def processes(tries: Tries) -> str:
    return " ".join(leftovers(tries.home)["processes"])


def wait_until(condition: Callable[[], object], what: str, process: subprocess.Popen[str] | None = None) -> None:
    """Wait for what `process` is to do, where that is given."""
    end = time.monotonic() + SECONDS
    while not condition():
        if process is not None and (process.poll() is not None or time.monotonic() > end):
            process.terminate()
            raise AssertionError(f"it did not come to that: {what}\n{process.communicate()[0]}")
        assert time.monotonic() < end, f"it did not come to that: {what}"
        time.sleep(0.002)


def started(tries: Tries) -> subprocess.Popen[str]:
    return tries.start(
        tries.write("front: {image: {image}}"), "--", "sh", "-c", f"echo $$ > {tries.home}/pid; exec sleep 600"
    )


def command_pid(tries: Tries, process: subprocess.Popen[str] | None = None) -> int:
    pid = tries.home / "pid"
    wait_until(lambda: pid.exists() and pid.read_text().strip(), "the command runs", process)
    return int(pid.read_text())


# Moments in a try, in their order, seen from outside.
MOMENTS: dict[str, Callable[[Tries], object]] = {
    "the folder is there": lambda tries: next(tries.home.glob(f"{PREFIX}*"), None),
    "the supervisor runs": lambda tries: "private_incus.supervisor" in processes(tries),
    "incusd runs": lambda tries: "incusd" in processes(tries),
    "the bridge is there": lambda tries: "net-web" in processes(tries),
    "the container runs": lambda tries: "monitor" in processes(tries),
    "the command runs": command_pid,
}


@pytest.mark.matrix
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", MOMENTS)
def test_ended_at_any_moment_it_leaves_nothing(tiny: Tries, moment: str, number: signal.Signals) -> None:
    with started(tiny) as process:
        wait_until(lambda: MOMENTS[moment](tiny), moment, process)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        process.wait(SECONDS)
        assert process.stdout is not None
        said = process.stdout.read()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), said
    assert "Traceback" not in said
    wait_until(lambda: not command_runs(tiny), "the command ends too")
    assert nothing_left(tiny.home, but_folders=number == signal.SIGKILL)
    sweep(tiny.home)  # as the next start does: a supervisor that was about to begin could not
    assert nothing_left(tiny.home)


def command_runs(tries: Tries) -> bool:
    with contextlib.suppress(OSError, ValueError):
        pid = int((tries.home / "pid").read_text())
        return b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@pytest.mark.parametrize("victim", ["supervisor", "pid 1", "incusd", "command"])
def test_a_part_of_it_killed(tiny: Tries, victim: str) -> None:
    with started(tiny) as process:
        pid = command_pid(tiny, process)
        os.kill({"command": pid}.get(victim) or find(tiny, victim), signal.SIGKILL)
        if victim != "command":
            wait_until(lambda: "incusd --group" not in processes(tiny), "Incus ends")
            assert process.poll() is None  # whoever works in the shell goes on until he leaves
            os.kill(pid, signal.SIGTERM)
        process.wait(SECONDS)
        assert process.stdout is not None
        said = process.stdout.read()
    assert process.returncode == (137 if victim == "command" else 143), said
    assert "Traceback" not in said
    assert nothing_left(tiny.home)


def find(tries: Tries, victim: str) -> int:
    """The pid of a process of the private Incus."""
    lines = [line.split(": ", 1) for line in leftovers(tries.home)["processes"]]
    supervisor = next(
        int(pid) for pid, command in lines if "private_incus.supervisor" in command and os.getpgid(int(pid)) == int(pid)
    )
    if victim == "supervisor":
        return supervisor
    if victim == "pid 1":
        return int(Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()[0])
    return next(int(pid) for pid, command in lines if "incusd --group" in command)
