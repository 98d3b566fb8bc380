"""A store of root's, served and listed by a user who may only read it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.ship.index import write_index
from anklume_images.store.blobs import blob_path
from anklume_images.store.store import Store
from tests.support.stored_images import put

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
# May read everything, the test's own Python say, which lies in root's home on some hosts; may write what is nobody's.
AS_NOBODY = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
)  # fmt: skip


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody can enter."""
    with tempfile.TemporaryDirectory(prefix="anklume-test-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_an_ordinary_user_serves_and_lists_what_it_can_read(place: Path) -> None:
    store = Store(place / "store")
    image = put(store, "debian")
    write_index(store)
    before = files(store.home)
    settings = place / "settings"
    settings.mkdir()
    os.chown(settings, NOBODY, NOBODY)
    env = os.environ | {"XDG_CONFIG_HOME": str(settings), "HOME": str(settings), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*AS_NOBODY, sys.executable, "-m", "anklume_images", "--store", str(store.home)]
    listed = subprocess.run([*command, "list", "--json"], env=env, capture_output=True, text=True, check=False)
    assert listed.returncode == 0, listed.stderr
    assert [entry["fingerprint"] for entry in json.loads(listed.stdout)] == [image.fingerprint]
    argv = [*command, "serve", "--port", "0", "--json"]
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            facts = json.loads(server.stdout.readline())
            assert f"Uid:\t{NOBODY}\t{NOBODY}" in Path(f"/proc/{server.pid}/status").read_text()
            trust = ssl.create_default_context(cafile=facts["certificate"])
            connection = http.client.HTTPSConnection("127.0.0.1", facts["port"], context=trust, timeout=20)
            with contextlib.closing(connection):
                connection.request("GET", f"/{blob_path(image.rootfs.sha256)}")
                assert len(connection.getresponse().read()) == image.rootfs.size
        finally:
            server.terminate()
    assert server.returncode == 0
    assert files(store.home) == before
