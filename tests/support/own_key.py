"""The `anklume-images` command, whose apt trusts the key in $STAND_IN_KEY in place of Debian's."""

from __future__ import annotations

import os
import shutil

from anklume_images.builder.apt import TreeApt
from anklume_images.cli.main import main


def keyring(apt: TreeApt) -> str:
    """The stand-in archive's key, where apt sees it."""
    shutil.copyfile(os.environ["STAND_IN_KEY"], apt.scratch / "key.asc")
    return f"{apt.mounted}/key.asc"


TreeApt.keyring = keyring  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
