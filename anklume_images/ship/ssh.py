"""A store on another host, over ssh: the program there says what it has, gets a bundle of the rest, and checks it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from anklume_images.errors import HostError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Host", "SshError", "host_of", "send"]

_LINES = 12  # of what a program said


class SshError(HostError):
    """The other host could not be reached, or the program there failed."""


@dataclass(frozen=True)
class Host:
    """Where a store is: `destination` is ssh's, `USER@HOST`."""

    destination: str
    port: int | None
    store: str

    def argv(self, *words: str) -> list[str]:
        """How anklume-images is run there."""
        port = ["-p", str(self.port)] if self.port else []
        return ["ssh", *port, "--", self.destination, shlex.join(["anklume-images", "--store", self.store, *words])]


def host_of(url: str) -> Host:
    """The host in `ssh://[USER@]HOST[:PORT]/FOLDER`; StoreError for anything else."""
    hint = "write ssh://HOST/FOLDER, or ssh://USER@HOST:PORT/FOLDER"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise StoreError(f"{url}: {error}", hint=hint) from None
    if parts.scheme != "ssh" or not parts.hostname or parts.path in ("", "/") or parts.password:
        raise StoreError(f"{url} names no store on another host", hint=hint)
    destination = f"{parts.username}@{parts.hostname}" if parts.username else parts.hostname
    return Host(destination, port, parts.path)


def send(name: str, own: Sequence[str], host: Host, *, fingerprint: str, moves: Sequence[str] = ()) -> dict[str, Any]:
    """Have the store there take an image or a model; `own` are the options of this program here.

    `moves` are options of the import there, which say which channel moves. Returns what `bundle import --json` says
    there. The store there is signed again, if it is signed.
    """
    with tempfile.TemporaryDirectory(prefix="anklume-ssh-") as folder:
        inventory = Path(folder) / "inventory"
        inventory.write_bytes(_run(host.argv("bundle", "needs", "-o", "-")))
        create = [sys.executable, "-m", "anklume_images", *own, "bundle", "create", name, "-o", "-"]
        take = host.argv("bundle", "import", "-", "--json", "--fingerprint", fingerprint, *moves)
        report: dict[str, Any] = json.loads(_pipe([*create, "--for", str(inventory)], take))
    if json.loads(_run(host.argv("trust", "show", "--json")))["own"] is not None:
        _run(host.argv("trust", "sign"))
    return report


def _run(argv: Sequence[str]) -> bytes:
    result = subprocess.run(argv, capture_output=True, check=False)
    if result.returncode:
        raise _failure(argv, result.returncode, result.stderr)
    return result.stdout


def _pipe(source: Sequence[str], sink: Sequence[str]) -> bytes:
    """What the second program says when it is given what the first one writes."""
    with tempfile.TemporaryFile("w+b") as said, subprocess.Popen(source, stdout=subprocess.PIPE, stderr=said) as first:
        result = subprocess.run(sink, stdin=first.stdout, capture_output=True, check=False)
        if first.stdout is not None:
            first.stdout.close()  # so that the first one ends when the second has
        code = first.wait()
        said.seek(0)
        if result.returncode:
            raise _failure(sink, result.returncode, result.stderr)
        if code:
            raise _failure(source, code, said.read())
    return result.stdout


def _failure(argv: Sequence[str], code: int, stderr: bytes) -> SshError:
    there = argv[0] == "ssh"
    lines = "\n".join(f"  | {line}" for line in stderr.decode(errors="replace").strip().splitlines()[-_LINES:])
    what = "the bundle could not be made"
    if there:
        what = "it could not be reached" if code == 255 else "anklume-images failed there"
    hint = "ssh has to log in without asking, and find anklume-images in its PATH" if there else None
    return SshError(f"{what} (exit code {code})\n{lines}", where=argv[-2] if there else None, hint=hint)
