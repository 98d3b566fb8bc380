"""Private keys, each in a PEM file (PKCS#8, Ed25519) that only its owner can read, outside every store.

A file is called `<label>-<first 16 hex of the key's ID>.pem`. A key's ID is that of securesystemslib: the sha256 of its
public part in canonical JSON. Public parts travel as `.pub` files: PEM too (SubjectPublicKeyInfo).
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, SSlibKey

from anklume_images.errors import StoreError
from anklume_images.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from securesystemslib.signer import Signer

__all__ = ["KeyRing", "read_public_key"]

_ENCRYPTED = b"ENCRYPTED"  # in the first line of such a PEM file
_FILE = re.compile(r"(?P<label>[a-z0-9-]+)-(?P<id>[0-9a-f]{16})\.pem")


def read_public_key(path: Path) -> SSlibKey:
    """The key in a `.pub` file; StoreError when it holds none."""
    try:
        return SSlibKey.from_crypto(serialization.load_pem_public_key(path.read_bytes()))
    except FileNotFoundError:
        raise StoreError("there is no such file", where=str(path)) from None
    except ValueError as error:
        raise StoreError(
            f"this is not a public key: {error}", where=str(path), hint="name the .pub file beside the private key"
        ) from None


class KeyRing:
    """The keys in `folder`; `passphrase` is asked for one that is encrypted, with its file's name."""

    def __init__(self, folder: Path, passphrase: Callable[[str], str] | None = None) -> None:
        self.folder = folder
        self._passphrase = passphrase
        self._signers: dict[str, CryptoSigner] = {}

    def make(self, label: str, passphrase: str | None = None) -> SSlibKey:
        """Make a key, with its `.pub` file beside it."""
        private = Ed25519PrivateKey.generate()
        public = SSlibKey.from_crypto(private.public_key())
        protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            protection = serialization.BestAvailableEncryption(passphrase.encode())
        pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / f"{label}-{public.keyid[:16]}.pem"
        write_atomic(path, pem, 0o600)
        shown = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        write_atomic(path.with_suffix(".pub"), shown)
        self._signers[public.keyid] = CryptoSigner(private, public)
        return public

    def labelled(self, label: str) -> Signer:
        """The key with that label, made if there is none; StoreError when there are several."""
        found = sorted(self.folder.glob(f"{label}-????????????????.pem"))
        if len(found) > 1:
            raise StoreError(
                f"there are {len(found)} keys called {label}", where=str(self.folder), hint="keep one of them"
            )
        return self._load(found[0]) if found else self._signers[self.make(label).keyid]

    def path(self, keyid: str) -> Path | None:
        """The file of a key's private part, if it is here."""
        if not self.folder.is_dir():
            return None
        for path in sorted(self.folder.iterdir()):
            if (match := _FILE.fullmatch(path.name)) and keyid.startswith(match["id"]):
                return path
        return None

    def is_encrypted(self, keyid: str) -> bool:
        """Whether a key's private part is here, and has a passphrase."""
        path = self.path(keyid)
        return path is not None and _ENCRYPTED in path.read_bytes()

    def signers(self, keyids: Iterable[str]) -> list[Signer]:
        """Those of the keys that are here, ready to sign."""
        return [signer for keyid in keyids if (signer := self._signer(keyid)) is not None]

    def _signer(self, keyid: str) -> CryptoSigner | None:
        if keyid not in self._signers and (path := self.path(keyid)) is not None:
            self._signers[keyid] = self._load(path)
        return self._signers.get(keyid)

    def _load(self, path: Path) -> CryptoSigner:
        if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            raise StoreError(
                f"others can read this private key (mode {mode:04o})", where=str(path), hint=f"chmod 600 {path}"
            )
        if os.stat(path).st_uid not in (os.geteuid(), 0):
            raise StoreError("this private key is somebody else's", where=str(path), hint="name your own with --keys")
        data = path.read_bytes()
        try:
            password = self._ask(path) if _ENCRYPTED in data else None
            private = serialization.load_pem_private_key(data, password)
        except (ValueError, TypeError):
            raise StoreError(
                "this private key cannot be read", where=str(path), hint="is the passphrase right?"
            ) from None
        if not isinstance(private, Ed25519PrivateKey):
            raise StoreError("this is no Ed25519 key", where=str(path), hint="make one: anklume-images trust new-key")
        return CryptoSigner(private)

    def _ask(self, path: Path) -> bytes:
        if self._passphrase is None:
            raise StoreError(
                "this private key has a passphrase, and nobody can be asked for it",
                where=str(path),
                hint="set ANKLUME_KEY_PASSPHRASE, or run it at a terminal",
            )
        return self._passphrase(path.name).encode()
