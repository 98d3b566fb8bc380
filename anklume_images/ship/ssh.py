"""A store on another host, over ssh: the program there says what it has, gets a bundle of the rest, and checks it."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
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

    from anklume_images.store.images import Image

__all__ = [
    "Host",
    "SshError",
    "channel_of",
    "host_of",
    "identity_at",
    "image_at",
    "model_at",
    "piped",
    "receive",
    "send",
]

_LINES = 12  # of what a program said
_READER_IS_GONE = (141, -signal.SIGPIPE)  # exit codes of one whose output nobody takes any more


class SshError(HostError):
    """The other host could not be reached, or the program there failed."""


@dataclass(frozen=True)
class Host:
    """Where a store is: `destination` is ssh's, `USER@HOST`."""

    destination: str
    port: int | None
    store: str

    def __str__(self) -> str:
        return f"{self.destination}:{self.store}"

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
    there. The store there is signed again, if it is signed: by the import itself, which takes back what it moved where
    that fails, so that it does also when this side is gone.
    """
    with tempfile.TemporaryDirectory(prefix="anklume-ssh-") as folder:
        inventory = Path(folder) / "inventory"
        inventory.write_bytes(_run(host.argv("bundle", "needs", "-o", "-")))
        create = [sys.executable, "-m", "anklume_images", *own, "bundle", "create", name, "-o", "-"]
        take = host.argv("bundle", "import", "-", "--json", "--sign", "--fingerprint", fingerprint, *moves)
        report: dict[str, Any] = json.loads(piped([*create, "--for", str(inventory)], take))
    return report


def identity_at(host: Host) -> str:
    """What the store there is known by, as it says itself; StoreError where it is not signed: nothing could be checked.

    To be asked before `receive`, as making a bundle there would begin to sign.
    """
    own = _signed_as(host)
    if own is None:
        raise StoreError(
            "the store there is not signed", where=str(host), hint="its owner signs it: anklume-images trust sign"
        )
    return own


def receive(name: str, own: Sequence[str], host: Host, *, arch: str, fingerprint: str | None) -> dict[str, Any]:
    """Have this store take an image or a model of the one there; `own` are the options of this program here.

    Returns what `bundle import --json` says here. No channel moves. The keys there are accepted here, or have this
    `fingerprint`.
    """
    here = [sys.executable, "-m", "anklume_images", *own]
    inventory = _run([*here, "bundle", "needs", "-o", "-"])
    create = host.argv("--arch", arch, "bundle", "create", name, "-o", "-", "--for", "-")
    known = ["--fingerprint", fingerprint] if fingerprint else []
    take = [*here, "bundle", "import", "-", "--json", "--no-channel", *known]
    report: dict[str, Any] = json.loads(piped(create, take, inventory))
    return report


def image_at(ref: str, host: Host, arch: str) -> Image:
    """An image of the store there, as it describes it; no signature says so."""
    from anklume_images.trust.documents import manifest_of

    return manifest_of(_run(host.argv("--arch", arch, "show", ref, "--json")), str(host))


def channel_of(image: Image, channel: str, host: Host) -> tuple[bool, str | None]:
    """Whether the store there has the image, and which version of it the channel names there."""
    listed = json.loads(_run(host.argv("--arch", image.architecture, "list", "--json")))
    same = [one for one in listed if (one["name"], one["architecture"]) == (image.name, image.architecture)]
    before = next((one["version"] for one in same if channel in one["channels"]), None)
    return image.version in [one["version"] for one in same], before


def model_at(name: str, host: Host) -> str | None:
    """The sha256 of the model of that name in the store there; None where it has none."""
    listed = json.loads(_run(host.argv("models", "list", "--json")))
    return next((str(one["sha256"]) for one in listed if one["name"] == name and one["present"]), None)


def _signed_as(host: Host) -> str | None:
    own = json.loads(_run(host.argv("trust", "show", "--json")))["own"]
    return str(own["fingerprint"]) if own else None


def _run(argv: Sequence[str]) -> bytes:
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if result.returncode:
        raise _failure(argv, result.returncode, result.stderr)
    return result.stdout


def piped(source: Sequence[str], sink: Sequence[str], given: bytes = b"") -> bytes:
    """What the second program says when it is given what the first one writes, which itself is `given` something.

    SshError of the one that failed first.
    """
    with contextlib.ExitStack() as stack:
        said, asked = (stack.enter_context(tempfile.TemporaryFile("w+b")) for _ in range(2))
        asked.write(given)
        asked.seek(0)
        first = stack.enter_context(subprocess.Popen(source, stdin=asked, stdout=subprocess.PIPE, stderr=said))
        result = subprocess.run(sink, stdin=first.stdout, capture_output=True, check=False)
        if first.stdout is not None:
            first.stdout.close()  # so that the first one ends when the second has
        code = first.wait()
        said.seek(0)
        why = said.read()
    if code and not (result.returncode and (code in _READER_IS_GONE or not why)):
        raise _failure(source, code, why)
    if result.returncode:
        raise _failure(sink, result.returncode, result.stderr)
    return result.stdout


def _failure(argv: Sequence[str], code: int, stderr: bytes) -> SshError:
    there = argv[0] == "ssh"
    lines = "\n".join(f"  | {line}" for line in stderr.decode(errors="replace").strip().splitlines()[-_LINES:])
    what = f"the bundle could not be {'taken in' if 'import' in argv else 'made'}"
    if there:
        what = "it could not be reached" if code == 255 else "anklume-images failed there"
    hint = "ssh has to log in without asking, and find this program in the PATH there" if there else None
    return SshError(f"{what} (exit code {code})\n{lines}", where=argv[-2] if there else None, hint=hint)
