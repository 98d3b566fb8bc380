"""Images booted in a private Incus: one Incus of each version, started at its first use and shared by all tests."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.ship.publish import image_files, publish
from launcher.private_incus.daemon import PrivateIncus
from launcher.private_incus.init import HOME
from tests.support.instances import create_instance, delete_instance, start_instance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from anklume_images.incus.client import Incus, Result
    from anklume_images.pipeline import Pipeline
    from anklume_images.store.images import Image

SECONDS = 60.0
_numbers = itertools.count(1)


@dataclass
class Answer:
    """An answer over HTTP."""

    status: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Machine:
    """One instance."""

    host: Host
    name: str

    def run(self, *command: str) -> Result:
        return self.host.client.execute(self.name, command, timeout=SECONDS)

    def output(self, *command: str) -> str:
        result = self.run(*command)
        assert result.code == 0, result.stdout + result.stderr
        return result.stdout.decode()

    def journal(self, unit: str) -> str:
        """What a unit said since the instance was started."""
        return self.output("journalctl", "-b", "-u", unit, "--no-pager", "-o", "cat")

    def healthy(self) -> bool:
        """What the image's own healthcheck says."""
        return self.run(*self.host.images[self.name].spec["healthcheck"]["command"]).code == 0

    def wait(self, condition: Callable[[], Any], unit: str = "*") -> None:
        """Until it holds; shows the unit's journal when it does not come to that."""
        end = time.monotonic() + SECONDS
        while not condition():
            if time.monotonic() > end:
                pytest.fail(self.output("journalctl", "-u", unit, "-n", "60", "--no-pager"))
            time.sleep(0.2)

    def start(self) -> None:
        """Start it, and wait until its systemd can be asked."""
        start_instance(self.host.client, self.name)
        end = time.monotonic() + SECONDS
        while self.run("systemctl", "is-system-running").stdout.strip() in (b"", b"offline", b"unknown"):
            assert time.monotonic() < end, "systemd does not answer"
            time.sleep(0.1)

    def boot(self) -> str:
        """What systemd calls the system's state once it has booted."""
        return self.run("systemctl", "is-system-running", "--wait").stdout.decode().strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.output("systemctl", "show", unit, "--property", name, "--value").strip()

    def status(self, unit: str) -> dict[str, str]:
        """What the kernel says of a unit's main process."""
        lines = self.output("cat", f"/proc/{self.show(unit, 'MainPID')}/status").splitlines()
        return dict(line.split(":\t", 1) for line in lines)

    def push(self, content: bytes, path: str, mode: str = "0644") -> None:
        """Put a file into the instance, as `incus file push` does."""
        incus = self.host.incus
        assert incus.home is not None
        (incus.home / "pushed").write_bytes(content)
        argv = [
            "incus",
            "file",
            "push",
            "--quiet",
            "--create-dirs",
            "--mode",
            mode,
            f"{HOME}/pushed",
            f"{self.name}{path}",
        ]
        result = incus.run(argv, capture_output=True)
        assert result.returncode == 0, result.stderr

    def request(self, url: str, body: Any = None, *, headers: tuple[str, ...] = ()) -> Answer:
        options = ["--silent", "--max-time", "60", "--noproxy", "*", "--write-out", "\n%{http_code}"]
        for header in headers:
            options += ["--header", header]
        if body is not None:
            options += ["--header", "Content-Type: application/json", "--data-raw", json.dumps(body)]
        text, _, status = self.run("curl", *options, url).stdout.decode().rpartition("\n")
        return Answer(int(status), text)

    def restart(self, **config: str) -> None:
        """Stop it, set these `user.anklume.…`, unset all others, and start it again."""
        client = self.host.client
        client.stop(self.name, force=True)
        old = client.get(f"instances/{self.name}")
        kept = {key: value for key, value in old["config"].items() if not key.startswith("user.anklume.")}
        kept |= {f"user.anklume.{key}": value for key, value in config.items()}
        body = {key: old[key] for key in ("architecture", "devices", "profiles")} | {"config": kept}
        client.send("put", f"instances/{self.name}", body)
        self.start()

    def remove(self) -> None:
        self.host.client.stop(self.name, force=True)
        delete_instance(self.host.client, self.name)


@dataclass
class Host:
    """A private Incus of one version, to which images are published when they are first launched."""

    incus: PrivateIncus
    client: Incus
    pipeline: Pipeline
    images: dict[str, Image] = field(default_factory=dict)
    volumes: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def launched(
        self,
        image: Image,
        *,
        volumes: Mapping[str, str] | None = None,
        nodes: Mapping[str, dict[str, str]] | None = None,
        **config: str,
    ) -> Iterator[Machine]:
        """A started instance with these `user.anklume.…`, volumes (path to name) and devices, removed afterwards."""
        machine = Machine(self, f"machine{next(_numbers)}")
        publish(image_files(image, self.pipeline.images, self.pipeline.store), self.client)
        devices = dict(nodes or {})
        for path, volume in (volumes or {}).items():
            if volume not in self.volumes:
                self.client.send("post", "storage-pools/default/volumes/custom", {"name": volume})
                self.volumes.add(volume)
            devices[volume] = {"type": "disk", "pool": "default", "source": volume, "path": path}
        settings = {f"user.anklume.{key}": value for key, value in config.items()}
        create_instance(self.client, machine.name, fingerprint=image.fingerprint, config=settings, devices=devices)
        self.images[machine.name] = image
        try:
            machine.start()
            yield machine
        finally:
            machine.remove()


@pytest.fixture(scope="session")
def hosts(incus_tree: Callable[[str], Path], pipeline: Pipeline) -> Iterator[Callable[[str], Host]]:
    """Starts `incus-6` or `incus-7` at its first use."""
    running: dict[str, Host] = {}
    folder = Path(tempfile.mkdtemp(prefix="anklume-test-", dir="/var/tmp"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)

        def start(name: str) -> Host:
            if name not in running:
                incus = stack.enter_context(PrivateIncus(tree=incus_tree(name), home=folder / name))
                running[name] = Host(incus, stack.enter_context(incus.client()), pipeline)
            return running[name]

        yield start


@pytest.fixture(params=["incus-6", "incus-7"])
def each_host(request: pytest.FixtureRequest, hosts: Callable[[str], Host]) -> Host:
    """Both versions in turn."""
    return hosts(request.param)


@pytest.fixture(scope="session")
def host(hosts: Callable[[str], Host]) -> Host:
    """The older version, for what does not depend on it."""
    return hosts("incus-6")
