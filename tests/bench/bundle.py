"""Figures of bundles: making and taking one in, against sha256sum and cp of the same bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.bench.measure import Bench, memory_of, pairs, say
from tests.support.example_store import linked_store

if TYPE_CHECKING:
    from pathlib import Path

IMAGES, MODEL = ("llama-server", "open-webui"), "smollm2-135m"


def bundles(bench: Bench) -> None:
    """Two images and a model, some hundred megabytes; all that is written is on the disk in the end, on both sides."""
    pipeline = bench.pipeline
    pipeline.build(list(IMAGES))
    images = [pipeline.images.resolve(name) for name in IMAGES]
    command = [sys.executable, "-m", "anklume_images", "-q", "--store"]
    subprocess.run([*command, pipeline.store.home, "models", "pull", MODEL], check=True, stdout=subprocess.DEVNULL)
    with linked_store(pipeline, images) as store:
        environment = os.environ | {"ANKLUME_KEYS": str(store.parent / "keys")}
        site, copies, far = bench.place() / "site.anklume", bench.place(), bench.place() / "store"
        peak = 0

        def run(*arguments: str | Path) -> None:
            nonlocal peak
            process = subprocess.Popen([*command, *arguments], env=environment, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0
            peak = max(peak, usage.ru_maxrss)

        def create() -> None:
            run(store, "bundle", "create", *IMAGES, MODEL, "-o", site)

        def copy(*files: Path) -> None:
            subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
            for file in files:
                subprocess.run(["cp", "--reflink=never", file, copies], check=True)
                subprocess.run(["sync", copies / file.name], check=True)
            for file in files:
                (copies / file.name).unlink()

        create()  # with the keys, and all bytes in memory
        listed = subprocess.run(["tar", "-tf", site], check=True, capture_output=True, text=True).stdout.split()
        blobs = [store / name for name in listed if name.startswith("blobs/")]
        say(f"a bundle of {', '.join(IMAGES)} and {MODEL}: {site.stat().st_size >> 20} MiB")
        pairs("bundle create / sha256sum and cp", "≤ 1.43", create, lambda: copy(*blobs))
        root = subprocess.run(
            [*command, store, "trust", "show"], check=True, capture_output=True, text=True, env=environment
        )
        fingerprint = root.stdout.split()[1]

        def take() -> None:
            shutil.rmtree(far, ignore_errors=True)
            run(far, "bundle", "import", site, "--fingerprint", fingerprint)

        pairs("bundle import / sha256sum and cp", "≤ 1.43", take, lambda: copy(site))
        memory_of("the larger of bundle create and import", "< 200 MiB", peak << 10)
