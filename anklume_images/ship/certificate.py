"""The certificate with which a store is served: made at its first use, and kept."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import ipaddress
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError, InvalidFileError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cryptography import x509

__all__ = ["Certificate", "certificate_for", "made", "read_certificate"]

_YEARS = 10


@dataclass(frozen=True)
class Certificate:
    """Files with certificates and private key (PEM), the server's own one, and the sha256 of its bytes in hex."""

    chain: Path
    key: Path
    pem: str
    fingerprint: str


def read_certificate(chain: Path, key: Path) -> Certificate:
    """A certificate that somebody made, with the private key that belongs to it."""
    import ssl

    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificates

    try:
        own, *_ = load_pem_x509_certificates(chain.read_bytes())
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(chain, key)
    except OSError as error:  # an SSLError too: the key is no key, or another certificate's
        place = error.filename or f"{chain}, {key}"
        raise AnklumeError(f"the certificate cannot be used: {error.strerror or error}", where=str(place)) from None
    except ValueError:
        raise InvalidFileError([Problem(str(chain), 1, 1, "certificate", "no certificate in PEM")]) from None
    if own.not_valid_after_utc < dt.datetime.now(dt.UTC):
        raise AnklumeError(
            f"the certificate expired on {own.not_valid_after_utc:%Y-%m-%d}",
            where=str(chain),
            hint="name another one; one that serve made itself is made anew when you remove it",
        )
    der = own.public_bytes(Encoding.DER)
    return Certificate(chain, key, own.public_bytes(Encoding.PEM).decode(), hashlib.sha256(der).hexdigest())


def certificate_for(file: Path, names: Iterable[str]) -> Certificate:
    """The certificate in `file`, with its key, made for these names or addresses where there is none yet.

    It stays as it is once made, whatever names are asked for later: those who pinned it would have to do so again.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        descriptor, new = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # 0600
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(made(names, dt.datetime.now(dt.UTC) - dt.timedelta(days=1)))  # clocks differ
                out.flush()
                os.fsync(out.fileno())
            with contextlib.suppress(FileExistsError):  # another process was quicker
                os.link(new, file)
        finally:
            os.unlink(new)
    return read_certificate(file, file)


def made(names: Iterable[str], begin: dt.datetime) -> bytes:
    """A private key and a certificate signed with it, as PEM, which counts for ten years."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    private = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "anklume-images")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectAlternativeName([_alternative(one) for one in dict.fromkeys(names)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA384())
    )
    key = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key + certificate.public_bytes(serialization.Encoding.PEM)


def _alternative(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
