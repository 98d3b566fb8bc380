"""Machines as the launcher makes them, made by hand in a private Incus: projects, bridges, marks, volumes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from anklume_images.ship.publish import image_files, publish
from launcher.infra.model import Domain, ImageChoice, Infra, Machine, Settings
from launcher.infra.names import DOMAIN, IMAGE, MACHINE, OWNER, VARIABLE, Names
from launcher.inspect.images import ImageLookup
from launcher.observe.instances import look
from launcher.private_incus.init import HOME
from tests.support.instances import create_instance, start_instance
from tests.support.ollama.running import model_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anklume_images.incus.client import Incus, Result
    from anklume_images.pipeline import Pipeline
    from anklume_images.store.images import Image
    from launcher.observe.instances import InstanceState
    from launcher.private_incus.daemon import PrivateIncus

PROJECT = "look"
SECONDS = 90.0
SUBNETS = {"ai-tools": "10.131.1", "web": "10.131.2"}
Devices = dict[str, dict[str, str]]


def infra(*machines: Machine, **keys: Any) -> Infra:
    """A file with these machines, in the two domains that there are."""
    domains = {
        name: Domain(
            name,
            f"{net}.0/24",
            f"{net}.254",
            "infra.yml:3:1",
            machines={m.name: m for m in machines if m.domain == name},
        )
        for name, net in SUBNETS.items()
    }
    return Infra("infra.yml", PROJECT, Settings(), domains, **keys)


def machine(name: str, domain: str, host: int, image: str, **keys: Any) -> Machine:
    """A machine of an image of the store."""
    return Machine(name, domain, f"{SUBNETS[domain]}.{host}", ImageChoice(image), "infra.yml:9:5", **keys)


@dataclass
class World:
    """A private Incus with machines in it."""

    incus: PrivateIncus
    client: Incus
    pipeline: Pipeline
    images: dict[str, Image] = field(default_factory=dict)
    names: Names = field(default_factory=Names)

    def make_domains(self) -> None:
        """The projects of the domains, each with a bridge and a profile."""
        for domain, net in SUBNETS.items():
            mark = {OWNER: PROJECT, DOMAIN: domain}
            config = {"features.images": "false", "features.networks": "false"}
            self.client.send("post", "projects", {"name": domain, "config": config | mark})
            bridge = {"ipv4.address": f"{net}.254/24", "ipv4.nat": "false", "ipv6.address": "none", OWNER: PROJECT}
            name = self.names.network(domain)
            self.client.send("post", "networks", {"name": name, "type": "bridge", "config": bridge})
            root = {"type": "disk", "path": "/", "pool": "default"}
            self.client.within(domain).send("put", "profiles/default", {"config": {}, "devices": {"root": root}})

    def create(
        self,
        wanted: Machine,
        *,
        config: Mapping[str, str] | None = None,
        devices: Devices | None = None,
        volume: str | None = None,
        ours: bool = True,
    ) -> None:
        """An instance, stopped; `volume` is the path of one of its own."""
        image = self.images[str(wanted.image.store)]
        publish(image_files(image, self.pipeline.images, self.pipeline.store), self.client)
        project = self.client.within(wanted.domain)
        network = {"type": "nic", "name": "eth0", "network": self.names.network(wanted.domain)}
        found = {"eth0": network | {"ipv4.address": wanted.address}, **(devices or {})}
        if volume:
            project.send("post", "storage-pools/default/volumes/custom", {"name": f"{wanted.name}-models"})
            disk = {"type": "disk", "pool": "default", "source": f"{wanted.name}-models", "path": volume}
            found[f"vol-{wanted.name}-models"] = disk
        settings = {f"{VARIABLE}{name}": value for name, value in wanted.variables.items()}
        marks = {OWNER: PROJECT, MACHINE: wanted.name, IMAGE: image.ref} if ours else {}
        create_instance(
            project,
            wanted.name,
            fingerprint=image.fingerprint,
            config=settings | marks | dict(config or {}),
            devices=found,
        )

    def start(self, wanted: Machine) -> None:
        start_instance(self.client.within(wanted.domain), wanted.name)

    def change(self, wanted: Machine, config: Mapping[str, str] | None = None, devices: Devices | None = None) -> None:
        """Stop it, change these keys and devices, and start it again."""
        project = self.client.within(wanted.domain)
        project.stop(wanted.name, force=True)
        project.send("patch", f"instances/{wanted.name}", {"config": dict(config or {}), "devices": devices or {}})
        start_instance(project, wanted.name)

    def run(self, wanted: Machine, *command: str) -> Result:
        return self.client.within(wanted.domain).execute(wanted.name, command, timeout=SECONDS)

    def push(self, wanted: Machine, content: bytes, path: str) -> None:
        """Put a file into the instance, as `incus file push` does."""
        assert self.incus.home is not None
        (self.incus.home / "pushed").write_bytes(content)
        target = f"{wanted.name}{path}"
        argv = ["incus", "file", "push", "--quiet", "--create-dirs", "--mode=0644", "--project", wanted.domain]
        result = self.incus.run([*argv, f"{HOME}/pushed", target], capture_output=True)
        assert result.returncode == 0, result.stderr

    def give_model(self, wanted: Machine, name: str) -> None:
        """A model for the stand-in of Ollama."""
        for path, content in model_files(name).items():
            self.push(wanted, content, f"/root/.ollama/models/{path}")

    def wait(self, *wanted: Machine) -> None:
        """Until the healthcheck of each succeeds."""
        end = time.monotonic() + SECONDS
        for one in wanted:
            command = self.images[str(one.image.store)].spec["healthcheck"]["command"]
            while self.run(one, *command).code != 0:
                assert time.monotonic() < end, self.run(one, "journalctl", "-n", "60", "--no-pager").stdout.decode()
                time.sleep(0.2)

    def book(self) -> ImageLookup:
        return ImageLookup(self.pipeline.images, self.pipeline.catalog)

    def look(self, file: Infra) -> tuple[InstanceState, ...]:
        return look(self.client, file, self.names, file.machines())


def changed(wanted: Machine, **keys: Any) -> Machine:
    """The machine, said otherwise in the file."""
    return replace(wanted, **keys)
