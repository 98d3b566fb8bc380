"""What an image has to pass before it is promoted: each gate gives its evidence in a line, or refuses."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images.errors import PolicyError
from anklume_images.trust.attest import attested_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securesystemslib.signer import Key

    from anklume_images.store.images import Image
    from anklume_images.store.store import Store

__all__ = ["GateError", "healthcheck", "reproduced", "scanned"]

_INFRA = """\
project_name: gate
global: {{addressing: {{base_octet: 10, zone_base: 100}}}}
domains:
  gate:
    machines:
      candidate: {{image: {ref}, ephemeral: true}}
"""
_LINES = 12  # of what a failed launch said
_SECONDS = 900


class GateError(PolicyError):
    """An image did not pass a gate."""


def healthcheck(image: Image, home: Path) -> str:
    """Launch it in a private Incus, by the program that launches, and wait until it is healthy."""
    with tempfile.TemporaryDirectory(prefix="anklume-gate-") as folder:
        file = Path(folder) / "infra.yml"
        file.write_text(_INFRA.format(ref=image.ref), encoding="utf-8")
        argv = [sys.executable, "-m", "launcher", "--store", str(home), "try", str(file), "--offline", "--run", "true"]
        result = subprocess.run(argv, capture_output=True, timeout=_SECONDS, check=False)
    if result.returncode:
        said = "\n".join(
            f"  | {line}" for line in result.stderr.decode(errors="replace").strip().splitlines()[-_LINES:]
        )
        raise GateError(
            f"{image.ref} did not come up healthy in a private Incus\n{said}",
            hint="look at it yourself: anklume-launch try with a file that has a machine of this image",
        )
    return "healthy in a private Incus"


def reproduced(image: Image, home: Path, builders: Sequence[Key]) -> str:
    """Another builder, one of those that are named, has got the same bytes."""
    found = attested_by(home, image, builders)
    if not found:
        raise GateError(
            f"no builder that you named has attested {image.ref} ({image.fingerprint[:12]})",
            hint="on another host: anklume-images attest; then bring its file here: anklume-images attest --add FILE",
        )
    return f"built with the same bytes by {', '.join(keyid[:16] for keyid in found)}"


def scanned(image: Image, store: Store, databases: Sequence[Path], severity: str) -> str:
    """No known vulnerability of that severity or over that has been fixed somewhere.

    Refused, too, where the databases do not speak of what is in the image: that nothing is found then means nothing.
    """
    from anklume_images.evidence.scan import scan_image

    verdict = scan_image(store, image, databases)
    found = verdict.at_least(severity, fixed_only=True)
    if found:
        listed = "\n".join(
            f"  {one.severity} {one.id}: {one.package} {one.version}, fixed in {one.fixed}" for one in found
        )
        raise GateError(
            f"{image.ref} has known vulnerabilities that are fixed elsewhere\n{listed}",
            hint="lock newer inputs and build again: anklume-images update --write",
        )
    unknown = {package.kind for package in image.packages if not verdict.checked.get(package.kind, 1)}
    if unknown:
        raise GateError(
            f"no database that you gave knows about {' and '.join(verdict.unchecked)} of {image.ref}",
            hint="bring one for Debian's release and, where there are wheels, one for PyPI (--db, repeatable)",
        )
    checked = sum(verdict.checked.values())
    left_out = f"; not checked: {', '.join(verdict.unchecked)}" if verdict.unchecked else ""
    return f"{checked} packages, no vulnerability of severity {severity} or over that is fixed elsewhere{left_out}"
