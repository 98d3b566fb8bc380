"""A Debian archive of stand-in packages, signed with a key of its own, on a server on loopback: real apt reads it.

The OpenPGP packets are those of RFC 9580 (version 4, RSA, SHA-512), written out here because nothing that signs is in
the toolchain.
"""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import tarfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA512

from anklume_images.architectures import host_architecture

if TYPE_CHECKING:
    from tests.support.faulty_mirror import FaultyMirror

_RSA, _SHA512 = b"\x01", b"\x0a"
_SINCE = struct.pack(">I", 1_600_000_000)


class SigningKey:
    """A key that signs, and its certificate."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        numbers = self._key.public_key().public_numbers()
        self._body = b"\x04" + _SINCE + _RSA + _mpi(numbers.n) + _mpi(numbers.e)
        hashed = b"\x99" + struct.pack(">H", len(self._body)) + self._body
        self.fingerprint = hashlib.sha1(hashed).digest()  # noqa: S324  what names a version 4 key
        name = b"A stand-in archive"
        certified = hashed + b"\xb4" + struct.pack(">I", len(name)) + name
        flags = _subpacket(27, b"\x03")  # certify, sign
        packets = _packet(6, self._body) + _packet(13, name) + self._signature(b"\x13", certified, flags)
        self.armoured = _armour("PUBLIC KEY BLOCK", packets)

    def clearsigned(self, text: str) -> str:
        """The text in the cleartext signature framework."""
        canonical = "\r\n".join(line.rstrip() for line in text.rstrip("\n").split("\n")).encode()
        signature = _armour("SIGNATURE", self._signature(b"\x01", canonical))
        return f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{text.rstrip()}\n{signature}"

    def _signature(self, kind: bytes, data: bytes, more: bytes = b"") -> bytes:
        hashed = _subpacket(2, _SINCE) + _subpacket(33, b"\x04" + self.fingerprint) + more
        head = b"\x04" + kind + _RSA + _SHA512 + struct.pack(">H", len(hashed)) + hashed
        signed = data + head + b"\x04\xff" + struct.pack(">I", len(head))
        value = self._key.sign(signed, padding.PKCS1v15(), SHA512())
        left = hashlib.sha512(signed).digest()[:2]
        return _packet(2, head + b"\x00\x00" + left + _mpi(int.from_bytes(value, "big")))


def _mpi(number: int) -> bytes:
    return struct.pack(">H", number.bit_length()) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _subpacket(kind: int, body: bytes) -> bytes:
    return bytes([len(body) + 1, kind]) + body


def _packet(kind: int, body: bytes) -> bytes:
    return bytes([0xC0 | kind, 0xFF]) + struct.pack(">I", len(body)) + body


def _armour(kind: str, packets: bytes) -> str:
    lines = "\n".join(base64.b64encode(packets[at : at + 48]).decode() for at in range(0, len(packets), 48))
    return f"-----BEGIN PGP {kind}-----\n\n{lines}\n-----END PGP {kind}-----\n"


@dataclass(frozen=True)
class StandInPackage:
    """A package with no files; `fields` are further ones of its control file."""

    name: str
    version: str = "1.0-1"
    architecture: str = "all"
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Its place in the archive."""
        return f"pool/main/{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"

    def control(self) -> str:
        """Its control file."""
        values = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": self.architecture,
            "Maintainer": "Nobody <nobody@example.invalid>",
            "Installed-Size": "12",
            "Description": f"stand-in of {self.name}",
        }
        return "".join(f"{name}: {value}\n" for name, value in (values | self.fields).items())

    def deb(self) -> bytes:
        """The package itself (deb(5)), uncompressed."""
        members = {
            "debian-binary": b"2.0\n",
            "control.tar": _tar({"control": self.control().encode()}),
            "data.tar": _tar({}),
        }
        out = b"!<arch>\n"
        for name, data in members.items():
            out += (
                f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
                + data
                + b"\n" * (len(data) % 2)
            )
        return out


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


class StandInArchive:
    """An archive below `prefix` of a mirror; `publish` replaces what a suite has."""

    def __init__(self, mirror: FaultyMirror, prefix: str) -> None:
        self.key = SigningKey()
        self.url = f"{mirror.url}/{prefix}"
        self._mirror = mirror
        self._prefix = prefix

    def publish(self, suite: str, packages: list[StandInPackage], *, date: int = 0, valid: int = 86400) -> None:
        """Serve packages and signed indexes; `date` is in seconds since 1970, `valid` so many seconds from now."""
        paragraphs = []
        for package in packages:
            deb = package.deb()
            self._serve(package.path, deb)
            sums = f"Filename: {package.path}\nSize: {len(deb)}\nSHA256: {hashlib.sha256(deb).hexdigest()}\n"
            paragraphs.append(package.control() + sums)
        index = "\n".join(paragraphs).encode()
        name = f"main/binary-{host_architecture()}/Packages"
        self._serve(f"dists/{suite}/{name}", index)
        release = (
            f"Origin: stand-in\nSuite: {suite}\nCodename: {suite}\nDate: {_stamp(date or int(time.time()) - 60)}\n"
            f"Valid-Until: {_stamp(int(time.time()) + valid)}\nArchitectures: {host_architecture()}\nComponents: main\n"
            f"SHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} {name}\n"
        )
        self._serve(f"dists/{suite}/InRelease", self.key.clearsigned(release).encode())

    def _serve(self, path: str, body: bytes) -> None:
        self._mirror.serve(f"/{self._prefix}/{path}", body)


def _stamp(seconds: int) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime(seconds))
