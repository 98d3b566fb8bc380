"""An infra.yml with as many domains and machines as a figure wants, and what it takes to plan one offline.

`python -m tests.bench.many FILE STORE` is that in a process of its own, whose memory is nobody else's; it prints
seconds, those on a CPU, and peak memory as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGES = ("debian", "llama-server", "open-webui")
_LEVELS = ("admin", "trusted", "semi-trusted")  # 254 subnets each


def write_infra(
    path: Path, domains: int, machines: int, images: tuple[str, ...], *, config: str = "limits.memory: 1GiB"
) -> Path:
    """`machines` in each of `domains`; each domain lets the one before it in at two ports."""
    path.write_text("\n".join(_lines(domains, machines, images, config)) + "\n")
    return path


def _lines(domains: int, machines: int, images: tuple[str, ...], config: str) -> Iterator[str]:
    yield from ("project_name: many", "global: {addressing: {base_octet: 10, zone_base: 100}}", "domains:")
    for domain in range(domains):
        yield from (f"  d{domain}:", f"    description: Number {domain}")
        yield from (f"    trust_level: {_LEVELS[domain % len(_LEVELS)]}", "    machines:")
        for machine in range(machines):
            yield f"      d{domain}m{machine}:"
            yield f"        description: Machine {machine} of domain {domain}"
            yield f"        image: {images[machine % len(images)]}"
            yield f"        config: {{{config}}}"
            yield from ("        boot_autostart: true", f"        boot_priority: {machine % 100}")
    yield "network_policies:"
    for domain in range(1, domains):
        yield f"  - {{from: d{domain - 1}, to: d{domain}, ports: [22, 443]}}"


def plan_offline(path: Path, store: Path) -> int:
    """Check a file, choose its images and plan it against a server that has nothing; the number of steps."""
    from anklume_images.specs.catalog import Catalog, builtin_specs
    from anklume_images.store.images import Images
    from anklume_images.store.store import Store
    from launcher.infra.host import HostFacts
    from launcher.infra.load import load_infra
    from launcher.observe.live import Live
    from launcher.plan.desired import PlanContext, desired
    from launcher.plan.difference import difference
    from launcher.prepare import choose_images

    infra, _ = load_infra(path, Catalog.load([builtin_specs()]), host=HostFacts())
    around = PlanContext(images=choose_images(infra, Images(Store(store))))
    plan = difference(desired(infra, around).resources, Live(), infra.project_name)
    return len(plan.todo)


def _peak() -> int:
    """Bytes; getrusage's figure would be that of the process which started this one, were it larger."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    """Plan a file that was written before."""
    begun = time.monotonic()
    steps = plan_offline(Path(sys.argv[1]), Path(sys.argv[2]))
    spent = {"seconds": time.monotonic() - begun, "cpu_seconds": time.process_time()}
    print(json.dumps({"steps": steps, **spent, "bytes": _peak()}))  # noqa: T201


if __name__ == "__main__":
    main()
