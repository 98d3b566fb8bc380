"""The deterministic packer: distrobuilder's raw metadata in, the same bytes every time out.

Incus' image format (doc/reference/image_format.md of Incus): a tarball with `metadata.yaml` and `templates/`, and the
root file system as squashfs. The fingerprint of such a split image is the sha256 of both, one after the other.
"""

from __future__ import annotations

import io
import re
import tarfile
from typing import TYPE_CHECKING, Any

from anklume_images.architectures import MACHINES
from anklume_images.builder.sandbox import Job, Mount, Step, run_job
from anklume_images.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["installed_packages", "pack_metadata", "unpacked_size"]


def pack_metadata(
    raw: Path, properties: dict[str, str], architecture: str, epoch: int, tree: Path, scratch: Path, log: Path
) -> Path:
    """Write `incus.tar.xz` from the folder that distrobuilder left; returns its path.

    Everything that depends on when and where is replaced: dates become `epoch`, owners root, the order alphabetical.
    """
    import yaml

    raw_metadata: dict[str, Any] = yaml.safe_load((raw / "metadata.yaml").read_text(encoding="utf-8"))
    metadata = {
        "architecture": MACHINES[architecture],
        "creation_date": epoch,
        "properties": properties,
        "templates": raw_metadata.get("templates") or {},
    }
    text = yaml.safe_dump(metadata, sort_keys=True, default_flow_style=False, allow_unicode=True)
    members = {"metadata.yaml": text.encode()}
    members |= {f"templates/{path.name}": path.read_bytes() for path in sorted((raw / "templates").glob("*"))}
    packed = scratch / "packed"
    packed.mkdir()
    (packed / "incus.tar").write_bytes(_tar(members, epoch))
    (scratch / "pack-stage").mkdir()
    job = Job(
        root=str(tree),
        stage=str(scratch / "pack-stage"),
        log=str(log),
        steps=(Step("compress metadata", ("xz", "-6", "-T1", "/build/incus.tar")),),
        mounts=(Mount("/build", str(packed), writable=True),),
    )
    outcome = run_job(job)
    if not outcome.ok:
        raise BuildError(f"compressing the metadata failed ({outcome.error or outcome.rc})", step=outcome.step, tail=[])
    return packed / "incus.tar.xz"


def _tar(members: dict[str, bytes], epoch: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(members.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(data), epoch, 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def installed_packages(status: Path) -> dict[str, str]:
    """Name and version of every package that dpkg's status file calls installed."""
    versions: dict[str, str] = {}
    name = version = state = ""
    with status.open(encoding="utf-8") as stream:
        for line in [*stream, "\n"]:
            if line == "\n":
                if state.endswith(" installed"):
                    versions[name] = version
                name = version = state = ""
            elif line.startswith("Package: "):
                name = line[9:].strip()
            elif line.startswith("Version: "):
                version = line[9:].strip()
            elif line.startswith("Status: "):
                state = line[8:].strip()
    return versions


def unpacked_size(listing: Path) -> int:
    """Bytes of all regular files, from the listing of `unsquashfs -lln` (`-rw-r--r-- 0/0  1234 date time /path`)."""
    total = 0
    pattern = re.compile(r"-\S+ +\d+/\d+ +(\d+) ")
    with listing.open(encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            match = pattern.match(line)
            total += int(match.group(1)) if match else 0
    return total
