"""The catalogue page in a real Chromium: on a phone, in the dark, from the disk and from a server."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.ship.certificate import certificate_for
from anklume_images.ship.index import write_index
from anklume_images.ship.serve import StoreServer
from anklume_images.store.images import Package
from anklume_images.store.store import Store
from launcher.trial.browser import open_page
from tests.support.chromium import chromium
from tests.support.stored_images import put, put_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anklume_images.pipeline import Pipeline
    from launcher.trial.browser import Page

LONG = "0.12.4-with-a-very-long-name-of-a-version-0123456789ab"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    packages = tuple(
        Package("deb", f"a-package-with-a-long-name-{number}", "1:2.41.5-0+deb13u1") for number in range(70)
    )
    for number, name in enumerate(("debian", "open-webui-with-a-long-name")):
        put(store, name, "1.0-00000000000a", epoch=number, channels=("prod", "staging"))
        put(store, name, LONG, epoch=number + 1, packages=packages, description="Some words. " * 30)
    source = f"https://models.example/{'a-long-name/' * 12}model.gguf"
    put_model(store, f"org/{'a-long-name-of-a-model-' * 4}:1b", license="Apache-2.0", source=source)
    write_index(store)
    return store


@pytest.fixture
def pages(store: Store, tmp_path: Path) -> Iterator[list[str]]:
    """The page's addresses: from the disk, and from a server."""
    certificate = certificate_for(tmp_path / "serve.pem", ["127.0.0.1"])
    with StoreServer(store.home, "127.0.0.1", 0, certificate) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield [(store.home / "index.html").as_uri(), f"https://127.0.0.1:{server.port}/"]
        server.shutdown()
        thread.join()


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short path."""
    with tempfile.TemporaryDirectory(prefix="anklume-test-", dir="/var/tmp") as folder:
        yield Path(folder)


def look(page: Page, *, width: int, scheme: str) -> dict[str, Any]:
    """What is to be seen with everything folded out; colours as the browser computed them."""
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    seen = page.evaluate(
        """({
          width: document.documentElement.scrollWidth,
          wide: [...document.querySelectorAll("body *")].filter(
            one => one.getBoundingClientRect().right > innerWidth + 1).map(one => one.tagName),
          back: getComputedStyle(document.body).backgroundColor,
          text: getComputedStyle(document.body).color,
          address: document.querySelector(".address").textContent,
          loaded: performance.getEntriesByType("resource").map(one => one.name),
          small: [...document.querySelectorAll("body *")].filter(
            one => parseFloat(getComputedStyle(one).fontSize) < 12).map(one => one.tagName),
        })"""
    )
    assert isinstance(seen, dict)
    return seen


def brightness(colour: str) -> int:
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def test_it_is_good_on_a_phone_and_in_the_dark(pages: list[str], home: Path, pipeline: Pipeline) -> None:
    disk, served = pages
    with open_page(chromium(pipeline, home), home / "profile") as page:
        page.call("Security.setIgnoreCertificateErrors", ignore=True)
        for address in (disk, served):
            page.go(address)
            for width in (390, 1280):
                for scheme in ("light", "dark"):
                    seen = look(page, width=width, scheme=scheme)
                    assert (seen["width"], seen["wide"], seen["small"], seen["loaded"]) == (width, [], [], [])
                    assert (brightness(seen["back"]) > brightness(seen["text"])) == (scheme == "light")
                    assert abs(brightness(seen["back"]) - brightness(seen["text"])) > 450
            assert seen["address"] == (served.rstrip("/") if address == served else "https://ADDRESS-OF-THIS-PAGE")
        page.evaluate("document.querySelector('a[href=\"#debian\"]').click()")
        assert page.evaluate("location.hash") == "#debian"
        page.go(disk)
        for name in ("sbom.cdx.json", "manifest.json"):
            page.evaluate(f"document.querySelector('a[href$=\"{name}\"]').click()")
            assert page.wait(f"location.pathname.endsWith('{name}')", 10)
            page.go(disk)
