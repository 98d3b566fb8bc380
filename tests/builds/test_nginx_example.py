"""The example spec: another folder than the program's, built by the command, booted, its page answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.ship.publish import image_files, publish
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from launcher.private_incus.daemon import PrivateIncus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anklume_images.incus.client import Incus
    from tests.conftest import Cli

SPECS = Path(__file__).resolve().parents[2] / "examples" / "specs"
SECONDS = 60.0


@pytest.fixture(scope="module")
def fingerprint(anklume: Cli) -> str:
    report = anklume.json("--specs", str(SPECS), "build", "--refresh-missing", "nginx")
    (image,) = [image for image in report["images"] if image["name"] == "nginx"]
    assert image["error"] is None
    return str(image["fingerprint"])


@pytest.fixture(scope="module", params=["incus-6", "incus-7"])
def client(
    request: pytest.FixtureRequest,
    incus_tree: Callable[[str], Path],
    test_store: Path,
    fingerprint: str,
) -> Iterator[Incus]:
    store = Store(test_store)
    images = Images(store)
    (image,) = [image for image in images if image.fingerprint == fingerprint]
    with PrivateIncus(tree=incus_tree(request.param)) as incus, incus.client() as connection:
        publish(image_files(image, images, store), connection)
        yield connection


def launch(client: Incus, name: str, fingerprint: str, **variables: str) -> None:
    config = {f"user.anklume.{variable}": value for variable, value in variables.items()}
    client.create_instance(name, fingerprint=fingerprint, config=config)
    client.start(name)
    end = time.monotonic() + SECONDS
    while (result := client.execute(name, ["/usr/lib/anklume/healthcheck"])).code != 0:
        assert time.monotonic() < end, result.stderr
        time.sleep(0.2)


def status(client: Incus, name: str, url: str) -> str:
    argv = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--noproxy", "*", url]
    return client.execute(name, argv).stdout.decode()


def test_its_page_answers(client: Incus, fingerprint: str) -> None:
    launch(client, "web", fingerprint)
    assert status(client, "web", "http://127.0.0.1/") == "200"
    assert status(client, "web", "http://127.0.0.1/nothing") == "404"
    page = client.execute("web", ["curl", "--silent", "--noproxy", "*", "http://127.0.0.1/"]).stdout.decode()
    assert "This page was baked into the image." in page


def test_its_port_is_a_setting_of_the_instance(client: Incus, fingerprint: str) -> None:
    launch(client, "moved", fingerprint, nginx_port="8080")
    assert status(client, "moved", "http://127.0.0.1:8080/") == "200"
    assert status(client, "moved", "http://127.0.0.1/") == "000"


def test_it_is_the_same_when_built_again(anklume: Cli, fingerprint: str) -> None:
    report = anklume.json("--specs", str(SPECS), "build", "--check", "nginx")
    assert [check["identical"] for check in report["checks"]] == [True]
