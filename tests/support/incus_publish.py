"""A program that publishes, to be run in another network, measured, or killed.

One JSON argument: `connect` and `image` as their functions take them, `die_at` (a share of the bytes sent, or
`before-alias`) where the program kills itself. It prints the report and its own memory high-water mark in KiB.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from anklume_images.errors import AnklumeError
from anklume_images.incus.client import Incus
from anklume_images.ship.publish import ImageFiles, publish


def argument(image: ImageFiles, connect: dict[str, Any], die_at: float | str | None = None) -> str:
    document = {"image": dataclasses.asdict(image), "connect": connect, "die_at": die_at}
    return json.dumps(document, default=str)


def main() -> None:
    document = json.loads(sys.argv[1])
    die_at = document["die_at"]

    def progress(sent: int, total: int) -> None:
        if isinstance(die_at, float) and sent >= die_at * total:
            os.kill(os.getpid(), signal.SIGKILL)

    image = document["image"]
    files = ImageFiles(**image | {name: Path(image[name]) for name in ("metadata", "rootfs")})
    connect = {key: Path(value) if key.endswith("cert") or key == "key" else value
               for key, value in document["connect"].items()}  # fmt: skip
    try:
        with Incus.connect(**connect) as incus:
            if die_at == "before-alias":
                incus.aliases = lambda: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
            report = dataclasses.asdict(publish(files, incus, progress))
    except AnklumeError as error:
        report = {"error": str(error), "hint": error.hint}
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    sys.stdout.write(json.dumps(report | {"peak": int(peak.split()[1])}, default=list) + "\n")


if __name__ == "__main__":
    main()
