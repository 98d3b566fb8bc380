"""`make bench`: how long the main things take, as ratios of two things measured in one run, three times each.

A report, not a test: it fails on nothing. Goals stand beside the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
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
from tests.bench.measure import ROWS, RUNS, Bench, say, table

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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures into a file, too")
    given = parser.parse_args()
    home = Path(os.environ.get("ANKLUME_STORE") or Path(platformdirs.user_cache_dir("anklume-tests")) / "store")
    options = Options(host_architecture(), refresh_missing=True)
    pipeline = Pipeline(Store(home), Catalog.load([builtin_specs()]), load_settings(), options, Console(quiet=True))
    say(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {RUNS} runs each")
    with tempfile.TemporaryDirectory(dir=_made(home / "bench")) as folder:
        for name in given.sections or list(SECTIONS):
            SECTIONS[name](Bench(pipeline, Path(folder), f"incus-{given.incus}"))
    say(f"\n{table()}")
    if given.json:
        rows = [{**asdict(row), "met": row.met or None} for row in ROWS]
        machine = {"cpus": os.cpu_count(), "kernel": os.uname().release, "machine": os.uname().machine}
        document = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine, "runs": RUNS, "figures": rows}
        given.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
