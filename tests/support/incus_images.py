"""A tiny container image made of a tree's own files, and variants of it with other fingerprints."""

from __future__ import annotations

import io
import shutil
import tarfile
import uuid
from typing import TYPE_CHECKING

from anklume_images.ship.publish import ImageFiles
from anklume_images.store.images import fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.trial.private import PrivateIncus

PROGRAMS = "sh sleep cat ls id stat true false seq stty"
# Ends on the signal by which LXC asks for a shutdown.
INIT = "#!/bin/sh\ntrap 'exit 0' PWR\nwhile :; do sleep 1 & wait; done\n"
MAKE_ROOTFS = f"""
set -e
cd /tmp; mkdir r; cd r
mkdir -p usr/bin usr/sbin usr/lib usr/lib64 etc dev proc sys run tmp root var
ln -s usr/bin usr/sbin usr/lib usr/lib64 .
for program in {PROGRAMS}; do cp -L /usr/bin/$program usr/bin/; done
for program in usr/bin/*; do ldd $program | grep -o '/[^ ]*'; done | sort -u |
  while read library; do cp -L --parents $library .; done
cat > usr/sbin/init; chmod 755 usr/sbin/init
echo root:x:0:0:root:/root:/bin/sh > etc/passwd; echo root:x:0: > etc/group
chown -R 0:0 .
mkdir -p root/models/sub; echo begun > root/models/sub/first; ln -s sub/first root/models/link
chmod 2750 root/models; chmod 600 root/models/sub/first; chown 33:44 root/models; chown 34:45 root/models/sub/first
mksquashfs . /srv/trial/tiny.squashfs -quiet -no-progress -comp zstd
rm -r /tmp/r
"""


def make_rootfs(incus: PrivateIncus, target: Path) -> Path:
    """Make the squashfs with the tree's own mksquashfs, inside."""
    incus.run(["sh", "-c", MAKE_ROOTFS], input=INIT.encode(), check=True)
    assert incus.home is not None
    shutil.move(incus.home / "tiny.squashfs", target)
    return target


def make_image(folder: Path, rootfs: Path, *, aliases: tuple[str, ...] = (), **properties: str) -> ImageFiles:
    """An image of that root file system with a fingerprint of its own."""
    serial = uuid.uuid4().hex
    text = f"architecture: x86_64\ncreation_date: 1700000000\nproperties:\n  os: tiny\n  serial: {serial}\n".encode()
    metadata = folder / f"{serial}.tar.gz"
    with tarfile.open(metadata, "w:gz") as archive:
        member = tarfile.TarInfo("metadata.yaml")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return ImageFiles(metadata, rootfs, fingerprint(metadata, rootfs), aliases, properties)
