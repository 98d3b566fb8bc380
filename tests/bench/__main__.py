"""`make bench`: how long the main things take, as ratios of two things measured in one run, three times each.

A report, not a test: it fails on nothing. Goals stand beside the figures.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from anklume_images.architectures import host_architecture
from anklume_images.console import Console
from anklume_images.pipeline import Options, Pipeline
from anklume_images.settings import load_settings
from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.store.store import Store
from tests.bench import bundle, gpu, images, launch, quickstart, store, streams, travel
from tests.bench.measure import RUNS, Bench, say

if TYPE_CHECKING:
    from collections.abc import Callable

SECTIONS: dict[str, Callable[[Bench], None]] = {
    "help": images.commands,
    "fetch": images.fetching,
    "import": images.importing,
    "app": images.app_build,
    "sealed": images.sealed_build,
    "store": store.store,
    "offline": launch.offline,
    "plan": launch.plan,
    "ten": launch.ten,
    "quickstart": quickstart.quickstart,
    "gpu": gpu.gpu,
    "bundle": bundle.bundles,
    "promote": travel.promotion,
    "changed": travel.changed,
    "memory": travel.memory,
    "versions": streams.many_versions,
    "serve": streams.serving,
}


def main() -> None:
    """Run the sections that are named, or all."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="all when none is named")
    parser.add_argument("--incus", choices=["6", "7"], default="7", help="which Incus the launcher is measured on (7)")
    given = parser.parse_args()
    home = Path(os.environ.get("ANKLUME_STORE") or Path(platformdirs.user_cache_dir("anklume-tests")) / "store")
    options = Options(host_architecture(), refresh_missing=True)
    pipeline = Pipeline(Store(home), Catalog.load([builtin_specs()]), load_settings(), options, Console(quiet=True))
    say(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {RUNS} runs each")
    with tempfile.TemporaryDirectory(dir=_made(home / "bench")) as folder:
        for name in given.sections or list(SECTIONS):
            SECTIONS[name](Bench(pipeline, Path(folder), f"incus-{given.incus}"))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
