"""Make the project's own Python environment: run by the Makefile, before anything is installed.

Needs Python's standard library only. Where this Python has no pip, pip's wheel is taken from where Debian keeps it,
or out of Debian's package `python3-pip-whl`, downloaded to a temporary folder with apt's state there too: nothing is
installed on the host and none of its configuration changes.

    python3 anklume_images/bootstrap.py VENV REQUIREMENTS [--without-project]
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

OLDEST = (3, 11)


class BootstrapError(Exception):
    """The environment could not be made; the text says why and what to do."""


def main(arguments: list[str]) -> int:
    """Make the environment; install the locked requirements into it, and the project."""
    folder, requirements = Path(arguments[0]).absolute(), Path(arguments[1]).absolute()
    project = Path(__file__).resolve().parent.parent
    try:
        _check_host()
        venv.create(folder, with_pip=False, clear=True, symlinks=True)
        python = folder / "bin" / "python"
        with tempfile.TemporaryDirectory() as scratch:
            pip = [*pip_command(Path(scratch)), "--python", str(python), "--disable-pip-version-check"]
            pip += ["install", "-qq", "--no-deps"]
            _run([*pip, "--require-hashes", "--only-binary", ":all:", "-r", str(requirements)])
            if "--without-project" not in arguments:
                _run([*pip, "--no-build-isolation", "--no-index", "--editable", str(project)])
    except BootstrapError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _check_host() -> None:
    if sys.platform != "linux":
        raise BootstrapError(f"this is {sys.platform}: images are built with Linux' namespaces, on Linux only")
    if sys.version_info < OLDEST:
        raise BootstrapError(
            f"Python {sys.version_info[0]}.{sys.version_info[1]} is too old: 3.11 or newer is needed. "
            "Name another with `make PYTHON=python3.13 …`"
        )


def pip_command(scratch: Path) -> list[str]:
    """A command that is pip, new enough to install into another environment."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    wheels = sorted(Path("/usr/share/python-wheels").glob("pip-*.whl"))
    if not wheels and importlib.util.find_spec("ensurepip"):
        import ensurepip

        wheels = sorted((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    if not wheels:
        wheels = _pip_of_debian(scratch)
    return [sys.executable, str(wheels[-1] / "pip")]


def _pip_of_debian(scratch: Path) -> list[Path]:
    state = ["-o", f"Dir::State={scratch}/state", "-o", f"Dir::Cache={scratch}/cache", "-o", "APT::Sandbox::User=root"]
    for name in ("state/lists/partial", "cache/archives/partial"):
        (scratch / name).mkdir(parents=True)
    try:
        _run(["apt-get", *state, "-qq", "update"])
        _run(["apt-get", *state, "-qq", "download", "python3-pip-whl"], scratch)
        (deb,) = scratch.glob("python3-pip-whl_*.deb")
        _run(["dpkg-deb", "--extract", str(deb), str(scratch / "pip")])
    except (OSError, ValueError) as error:
        raise BootstrapError(
            f"this Python has no pip, and Debian's package of it could not be had ({error}). "
            "Install pip or python3-venv"
        ) from None
    return sorted((scratch / "pip/usr/share/python-wheels").glob("pip-*.whl"))


def _run(argv: list[str], folder: Path | None = None) -> None:
    result = subprocess.run(argv, cwd=folder, check=False)
    if result.returncode != 0:
        raise BootstrapError(f"`{' '.join(argv[:6])} …` failed with exit code {result.returncode}; see above")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
