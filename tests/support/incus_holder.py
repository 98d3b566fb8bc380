"""A program that starts a private Incus with a running container and waits, to be killed or interrupted.

Arguments: tree, home, and image files (metadata, rootfs, fingerprint) or nothing. It says on standard output where
it is: `start`, `up`, `running`, `closed`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from launcher.private_incus.daemon import PrivateIncus


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    tree, home, *image = sys.argv[1:]
    say("start")
    try:
        with PrivateIncus(tree=Path(tree), home=Path(home)) as incus:
            say(f"up {incus.supervisor} {incus.pid}")
            if image:
                metadata, rootfs, fingerprint = image
                with incus.client() as client:
                    client.import_image(Path(metadata), Path(rootfs), fingerprint=fingerprint)
                    client.create_instance("held", fingerprint=fingerprint)
                    client.start("held")
                say("running")
            time.sleep(600)
    finally:
        say("closed")


if __name__ == "__main__":
    main()
