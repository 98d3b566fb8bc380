"""The images, built from real inputs and booted in both long-term releases of Incus."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.ship.publish import image_files, publish
from launcher.private_incus.daemon import PrivateIncus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anklume_images.incus.client import Incus, Result
    from anklume_images.pipeline import Pipeline

IMAGES = ("debian", "debian-12", "llama-server", "open-webui")


@pytest.fixture(scope="module", params=["incus-6", "incus-7"])
def client(request: pytest.FixtureRequest, incus_tree: Callable[[str], Path]) -> Iterator[Incus]:
    with PrivateIncus(tree=incus_tree(request.param)) as incus, incus.client() as connection:
        yield connection


def until_healthy(client: Incus, name: str, healthcheck: dict[str, Any]) -> Result:
    """Ask until the healthcheck is green, for as long as the spec allows."""
    end = time.monotonic() + healthcheck["timeout"]
    while True:
        result = client.execute(name, healthcheck["command"])
        if result.code == 0 or time.monotonic() > end:
            return result
        time.sleep(0.5)


@pytest.mark.parametrize("name", IMAGES)
def test_image_boots_and_no_unit_fails(
    client: Incus, pipeline: Pipeline, built: Callable[[str], Any], name: str
) -> None:
    image = built(name)
    report = publish(image_files(image, pipeline.images, pipeline.store), client)
    assert report.fingerprint == image.fingerprint
    assert client.aliases()[f"{name}/{image.version}"] == image.fingerprint
    config = {"user.anklume.llama_server_service_enabled": "false"} if name == "llama-server" else {}
    client.create_instance(f"boot-{name}", fingerprint=image.fingerprint, config=config)
    try:
        client.start(f"boot-{name}")
        if name != "llama-server":  # without a model there is nothing to serve: its own tests give it one
            healthy = until_healthy(client, f"boot-{name}", image.spec["healthcheck"])
            assert healthy.code == 0, healthy
        running = {"command": ["systemctl", "is-system-running"], "timeout": 60}
        assert until_healthy(client, f"boot-{name}", running).stdout == b"running\n"
        assert client.execute(f"boot-{name}", ["systemctl", "--failed", "--no-legend"]).stdout == b""
        assert client.execute(f"boot-{name}", ["hostname"]).stdout == f"boot-{name}\n".encode()
        assert client.execute(f"boot-{name}", ["resolvectl", "query", f"boot-{name}.incus"]).code == 0
    finally:
        client.stop(f"boot-{name}", force=True)
        client.delete(f"boot-{name}")


def test_two_instances_share_no_identity(client: Incus, pipeline: Pipeline, built: Callable[[str], Any]) -> None:
    image = built("debian")
    publish(image_files(image, pipeline.images, pipeline.store), client)
    seen: list[tuple[bytes, ...]] = []
    for name in ("twin-a", "twin-b"):
        client.create_instance(name, fingerprint=image.fingerprint)
        client.start(name)
        until_healthy(client, name, image.spec["healthcheck"])
        files = ("/etc/machine-id", "/etc/hostname")
        seen.append(tuple(client.execute(name, ["cat", file]).stdout for file in files))
    assert all(len(identity) == 33 for identity, _ in seen)
    assert all(a != b for a, b in zip(*seen, strict=True))
    for name in ("twin-a", "twin-b"):
        client.stop(name, force=True)
        client.delete(name)


def test_image_holds_no_secret_and_no_mirror(client: Incus, pipeline: Pipeline, built: Callable[[str], Any]) -> None:
    image = built("debian")
    publish(image_files(image, pipeline.images, pipeline.store), client)
    client.create_instance("clean", fingerprint=image.fingerprint)
    client.start("clean")
    until_healthy(client, "clean", image.spec["healthcheck"])
    mirrors = [url for archive in ("debian", "debian-security") for url in pipeline.sources().bases(archive)]
    hosts = {url.split("/")[2] for url in mirrors}
    found = client.execute("clean", ["grep", "-rlF", *[f"-e{host}" for host in hosts], "/etc", "/var/lib/apt"])
    assert found.stdout == b""
    assert client.execute("clean", ["sh", "-c", "ls /etc/ssh/ssh_host_* /root/.ssh /root/.ollama"]).code != 0
    assert client.execute("clean", ["passwd", "-S", "root"]).stdout.split()[1] == b"L"
    client.stop("clean", force=True)
    client.delete("clean")
