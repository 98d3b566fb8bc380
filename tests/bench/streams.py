"""Figures of a store that others consume: the index of many versions, and the server beside nginx."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from anklume_images.ship.certificate import certificate_for
from anklume_images.ship.index import write_index
from anklume_images.store.blobs import blob_path
from anklume_images.store.images import Images, Package, StoredFile
from anklume_images.store.store import Store
from tests.bench.measure import Bench, figures, ratio, rounds, say, seconds, single
from tests.support.stored_images import put

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMAGES, VERSIONS, PACKAGES = 20, 50, 150
LARGE = 500 << 20
_NGINX = """\
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors; user root;
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on; tcp_nopush on;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{
    listen 127.0.0.1:{port} ssl; root {root};
    ssl_certificate {certificate}; ssl_certificate_key {certificate};
  }}
}}
"""


def many_versions(bench: Bench) -> None:
    """The store's lists with 1,000 versions of 20 images."""
    store = Store(bench.place() / "store")
    for number in range(IMAGES):
        for version in range(VERSIONS):
            packages = tuple(
                Package("deb", f"package-{n}", f"1.{version if n % 40 == version % 40 else 0}") for n in range(PACKAGES)
            )
            ref = f"1.{version}-{hashlib.sha256(f'{number} {version}'.encode()).hexdigest()[:12]}"
            put(store, f"image-{number}", ref, epoch=version, packages=packages)
    images = Images(store)

    def from_nothing() -> float:
        for folder in ("streams", "cache"):
            shutil.rmtree(store.home / folder, ignore_errors=True)
        return seconds(lambda: write_index(store))

    def after_a_change() -> float:
        (first, *_) = images
        images.set_channel(first.name, first.architecture, f"now-{time.monotonic_ns()}", first.version)
        return seconds(lambda: write_index(store))

    rows = rounds({"from nothing": from_nothing, "after a change": after_a_change})
    for name, found in rows.items():
        figures(f"index of 1,000 versions, {name}", "≤ 1 s", found)
    command = [sys.executable, "-m", "anklume_images", "--store", str(store.home)]
    single("list of 1,000 versions", "≤ 0.3 s", lambda: _run([*command, "list"]))
    single("gc of 1,000 versions, which removes 980 the first time", "≤ 5 s", lambda: _run([*command, "-q", "gc"]))


def serving(bench: Bench) -> None:
    """One file of 500 MB over TLS, beside nginx where the host has it."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx is None or shutil.which("curl") is None:
        say("serve of 500 MB: not measured, as this host has no nginx or no curl")
        return
    folder = bench.place()
    store, certificate = Store(folder / "store"), certificate_for(folder / "serve.pem", ["127.0.0.1"])
    store.create()
    file = folder / "store/large"
    with file.open("wb") as out:
        for _ in range(LARGE >> 20):
            out.write(os.urandom(1 << 20))
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    store.blobs.adopt(file, sha256)
    put(store, "large", rootfs=StoredFile(sha256, LARGE))
    port = _free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=port, root=store.home, certificate=certificate.chain))
    with served(store.home, certificate.chain) as own, _started([nginx, "-c", str(config)]):
        _run(
            [
                "curl",
                "-sk",
                "--retry",
                "20",
                "--retry-connrefused",
                "-o",
                os.devnull,
                f"https://127.0.0.1:{port}/schema",
            ]
        )
        actions = {
            name: lambda port=number: seconds(
                lambda: _run(["curl", "-skf", "-o", os.devnull, f"https://127.0.0.1:{port}/{blob_path(sha256)}"])
            )
            for name, number in (("ours", own), ("nginx", port))
        }
        rows = rounds(actions)
    ratio("nginx / serve, one file of 500 MB", "≥ 0.8", rows["nginx"], rows["ours"])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def served(home: Path, certificate: Path) -> Iterator[int]:
    """`serve` of a store, with a certificate that has its key with it; the port."""
    argv = [sys.executable, "-m", "anklume_images", "--store", str(home), "serve", "--port", "0", "--json"]
    argv += ["--certificate", str(certificate), "--key", str(certificate)]
    with _started(argv) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["port"]


@contextlib.contextmanager
def _started(argv: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
