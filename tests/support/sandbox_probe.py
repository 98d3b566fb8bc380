"""Runs one shell script in a sandbox, as a process of its own: `sandbox_probe TREE FOLDER SCRIPT`; its output is the
step's."""

from __future__ import annotations

import sys
from pathlib import Path

from anklume_images.builder.sandbox import Job, Mount, Outcome, Step, run_job


def probe(
    tree: Path, folder: Path, script: str, *, sealed: bool = True, files: dict[str, str] | None = None
) -> Outcome:
    """Run a script with bash of the tree; `folder` is writable at /build and gets `out` and `log`."""
    (folder / "stage").mkdir(exist_ok=True)
    job = Job(
        root=str(tree),
        stage=str(folder / "stage"),
        log=str(folder / "log"),
        steps=(Step("probe", ("bash", "-c", script), output=str(folder / "out")),),
        mounts=(Mount("/build", str(folder), writable=True),),
        files=files or {},
        sealed=sealed,
    )
    return run_job(job)


if __name__ == "__main__":
    place = Path(sys.argv[2])
    outcome = probe(Path(sys.argv[1]), place, sys.argv[3])
    sys.stdout.write((place / "out").read_text())
    sys.exit(0 if outcome.ok else 1)
