"""Servers of stores that stall, lie about length, or send elsewhere: told, and only what was signed comes in."""

from __future__ import annotations

import gzip
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import FetchError, StoreError
from anklume_images.inputs.answers import Refusal
from anklume_images.inputs.transport import Transport
from anklume_images.ship.pull import pull
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from anklume_images.trust.origins import Origins
from anklume_images.trust.place import Place
from tests.support.faulty_mirror import Fault, FaultyMirror
from tests.support.private_ca import PrivateCA
from tests.support.publisher import FIRST, Publisher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.store.images import Image

ROOT, TIMESTAMP = "/metadata/1.root.json", "/metadata/timestamp.json"
MANIFEST = f"/images/box/{FIRST}/amd64/manifest.json"
SMALL = (ROOT, TIMESTAMP, "/metadata/1.targets.json", MANIFEST)
QUICK = {"timeout": (1.0, 0.2), "attempts": 1}


pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture
def server(theirs: Publisher) -> Iterator[FaultyMirror]:
    with FaultyMirror() as mirror:
        serve(theirs, mirror)
        yield mirror


def serve(theirs: Publisher, mirror: FaultyMirror) -> None:
    for pattern in ("metadata/*.json", "images/*/*/*/*.json", "blobs/sha256/*/*"):
        for path in theirs.store.home.glob(pattern):
            mirror.serve(f"/{path.relative_to(theirs.store.home)}", path.read_bytes())


def blob_of(theirs: Publisher) -> str:
    sha256 = theirs.images.resolve("box", "amd64").rootfs.sha256
    return f"/blobs/sha256/{sha256[:2]}/{sha256}"


def have(theirs: Publisher, mine: Store, url: str, certificate: Path | None = None) -> Image:
    """As `trust accept` and `pull` do; it waits for less long."""
    place = Place(url, certificate, timeout=QUICK["timeout"], attempts=1)  # type: ignore[arg-type]
    origins = Origins(mine)
    origins.accept(place, theirs.repository.identity, "me@here")
    origin = origins.at(place)
    image, channel = origin.resolve("box", "amd64")
    return pull(origin, image, Images(mine), mine, channel=channel).image


FAULTS = {
    "says nothing": Fault(hold=-1),
    "stalls": Fault(hold=5),
    "breaks off": Fault(cut=5),
    "is reset": Fault(cut=5, reset=True),
    "is shorter than it says": Fault(declare=100_000),
    "is longer than it says": Fault(declare=10),
    "sends more, and does not say how much": Fault(declare=-1, extra=b" more"),
    "never ends": Fault(declare=-1, endless=True),
    "has other bytes": Fault(flip=3),
    "is gone": Fault(status=404),
    "fails": Fault(status=500),
    "leads in a circle": Fault(status=302, headers={"Location": "?again"}),
    "leads to a file of this host": Fault(status=302, headers={"Location": "file:///etc/passwd"}),
    "leads to another protocol": Fault(status=302, headers={"Location": "gopher://127.0.0.1/x"}),
    "leads nowhere": Fault(status=302, headers={"Location": "http://127.0.0.1:1/x"}),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_anywhere_lets_nothing_in_and_nothing_large_is_asked_for_before(
    what: str, theirs: Publisher, mine: Store, server: FaultyMirror
) -> None:
    blob = blob_of(theirs)
    for path in (TIMESTAMP, MANIFEST, blob):
        server.fault(path, always=FAULTS[what])
        with pytest.raises((StoreError, FetchError)):
            have(theirs, mine, server.url)
        assert not list(Images(mine))
        assert not list(mine.home.glob("channels/*"))
        asked = [request.path for request in server.requests]
        assert any(one.startswith("/blobs/") for one in asked) == (path == blob), path
        assert 0 < asked.count(path) < 40
        server.mend()
    assert have(theirs, mine, server.url).version == FIRST


def test_what_is_small_on_its_way_and_large_here_is_not_unpacked(
    theirs: Publisher, mine: Store, server: FaultyMirror
) -> None:
    """Bytes that nobody asked to have compressed, a thousandth of what they say."""
    bomb = gzip.compress(bytes(64 << 20), 1)
    for path in (TIMESTAMP, MANIFEST, blob_of(theirs)):
        server.serve(path, bomb)
        server.fault(path, always=Fault(headers={"Content-Encoding": "gzip"}))
        tracemalloc.start()
        with pytest.raises((StoreError, FetchError)):
            have(theirs, mine, server.url)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()
        assert not list(Images(mine))
        server.mend()
        serve(theirs, server)


@pytest.mark.parametrize("fault", [Fault(declare=-1), Fault(drip=True)], ids=["no length", "byte by byte"])
def test_what_is_only_told_otherwise_is_taken(theirs: Publisher, mine: Store, fault: Fault) -> None:
    with FaultyMirror() as server:
        serve(theirs, server)
        for path in (*SMALL, blob_of(theirs)):
            server.fault(path, always=fault)
        assert have(theirs, mine, server.url).version == FIRST


def test_all_that_is_small_comes_first(theirs: Publisher, mine: Store, server: FaultyMirror) -> None:
    have(theirs, mine, server.url)
    asked = [request.path for request in server.requests]
    large = [path.startswith("/blobs/") for path in asked]
    assert sum(large) == 2
    assert large == sorted(large)
    assert {TIMESTAMP, "/metadata/1.snapshot.json", *SMALL} <= set(asked[: large.index(True)])


def test_another_host_counts_as_much_as_what_it_sends(
    theirs: Publisher, mine: Store, tmp_path: Path, server: FaultyMirror
) -> None:
    """A mirror may send to another, which gets no password of the first one."""
    blob = blob_of(theirs)
    with FaultyMirror(login=("me", "secret")) as first:
        for path in (*SMALL, blob):
            first.fault(path, always=Fault(status=302, headers={"Location": server.url + path}))
        serve(theirs, first)
        url = first.url.replace("http://", "http://me:secret@").replace("127.0.0.1", "localhost")
        assert have(theirs, mine, url).version == FIRST
    assert {*SMALL, blob} <= {request.path for request in server.requests}
    assert not [request for request in server.requests if "authorization" in request.headers]
    for path in (TIMESTAMP, blob):
        server.fault(path, always=Fault(flip=20))
        with FaultyMirror() as first:
            serve(theirs, first)
            first.fault(path, always=Fault(status=302, headers={"Location": server.url + path}))
            fresh = Store(tmp_path / f"fresh-{path == blob}")
            with pytest.raises((StoreError, FetchError)):
                have(theirs, fresh, first.url)
            assert not list(Images(fresh))


@pytest.mark.parametrize("pinned", [True, False])
def test_from_https_nothing_leads_to_http(
    theirs: Publisher,
    mine: Store,
    tmp_path: Path,
    server: FaultyMirror,
    pinned: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority = PrivateCA(tmp_path)
    certificate = authority.path if pinned else None
    if not pinned:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(authority.path))
    with FaultyMirror(tls=authority.server) as secure:
        serve(theirs, secure)
        for path in (TIMESTAMP, MANIFEST, blob_of(theirs)):
            secure.fault(path, always=Fault(status=302, headers={"Location": server.url + path}))
            with pytest.raises(FetchError) as caught:
                have(theirs, mine, secure.url, certificate)
            assert "https to http" in str(caught.value), path
            assert not list(Images(mine))
            secure.mend()
    assert server.requests == []


def test_a_small_file_that_drips_is_a_stall() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 10  # seconds between two looks, so that the drip is slow without the test being so
        return now

    with FaultyMirror() as server:
        url = server.serve("/timestamp.json", b"x" * 4000)
        server.fault("/timestamp.json", always=Fault(drip=True))
        with pytest.raises(Refusal, match="bytes in 3"):
            Transport(timeout=(5, 30), attempts=1, clock=clock).read(url, 5000)
