"""`python -m tests.bench.serve ENTRIES LOG ADDRESS`: the build's mirror, until its input ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from anklume_images.builder.mirror import LoopbackMirror


def main() -> None:
    """Serve what the JSON file ENTRIES says; a line of output tells that it does."""
    entries, log, address = sys.argv[1:]
    with LoopbackMirror(json.loads(Path(entries).read_text()), Path(log), address=address):
        print("ready", flush=True)  # noqa: T201 - whoever started it waits for this
        sys.stdin.read()


if __name__ == "__main__":
    main()
